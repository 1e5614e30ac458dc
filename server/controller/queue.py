"""Which waiting run starts next: projects share the fleet fairly, and within a project priority and age decide.

A project's share is what its runs used lately, divided by its weight. Use fades with a half-life, so that a project
that trained all night does not wait for ever, and one that slept does not hoard (the decayed usage of Slurm's
multifactor priority and of Kay and Lauder, "A fair share scheduler", CACM 1988).
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping

HALF_LIFE_S = 24 * 3600.0
"""After how long a second of use counts half."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A run in the queue."""

    run: str
    project: str
    priority: int
    """Higher starts first, within a project."""
    submitted_s: float
    """Seconds since 1970."""
    start_s: float = 0.0
    """Not before then; 0 at once."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What a run of a project used, from one moment to another."""

    project: str
    from_s: float
    to_s: float
    sites: int = 1
    """How many sites worked for it, in the mean."""


def decayed(uses: Iterable[Use], now_s: float) -> dict[str, float]:
    """Site-seconds of use by project, each counted by its age.

    Args:
        uses: Of any age; those in the future count nothing.
        now_s: Seconds since 1970.

    Returns:
        By project, the integral of ``sites · 2^(-age / half-life)`` over its uses.
    """
    total: dict[str, float] = {}
    scale = HALF_LIFE_S / math.log(2)
    for use in uses:
        from_s, to_s = min(use.from_s, now_s), min(use.to_s, now_s)
        if to_s > from_s:
            weight = 2 ** ((to_s - now_s) / HALF_LIFE_S) - 2 ** ((from_s - now_s) / HALF_LIFE_S)
            total[use.project] = total.get(use.project, 0.0) + use.sites * scale * weight
    return total


def order(
    waiting: Iterable[Waiting], used: Mapping[str, float], now_s: float, *, weights: Mapping[str, float] | None = None
) -> list[Waiting]:
    """The runs that may start now, the next one first.

    Projects take turns: after each run the project is counted as if it had used the median of all projects, so that
    one project with a hundred runs does not fill every free place.

    Args:
        waiting: The queue; those whose ``start_s`` has not come are left out.
        used: Decayed use by project (``decayed``).
        now_s: Seconds since 1970.
        weights: How much each project is due, in proportion; 1 for those that are not named.
    """
    due = sorted(
        (run for run in waiting if run.start_s <= now_s),
        key=lambda run: (-run.priority, run.submitted_s, run.run),
    )
    queues: dict[str, list[Waiting]] = {}
    for run in due:
        queues.setdefault(run.project, []).append(run)
    shares = {project: used.get(project, 0.0) for project in queues}
    step = max(1.0, statistics.median_low(shares.values())) if shares else 1.0
    ordered = []
    while queues:
        project = min(queues, key=lambda name: (shares[name] / (weights or {}).get(name, 1.0), name))
        ordered.append(queues[project].pop(0))
        shares[project] += step
        if not queues[project]:
            del queues[project]
    return ordered
