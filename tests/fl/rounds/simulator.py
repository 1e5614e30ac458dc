"""Sites for tests of the engine: they speak the port, learn a little numpy, fall silent, fail and lie.

``SiteSimulator`` is a whole federation on a clock of its own: replies land after each site's delay, and waiting for
them moves the clock instead of the tester's patience.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from fl import seeding
from fl.arrays import ArrayFile
from fl.rounds.config import RunConfig
from fl.rounds.journal import Clock
from fl.rounds.port import Failure, Reply, Request

SHAPES = {"weight": (3, 5), "bias": (5,)}


class SimulatedTime:
    """A clock that only moves when somebody waits; the wall clock may be set to jump."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.wall_offset_s = 1_700_000_000.0
        self.clock = Clock(monotonic=lambda: self.now_s, wall=lambda: self.now_s + self.wall_offset_s, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def honest_update(site: str, request: Request, model: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A deterministic update that depends on site, seed and model, as training does."""
    rng = seeding.generator(request.seed, site)
    return {
        name: (0.1 * (rng.standard_normal(array.shape) - array)).astype(np.float32) for name, array in model.items()
    }


@dataclasses.dataclass
class SimulatedSite:
    """One site's behaviour; the defaults are an honest, quick one."""

    num_examples: int = 10
    delay_s: float = 1.0
    online: bool = True
    silent: bool = False
    update: Callable[[str, Request, Mapping[str, np.ndarray]], Mapping[str, np.ndarray]] = honest_update
    fail: Callable[[Request], Failure | None] = lambda request: None
    asked: list[Request] = dataclasses.field(default_factory=list)


class SiteSimulator:
    """The port to simulated sites."""

    def __init__(self, sites: Mapping[str, SimulatedSite], time: SimulatedTime | None = None) -> None:
        self.sites = dict(sites)
        self.time = time or SimulatedTime()
        self._due: list[tuple[float, int, str, Request, dict[str, np.ndarray] | None]] = []
        self._counter = 0

    def online(self) -> Sequence[str]:
        return sorted(name for name, site in self.sites.items() if site.online)

    def ask(
        self,
        sites: Sequence[str],
        request: Request,
        model: ArrayFile | None,
        payloads: Mapping[str, bytes] | None = None,
    ) -> None:
        arrays = {name: array.copy() for name, array in model.arrays().items()} if model else None
        for name in sites:
            site = self.sites[name]
            site.asked.append(request)
            if not site.silent:
                self._counter += 1
                heapq.heappush(self._due, (self.time.now_s + site.delay_s, self._counter, name, request, arrays))

    def replies(self, timeout_s: float) -> Iterator[Reply]:
        end = self.time.now_s + timeout_s
        if not self._due or self._due[0][0] > end:
            self.time.now_s = end
            return
        self.time.now_s = max(self.time.now_s, self._due[0][0])
        while self._due and self._due[0][0] <= self.time.now_s:
            _, _, name, request, arrays = heapq.heappop(self._due)
            yield self._reply(name, self.sites[name], request, arrays)

    @staticmethod
    def _reply(name: str, site: SimulatedSite, request: Request, arrays: dict[str, np.ndarray] | None) -> Reply:
        if failure := site.fail(request):
            return Reply(site=name, request=request, failure=failure)
        if request.phase == "initialise":
            rng = seeding.generator(request.seed)
            made = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in SHAPES.items()}
            return Reply(site=name, request=request, arrays=made)
        assert arrays is not None
        loss = float(np.mean([np.square(array).mean() for array in arrays.values()]))
        reply = Reply(site=name, request=request, num_examples=site.num_examples, metrics={"loss": loss})
        if request.phase == "train":
            return dataclasses.replace(reply, arrays=site.update(name, request, arrays), report={"device": "none"})
        return reply


def federation(count: int = 4, **behaviour: SimulatedSite) -> dict[str, SimulatedSite]:
    """``site-1`` to ``site-<count>``; keyword ``site_2=…`` replaces one."""
    sites = {f"site-{i}": SimulatedSite(num_examples=10 * i, delay_s=0.5 * i) for i in range(1, count + 1)}
    return sites | {name.replace("_", "-"): site for name, site in behaviour.items()}


def run_config(rounds: int = 3, **tables: object) -> RunConfig:
    """A run file for simulated sites."""
    values: dict[str, object] = {
        "run": {"name": "test", "rounds": rounds, "seed": 5},
        "task": {"name": "simulated"},
        "evaluation": {"sites_every": 0},
    }
    return RunConfig.from_dict({**values, **tables})
