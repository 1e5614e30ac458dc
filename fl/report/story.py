"""From the events of a journal to its rounds: who was asked when, and what came of it.

``fl.rounds.state`` keeps what a run needs to continue; here also that is kept which a reader asks about afterwards:
failures of abandoned attempts, sites that were silent, what was asked twice because the server was killed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from fl.report.facts import Answer, Attempt, Outcome, Round
from fl.report.measured import machine, measured, simulated
from fl.rounds import events
from fl.rounds.events import RoundOpened
from fl.rounds.state import Record, RoundState

BYTES_PER_PARAMETER = 4
"""Models travel as float32."""


def on_one_clock(records: Iterable[Record]) -> Iterator[tuple[float, Record]]:
    """Each line with the seconds since the first, time without a server process left out.

    ``clock_s`` begins anew with each process, and the wall clock may jump: only differences within one session count.
    """
    at_s, last_s = 0.0, 0.0
    for record in records:
        if not isinstance(record.event, events.RunStarted | events.TailDropped | events.RunCreated):
            at_s = round(at_s + max(0.0, record.clock_s - last_s), 3)
        last_s = record.clock_s
        yield at_s, record


@dataclasses.dataclass(slots=True)
class _Asked:
    """A request to one site that is becoming an ``Answer``."""

    site: str
    phase: str
    attempt: int
    asked_s: float
    times: int = 1
    outcome: Outcome = "waiting"
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(slots=True)
class _Attempt:
    opened: RoundOpened
    opened_s: float
    closed_s: float | None = None
    because: str | None = None
    abandoned: bool = False
    landed: int = 0


@dataclasses.dataclass(slots=True)
class _Round:
    number: int
    opened_s: float
    ended_s: float
    attempts: list[_Attempt] = dataclasses.field(default_factory=list)
    asked: list[_Asked] = dataclasses.field(default_factory=list)
    waiting: dict[tuple[str, str], _Asked] = dataclasses.field(default_factory=dict)
    missing: dict[tuple[str, str], _Asked] = dataclasses.field(default_factory=dict)
    evaluation_opened: events.EvaluationOpened | None = None
    evaluation_opened_s: float = 0.0
    evaluation_s: float | None = None
    committed_s: float | None = None
    masked_bytes: int = 0

    def ask(self, asked: _Asked) -> None:
        self.asked.append(asked)
        self.waiting[asked.phase, asked.site] = asked

    def give_up(self, phase: str, outcome: Outcome, reason: str) -> None:
        """No answer of this phase is waited for any longer; those that come now are late."""
        for key in [key for key in self.waiting if key[0] == phase]:
            asked = self.missing[key] = self.waiting.pop(key)
            asked.outcome, asked.facts["reason"] = outcome, reason
            if outcome == "silent":
                asked.facts["code"] = "silent"


class Story:
    """Takes the events of a journal in order.

    Attributes:
        initialisation: Sites that could not make the initial parameters.
        model_bytes: What travels when a site is asked.
    """

    def __init__(self) -> None:
        self.initialisation: list[Answer] = []
        self.model_bytes = 0
        self._rounds: dict[int, _Round] = {}
        self._at_s = 0.0

    def take(self, at_s: float, record: Record) -> None:
        """Take one more line into account, ``at_s`` seconds after the first."""
        before_s, self._at_s = self._at_s, at_s
        match record.event:
            case events.ModelInitialised() as event:
                self.model_bytes = BYTES_PER_PARAMETER * event.parameters
            case events.RunStarted():
                self._ask_again()
            case events.RoundOpened() as event:
                self._open(event)
            case events.UpdateLanded() as event:
                told = {**machine(event.report), "simulated": simulated(event.report)}
                facts = {**told, "received_bytes": event.size_bytes}
                self._answered(event, "train", event.attempt, facts)
            case events.UpdateDropped() as event:
                self._drop(event)
            case events.ReplyFailed() as event:
                self._failed(event)
            case events.ReplyLate() as event:
                self._late(event)
            case events.SumLanded() as event:
                self._round(event.round).masked_bytes = event.size_bytes
            case events.RoundClosed() as event:
                self._take_survivors(event)
                self._close(event.round, event.because, landed=len(event.survivors))
            case events.RoundAbandoned() as event:
                self._close(event.round, event.because, landed=event.landed, abandoned=True)
            case events.RoundCommitted() as event:
                entry = self._round(event.round)
                entry.committed_s = entry.ended_s = at_s
            case events.EvaluationOpened() as event:
                entry = self._round(event.round)
                entry.evaluation_opened, entry.evaluation_opened_s = event, at_s
                self._ask(entry, event.cohort, "evaluate", 1)
            case events.EvaluationLanded() as event:
                self._answered(event, "evaluate", 1, {})
            case events.Evaluated(at="sites") as event if self._round(event.round).evaluation_opened is None:
                pass  # with secure aggregation it took place in the course of the next round
            case events.Evaluated() as event:
                entry = self._round(event.round)
                if event.at == "sites":
                    before_s = entry.evaluation_opened_s
                    entry.give_up("evaluate", "silent", _silent(entry.evaluation_opened))
                entry.evaluation_s = round((entry.evaluation_s or 0.0) + at_s - before_s, 3)
                entry.ended_s = at_s

    def round(self, state: RoundState) -> Round:
        """A round as told so far; ``state`` is what ``fl.rounds.state`` has of the same events."""
        entry = self._round(state.number)
        answers = [self._answer(entry, asked) for asked in entry.asked]
        answers.sort(key=lambda answer: (answer.site, answer.asked_s, answer.phase != "train"))
        cohort = set(state.opened[-1].cohort) if state.opened else set()
        outcomes = final_outcomes(answer for answer in answers if answer.site in cohort)
        counts = {kind: list(outcomes.values()).count(kind) for kind in set(outcomes.values())}
        last = entry.attempts[-1] if entry.attempts else None
        closed_s = last.closed_s if last else None
        return Round(
            number=state.number,
            state=_state(state),
            attempts=tuple(_attempt(number, attempt) for number, attempt in enumerate(entry.attempts, 1)),
            cohort=len(cohort),
            survivors=len(state.closed.survivors if state.closed else state.landed),
            failed=counts.get("failed", 0),
            late=counts.get("late", 0),
            silent=counts.get("silent", 0),
            spare=counts.get("spare", 0),
            waiting=counts.get("waiting", 0),
            num_examples=state.committed.num_examples if state.committed else None,
            measured=measured(state, answers),
            opened_s=entry.opened_s,
            ended_s=entry.ended_s,
            training_s=None if closed_s is None else round(closed_s - entry.opened_s, 3),
            folding_s=state.committed.fold_s if state.committed else None,
            evaluation_s=entry.evaluation_s,
            folded_s=entry.committed_s,
            sent_bytes=sum(answer.sent_bytes for answer in answers),
            received_bytes=sum(answer.received_bytes for answer in answers),
            answers=tuple(answers),
        )

    def _round(self, number: int) -> _Round:
        return self._rounds.setdefault(number, _Round(number, self._at_s, self._at_s))

    def _open(self, event: events.RoundOpened) -> None:
        entry = self._round(event.round)
        entry.attempts.append(_Attempt(event, self._at_s))
        landed = {asked.site for asked in entry.asked if asked.phase == "train" and asked.outcome == "answered"}
        self._ask(entry, [site for site in event.cohort if site not in landed], "train", event.attempt)

    def _ask(self, entry: _Round, sites: Iterable[str], phase: str, attempt: int) -> None:
        for site in sites:
            entry.ask(_Asked(site, phase, attempt, self._at_s))
        entry.ended_s = self._at_s

    def _ask_again(self) -> None:
        """A new process asks for what the last one had not got."""
        for entry in list(self._rounds.values())[-1:]:
            for asked in entry.waiting.values():
                asked.asked_s, asked.times = self._at_s, asked.times + 1

    def _answered(
        self, event: events.UpdateLanded | events.EvaluationLanded, phase: str, attempt: int, facts: dict[str, Any]
    ) -> None:
        entry = self._round(event.round)
        asked = entry.waiting.pop((phase, event.site), None)
        if asked is None:  # never asked, as far as the journal goes: shown all the same
            asked = _Asked(event.site, phase, attempt, self._at_s - event.waited_s)
            entry.asked.append(asked)
        asked.outcome = "answered"
        asked.facts = {
            **facts,
            "came_s": self._at_s,
            "waited_s": event.waited_s,
            "num_examples": event.num_examples,
            "metrics": dict(event.metrics),
        }
        entry.ended_s = self._at_s

    def _drop(self, event: events.UpdateDropped) -> None:
        """An update turned out damaged when the server came back: its attempt goes on, and the site is asked again."""
        entry = self._round(event.round)
        for asked in entry.asked:
            if asked.site == event.site and asked.phase == "train" and asked.outcome == "answered":
                asked.outcome = "dropped"
                asked.facts |= {"code": "dropped", "reason": f"its update was damaged on disk: {event.reason}"}
        if entry.attempts and not entry.attempts[-1].abandoned:
            attempt = entry.attempts[-1]
            attempt.closed_s, attempt.because = None, None
            # RunStarted, which comes next, counts the asking.
            entry.ask(_Asked(event.site, "train", len(entry.attempts), self._at_s, times=0))

    def _failed(self, event: events.ReplyFailed) -> None:
        if event.phase == "initialise":
            self.initialisation.append(
                Answer(
                    round=0,
                    phase="initialise",
                    attempt=1,
                    site=event.site,
                    outcome="failed",
                    code=event.code,
                    reason=event.reason,
                    asked_s=self._at_s - event.waited_s,
                    came_s=self._at_s,
                    waited_s=event.waited_s,
                    sent_bytes=0,
                )
            )
            return
        entry = self._round(event.round)
        if asked := entry.waiting.pop((_phase(event.phase), event.site), None):
            asked.outcome = "failed"
            asked.facts = {
                "code": event.code,
                "reason": event.reason,
                "came_s": self._at_s,
                "waited_s": event.waited_s,
            }
        entry.ended_s = self._at_s

    def _late(self, event: events.ReplyLate) -> None:
        """The reply belongs to the newest closed attempt without the site's answer; the current one is not answered."""
        entry = self._rounds.get(event.round)
        if entry and (asked := entry.missing.pop((_phase(event.phase), event.site), None)):
            asked.outcome = "late"
            what = "evaluation" if event.phase == "evaluate" else "round"
            asked.facts = {
                "code": "late",
                "reason": f"its answer came after the {what} was closed",
                "came_s": self._at_s,
                "waited_s": round(self._at_s - asked.asked_s, 3),
            }

    def _take_survivors(self, event: events.RoundClosed) -> None:
        """Survivors without an update of their own took part in a sum: secure aggregation reveals nothing else."""
        entry = self._round(event.round)
        for site in event.survivors:
            if asked := entry.waiting.pop(("train", site), None):
                asked.outcome = "answered"
                asked.facts = {"came_s": self._at_s, "received_bytes": entry.masked_bytes}

    def _close(self, number: int, because: str, *, landed: int, abandoned: bool = False) -> None:
        entry = self._round(number)
        attempt = entry.attempts[-1]
        attempt.closed_s, attempt.because = self._at_s, because
        attempt.abandoned, attempt.landed = abandoned, landed
        entry.ended_s = self._at_s
        at_deadline = abandoned or "deadline" in because
        if at_deadline:
            entry.give_up("train", "silent", _silent(attempt.opened))
        else:
            entry.give_up("train", "spare", f"not waited for: {because}")

    def _answer(self, entry: _Round, asked: _Asked) -> Answer:
        return Answer(
            round=entry.number,
            phase=asked.phase,
            attempt=asked.attempt,
            site=asked.site,
            outcome=asked.outcome,
            asked_s=asked.asked_s,
            sent_bytes=self.model_bytes * asked.times,
            **asked.facts,
        )


def final_outcomes(answers: Iterable[Answer]) -> dict[str, Outcome]:
    """What came of a round's training at each site: the answer if there is one, else what the last request came to."""
    outcomes: dict[str, Outcome] = {}
    for answer in answers:
        if answer.phase == "train" and outcomes.get(answer.site) != "answered":
            outcomes[answer.site] = answer.outcome
    return outcomes


def _attempt(number: int, attempt: _Attempt) -> Attempt:
    opened = attempt.opened
    return Attempt(
        number=number,
        online=opened.online,
        cohort=len(opened.cohort),
        wanted=opened.wanted,
        quorum=opened.quorum,
        deadline_s=opened.deadline_s,
        opened_s=attempt.opened_s,
        closed_s=attempt.closed_s,
        because=attempt.because,
        abandoned=attempt.abandoned,
        landed=attempt.landed,
    )


def _state(state: RoundState) -> str:
    if state.committed:
        if state.evaluation and "sites" not in state.evaluated:
            return "evaluating"
        return "done" if state.evaluated else "committed"
    if state.closed:
        return "folding"
    return "trying again" if state.abandoned else "training"


def _phase(phase: str) -> str:
    """Sites train in the course of secure aggregation, whatever its stage."""
    return "train" if phase == "secagg" else phase


def _silent(opened: events.RoundOpened | events.EvaluationOpened | None) -> str:
    return f"no answer by the deadline of {opened.deadline_s:g} s" if opened else "no answer"
