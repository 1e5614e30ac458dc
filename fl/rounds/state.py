"""What the events of a journal amount to: the state from which a run continues, a table is drawn, a report is made."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Iterable

from fl.rounds import events
from fl.rounds.events import Event


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One line of the journal."""

    seq: int
    time: datetime.datetime
    clock_s: float
    event: Event


@dataclasses.dataclass(slots=True)
class EvaluationState:
    """One evaluation of a model at the sites."""

    opened: events.EvaluationOpened
    landed: dict[str, events.EvaluationLanded] = dataclasses.field(default_factory=dict)
    failed: dict[str, events.ReplyFailed] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class RoundState:
    """One round, over all its attempts.

    Attributes:
        number: From 1.
        opened: The attempts, in order; the last one counts.
        landed: Updates on disk, by site; they are kept over attempts.
        sum: Their sum instead, where secure aggregation reveals nothing else.
        stages: Stages of secure aggregation that the current attempt has closed.
        failed: What went wrong in the current attempt, by site.
        refused: Sites that refused a stage of secure aggregation, or made the attempt impossible, since the server
            took the run up; later attempts leave them out.
        late: Sites whose reply came after the round was closed.
        closed: Set when no more replies are taken.
        abandoned: Whether the current attempt ended without its quorum.
        committed: Set when the round's model is on disk.
        evaluation: The evaluation at the sites, once it was opened.
        evaluated: Finished evaluations by place, ``"sites"`` or ``"centre"``.
    """

    number: int
    opened: list[events.RoundOpened] = dataclasses.field(default_factory=list)
    landed: dict[str, events.UpdateLanded] = dataclasses.field(default_factory=dict)
    sum: events.SumLanded | None = None
    stages: list[events.StageClosed] = dataclasses.field(default_factory=list)
    failed: dict[str, events.ReplyFailed] = dataclasses.field(default_factory=dict)
    refused: dict[str, events.ReplyFailed] = dataclasses.field(default_factory=dict)
    late: list[str] = dataclasses.field(default_factory=list)
    closed: events.RoundClosed | None = None
    abandoned: bool = False
    committed: events.RoundCommitted | None = None
    evaluation: EvaluationState | None = None
    evaluated: dict[str, events.Evaluated] = dataclasses.field(default_factory=dict)

    @property
    def received_bytes(self) -> int:
        """Bytes of the updates that came, or of the masked vectors of those that the sum has."""
        masked = self.sum.size_bytes * len(self.sum.survivors) if self.sum else 0
        return masked + sum(update.size_bytes for update in self.landed.values())

    @property
    def current(self) -> events.RoundOpened | None:
        """The attempt that is under way: opened, neither closed nor abandoned."""
        return self.opened[-1] if self.opened and not self.abandoned and not self.closed else None


@dataclasses.dataclass(slots=True)
class RunState:
    """A whole run.

    Attributes:
        created: The first event; ``None`` for a journal in which nothing was written yet.
        created_at: When it was written.
        sessions: How often a server process took the run up.
        initialised: Set when the model of round 0 is there.
        rounds: By number.
        spent: Attempts with secure aggregation that were given up after sites may have been asked to unmask the sum.
        committed_rounds: How many rounds have happened; they are 1 to this number.
        ended: Set when the run is over, unless it was taken up again since.
        updated: When the last event was written.
    """

    created: events.RunCreated | None = None
    created_at: datetime.datetime | None = None
    sessions: int = 0
    initialised: events.ModelInitialised | None = None
    rounds: dict[int, RoundState] = dataclasses.field(default_factory=dict)
    spent: int = 0
    committed_rounds: int = 0
    ended: events.RunEnded | None = None
    updated: datetime.datetime | None = None

    @classmethod
    def of(cls, records: Iterable[Record]) -> RunState:
        """The state after the given lines."""
        state = cls()
        for record in records:
            state.apply(record)
        return state

    def apply(self, record: Record) -> None:
        """Take one more line into account."""
        self.updated = record.time
        match record.event:
            case events.RunCreated() as event:
                self.created, self.created_at = event, record.time
            case events.RunStarted():
                self.sessions += 1
                self.ended = None
                for entry in self.rounds.values():
                    entry.refused = {}  # their owners may have changed their minds
            case events.ModelInitialised() as event:
                self.initialised = event
            case events.RunEnded() as event:
                self.ended = event
            case events.RoundOpened() as event:
                entry = self.round(event.round)
                entry.opened.append(event)
                entry.abandoned, entry.failed, entry.stages = False, {}, []
            case events.UpdateLanded() as event:
                self.round(event.round).landed[event.site] = event
            case events.StageClosed() as event:
                entry = self.round(event.round)
                entry.stages = [closed for closed in entry.stages if closed.stage != event.stage] + [event]
            case events.SumLanded() as event:
                self.round(event.round).sum = event
            case events.UpdateDropped() as event:
                entry = self.round(event.round)
                entry.landed.pop(event.site, None)
                entry.sum = None
                entry.closed = None  # it counted on that update: the attempt goes on
            case events.ReplyFailed(phase="train" | "secagg") as event:
                entry = self.round(event.round)
                entry.failed[event.site] = event
                if event.phase == "secagg" and event.code in ("refused", "no_shares"):
                    entry.refused[event.site] = event
            case events.ReplyFailed(phase="evaluate") as event if evaluation := self.round(event.round).evaluation:
                evaluation.failed[event.site] = event
            case events.ReplyLate() as event:
                self.round(event.round).late.append(event.site)
            case events.RoundClosed() as event:
                self.round(event.round).closed = event
            case events.RoundAbandoned() as event:
                entry = self.round(event.round)
                entry.abandoned = True
                self.spent += any(closed.stage == "agree" for closed in entry.stages)
            case events.RoundCommitted() as event:
                self.round(event.round).committed = event
                self.committed_rounds = max(self.committed_rounds, event.round)
            case events.EvaluationOpened() as event:
                self.round(event.round).evaluation = EvaluationState(event)
            case events.EvaluationLanded() as event if evaluation := self.round(event.round).evaluation:
                evaluation.landed[event.site] = event
            case events.Evaluated() as event:
                self.round(event.round).evaluated[event.at] = event

    def round(self, number: int) -> RoundState:
        """The state of a round, empty if nothing is known of it yet."""
        entry = self.rounds.get(number)
        if entry is None:
            entry = self.rounds[number] = RoundState(number)
        return entry

    @property
    def model_digest(self) -> str | None:
        """SHA-256 of the newest committed model file."""
        last = self.rounds[self.committed_rounds].committed if self.committed_rounds else None
        return last.model_digest if last else self.initialised.digest if self.initialised else None

    @property
    def status(self) -> str:
        """``created``, ``running`` (which a killed run also says of itself), or how it ended."""
        return self.ended.status if self.ended else "running" if self.sessions else "created"
