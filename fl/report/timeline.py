"""One round on one axis of time: the server's work and each site's, as bars, and in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import groupby

from fl.report import words
from fl.report.facts import SEVERITY, Answer, Facts, Place, Round

MOST_LANES = 2500
"""Sites × rounds that are drawn in full, over the whole page."""

MOST_LANES_A_ROUND = 1000
"""Sites that are drawn in one round."""

SCALE = 1000
"""Units of the axis."""

NARROWEST = 4.0
"""What is shorter than this is still seen."""


@dataclasses.dataclass(frozen=True, slots=True)
class Bar:
    """From ``at`` over ``width`` units of the axis; ``key`` names what it stands for."""

    key: str
    at: float
    width: float


@dataclasses.dataclass(frozen=True, slots=True)
class Lane:
    """One site in one round.

    Attributes:
        site: Its id.
        worst: Its gravest outcome, for its colour.
        bars: When it was asked and answered.
        outcome: The same in words.
        update: Its update, if one is there.
        metrics: While training and in the evaluation, by place.
        sent_bytes: To it.
        received_bytes: From it.
    """

    site: str
    worst: str
    bars: tuple[Bar, ...]
    outcome: str
    update: Answer | None
    metrics: dict[Place, dict[str, float]]
    sent_bytes: int
    received_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Timeline:
    """One round.

    Attributes:
        number: Of the round.
        headline: Who answered, how long it took.
        trouble: Who did not, in words; empty if all did.
        ticks: Labels of the axis, from its start to its end, at equal distances.
        server: The server's own bars.
        attempts: Each attempt in words.
        lanes: The sites, by name; if they are too many, those with trouble first.
        hidden: How many sites are not among them.
    """

    number: int
    headline: str
    trouble: str
    ticks: tuple[str, ...]
    server: tuple[Bar, ...]
    attempts: tuple[str, ...]
    lanes: tuple[Lane, ...]
    hidden: int


def timelines(facts: Facts) -> list[Timeline]:
    """The newest rounds in full, newest first, as many as ``MOST_LANES`` allows and always one."""
    found: list[Timeline] = []
    lanes = 0
    for entry in reversed(facts.rounds):
        lanes += min(len({answer.site for answer in entry.answers}), MOST_LANES_A_ROUND)
        if found and lanes > MOST_LANES:
            break
        found.append(timeline(entry))
    return found


def timeline(entry: Round) -> Timeline:
    """One round."""
    axis = _Axis(entry.opened_s, entry.ended_s)
    took = words.seconds(axis.span_s)
    lanes = [_lane(entry, site, list(answers), axis) for site, answers in groupby(entry.answers, lambda a: a.site)]
    if len(lanes) > MOST_LANES_A_ROUND:
        lanes.sort(key=lambda lane: (lane.worst in ("answered", "spare"), lane.site))
    shown = lanes[:MOST_LANES_A_ROUND]
    missing = [f"{getattr(entry, key)} {key}" for key in ("failed", "silent", "late") if getattr(entry, key)]
    if len(entry.attempts) > 1:
        missing.append(f"{len(entry.attempts)} attempts")
    return Timeline(
        number=entry.number,
        headline=f"{words.count(entry.survivors)} of {words.plural(entry.cohort, 'site')} in {took}",
        trouble=", ".join(missing),
        ticks=tuple(words.seconds(share * axis.span_s) if share else "0 s" for share in (0, 0.5, 1)),
        server=tuple(_server(entry, axis)),
        attempts=tuple(_attempts(entry)),
        lanes=tuple(shown),
        hidden=len(lanes) - len(shown),
    )


class _Axis:
    """From seconds of the run to units of a round's axis."""

    def __init__(self, start_s: float, stop_s: float) -> None:
        self.start_s, self.span_s = start_s, max(stop_s - start_s, 0.001)

    def bar(self, key: str, start_s: float, stop_s: float) -> Bar:
        """What happens outside the round, such as a late answer, ends at its edge."""
        at, end = (SCALE * min(max(0.0, (value_s - self.start_s) / self.span_s), 1.0) for value_s in (start_s, stop_s))
        width = max(end - at, NARROWEST)
        return Bar(key, round(min(at, SCALE - width), 1), round(width, 1))


def _server(entry: Round, axis: _Axis) -> Iterator[Bar]:
    for attempt in entry.attempts:
        closed_s = entry.ended_s if attempt.closed_s is None else attempt.closed_s
        yield axis.bar("waiting" if attempt.abandoned else "training", attempt.opened_s, closed_s)
    if (closed := entry.attempts[-1].closed_s) is None:
        return
    folded_s = entry.ended_s if entry.folded_s is None else entry.folded_s
    yield axis.bar("folding", closed, folded_s)
    if entry.state in ("evaluating", "done"):
        yield axis.bar("sites", folded_s, entry.ended_s)


def _attempts(entry: Round) -> Iterator[str]:
    for attempt in entry.attempts:
        asked = (
            f"{words.count(attempt.online)} sites were online, {words.count(attempt.cohort)} in the cohort, "
            f"{words.count(attempt.wanted)} wanted, {words.count(attempt.quorum)} needed, "
            f"deadline {words.seconds(attempt.deadline_s)}"
        )
        number = f"attempt {attempt.number}: " if len(entry.attempts) > 1 else ""
        if attempt.abandoned:
            end = f"given up with {words.plural(attempt.landed, 'update')}: {attempt.because}"
        else:
            end = f"closed when {attempt.because}" if attempt.because else "under way"
        yield f"{number}{asked}; {end}"


def _lane(entry: Round, site: str, answers: Sequence[Answer], axis: _Axis) -> Lane:
    good = {answer.phase: answer for answer in answers if answer.outcome == "answered"}
    places: dict[Place, str] = {"training": "train", "sites": "evaluate"}
    return Lane(
        site=site,
        worst=max((a.outcome for a in answers), key=SEVERITY.__getitem__),
        bars=tuple(_bar(entry, answer, axis) for answer in answers),
        outcome=_in_words(entry, answers),
        update=good.get("train"),
        metrics={place: good[phase].metrics for place, phase in places.items() if phase in good},
        sent_bytes=sum(a.sent_bytes for a in answers),
        received_bytes=sum(a.received_bytes for a in answers),
    )


def _bar(entry: Round, answer: Answer, axis: _Axis) -> Bar:
    is_training = answer.phase == "train"
    stop_s = answer.came_s
    if stop_s is None and is_training:
        stop_s = entry.attempts[answer.attempt - 1].closed_s
    key = "evaluated" if not is_training and answer.outcome == "answered" else answer.outcome
    return axis.bar(key, answer.asked_s, entry.ended_s if stop_s is None else stop_s)


def _in_words(entry: Round, answers: Sequence[Answer]) -> str:
    """What came of the training, attempt by attempt, and of the evaluation if it has no answer."""
    attempts: dict[str, list[int]] = {}
    for answer in answers:
        if answer.phase == "train":
            attempts.setdefault(_outcome(answer), []).append(answer.attempt)
    found = [
        f"attempt{'s' if len(numbers) > 1 else ''} {' and '.join(map(str, numbers))}: {text}"
        if len(entry.attempts) > 1
        else text
        for text, numbers in attempts.items()
    ]
    found += [
        f"evaluation: {_outcome(answer)}"
        for answer in answers
        if answer.phase == "evaluate" and answer.outcome != "answered"
    ]
    return "; ".join(found)


def _outcome(answer: Answer) -> str:
    if answer.outcome == "waiting":
        return "no answer yet"
    return f"failed: {answer.reason}" if answer.outcome == "failed" else answer.reason or answer.outcome
