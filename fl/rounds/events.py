"""What can happen in a run: one frozen dataclass an event, as it stands in the journal.

An event's name in the journal is its class name in snake case, its fields are the keys. Times are seconds; the
journal adds ``seq``, ``time`` (wall clock, UTC) and ``clock_s`` (monotonic, since the process opened the journal; the
only one that durations are computed from) to each line.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

from fl.config import load
from fl.errors import JournalError

FORMAT = 1
"""Version of the journal's format; a reader refuses a newer one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened."""

    @property
    def kind(self) -> str:
        """The event's name in the journal."""
        return kind_of(type(self))


def kind_of(cls: type[Event]) -> str:
    """``RoundOpened`` → ``round_opened``."""
    return _snake_case(cls.__name__)


@functools.cache
def _snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunCreated(Event):
    """The first line: what the journal is."""

    format: int
    run: str
    rounds: int
    seed: int
    config_digest: str
    fedfleet: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """A server process took the journal up, for the first time or again."""

    pid: int
    host: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TailDropped(Event):
    """The last line was torn by a crash and was cut off; what it said is done again."""

    line: int
    size_bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelInitialised(Event):
    """The model of round 0 is there."""

    source: str
    digest: str
    parameters: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoundOpened(Event):
    """Sites are asked to train."""

    round: int
    attempt: int
    seed: int
    online: int
    cohort: tuple[str, ...]
    wanted: int
    quorum: int
    deadline_s: float
    model_digest: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpdateLanded(Event):
    """One site's update is on disk; or in memory, and then without a digest."""

    round: int
    attempt: int
    site: str
    digest: str
    num_examples: int
    metrics: dict[str, float]
    report: dict[str, Any]
    size_bytes: int
    waited_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StageClosed(Event):
    """A stage of secure aggregation is over; these sites are in the next."""

    round: int
    attempt: int
    stage: str
    sites: tuple[str, ...]
    waited_s: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SumLanded(Event):
    """Secure aggregation revealed the sum of the survivors' updates; only their mean is on disk."""

    round: int
    attempt: int
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]
    digest: str
    receipt_digest: str
    num_examples: int
    metrics: dict[str, float]
    clipped: int
    size_bytes: int
    waited_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UpdateDropped(Event):
    """An update that had landed no longer matches its digest; the site is asked again."""

    round: int
    site: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplyFailed(Event):
    """A site answered with an error, or with something that cannot be used; the round goes on without it."""

    round: int
    attempt: int
    phase: str
    site: str
    code: str
    reason: str
    waited_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReplyLate(Event):
    """A reply came after its round was closed."""

    round: int
    phase: str
    site: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoundClosed(Event):
    """No more replies are taken: who is folded, who is missing, and why now."""

    round: int
    attempt: int
    because: str
    survivors: tuple[str, ...]
    missing: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoundAbandoned(Event):
    """An attempt ended with fewer replies than the quorum; what landed is kept for the next attempt."""

    round: int
    attempt: int
    because: str
    landed: int
    quorum: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoundCommitted(Event):
    """The new model and the strategy's state are on disk: from here on the round has happened."""

    round: int
    model_digest: str
    state_digests: dict[str, str]
    num_examples: int
    metrics: dict[str, float]
    fold_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationOpened(Event):
    """Sites are asked to evaluate the round's model."""

    round: int
    cohort: tuple[str, ...]
    deadline_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationLanded(Event):
    """One site's evaluation."""

    round: int
    site: str
    num_examples: int
    metrics: dict[str, float]
    waited_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated(Event):
    """The model of a round was evaluated, ``at`` the sites or the centre."""

    round: int
    at: str
    num_examples: int
    sites: int
    metrics: dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded(Event):
    """The run is over: ``completed``, ``failed`` or ``stopped``, and why; only the first cannot be resumed."""

    status: str
    reason: str


KINDS: dict[str, type[Event]] = {kind_of(cls): cls for cls in Event.__subclasses__()}


def from_dict(kind: str, fields: dict[str, Any]) -> Event:
    """The event of a journal line.

    Raises:
        JournalError: If no event has that name or its fields are not those of the event.
    """
    cls = KINDS.get(kind)
    if cls is None:
        raise JournalError(f"unknown event {kind}", hint="it may be from a newer version of fedfleet")
    return load(cls, fields, table=kind)
