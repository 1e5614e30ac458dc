"""A deployed run as a world for the simulator: who could be asked, who answered, and why the others did not.

Chance decides on real sites what no seed does: who is offline, who is too slow, who fails. The journal has it all, so
the simulated sites fare as the real ones did, and all that is left to compute is the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fl import seeding
from fl.errors import ConfigError, JournalError
from fl.rounds import events
from fl.rounds.config import RunConfig
from fl.rounds.journal import load_config, read
from fl.rounds.names import Numbered
from fl.rounds.port import Failure, Reply, Request
from fl.rounds.state import Record, RunState
from fl.tasks.base import Site
from simulations.scenario import SIMULATION
from simulations.sites import Trip

SILENT = Failure(code="silent", reason="did not answer in the deployed run")

AFTER_ALL_S = 1e-9
"""When a site says that it has no answer: if the wanted number is complete without it, nobody hears of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a round.

    Attributes:
        opened: Who was asked.
        answered: Whose update landed.
        failed: What others answered instead.
        had: Whose update had landed in earlier attempts.
    """

    opened: events.RoundOpened
    answered: frozenset[str]
    failed: Mapping[str, Failure]
    had: frozenset[str]


@dataclasses.dataclass(frozen=True, slots=True)
class Deployed:
    """What a deployed run was, and what came of it.

    Attributes:
        directory: Its journal.
        config: Its run file.
        state: How far it came.
        attempts: At its committed rounds, in order.
    """

    directory: Path
    config: RunConfig
    state: RunState
    attempts: tuple[Attempt, ...]

    @classmethod
    def read(cls, directory: Path) -> Deployed:
        """Read a journal.

        Raises:
            JournalError: If it isn't one, or is that of a simulation, or nothing has happened in it.
            ConfigError: If no second run can give the same bits, because its aggregation was secure.
        """
        records = read(directory)
        tables = load_config(directory)
        if tables.get(SIMULATION) is not None:
            raise JournalError(
                f"{directory} is the journal of a simulation", hint=f"fl sim run {directory} repeats and compares it"
            )
        config = RunConfig.from_dict(tables)
        if config.secagg:
            raise ConfigError(
                "the run has [secagg], where sites round their updates at random, so no second run has its bits",
                hint="run the same file without [secagg], and prove that one",
            )
        state = RunState.of(records)
        if not state.committed_rounds:
            raise JournalError(f"no round of {directory} was committed", hint="fl run resume goes on with it")
        rounds = range(1, state.committed_rounds + 1)
        return cls(directory, config, state, tuple(it for it in _attempts(records) if it.opened.round in rounds))

    def names(self, sites: int | None = None) -> Sequence[str]:
        """The names of all sites, sorted.

        Args:
            sites: How many there were; without it, as many as were online at once.

        Raises:
            ConfigError: If those that were asked are not among so many.
        """
        seen = sorted({name for attempt in self.attempts for name in attempt.opened.cohort})
        count = sites or max(attempt.opened.online for attempt in self.attempts)
        names: Sequence[str] = seen if len(seen) == count else Numbered(count)
        if stranger := next((name for name in seen if name not in names), None):
            raise ConfigError(
                f"the run asked {stranger}, which is none of {count} sites", hint="--sites says how many there were"
            )
        return names


class Replay:
    """See ``simulations.sites.World``.

    Args:
        deployed: What happened.
        names: All sites, sorted.
        data: Where each has its data; one that is not there has a part of the task's common data.
        opened: How many attempts the simulation has opened so far.
    """

    def __init__(
        self, deployed: Deployed, names: Sequence[str], data: Mapping[str, Path], opened: Callable[[], int]
    ) -> None:
        self._names, self._data, self._opened = names, data, opened
        self._attempts = deployed.attempts
        self._by_number = {(it.opened.round, it.opened.attempt): it for it in deployed.attempts}
        self._seed = deployed.config.run.seed

    def online(self, now_s: float) -> Sequence[str]:
        """Sites that could be asked when the next attempt was opened."""
        attempt = self._attempts[min(self._opened(), len(self._attempts) - 1)]
        return online(attempt, self._names, self._seed)

    def site(self, name: str) -> Site:
        """A site, as its node describes it to an app."""
        place, count = self._names.index(name), len(self._names)
        return Site(name, self._data.get(name), partition_id=place, num_partitions=count)

    def trip(self, name: str, request: Request, *, down_bytes: int, up_bytes: int, now_s: float) -> Trip:
        """Whether the site answered; the order of those that did decides nothing, and the others come last."""
        attempt = self._by_number.get((request.round, request.attempt))
        if request.phase != "train" or (attempt and name in attempt.answered):
            return Trip()
        return Trip(seconds=AFTER_ALL_S, failure=attempt.failed.get(name, SILENT) if attempt else SILENT)

    def disguise(self, reply: Reply) -> Reply:
        """What a site sends is what it made."""
        return reply


def online(attempt: Attempt, names: Sequence[str], seed: int) -> Sequence[str]:
    """Sites from which the attempt's cohort is drawn.

    A journal has the number of those that were online, and the names of those that were drawn. Where others were
    online too, but not all, any that lead to the same draw will do: the engine looks at nobody else.

    Args:
        attempt: Who was asked.
        names: All sites, sorted.
        seed: Of the run.
    """
    opened = attempt.opened
    if opened.online >= len(names):
        return names
    if attempt.had or len(opened.cohort) >= opened.online:
        return opened.cohort
    draw = seeding.generator(seeding.derive(seed, "cohort", opened.round, opened.attempt))
    chosen = draw.choice(opened.online, len(opened.cohort), replace=False, shuffle=False)
    found: list[str] = []
    others = iter(name for name in names if name not in opened.cohort)
    waiting = next(others, None)
    for place, name in zip(np.sort(chosen), opened.cohort, strict=True):
        while waiting is not None and waiting < name:
            if len(found) < place:
                found.append(waiting)
            waiting = next(others, None)
        found.append(name)
    rest = [waiting, *others] if waiting is not None else []
    return found + rest[: opened.online - len(found)]


def _attempts(records: Sequence[Record]) -> list[Attempt]:
    """All attempts at rounds that a journal tells of."""
    found: list[Attempt] = []
    landed: dict[int, set[str]] = {}
    answered: dict[tuple[int, int], set[str]] = {}
    failed: dict[tuple[int, int], dict[str, Failure]] = {}
    for record in records:
        event = record.event
        if isinstance(event, events.RoundOpened):
            key = (event.round, event.attempt)
            had = frozenset(landed.setdefault(event.round, set()))
            answered[key], failed[key] = set(), {}
            found.append(Attempt(event, frozenset(), failed[key], had))
        elif isinstance(event, events.UpdateLanded):
            landed[event.round].add(event.site)
            answered[event.round, event.attempt].add(event.site)
        elif isinstance(event, events.ReplyFailed) and event.phase == "train":
            failed[event.round, event.attempt][event.site] = Failure(code=event.code, reason=event.reason)
    return [dataclasses.replace(it, answered=frozenset(answered[it.opened.round, it.opened.attempt])) for it in found]
