"""Whether a deployed run and its simulation have the same global model, to the bit, round by round.

The simulation takes the journal's configuration, seed and sites, and trains on the sites' own data with the code that
they ran. Only what no seed decides comes from the journal: who was online, and who answered (``simulations.replay``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fl.config import check_range
from fl.errors import ConfigError, FLError, RunError
from fl.flower.folding import folding_for
from fl.rounds import events
from fl.rounds.config import RunConfig, options
from fl.rounds.engine import Engine
from fl.rounds.journal import Journal
from fl.rounds.site import Worker
from fl.rounds.state import Record, RunState
from fl.tasks import registry
from fl.tasks.base import Site
from simulations.clock import NEVER_S
from simulations.engine.sequential import Sequential
from simulations.once import told_once
from simulations.replay import Deployed, Replay
from simulations.run import Progress
from simulations.sites import SimulatedSites


class ParityError(FLError):
    """A deployed run and its simulation have different models."""


@dataclasses.dataclass(frozen=True, slots=True)
class RoundParity:
    """One round of both runs; round 0 is the initial model.

    Attributes:
        round: Its number.
        survivors: How many sites' updates are in the deployed model.
        deployed: SHA-256 of the deployed model's file.
        simulated: That of the simulated one; ``None`` if the simulation didn't get there.
    """

    round: int
    survivors: int
    deployed: str
    simulated: str | None

    @property
    def is_same(self) -> bool:
        """Whether all bits are the same."""
        return self.deployed == self.simulated


@dataclasses.dataclass(frozen=True, slots=True)
class Parity:
    """What the comparison found.

    Attributes:
        rounds: From 0.
        reason: Why the first that differs does; ``None`` if none does.
    """

    rounds: tuple[RoundParity, ...]
    reason: str | None

    @property
    def parts_at(self) -> int | None:
        """The first round whose models differ."""
        return next((it.round for it in self.rounds if not it.is_same), None)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        rounds = [{**dataclasses.asdict(it), "is_same": it.is_same} for it in self.rounds]
        return {"is_same": self.parts_at is None, "parts_at": self.parts_at, "reason": self.reason, "rounds": rounds}

    def check(self) -> None:
        """Hold the two to each other.

        Raises:
            ParityError: If they part, saying where and why.
        """
        if self.parts_at is not None:
            raise ParityError(
                f"the models part in round {self.parts_at}: {self.reason}",
                hint="the same computer, versions, data and number of sites (--sites, --data) give the same bits",
            )


def prove(
    run: Path,
    directory: Path,
    *,
    sites: int | None = None,
    data: Path | None = None,
    search_path: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Parity:
    """Simulate a deployed run, and compare the models of all its committed rounds.

    Args:
        run: Its journal.
        directory: Where the simulation's journal goes; must not exist, or be empty.
        sites: How many sites there were; without it, as many as were online at once.
        data: A directory with one directory of data a site, by its name; without it, those of the federation in whose
            home the journal is, and the task's common data for sites that have none.
        search_path: Where a task that is named by an import path is looked for; without it, beside the journal.
        progress: Told after each round.

    Raises:
        JournalError: If ``run`` is no journal of a deployed run with a committed round.
        ConfigError: If it cannot be repeated to the bit, or the sites do not fit it.
        TaskError: If its task is not there.
    """
    check_range("sites", sites, at_least=1)
    deployed = Deployed.read(run)
    names = deployed.names(sites)
    known = _data_of(run, names) if data is None else {name: data / name for name in names}
    if missing := next((path for path in known.values() if not path.is_dir()), None):
        raise ConfigError(f"no such directory: {missing}", hint="--data takes one directory a site, by its name")
    own = run / "app"
    task = registry.create(
        deployed.config.task["name"],
        options(deployed.config.task),
        search_path=search_path or (own if own.is_dir() else None),
    )

    def worker_of(site: Site) -> Worker:
        return Worker(task, deployed.config.training, site)

    rounds = deployed.state.committed_rounds
    with contextlib.ExitStack() as stack:
        stack.enter_context(told_once())
        journal = stack.enter_context(Journal.create(directory, deployed.config.to_dict(), durable=False))
        if progress:
            journal.listener = _Teller(journal, progress, rounds)
        alone = Sequential(worker_of)
        world = Replay(deployed, names, known, lambda: sum(len(it.opened) for it in journal.state.rounds.values()))
        port = SimulatedSites(world, alone, lambda jobs, model: alone)
        stack.callback(port.close)
        engine = Engine(journal, _timeless(deployed.config, rounds), port, folding_for(deployed.config.strategy))
        with contextlib.suppress(RunError):  # what there is of it is compared
            engine.run()
        return compare(deployed.state, journal.state)


def compare(deployed: RunState, simulated: RunState) -> Parity:
    """Compare the models of two runs, for the rounds that the first has committed."""
    rounds = []
    for number in range(deployed.committed_rounds + 1):
        closed = deployed.round(number).closed if number else None
        digest = _digest(deployed, number)
        assert digest
        rounds.append(RoundParity(number, len(closed.survivors) if closed else 0, digest, _digest(simulated, number)))
    parity = Parity(tuple(rounds), None)
    if parity.parts_at is None:
        return parity
    return dataclasses.replace(parity, reason=_reason(deployed, simulated, parity.parts_at))


def _timeless(config: RunConfig, rounds: int) -> RunConfig:
    """The configuration with so many rounds, nothing that waits, and no evaluation: that changes no model."""
    table = dataclasses.replace(config.round, deadline_s=NEVER_S, linger_s=None, wait_s=0.0, rejoin_s=0.0, min_online=1)
    return dataclasses.replace(
        config,
        run=dataclasses.replace(config.run, rounds=rounds),
        round=table,
        evaluation=dataclasses.replace(config.evaluation, sites_every=0, centre_every=0),
    )


def _data_of(run: Path, names: Sequence[str]) -> Mapping[str, Path]:
    """The data of the sites of the local federation in whose home a journal is; of those that have some."""
    found = {name: run.resolve().parent.parent / "sites" / name / "data" for name in names}
    return {name: path for name, path in found.items() if path.is_dir()}


class _Teller:
    """Tells how far the simulation is, after each round."""

    def __init__(self, journal: Journal, tell: Callable[[Progress], None], rounds: int) -> None:
        self._journal, self._tell, self._rounds = journal, tell, rounds
        self._started = time.perf_counter()

    def __call__(self, record: Record) -> None:
        if isinstance(record.event, events.RoundCommitted):
            done = record.event.round
            speed = done / (time.perf_counter() - self._started)
            self._tell(
                Progress(
                    round=done,
                    rounds=self._rounds,
                    metrics=record.event.metrics,
                    rounds_per_s=speed,
                    simulated_s=None,
                )
            )


def _digest(state: RunState, number: int) -> str | None:
    if number == 0:
        return state.initialised.digest if state.initialised else None
    committed = state.rounds[number].committed if number in state.rounds else None
    return committed.model_digest if committed else None


def _reason(deployed: RunState, simulated: RunState, number: int) -> str:
    """Why a round's models differ, when those of the round before do not."""
    if number == 0:
        return "the initial parameters differ, so the versions of the packages do"
    there, here = deployed.round(number), simulated.round(number)
    asked = [[opened.cohort for opened in entry.opened] for entry in (there, here)]
    if asked[0] != asked[1]:
        return "other sites were asked, so there were more sites than the journal shows"
    if not here.closed:
        reasons = "".join(f": {site}: {failed.reason}" for site, failed in sorted(here.failed.items())[:1])
        return f"the simulated round has no model{reasons}"
    for site in sorted(there.landed.keys() & here.landed.keys()):
        one, other = there.landed[site], here.landed[site]
        if one.num_examples != other.num_examples:
            return f"{site} trained on {one.num_examples} examples, and here on {other.num_examples}"
        if one.digest != other.digest:
            return f"the update of {site} differs; it was made on {one.report.get('device', 'a device')}"
    if (survived := there.closed and there.closed.survivors) != here.closed.survivors:
        lost = sorted({*(survived or ())} ^ {*here.closed.survivors})
        failed = here.failed.get(lost[0]) if lost else None
        return f"the update of {', '.join(lost)} is in one of them only{f': {failed.reason}' if failed else ''}"
    return "all updates are the same, so the strategy makes something else of them"
