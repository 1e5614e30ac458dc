"""The queue: the runs that wait, in the order in which they start."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from server.controller import queue as queues
from server.store.runs import Run, Use
from server.views.page import Visible
from server.views.runs import RunRow, run_row


@dataclasses.dataclass(frozen=True, slots=True)
class Queued:
    """A run in the queue, in the order in which runs will start."""

    place: int
    """From 1; 0 for a run whose start time has not come."""
    row: RunRow
    used_site_s: float
    """What its project used lately, in site-seconds that fade with a half-life of a day."""


def queue(
    session: Session, now_s: float, *, visible: Visible = None, weights: Mapping[str, float] | None = None
) -> tuple[Queued, ...]:
    """The runs that wait, in the order in which they start; those of other projects take their places unseen.

    Args:
        session: A transaction that reads.
        now_s: Seconds since 1970.
        visible: Projects whose runs may be seen.
        weights: How much each project is due (``[control] weights``).
    """
    waiting = {run.name: run for run in session.scalars(select(Run).where(Run.state == "queued"))}
    used = queues.decayed(uses(session, now_s), now_s)
    ordered = [entry.run for entry in queues.order(asked(waiting.values()), used, now_s, weights=weights)]
    places = {name: place for place, name in enumerate(ordered, 1)}
    later = sorted((run for run in waiting.values() if run.name not in places), key=lambda run: run.start_s)
    return tuple(
        Queued(places.get(run.name, 0), run_row(run, now_s), used.get(run.project, 0.0))
        for run in (*(waiting[name] for name in ordered), *later)
        if visible is None or run.project in visible
    )


def asked(runs: Iterable[Run]) -> list[queues.Waiting]:
    """Runs as the queue orders them."""
    return [
        queues.Waiting(
            run=run.name,
            project=run.project,
            priority=run.priority,
            submitted_s=run.submitted_s,
            start_s=run.start_s,
        )
        for run in runs
    ]


def uses(session: Session, now_s: float) -> list[queues.Use]:
    """What runs used in the last ten half-lives, by project."""
    old_s = now_s - 10 * queues.HALF_LIFE_S
    found = session.execute(
        select(Run.project, Use.from_s, Use.to_s, Use.sites)
        .join(Run, Run.number == Use.run)
        .where(Use.to_s.is_(None) | (Use.to_s > old_s))
    )
    return [
        queues.Use(project=project, from_s=from_s, to_s=now_s if to_s is None else to_s, sites=sites)
        for project, from_s, to_s, sites in found
    ]
