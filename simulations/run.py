"""A whole run inside this process: what a researcher calls, and what a deployed run is compared with.

>>> from simulations import Scenario, simulate                                          # doctest: +SKIP
>>> state = simulate(Scenario.from_file(Path("scenario.toml")), Path("run"))            # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fl.errors import JournalError
from fl.flower.folding import folding_for
from fl.rounds import events
from fl.rounds.centre import centre_evaluation
from fl.rounds.config import RunConfig, options
from fl.rounds.engine import Engine
from fl.rounds.journal import Journal, load_config, load_state, read
from fl.rounds.secure import Credentials
from fl.rounds.secure_site import SecureSite
from fl.rounds.site import Worker
from fl.rounds.state import Record, RunState
from fl.tasks import registry
from fl.tasks.base import Site
from simulations.clock import NEVER_S, VirtualTime
from simulations.engine.choose import choose, recorded, write
from simulations.engine.sequential import Sequential
from simulations.engine.ways import Ways
from simulations.engine.work import Executor, Job, Model
from simulations.once import told_once
from simulations.population import PopulationConfig
from simulations.scenario import Scenario
from simulations.secure import secure_federation
from simulations.sites import SimulatedSites
from simulations.world import build

HELD_LIMIT_BYTES = 16 << 20
"""Updates of a round that are smaller than this together never reach the disk."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a simulation is.

    Attributes:
        round: The last one that happened.
        rounds: How many there will be.
        metrics: Of the last evaluation, or of the training in the last round.
        rounds_per_s: Since this process took the run up.
        simulated_s: Simulated seconds since the run began; ``None`` where nothing takes simulated time.
    """

    round: int
    rounds: int
    metrics: Mapping[str, float]
    rounds_per_s: float
    simulated_s: float | None

    @property
    def left_s(self) -> float:
        """Seconds that the rest will take at this pace."""
        return (self.rounds - self.round) / self.rounds_per_s if self.rounds_per_s else 0.0


def simulate(
    what: Scenario | RunConfig,
    directory: Path,
    *,
    sites: int = 3,
    data: Path | None = None,
    search_path: Path | None = None,
    exact: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> RunState:
    """Run a scenario in this process, or go on with its journal.

    The rounds are those of a deployed run: the same engine, strategies, secure aggregation and journal. What is
    simulated is the sites: their data, their time, their faults.

    Args:
        what: A scenario, or a run file alone.
        directory: The journal's; begun if it does not exist, resumed if it does.
        sites: For a run file: how many sites there are; they are called as in a local federation.
        data: For a run file: a directory with one directory of data a site, by the sites' names; without it each
            site takes its part of the task's common data.
        search_path: Where to look for a task that is named by an import path.
        exact: Compute, to the bit, what deployed sites of this kind of CPU would.
        progress: Told after each round.

    Returns:
        What the journal says in the end.

    Raises:
        ConfigError: If the scenario cannot be simulated.
        JournalError: If the directory is the journal of another run.
        FLError: As ``Engine.run`` does.
    """
    scenario = what if isinstance(what, Scenario) else _of_run_file(what, sites, data)
    config = scenario.run_config() if isinstance(what, Scenario) else what
    task = registry.create(config.task["name"], options(config.task), search_path=search_path)
    world, task = build(scenario, task)
    with contextlib.ExitStack() as stack:
        stack.enter_context(told_once())
        virtual = VirtualTime(_resumes_at_s(directory)) if world.is_timed else None
        journal = stack.enter_context(_open(directory, config, virtual))
        if progress:
            journal.listener = _Teller(journal, progress, virtual)
        credentials, secure = _with_keys(config, world.population.names, stack)

        def worker_of(site: Site) -> Worker:
            return Worker(task, config.training, site, secure.get(site.id))

        alone = Sequential(worker_of)

        def choose_executor(jobs: Sequence[Job], model: Model) -> Executor:
            if config.secagg:  # a site keeps its keys from one stage to the next
                return alone
            left = (config.run.rounds - journal.state.committed_rounds) * len(jobs)
            ways = Ways(task, config.training, alone, model.layout)
            executor, choice = choose(recorded(directory, scenario.engine), ways, jobs, model, left=left, exact=exact)
            write(directory, choice)
            return executor

        port = SimulatedSites(world, alone, choose_executor, virtual)
        stack.callback(port.close)
        return Engine(
            journal,
            config if virtual else _without_deadlines(config),
            port,
            folding_for(config.strategy),
            evaluate_centre=centre_evaluation(config, task),
            credentials=credentials,
        ).run()


def _of_run_file(config: RunConfig, sites: int, data: Path | None) -> Scenario:
    """A run file as a scenario: sites as in a local federation."""
    return Scenario(config=config, population=PopulationConfig(sites=sites, data=str(data) if data else None))


def _open(directory: Path, config: RunConfig, virtual: VirtualTime | None) -> Journal:
    """The journal, begun if it is not there.

    Raises:
        JournalError: If it is of another run.
    """
    keep: dict[str, Any] = {
        "clock": virtual.clock() if virtual else None,
        "durable": False,
        "held_limit_bytes": 0 if config.journal.keep_updates else HELD_LIMIT_BYTES,
    }
    if not directory.exists():
        return Journal.create(directory, config.to_dict(), **keep)
    if _of_one_run(load_config(directory)) != _of_one_run(json.loads(json.dumps(config.to_dict()))):
        raise JournalError(f"{directory} is the journal of another run", hint="choose another directory")
    return Journal(directory, **keep)


def _of_one_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """What doesn't change when a run goes on: all but how sites are trained on this computer."""
    simulation = config.get("simulation")
    return {**config, "simulation": simulation and {key: simulation[key] for key in simulation if key != "engine"}}


def _resumes_at_s(directory: Path) -> float:
    """The simulated time at which a run goes on: where the request began that was under way, else where it stopped.

    From there, what had not landed yet lands when it would have.
    """
    if not directory.exists():
        return 0.0
    at_s = 0.0
    for record in read(directory):
        at_s = record.clock_s
    state, opened_s = load_state(directory), 0.0
    last = state.rounds.get(max(state.rounds, default=0))
    if last is None:
        return at_s
    is_training = last.current is not None
    is_evaluating = last.evaluation is not None and "sites" not in last.evaluated
    for record in read(directory):
        if isinstance(record.event, events.RoundOpened | events.EvaluationOpened):
            opened_s = record.clock_s
    return opened_s if is_training or is_evaluating else at_s


def _with_keys(
    config: RunConfig, names: Sequence[str], stack: contextlib.ExitStack
) -> tuple[Credentials | None, Mapping[str, SecureSite]]:
    """The server's and the sites' parts in secure aggregation, if the run has it."""
    if not config.secagg:
        return None, {}
    return secure_federation(Path(stack.enter_context(tempfile.TemporaryDirectory())), list(names))


def _without_deadlines(config: RunConfig) -> RunConfig:
    """In real time nothing waits for a deadline: what comes out must not hang on how fast this computer is."""
    rounds = dataclasses.replace(config.round, deadline_s=NEVER_S, linger_s=None)
    secagg = config.secagg and dataclasses.replace(config.secagg, stage_deadline_s=NEVER_S)
    return dataclasses.replace(config, round=rounds, secagg=secagg)


class _Teller:
    """Tells how far a run is, once a round: after its evaluation if there is one."""

    def __init__(self, journal: Journal, tell: Callable[[Progress], None], virtual: VirtualTime | None) -> None:
        self._journal, self._tell, self._virtual = journal, tell, virtual
        self._started, self._before = time.perf_counter(), journal.state.committed_rounds
        self._metrics: Mapping[str, float] = {}

    def __call__(self, record: Record) -> None:
        event = record.event
        if not isinstance(event, events.RoundCommitted | events.Evaluated):
            return
        self._metrics = {**self._metrics, **event.metrics} if isinstance(event, events.Evaluated) else event.metrics
        done = self._journal.state.committed_rounds
        created = self._journal.state.created
        assert created
        self._tell(
            Progress(
                round=done,
                rounds=created.rounds,
                metrics=self._metrics,
                rounds_per_s=(done - self._before) / (time.perf_counter() - self._started),
                simulated_s=self._virtual.now_s if self._virtual else None,
            )
        )
