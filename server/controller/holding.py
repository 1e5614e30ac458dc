"""How many sites an active run holds: what its use of the fleet is counted by."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fl.config import load
from fl.rounds import cohort
from fl.rounds.config import RoundConfig
from server.store.models import Site
from server.store.runs import Round, Run


def asked(session: Session, runs: Collection[int]) -> Mapping[int, int]:
    """How many sites the newest round of each run asks; runs without a round are left out."""
    newest = select(Round.run, func.max(Round.number).label("number")).where(Round.run.in_(runs)).group_by(Round.run)
    of = newest.subquery()
    rows = session.execute(
        select(Round.run, Round.cohort).join(of, (of.c.run == Round.run) & (of.c.number == Round.number))
    )
    return {run: max(1, count) for run, count in rows}


def expected(session: Session, run: Run) -> int:
    """How many sites a run will ask, as its ``[round]`` table and the active sites have it; one at least.

    A Flower app decides by itself whom it asks: it is counted as if it asked all.
    """
    active = session.scalars(select(Site.id).where(Site.state == "active").order_by(Site.id)).all()
    if run.kind != "run":
        return max(1, len(active))
    config = load(RoundConfig, json.loads(run.config).get("round", {}))
    among = [site for site in active if not config.sites or site in config.sites]
    return max(1, len(cohort.plan(config, among, (), seed=0).cohort))
