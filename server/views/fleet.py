"""Sites: the whole fleet on one screen, and one site in full. Each has its condition in words, and what to type."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter as Count
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from server.store.models import Certificate, Counter, Event, Key, Request, Site, Token
from server.store.runs import Reply, Round, Run
from server.views import condition
from server.views.condition import Condition, Level
from server.views.page import NotFoundError, Page, Visible, check_limit, restrict

HISTORY = 50
"""Events and replies of a site that are shown."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SiteRow:
    """A site in the fleet."""

    id: str
    state: str
    """What the registry says: ``invited``, ``active``, ``quarantined`` or ``revoked``."""
    condition: Condition
    """What it does now, as one word to filter by."""
    level: Level
    """``good``, ``idle``, ``warn`` or ``bad``."""
    words: str
    """Its condition in words, e.g. ``training round 7 of 20261126-digits``."""
    advice: str
    """What to type; empty where there is nothing to do."""
    notes: tuple[str, ...]
    """What else is wrong, e.g. ``certificate ends in 2 days``."""
    labels: Mapping[str, str]
    run: str
    """The run that it works for; empty without one, or if it is not visible."""
    seen_s: float | None
    """When it was heard of last. All times are seconds since 1970."""
    certificate_ends_s: float | None
    release: str
    """Version of fedfleet there."""
    gpu: str
    """Its GPUs in words, e.g. ``2 × NVIDIA L4``; empty without any."""
    up_bytes: int
    down_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Fleet:
    """The fleet, or the part of it that was asked for."""

    sites: Page[SiteRow]
    counts: Mapping[str, int]
    """How many sites there are in each condition, whatever was asked for."""
    levels: Mapping[str, int]
    total: int
    found: int
    """How many fit what was asked for, on all pages."""


@dataclasses.dataclass(frozen=True, slots=True)
class SiteEvent:
    """Something that happened to a site."""

    at_s: float
    what: str
    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class SiteReply:
    """A site's part in a round."""

    run: str
    round: int
    attempt: int
    phase: str
    outcome: str
    code: str
    reason: str
    at_s: float
    waited_s: float | None
    size_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Refusal:
    """Work that the site's policy refused."""

    reason: str
    count: int
    last_s: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SiteDetail:
    """One site in full."""

    row: SiteRow
    reason: str
    """Why it is quarantined or revoked."""
    created_s: float
    changed_s: float
    fingerprint: str
    """Of its three keys, or of those that wait for approval."""
    is_waiting: bool
    """Whether an operator has to let it in."""
    node_id: str
    """Flower's number of its node; empty while it is not registered."""
    facts: Mapping[str, Any]
    """What its probe found."""
    waits_for: str
    outbox_bytes: int
    bytes_left: int | None
    """What may travel today by its owner's policy; ``None`` without a budget."""
    gpu_left_s: float | None
    given_up: tuple[str, ...]
    refused: tuple[Refusal, ...]
    events: tuple[SiteEvent, ...]
    """The newest first."""
    replies: tuple[SiteReply, ...]
    """Of visible runs, the newest first."""
    failures: tuple[SiteReply, ...]
    """The last replies that failed, were late or missing."""


def fleet(
    session: Session,
    now_s: float,
    *,
    text: str = "",
    state: str = "",
    labels: Mapping[str, str] | None = None,
    limit: int = 1000,
    after: str = "",
    visible: Visible = None,
) -> Fleet:
    """The sites by id.

    Args:
        session: A transaction that reads.
        now_s: Seconds since 1970.
        text: Part of an id, of the words or of a label, whatever the case.
        state: A condition, a level, or a state of the registry.
        labels: What a site's labels must say.
        limit: Rows of the page.
        after: The id behind which to go on.
        visible: Projects whose runs may be named.
    """
    check_limit(limit)
    rows = site_rows(session, now_s, visible=visible)
    wanted = [row for row in rows if _fits(row, text.casefold().strip(), state, labels or {})]
    behind = [row for row in wanted if row.id > after]
    shown = behind[:limit]
    return Fleet(
        sites=Page(tuple(shown), shown[-1].id if len(behind) > limit else None),
        counts=dict(Count(row.condition for row in rows)),
        levels=dict(Count(row.level for row in rows)),
        total=len(rows),
        found=len(wanted),
    )


def site_rows(session: Session, now_s: float, *, visible: Visible = None, only: int | None = None) -> list[SiteRow]:
    """All sites, or one by its number; a handful of queries for any number of them."""
    sites = select(Site).order_by(Site.id)
    ends = (
        select(Certificate.site, func.max(Certificate.expires_s), func.max(Certificate.issued_s))
        .where(Certificate.ended_s.is_(None))
        .group_by(Certificate.site)
    )
    tokens = select(Token.site, func.max(Token.expires_s)).where(Token.withdrawn_s.is_(None)).group_by(Token.site)
    asked = select(Request.site, Request.fingerprint).where(Request.state == "waiting")
    sums = select(Counter.site, func.sum(Counter.up_bytes), func.sum(Counter.down_bytes)).group_by(Counter.site)
    if only is not None:
        sites = sites.where(Site.number == only)
        ends, asked = ends.where(Certificate.site == only), asked.where(Request.site == only)
        tokens, sums = tokens.where(Token.site == only), sums.where(Counter.site == only)
    by_end = {site: (ends_s, issued_s) for site, ends_s, issued_s in session.execute(ends)}
    by_token = dict(session.execute(tokens).all())
    waiting = dict(session.execute(asked).all())
    by_sum = {site: (int(up or 0), int(down or 0)) for site, up, down in session.execute(sums)}
    work = _work(session)
    rows = []
    for site in session.scalars(sites):
        facts = condition.Facts(
            site=site,
            certificate=by_end.get(site.number),
            token_expires_s=by_token.get(site.number),
            waiting=waiting.get(site.number, ""),
            report=condition.report_of(site.report),
            work=work.get(site.id, ()),
        )
        rows.append(_row(facts, now_s, by_sum.get(site.number, (0, 0)), visible))
    return rows


def site(session: Session, now_s: float, id: str, *, visible: Visible = None) -> SiteDetail:
    """One site in full.

    Raises:
        NotFoundError: If there is no such site.
    """
    found = session.scalar(select(Site).where(Site.id == id))
    if found is None:
        raise NotFoundError(f"no site {id[:80]}", hint="fl site list")
    (row,) = site_rows(session, now_s, visible=visible, only=found.number)
    latest = session.scalar(
        select(Request).where(Request.site == found.number).order_by(Request.asked_s.desc()).limit(1)
    )
    node = session.scalar(
        select(Key.node_id).where(Key.site == found.number, Key.kind == "node", Key.until_s.is_(None))
    )
    happened = session.scalars(
        select(Event).where(Event.site == found.number).order_by(Event.number.desc()).limit(HISTORY)
    )
    report = condition.report_of(found.report)
    return SiteDetail(
        row=row,
        reason=found.reason,
        created_s=found.created_s,
        changed_s=found.changed_s,
        fingerprint=latest.fingerprint if latest else "",
        is_waiting=latest is not None and latest.state == "waiting",
        node_id=node or "",
        facts=dict(report.facts) if isinstance(report.facts, Mapping) else {},
        waits_for=report.waits_for,
        outbox_bytes=report.outbox_bytes,
        bytes_left=report.bytes_left,
        gpu_left_s=report.gpu_left_s,
        given_up=report.given_up,
        refused=tuple(Refusal(entry.reason, entry.count, entry.last_s) for entry in report.refused),
        events=tuple(SiteEvent(event.at_s, event.what, event.words) for event in happened),
        replies=_replies(session, id, visible, only_bad=False),
        failures=_replies(session, id, visible, only_bad=True),
    )


def _row(facts: condition.Facts, now_s: float, sums: tuple[int, int], visible: Visible) -> SiteRow:
    site = facts.site
    said = condition.of(facts, now_s, visible=visible)
    found: Mapping[str, Any] = facts.report.facts if isinstance(facts.report.facts, Mapping) else {}
    return SiteRow(
        id=site.id,
        state=site.state,
        condition=said.condition,
        level=said.level,
        words=said.words,
        advice=said.advice,
        notes=said.notes,
        labels=labels_of(site),
        run=said.run,
        seen_s=site.seen_s,
        certificate_ends_s=facts.certificate[0] if facts.certificate else None,
        release=str(found.get("fedfleet") or "")[:64],
        gpu=condition.gpu_words(found.get("gpus")),
        up_bytes=sums[0],
        down_bytes=sums[1],
    )


def labels_of(site: Site) -> dict[str, str]:
    """A site's labels."""
    return dict(json.loads(getattr(site, "labels", "") or "{}"))


def _work(session: Session) -> dict[str, tuple[condition.Work, ...]]:
    """What each site was asked for, or failed at, in the present rounds of runs that are under way."""
    found = session.execute(
        select(Reply.site, Run.name, Run.project, Reply.round, Reply.phase, Reply.outcome, Reply.reason, Round.state)
        .join(Run, Run.number == Reply.run)
        .join(Round, (Round.run == Reply.run) & (Round.number == Reply.round))
        .where(
            Run.state.in_(("starting", "running", "pausing", "stopping", "interrupted")),
            Reply.round >= Run.rounds_done,
            Reply.outcome.in_(("asked", "failed", "missing")),
        )
        .order_by(Reply.number)
    )
    by_site: dict[str, tuple[condition.Work, ...]] = {}
    for site, run, project, number, phase, outcome, reason, state in found:
        work = condition.Work(run, project, number, phase, outcome, reason, state != "committed" or phase != "train")
        by_site[site] = (*by_site.get(site, ()), work)
    return by_site


def _replies(session: Session, site: str, visible: Visible, *, only_bad: bool) -> tuple[SiteReply, ...]:
    query = (
        select(Reply, Run.name)
        .join(Run, Run.number == Reply.run)
        .where(Reply.site == site)
        .order_by(Reply.number.desc())
        .limit(HISTORY)
    )
    if only_bad:
        query = query.where(Reply.outcome.in_(("failed", "late", "missing")))
    return tuple(
        SiteReply(
            run=run,
            round=reply.round,
            attempt=reply.attempt,
            phase=reply.phase,
            outcome=reply.outcome,
            code=reply.code,
            reason=reply.reason,
            at_s=reply.at_s,
            waited_s=reply.waited_s,
            size_bytes=reply.size_bytes,
        )
        for reply, run in session.execute(restrict(query, visible))
    )


def _fits(row: SiteRow, text: str, state: str, labels: Mapping[str, str]) -> bool:
    if state and state not in (row.condition, row.level, row.state):
        return False
    if any(row.labels.get(key) != value for key, value in labels.items()):
        return False
    if not text:
        return True
    said = " ".join((row.id, row.words, *row.notes, *(f"{key}={value}" for key, value in row.labels.items())))
    return text in said.casefold()
