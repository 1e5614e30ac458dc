"""Rounds of a run: the table, and who did what when."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fl.errors import InputError
from server.store.runs import Metric, Reply, Round
from server.views.page import Page, Visible, check_limit, find_run, number_of

MOST_REPLIES = 20_000
"""Replies that a timeline shows; fewer rounds are shown where they would be more."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoundRow:
    """One round, over all its attempts."""

    number: int
    state: str
    """``open``, ``closed``, ``abandoned`` or ``committed``."""
    words: str
    """Its state in words."""
    attempts: int
    stage: str
    """The stage of secure aggregation that closed last."""
    opened_s: float
    closed_s: float | None
    committed_s: float | None
    took_s: float | None
    """From the opening to the commit."""
    online: int
    cohort: int
    wanted: int
    quorum: int
    survivors: int
    because: str
    received_bytes: int
    fold_s: float | None
    model_digest: str
    metrics: Mapping[str, Mapping[str, float | None]]
    """By place and name."""
    outcomes: Mapping[str, int]
    """How many sites of the training ``landed``, ``failed``, were ``late`` or ``missing``, or are ``asked``."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A site's part in a phase of a round."""

    round: int
    attempt: int
    phase: str
    """``train``, ``evaluate`` or ``secagg``."""
    outcome: str
    code: str
    reason: str
    from_s: float
    """When it was asked; seconds since 1970."""
    to_s: float | None
    """When it answered, or was given up; ``None`` while it is being waited for."""
    size_bytes: int
    num_examples: int | None
    report: Mapping[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class SiteSpans:
    """What a site did in some rounds."""

    site: str
    spans: tuple[Span, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Timeline:
    """Some rounds of a run, site by site."""

    first: int
    last: int
    from_s: float
    to_s: float
    sites: tuple[SiteSpans, ...]


def rounds(
    session: Session, name: str, *, limit: int = 100, after: str = "", visible: Visible = None
) -> Page[RoundRow]:
    """The rounds of a run, the newest first.

    Args:
        session: A transaction that reads.
        name: The run.
        limit: Rows of the page.
        after: The round before which to go on.
        visible: Projects whose runs may be seen.

    Raises:
        NotFoundError: If there is no such run, or it is not visible.
    """
    check_limit(limit)
    run = find_run(session, name, visible).number
    query = select(Round).where(Round.run == run).order_by(Round.number.desc()).limit(limit + 1)
    if (last := number_of(after)) is not None:
        query = query.where(Round.number < last)
    found = list(session.scalars(query))
    shown = found[:limit]
    if not shown:
        return Page((), None)
    within = (shown[-1].number, shown[0].number)
    metrics: dict[int, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for place, metric, number, value in session.execute(
        select(Metric.place, Metric.name, Metric.round, Metric.value).where(
            Metric.run == run, Metric.round.between(*within)
        )
    ):
        metrics[number][place][metric] = value
    outcomes: dict[int, dict[str, int]] = defaultdict(dict)
    for number, outcome, count in session.execute(
        select(Reply.round, Reply.outcome, func.count())
        .where(Reply.run == run, Reply.round.between(*within), Reply.phase != "evaluate")
        .group_by(Reply.round, Reply.outcome)
    ):
        outcomes[number][outcome] = count
    rows = tuple(_row(row, metrics[row.number], outcomes[row.number]) for row in shown)
    return Page(rows, str(rows[-1].number) if len(found) > limit else None)


def timeline(
    session: Session,
    name: str,
    *,
    first: int | None = None,
    last: int | None = None,
    now_s: float,
    visible: Visible = None,
) -> Timeline:
    """Who did what when, in some rounds; the last ten without ``first``.

    Raises:
        InputError: If the rounds are none.
        NotFoundError: If there is no such run, or it is not visible.
    """
    run = find_run(session, name, visible).number
    newest = session.scalar(select(func.max(Round.number)).where(Round.run == run)) or 0
    last = newest if last is None else min(last, newest)
    first = max(1, last - 9) if first is None else max(1, first)
    if first > max(last, 1):
        raise InputError(f"rounds {first} to {last} are none", hint="the first one must not be above the last")
    found = session.scalars(
        select(Reply)
        .where(Reply.run == run, Reply.round.between(first, last))
        .order_by(Reply.round.desc(), Reply.number)
        .limit(MOST_REPLIES)
    ).all()
    by_site: dict[str, list[Span]] = defaultdict(list)
    for reply in found:
        by_site[reply.site].append(_span(reply))
    begins = [span.from_s for spans in by_site.values() for span in spans]
    ends = [span.to_s or now_s for spans in by_site.values() for span in spans]
    return Timeline(
        first=min((reply.round for reply in found), default=first),
        last=last,
        from_s=min(begins, default=now_s),
        to_s=max(ends, default=now_s),
        sites=tuple(
            SiteSpans(site, tuple(sorted(spans, key=lambda span: (span.round, span.from_s))))
            for site, spans in sorted(by_site.items())
        ),
    )


def _row(row: Round, metrics: Mapping[str, Mapping[str, float | None]], outcomes: Mapping[str, int]) -> RoundRow:
    return RoundRow(
        number=row.number,
        state=row.state,
        words=_words(row, outcomes),
        attempts=row.attempts,
        stage=row.stage,
        opened_s=row.opened_s,
        closed_s=row.closed_s,
        committed_s=row.committed_s,
        took_s=None if row.committed_s is None else row.committed_s - row.opened_s,
        online=row.online,
        cohort=row.cohort,
        wanted=row.wanted,
        quorum=row.quorum,
        survivors=row.survivors,
        because=row.because,
        received_bytes=row.received_bytes,
        fold_s=row.fold_s,
        model_digest=row.model_digest,
        metrics=metrics,
        outcomes=outcomes,
    )


def _words(row: Round, outcomes: Mapping[str, int]) -> str:
    match row.state:
        case "open" if row.stage:
            return f"secure aggregation, after stage {row.stage}"
        case "open":
            return f"training: {outcomes.get('landed', 0)} of {row.cohort} sites answered, {row.quorum} needed"
        case "abandoned":
            return f"trying again: {row.because or 'too few sites'}"
        case "closed":
            return "folding"
        case _:
            return f"{row.survivors} of {row.cohort} sites"


def _span(reply: Reply) -> Span:
    is_open = reply.outcome == "asked"
    return Span(
        round=reply.round,
        attempt=reply.attempt,
        phase=reply.phase,
        outcome=reply.outcome,
        code=reply.code,
        reason=reply.reason,
        from_s=reply.at_s if is_open else reply.at_s - (reply.waited_s or 0.0),
        to_s=None if is_open else reply.at_s,
        size_bytes=reply.size_bytes,
        num_examples=reply.num_examples,
        report=json.loads(reply.report) if reply.report else {},
    )
