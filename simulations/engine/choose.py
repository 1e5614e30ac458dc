"""Which way trains the sites of a run fastest on this computer: a short trial with the first sites, and a record of it.

The trial trains some sites of the first cohort in each way that the task allows, and throws the result away. What was
chosen stands beside the journal (``engine.json``), so that the run goes on, and is repeated, in the same way: the
updates of ``vectorised`` differ from those of the other two in their last digits, and a number of processes changes
nothing.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import multiprocessing
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fl.errors import ConfigError, JournalError, TaskError
from fl.files import write_atomic
from simulations.engine.config import EngineConfig
from simulations.engine.ways import Plan, Ways
from simulations.engine.work import Executor, Job, Model, even_width

log = logging.getLogger(__name__)

FILE = "engine.json"

SHORT_S = 3.0
"""A run for which one process needs less of a processor is not worth a trial. Processor time, unlike time, is nearly
the same whenever it is measured: so a short run is always trained in the same way, and gives the same bits."""

POOL_S = 3.0
"""A run that is over sooner is not worth starting processes."""

UNIT_S = 0.002
"""Less work than this at once is done sooner than a process is told about it."""

HEAVY_S = 0.2
"""When sites side by side take longer than this, one at a time is tried too: it spreads better over processes."""

MARGIN = 0.9
"""What another way must be faster by, as a share of the seconds: trials are short and computers restless."""

SAMPLE_S = 2.0
"""How long the sites of one measurement may train."""


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen.

    Attributes:
        plan: How sites are trained.
        why: In words.
        seconds: What a site takes, by way, where it was measured.
    """

    plan: Plan
    why: str = ""
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For the record."""
        return {
            "mode": self.plan.mode,
            "width": self.plan.width,
            "compile": self.plan.is_compiled,
            "workers": self.plan.workers,
            "why": self.why,
            "seconds_a_site": {name: round(seconds, 6) for name, seconds in self.seconds.items()},
        }


def choose(
    config: EngineConfig, ways: Ways, jobs: Sequence[Job], model: Model, *, left: int, exact: bool
) -> tuple[Executor, Choice]:
    """Choose how sites are trained, and say so in the log.

    Args:
        config: What the scenario says about it.
        ways: What there is.
        jobs: The first work.
        model: The global model.
        left: How often a site will be trained in all.
        exact: Whether only ways count whose bits are those of a deployed site.

    Raises:
        ConfigError: If the scenario asks for a way that isn't exact, and ``exact`` for one that is.
    """
    if exact and config.mode == "vectorised":
        raise ConfigError(
            "engine.mode is vectorised, whose last digits are not those of deployed sites", hint="--mode pool"
        )
    jobs = [dataclasses.replace(job, request=dataclasses.replace(job.request, phase="train")) for job in jobs]
    ways.threads = config.workers or ways.processors()
    trial = _Trial(config, ways, jobs, model, left, exact=exact)
    if ways.device.type == "cuda" and ways.processors() > 1:
        # A process that has used a GPU cannot be forked into others that use one.
        choice = _in_a_child(lambda: trial.choose())
    else:
        choice = trial.choose()
    ways.tidy()
    executor = ways.executor(choice.plan)
    figures = ", ".join(f"{name} {1e3 * seconds:.3g}" for name, seconds in choice.seconds.items())
    log.info("engine: %s: %s%s", executor.name, choice.why, f" (ms a site: {figures})" if figures else "")
    return executor, choice


def write(directory: Path, choice: Choice) -> None:
    """Keep a choice beside the journal."""
    write_atomic(directory / FILE, json.dumps(choice.as_dict(), indent=2) + "\n")


def recorded(directory: Path, config: EngineConfig) -> EngineConfig:
    """What a journal's run was begun with, as far as it decides the bits; the configuration where nothing is kept.

    Raises:
        JournalError: If the record cannot be read.
    """
    path = directory / FILE
    if config.mode != "auto" or not path.exists():
        return config
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["mode"] != "vectorised":
            return dataclasses.replace(config, mode=kept["mode"])
        return dataclasses.replace(config, mode="vectorised", width=kept["width"], compile=kept["compile"])
    except (OSError, ValueError, KeyError, TypeError, ConfigError) as err:
        raise JournalError(f"cannot read {path}: {err}", hint="without the file, the engine is chosen again") from err


class _Trial:
    """Measures what a site takes in each way, until it is clear which is fastest."""

    def __init__(
        self, config: EngineConfig, ways: Ways, jobs: Sequence[Job], model: Model, left: int, *, exact: bool
    ) -> None:
        self._config, self._ways, self._jobs, self._model = config, ways, jobs, model
        self._left, self._exact = left, exact
        self._seconds: dict[str, float] = {}
        self._notes: list[str] = []

    def choose(self) -> Choice:
        """The plan, with what was measured."""
        config, processors = self._config, self._ways.processors()
        if config.mode == "sequential":
            return Choice(Plan(), "as the scenario says")
        if config.mode == "pool":
            return Choice(Plan(workers=config.workers or processors), "as the scenario says")
        if config.mode == "auto":
            alone_s, processor_s = self._alone()
            if processor_s * self._left < SHORT_S:
                return self._choice(Plan(), f"the run takes about {alone_s * self._left:.2g} s")
            best = Plan(), alone_s
        else:
            best = Plan(), float("inf")
        if not self._exact and (found := self._side_by_side(best[1])) and found[1] < MARGIN * best[1]:
            best = found
        plan, best_s = best
        if best_s == float("inf"):  # asked for, and impossible
            best_s, _ = self._alone()
            log.warning("the sites cannot be trained side by side: %s", "; ".join(self._notes))
        return self._choice(self._spread(plan, best_s, processors), "the fastest of the trial")

    def _choice(self, plan: Plan, why: str) -> Choice:
        return Choice(plan, "; ".join([why, *self._notes]), self._seconds)

    def _alone(self) -> tuple[float, float]:
        """Seconds of a site in this process, and those of a processor; torch warms up with the first."""
        alone, number = self._ways.alone, 1
        self._measure(alone, self._jobs[:1])
        started = time.process_time()
        seconds = self._measure(alone, self._jobs[:1])
        if len(self._jobs) > 1 and seconds < SAMPLE_S / 4:  # sites differ in size
            number = min(len(self._jobs), max(2, int(SAMPLE_S / 10 / seconds)), 16)
            started = time.process_time()
            seconds = self._measure(alone, self._jobs[:number])
        self._seconds["sequential"] = seconds
        return seconds, (time.process_time() - started) / number

    def _side_by_side(self, alone_s: float) -> tuple[Plan, float] | None:
        """How many sites side by side are fastest, compiled or not, and the seconds of one; ``None`` if that fails."""
        config, ways = self._config, self._ways
        try:
            width = config.width or ways.widest()
            if config.compile and config.width:  # all is said, as when a run goes on
                seconds, width = self._at(width, True, alone_s)
                return Plan(side_by_side=True, width=width, is_compiled=True), seconds
            seconds, width = self._at(width, False, alone_s)
            is_heavy = seconds * min(width, len(self._jobs)) > HEAVY_S and ways.device.type == "cpu"
            if is_heavy and config.width is None and width > 1:
                one_s, _ = self._at(1, False, alone_s)
                if one_s < seconds / MARGIN:
                    seconds, width = one_s, 1
            plan = Plan(side_by_side=True, width=width)
            return self._compiled(plan, seconds, alone_s)
        except TaskError as err:
            self._notes.append(f"not side by side, because {err.message}")
            return None

    def _at(self, width: int, is_compiled: bool, alone_s: float) -> tuple[float, int]:
        """Seconds of a site among so many side by side; fewer if memory ran out."""
        executor = self._ways.vectorised(width, is_compiled)
        number = width if alone_s == float("inf") else min(width, max(1, int(SAMPLE_S / max(alone_s, 1e-6))))
        some = self._jobs[:number]
        self._measure(executor, some)
        if executor.problem:
            raise TaskError(executor.problem)
        seconds = min(self._measure(executor, some) for _ in range(2))
        self._seconds[executor.name] = min(seconds, self._seconds.get(executor.name, seconds))
        return seconds, executor.width

    def _compiled(self, plan: Plan, seconds: float, alone_s: float) -> tuple[Plan, float]:
        """The plan, compiled if that is asked for or pays."""
        program = self._ways.vectorised(plan.width, False).program
        wanted = self._config.compile
        if not program.can_compile or wanted is False or (wanted is None and seconds * self._left < program.pays_s):
            return plan, seconds
        started = time.perf_counter()
        try:
            compiled_s, _ = self._at(plan.width, True, alone_s)
            self._notes.append(f"compiling took {time.perf_counter() - started:.2g} s")
            for _ in range(2):  # by turns, so that a restless computer disturbs both
                seconds = min(seconds, self._at(plan.width, False, alone_s)[0])
                compiled_s = min(compiled_s, self._at(plan.width, True, alone_s)[0])
        except TaskError as err:
            self._notes.append(f"not compiled: {err.message}")
            return plan, seconds
        if wanted or compiled_s < seconds:  # what it took is spent
            return dataclasses.replace(plan, is_compiled=True), compiled_s
        return plan, seconds

    def _spread(self, plan: Plan, seconds: float, processors: int) -> Plan:
        """The plan over as many processes as pay, in groups that occupy them alike.

        The groups are the same ones with any number of processes, also one that was asked for: the last digits of
        convolutions hang on them.
        """
        spread = dataclasses.replace(plan, workers=processors, width=self._evenly(plan, processors))
        could_pay = seconds * self._left > POOL_S and seconds * spread.width > UNIT_S
        if processors == 1 or not could_pay or len(self._jobs) <= spread.width:
            return dataclasses.replace(plan, workers=self._config.workers or 1)
        if self._config.workers is not None:
            return dataclasses.replace(spread, workers=self._config.workers)
        number = max(processors * spread.width, min(len(self._jobs), int(SAMPLE_S / seconds)))
        pool = self._ways.executor(spread)
        try:
            self._measure(pool, self._jobs[: processors * spread.width])  # each warms up
            pooled_s = min(self._measure(pool, self._jobs[:number]) for _ in range(2))
        finally:
            pool.close()
        self._seconds[pool.name] = pooled_s
        return spread if pooled_s < MARGIN * seconds else dataclasses.replace(spread, workers=1)

    def _evenly(self, plan: Plan, processors: int) -> int:
        """The width, or one below it with which the busiest process has less to do in a round."""
        if self._config.width is not None:
            return plan.width
        if plan.is_compiled and not self._ways.vectorised(plan.width, True).program.fits_any_width:
            return plan.width  # another would be compiled again
        return even_width(len(self._jobs), plan.width, processors)

    def _measure(self, executor: Executor, jobs: Sequence[Job]) -> float:
        """Seconds of a site."""
        started = time.perf_counter()
        for _ in executor.execute(jobs, self._model):
            pass
        return (time.perf_counter() - started) / len(jobs)


def _in_a_child(work: Callable[[], Choice]) -> Choice:
    """Do something in a forked process, which takes what it started with it."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)

    def run() -> None:
        there.send(work())

    child = context.Process(target=run)
    child.start()
    there.close()
    try:
        choice: Choice = here.recv()
    except EOFError:
        return Choice(Plan(), "the trial failed")
    finally:
        child.join()
    return choice
