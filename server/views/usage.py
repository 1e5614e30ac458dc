"""What runs and sites used: energy where it was measured, CPU and GPU time, bytes; and what that costs.

All of it is drawn from the replies' reports. Under secure aggregation a site reports nothing of itself, so its energy
and time are unknown here; its bytes are the gateway's count.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from sqlalchemy import JSON, Float, case, cast, func, select, type_coerce
from sqlalchemy.orm import Session

from fl.report.prices import GPUS, NO_PRICES, Prices
from server.store.models import Counter, Site
from server.store.runs import Reply, Run
from server.views.page import Visible, find_run, restrict


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """What was used."""

    energy_j: float | None
    """Joules that GPUs drew; ``None`` where none was measured."""
    measured: int
    """Trainings whose energy was measured, of ``trainings``."""
    trainings: int
    gpu_s: float
    """Seconds for which trainings held a GPU."""
    cpu_s: float | None
    """Seconds of processor time; ``None`` where no site told."""
    wall_s: float
    """Seconds that trainings took, all sites together."""
    up_bytes: int
    """Sites sent."""
    down_bytes: int | None
    """Sites received; ``None`` where the gateway did not count."""
    cost: float | None
    """In ``currency``; ``None`` without prices."""
    currency: str


NOT_SUMMED = Amount(
    energy_j=None,
    measured=0,
    trainings=0,
    gpu_s=0.0,
    cpu_s=None,
    wall_s=0.0,
    up_bytes=0,
    down_bytes=None,
    cost=None,
    currency="",
)
"""Stands where nobody asked what was used."""


@dataclasses.dataclass(frozen=True, slots=True)
class UsageRow:
    """What a run, a site or a project used."""

    name: str
    amount: Amount


def of_run(session: Session, run: Run, prices: Prices = NO_PRICES) -> Amount:
    """What a run used so far."""
    trained = session.execute(_sums(session).where(Reply.run == run.number)).one()
    counted = session.execute(
        select(func.sum(Counter.up_bytes), func.sum(Counter.down_bytes)).where(
            Counter.run_id == (run.flower_run or "none")
        )
    ).one()
    down = int(counted[1]) if counted[1] is not None and run.lives == 1 else None
    return _amount(trained, down, prices)


def usage(
    session: Session,
    *,
    by: str = "run",
    run: str = "",
    site: str = "",
    prices: Prices = NO_PRICES,
    limit: int = 100,
    visible: Visible = None,
) -> tuple[UsageRow, ...]:
    """What was used, by ``run``, ``site`` or ``project``; those that used most time first.

    Args:
        session: A transaction that reads.
        by: What makes a row.
        run: Only by this run.
        site: Only by this site.
        prices: What it costs.
        limit: Rows at most.
        visible: Projects whose runs count.

    Raises:
        NotFoundError: If there is no such run, or it is not visible.
    """
    key = {"run": Run.name, "site": Reply.site, "project": Run.project}[by]
    query = _sums(session).add_columns(key.label("name")).join(Run, Run.number == Reply.run).group_by(key)
    if run:
        query = query.where(Reply.run == find_run(session, run, visible).number)
    if site:
        query = query.where(Reply.site == site)
    found: Sequence[Any] = session.execute(restrict(query, visible)).all()
    counts: dict[str, int] = {}
    if by == "site" and not run and visible is None:
        sums = session.execute(
            select(Site.id, func.sum(Counter.down_bytes)).join(Site, Site.number == Counter.site).group_by(Site.id)
        )
        counts = {name: int(down) for name, down in sums}
    rows = [UsageRow(str(row.name), _amount(row[:7], counts.get(str(row.name)), prices)) for row in found]
    return tuple(sorted(rows, key=lambda row: (-row.amount.wall_s, row.name))[:limit])


def _sums(session: Session) -> Any:
    """Energy, how often it was measured, trainings, seconds on GPUs, of cores, all seconds, bytes."""
    text = func.nullif(Reply.report, "")
    if session.get_bind().dialect.name == "postgresql":
        report: Any = cast(text, JSON)
    else:
        report = type_coerce(text, JSON)
    energy, wall = cast(report["energy_j"].as_string(), Float), cast(report["wall_s"].as_string(), Float)
    device, cores = report["device"].as_string(), cast(report["cpu_s"].as_string(), Float)
    trained = (Reply.phase == "train") & (Reply.outcome.in_(("landed", "late")))
    return select(
        func.sum(energy),
        func.count(energy),
        func.sum(case((trained, 1), else_=0)),
        func.sum(case((device.in_(GPUS), wall), else_=0.0)),
        func.sum(cores),
        func.sum(wall),
        func.sum(Reply.size_bytes),
    )


def _amount(sums: Sequence[Any], down: int | None, prices: Prices) -> Amount:
    energy_j, measured, trainings, gpu_s, cpu_s, wall_s, up = sums
    return Amount(
        energy_j=energy_j,
        measured=measured or 0,
        trainings=trainings or 0,
        gpu_s=gpu_s or 0.0,
        cpu_s=cpu_s,
        wall_s=wall_s or 0.0,
        up_bytes=int(up or 0),
        down_bytes=down,
        cost=prices.cost(energy_j=energy_j, gpu_s=gpu_s, cpu_s=cpu_s, size_bytes=(up or 0) + (down or 0)),
        currency=prices.currency,
    )
