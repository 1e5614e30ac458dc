"""A site's condition in words, and what to type: one function over what the store knows of it, without I/O."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter as Count
from collections.abc import Sequence
from typing import Any, Literal

from fl.link.report import SiteReport, from_json
from server.ca import DAY_S
from server.store.models import Site

Level = Literal["good", "idle", "warn", "bad"]
Condition = Literal[
    "training",
    "ready",
    "waiting",
    "limited",
    "refusing",
    "failing",
    "away",
    "expired",
    "approve",
    "invited",
    "quarantined",
    "revoked",
]
"""``limited``: outside its window or over a budget of its owner. ``approve``: an operator has to let it in."""

AWAY_AFTER_S = 60.0
"""Silence after which a site is away: a link that is well says a word every 27 s."""

REFUSED_LATELY_S = 3600.0
LIMITS = "the owner's limits: "
"""How a link's words begin that its owner's policy closed (``edge.link.status``)."""

OVERDUE = 0.25
"""Share of its life that a certificate has left when its renewal, due at a third, must have failed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """What a site was asked for in a round that is under way."""

    run: str
    project: str
    round: int
    phase: str
    outcome: str
    reason: str
    is_open: bool


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the store knows of a site, as far as its condition depends on it."""

    site: Site
    certificate: tuple[float, float] | None
    """When its certificate ends, and when it was issued."""
    token_expires_s: float | None
    waiting: str
    """Fingerprint of the keys with which it asks to be let in; empty if it doesn't."""
    report: SiteReport
    work: Sequence[Work]


@dataclasses.dataclass(frozen=True, slots=True)
class Said:
    """A condition."""

    condition: Condition
    level: Level
    words: str
    advice: str = ""
    notes: tuple[str, ...] = ()
    run: str = ""


def of(facts: Facts, now_s: float, *, visible: Any = None) -> Said:
    """The condition of a site: the first thing that keeps it from work, or the work that it does.

    Args:
        facts: What is known.
        now_s: Seconds since 1970.
        visible: Projects whose runs may be named; ``None`` for all.
    """
    said = _outside(facts, now_s) or _inside(facts, now_s, visible)
    notes = tuple(note for note in _notes(facts, now_s) if note != said.words)
    level = "warn" if notes and said.level in ("good", "idle") and facts.site.state == "active" else said.level
    advice = said.advice
    if notes and not advice and facts.site.state == "active":
        advice = f"fl site show {facts.site.id}"
    return dataclasses.replace(said, notes=notes, level=level, advice=advice)


def _outside(facts: Facts, now_s: float) -> Said | None:
    """Why a site cannot work at all; ``None`` if it can."""
    site = facts.site
    why = f": {site.reason}" if site.reason else ""
    if facts.waiting and site.state != "revoked":
        words = f"asks to be let in with the keys {facts.waiting}"
        return Said("approve", "warn", words, f"fl site approve {site.id}")
    if site.state == "revoked":
        return Said("revoked", "idle", f"revoked {ago(now_s - site.changed_s)}{why}", f"fl site rejoin {site.id}")
    if site.state == "invited":
        if facts.token_expires_s is not None and facts.token_expires_s < now_s:
            late = ago(now_s - facts.token_expires_s)
            return Said("invited", "warn", f"its join token expired {late}", f"fl site rejoin {site.id}")
        return Said("invited", "idle", "invited, has not joined yet")
    if site.state == "quarantined":
        words = f"in quarantine since {span(now_s - site.changed_s)}{why}"
        return Said("quarantined", "warn", words, f"fl site quarantine {site.id} --release")
    if facts.certificate and facts.certificate[0] < now_s:
        words = f"its certificate expired {ago(now_s - facts.certificate[0])}"
        return Said("expired", "bad", words, f"fl site rejoin {site.id}")
    if site.seen_s is None:
        return Said("away", "warn", "let in, was not heard of yet", "at the site: fl site status")
    if now_s - site.seen_s > AWAY_AFTER_S:
        return Said("away", "bad", f"away since {span(now_s - site.seen_s)}", "at the site: fl site status")
    return None


def _inside(facts: Facts, now_s: float, visible: Any) -> Said:
    """What a site that is connected does or waits for."""
    site, report = facts.site, facts.report
    asked = next((work for work in reversed(facts.work) if work.outcome == "asked" and work.is_open), None)
    if report.waits_for.startswith(LIMITS):
        return Said("limited", "idle", f"outside its owner's limits: {report.waits_for.removeprefix(LIMITS)}")
    if report.waits_for:
        words = f"waits for {report.waits_for}"
        return Said("waiting", "warn", words, "at the site: fl site status", run=_name(asked, visible))
    lately = [refused for refused in report.refused if now_s - refused.last_s < REFUSED_LATELY_S]
    if lately and asked is None:
        words = f"refused by its policy: {max(lately, key=lambda entry: entry.last_s).reason}"
        return Said("refusing", "warn", words, f"fl site show {site.id}, and ask its owner")
    if asked is not None:
        run = _name(asked, visible)
        verb = {"evaluate": "evaluating", "secagg": "training, masked,"}.get(asked.phase, "training")
        words = f"{verb} round {asked.round} of {run}" if run else "training"
        return Said("training", "good", words, run=run)
    failed = next((work for work in reversed(facts.work) if work.outcome == "failed"), None)
    if failed is not None:
        run = _name(failed, visible)
        words = f"failed in round {failed.round}" + (f" of {run}: {failed.reason}" if run else "")
        return Said("failing", "warn", words, f"fl site show {site.id}", run=run)
    if report.run_id:
        return Said("training", "good", "works on a message")
    return Said("ready", "good", "waiting for mail")


def _notes(facts: Facts, now_s: float) -> list[str]:
    notes: list[str] = []
    if facts.site.state not in ("active", "quarantined"):
        return notes
    if facts.certificate:
        ends_s, issued_s = facts.certificate
        left_s = ends_s - now_s
        if 0 < left_s < OVERDUE * (ends_s - issued_s):
            notes.append(f"certificate ends in {span(left_s)} and was not renewed")
    lately = [refused for refused in facts.report.refused if now_s - refused.last_s < REFUSED_LATELY_S]
    if lately:
        notes.append(f"refused by its policy: {max(lately, key=lambda entry: entry.last_s).reason}")
    if facts.report.given_up:
        notes.append(f"could not deliver: {facts.report.given_up[-1]}")
    return notes


def _name(work: Work | None, visible: Any) -> str:
    return work.run if work is not None and (visible is None or work.project in visible) else ""


def report_of(text: str) -> SiteReport:
    """A site's last report; an empty one where there is none, or one that cannot be read."""
    if not text:
        return SiteReport()
    try:
        return from_json(text)
    except (ValueError, RecursionError, json.JSONDecodeError):
        return SiteReport()


def gpu_words(gpus: Any) -> str:
    """GPUs in words.

    Example:
        >>> gpu_words([{"name": "NVIDIA L4"}, {"name": "NVIDIA L4"}])
        '2 × NVIDIA L4'
    """
    if not isinstance(gpus, list):
        return ""
    names = Count(str(gpu.get("name", "GPU"))[:60] for gpu in gpus if isinstance(gpu, dict))
    return ", ".join(name if number == 1 else f"{number} × {name}" for name, number in names.items())


def span(seconds: float) -> str:
    """A rough duration.

    Example:
        >>> span(30), span(7200), span(2.4 * DAY_S)
        ('30 s', '2 hours', '2 days')
    """
    for size, one in ((DAY_S, "day"), (3600.0, "hour"), (60.0, "minute")):
        if seconds >= size:
            number = int(seconds // size)
            return f"{number} {one}{'s' if number != 1 else ''}"
    return f"{max(0.0, seconds):.0f} s"


def ago(seconds: float) -> str:
    """A rough time in the past."""
    return f"{span(seconds)} ago"
