"""Flower apps in the queue: handed to SuperLink and followed there, because they have no journal.

An app whose ServerApp died has failed: nothing is left from which it could go on. ``fl run resume`` starts it again,
from its beginning.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import select

from fl.errors import FLError, InputError, UnreachableError
from server.controller.moves import Moves
from server.store.runs import Run

if TYPE_CHECKING:
    from server.control import Control, FlowerRun

BUNDLE = "app.fab"
"""The app in its run's directory."""
LOOK_EVERY_S = 1.0


class Apps:
    """The controller's part for runs of the kind ``app``.

    Args:
        moves: Writes what happens to a run.
        runs: Directory of all runs.
        superlink: A client of SuperLink.
        now: The clock.
    """

    def __init__(self, moves: Moves, runs: Path, superlink: Callable[[], Control], *, now: Callable[[], float]) -> None:
        self._moves, self._runs, self._superlink, self._now = moves, runs, superlink, now
        self._looked_s: dict[int, float] = {}

    def step(self, run: Run) -> None:
        """See what became of an active app.

        Raises:
            UnreachableError: If SuperLink does not answer.
        """
        if run.state == "interrupted" or self._now() - self._looked_s.get(run.number, 0.0) < LOOK_EVERY_S:
            return
        self._looked_s[run.number] = self._now()
        found = self._life(run) if run.flower_run is None else self._known(run)
        if found is not None and run.flower_run is None:  # we died while we handed it over
            self._set(run, found.run_id)
        if run.state in ("stopping", "pausing"):
            self._end(run, found)
        elif found is None and run.flower_run is None:
            self._moves.move(run, "died", "the controller was started again")
        elif found is None:
            self._moves.move(run, "fail", "SuperLink does not know it any more")
        elif found.is_finished:
            self._finish(run, found)
        elif found.status == "running" and run.state == "starting":
            self._moves.move(run, "began")

    def start(self, run: Run) -> None:
        """Hand an app to SuperLink.

        Raises:
            UnreachableError: If SuperLink does not answer; the app is where it was.
        """
        control = self._superlink()
        life = self._life(run) if run.state == "interrupted" else None
        if life is not None:  # SuperLink got it before its answer was lost
            with contextlib.suppress(InputError):
                control.stop(life.run_id)
        if not self._moves.move(run, "start", lives=run.lives + 1, flower_run=None):
            return
        try:
            app = (self._runs / run.name / BUNDLE).read_bytes()
            started = control.start_run(app, json.loads(run.config))
        except UnreachableError as err:
            self._moves.move(run, "died", err.message)
        except FLError as err:
            self._moves.move(run, "fail", err.message)
        except OSError as err:
            self._moves.move(run, "fail", f"cannot read its {BUNDLE}: {err.strerror or err}")
        else:
            self._set(run, started)

    def _end(self, run: Run, found: FlowerRun | None) -> None:
        if found is None or found.is_finished:
            self._moves.move(run, "ended", run.reason)
            return
        with contextlib.suppress(InputError):  # it is over already
            self._superlink().stop(found.run_id)

    def _finish(self, run: Run, found: FlowerRun) -> None:
        if found.state == "completed":
            self._moves.move(run, "complete")
        elif found.state == "stopped":  # by somebody at this machine, past the control room
            if self._moves.move(run, "stop", "it was stopped in SuperLink"):
                self._moves.move(run, "ended", run.reason)
        else:
            self._moves.move(run, "fail", found.details or "its ServerApp failed; fl run log shows why")

    def _known(self, run: Run) -> FlowerRun | None:
        try:
            return self._superlink().run(int(run.flower_run or 0))
        except UnreachableError:
            raise
        except (FLError, KeyError):  # a SuperLink with a new database
            return None

    def _life(self, run: Run) -> FlowerRun | None:
        """A run of this app with these settings that SuperLink has not finished, and that is no other run's."""
        found = [
            one
            for one in self._superlink().runs()
            if not one.is_finished and one.app == run.title and dict(one.config) == json.loads(run.config)
        ]
        with self._moves.store.read() as session:
            others = set(session.scalars(select(Run.flower_run).where(Run.number != run.number)))
        return next((one for one in found if str(one.run_id) not in others), None)

    def _set(self, run: Run, flower_run: int) -> None:
        with self._moves.store.write() as session:
            session.get_one(Run, run.number).flower_run = run.flower_run = str(flower_run)
