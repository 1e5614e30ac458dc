"""Simulated sites that take part in secure aggregation: real keys, a little numpy for training, a clock of their own.

``SecureSimulator`` writes down every reply that reaches the server, so that a test can look for what must not be in
one. A site may be silent at a stage, forget its memory, or spoil its update.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fl.arrays import ArrayFile, Arrays, vector_of
from fl.errors import FLError
from fl.flower.folding import folding_for
from fl.rounds.config import RunConfig
from fl.rounds.engine import Engine
from fl.rounds.journal import Journal
from fl.rounds.port import EVALUATION, Failure, Reply, Request
from fl.rounds.secure import Credentials
from fl.rounds.secure_site import SecureSite, answer_securely
from fl.rounds.state import RunState
from fl.secagg.local import LocalUpdate
from simulations.secure import secure_federation
from tests.fl.rounds.simulator import SimulatedSite, SimulatedTime, SiteSimulator, run_config

CLIP = 2.0
WEIGHT_CAP = 100


@dataclasses.dataclass
class SecureSimulatedSite(SimulatedSite):
    """One site's behaviour.

    Attributes:
        silent_at: Stages whose requests it does not answer, as ``(round, attempt, stage)``; 0 stands for every one.
        forgets_at: Stages before which it is restarted, likewise.
    """

    silent_at: set[tuple[int, int, str]] = dataclasses.field(default_factory=set)
    forgets_at: set[tuple[int, int, str]] = dataclasses.field(default_factory=set)
    trained: list[Request] = dataclasses.field(default_factory=list)


def secure_sites(count: int, **behaviour: SecureSimulatedSite) -> dict[str, SecureSimulatedSite]:
    """``site-1`` to ``site-<count>``; keyword ``site_2=…`` replaces one."""
    sites = {f"site-{i}": SecureSimulatedSite(num_examples=10 * i, delay_s=0.5 * i) for i in range(1, count + 1)}
    return sites | {name.replace("_", "-"): site for name, site in behaviour.items()}


def secure_config(rounds: int = 2, secagg: Mapping[str, object] | None = None, **tables: object) -> RunConfig:
    """A run file with secure aggregation for simulated sites."""
    section = {"clip": CLIP, "weight_cap": WEIGHT_CAP, "metrics": ["loss"], **(secagg or {})}
    return run_config(rounds, **{"secagg": section, **tables})


class SecureSimulator(SiteSimulator):
    """The port to simulated sites with keys.

    Attributes:
        replies_seen: Every reply that reached the server.
    """

    def __init__(
        self,
        sites: Mapping[str, SecureSimulatedSite],
        secure: Mapping[str, SecureSite],
        time: SimulatedTime | None = None,
    ) -> None:
        super().__init__(sites, time)
        self.secure = secure
        self.replies_seen: list[Reply] = []
        self._payloads: dict[tuple[str, int, int, str], bytes] = {}

    def ask(
        self,
        sites: Sequence[str],
        request: Request,
        model: ArrayFile | None,
        payloads: Mapping[str, bytes] | None = None,
    ) -> None:
        for name in sites:
            self._payloads[name, request.round, request.attempt, request.stage] = (payloads or {}).get(name, b"")
        answering = [name for name in sites if not self._is_at(self.sites[name].silent_at, request)]
        for name in set(sites) - set(answering):
            self.sites[name].asked.append(request)
        super().ask(answering, request, model)

    def replies(self, timeout_s: float) -> Iterator[Reply]:
        for reply in super().replies(timeout_s):
            self.replies_seen.append(reply)
            yield reply

    def _reply(self, name: str, site: SecureSimulatedSite, request: Request, arrays: Arrays | None) -> Reply:
        if request.phase != "secagg" or (failure := site.fail(request)):
            return super()._reply(name, site, request, arrays)
        if self._is_at(site.forgets_at, request):
            self.secure[name].memory.clear()
        payload = self._payloads[name, request.round, request.attempt, request.stage]
        try:
            train = partial(self._trained, name, site, request)
            return answer_securely(name, self.secure[name], request, payload, arrays, train)
        except FLError as err:
            failure = Failure(code="task_failed", reason=err.message)
            return Reply(site=name, request=request, failure=failure)

    @staticmethod
    def _trained(name: str, site: SecureSimulatedSite, request: Request, arrays: Arrays) -> LocalUpdate:
        site.trained.append(request)
        update = site.update(name, request, arrays)
        loss = float(np.mean([np.square(array).mean() for array in arrays.values()]))
        metrics = {"loss": loss} | ({EVALUATION + "loss": 2 * loss} if request.options.get("evaluate") else {})
        return LocalUpdate(vector_P=vector_of(update), num_examples=site.num_examples, metrics=metrics)

    @staticmethod
    def _is_at(stages: set[tuple[int, int, str]], request: Request) -> bool:
        numbers = [(request.round, request.attempt), (request.round, 0), (0, request.attempt), (0, 0)]
        return any((*number, request.stage) in stages for number in numbers)


def secure_simulator(directory: Path, sites: Mapping[str, SecureSimulatedSite]) -> tuple[Credentials, SecureSimulator]:
    """A server's credentials and its sites, with their keys in a new directory."""
    directory.mkdir(parents=True)
    credentials, secure = secure_federation(directory, list(sites))
    return credentials, SecureSimulator(sites, secure)


def run_securely(
    directory: Path, sites: SiteSimulator, config: RunConfig | None = None, credentials: Credentials | None = None
) -> RunState:
    """Run a run file, or go on with its journal."""
    config = config or secure_config()
    if not directory.exists():
        Journal.create(directory, config.to_dict(), clock=sites.time.clock).close()
    with Journal(directory, clock=sites.time.clock) as journal:
        return Engine(journal, config, sites, folding_for(config.strategy), credentials=credentials).run()
