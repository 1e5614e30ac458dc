"""Writes a run's moves into the store: its state, its stretches of use, the audit, and those who watch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from server import audit
from server.audit import Actor
from server.controller import holding
from server.controller.states import ACTIVE, FINISHED, MOVES, Happening, State
from server.live import Live
from server.store import Store
from server.store.runs import Run, Use

BY_ITSELF = Actor(who="fl", via="controller")
QUIET: frozenset[Happening] = frozenset({"began"})
"""Moves that the audit does without: they say nothing that the journal does not."""


class Moves:
    """The controller's side of the table of moves.

    Args:
        store: Where runs are.
        live: Who is told.
        now: The clock, for tests.
    """

    def __init__(self, store: Store, live: Live, *, now: Callable[[], float] = time.time) -> None:
        self.store, self.live, self.now = store, live, now

    def move(
        self,
        run: Run,
        happening: Happening,
        reason: str = "",
        *,
        then: Callable[[Session, Run], object] = lambda session, row: None,
        **changes: Any,
    ) -> bool:
        """Let something happen to a run, if it still can: an operator may have been faster.

        Args:
            run: The run as it was read.
            happening: What.
            reason: Why, in words.
            then: What else belongs into the transaction.
            changes: Other columns.

        Returns:
            Whether it happened.
        """
        with self.store.write() as session:
            row = session.get_one(Run, run.number)
            before = cast(State, row.state)
            to = MOVES[before].get(happening)
            if to is None:
                return False
            row.state, row.reason, row.changed_s = to, reason, self.now()
            row.finished_s = self.now() if to in FINISHED else None
            for key, value in changes.items():
                setattr(row, key, value)
            if happening not in QUIET:
                facts = {"state": to, **({"reason": reason} if reason else {})}
                audit.append(session, BY_ITSELF, f"run.{happening}", row.name, before={"state": before}, after=facts)
            then(session, row)
        run.state, run.reason = to, reason
        for key, value in changes.items():
            setattr(run, key, value)
        self.live.publish("run", run.name, project=run.project, state=to, reason=reason)
        if happening not in QUIET:
            self.live.publish("audit", run.name)
        return True

    def tidy_uses(self) -> None:
        """Begin a stretch of use for each run that has a place, and end those of runs that have none any more.

        A stretch has a number of sites: a run that asks more or fewer of them begins another one.
        """
        with self.store.read() as session:
            has_place = set(session.scalars(select(Run.number).where(Run.state.in_(ACTIVE))))
            is_open = dict(session.execute(select(Use.run, Use.sites).where(Use.to_s.is_(None))).all())
            asked = holding.asked(session, has_place) if has_place else {}
        over = {run for run, sites in is_open.items() if run not in has_place or asked.get(run, sites) != sites}
        begun = {run for run in has_place if run not in is_open or run in over}
        if not over and not begun:
            return
        now_s = self.now()
        with self.store.write() as session:
            session.execute(update(Use).where(Use.run.in_(over), Use.to_s.is_(None)).values(to_s=now_s))
            for number in sorted(begun):
                sites = asked.get(number) or holding.expected(session, session.get_one(Run, number))
                session.add(Use(run=number, from_s=now_s, to_s=None, sites=sites))
