"""The controller: brings runs to where the store says they shall be, and the tables to where the journals are.

It looks several times a second: takes new lines of journals, sees what became of ServerApps, and starts what is next.
Nothing that it remembers matters: what it needs is in the store and in the journals, so it can be killed at any
instant. A run whose ServerApp or SuperLink died is handed to SuperLink again, under its number and name, and goes on
from its journal. The journal's lock sees to it that no two ServerApps ever write one journal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from fl.errors import BusyError, FLError, InputError, JournalError, UnreachableError
from fl.rounds import events
from fl.rounds.journal import Journal
from server import runs
from server.control import Control
from server.controller import held, models, queue
from server.controller.apps import Apps
from server.controller.elsewhere import Elsewhere
from server.controller.ingest import Ingest
from server.controller.moves import Moves
from server.controller.states import ACTIVE
from server.controller.tell import tell
from server.controller.traces import Traces
from server.home import Home
from server.live import Live
from server.store import Store
from server.store.runs import Run
from server.views.queue import asked, uses

log = logging.getLogger(__name__)

TICK_S = 0.3
LOOK_EVERY_S = 1.0
KILL_AFTER_S = 30.0
"""A ServerApp that was told to end, or whose run is over for Flower, gets so long to let go of the journal."""
MOST_DEATHS = 6
"""Deaths without a round in between, after which a run has failed."""
FIRST_DELAY_S, LONGEST_DELAY_S = 1.0, 60.0


@dataclasses.dataclass(slots=True)
class _Watched:
    """What is remembered of an active run, for as long as it is."""

    ingest: Ingest
    looked_s: float = 0.0
    busy_since_s: float | None = None
    """Since when its journal is held by somebody who should let go."""
    asked_to_end: str | None = None
    deaths: int = 0
    rounds: int = -1
    """Rounds done at the last death."""
    again_s: float = 0.0
    """Not started again before then."""


class Controller:
    """Starts, follows, resumes and ends runs.

    Args:
        store: Where they are.
        home: The server's home.
        live: Who is told.
        runs_at_once: Places for runs.
        weights: How much each project is due in the queue.
        connect: Makes a client of SuperLink; the home's by default.
        traces: Where spans go, if anywhere.
        now: The clock, for tests.
    """

    def __init__(
        self,
        store: Store,
        home: Home,
        live: Live,
        *,
        runs_at_once: int = 4,
        weights: Mapping[str, float] | None = None,
        connect: Callable[[], Control] | None = None,
        traces: Traces | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.store, self.home, self.live, self.now = store, home, live, now
        self.moves = Moves(store, live, now=now)
        self._elsewhere = Elsewhere(store, live)
        self._apps = Apps(self.moves, home.path.resolve() / "runs", self._superlink, now=lambda: self.now())
        self._runs_at_once, self._weights = runs_at_once, weights or {}
        self._connect = connect or home.connect
        self._control: Control | None = None
        self._traces = traces
        self._watched: dict[int, _Watched] = {}
        self._poked = threading.Event()
        self._said = ""

    def poke(self) -> None:
        """Look now: something changed. From any thread."""
        self._poked.set()

    def run(self, ended: threading.Event) -> None:
        """Look again and again, until ``ended``; what goes wrong is said, and tried again."""
        while not ended.is_set():
            self._poked.wait(TICK_S)
            self._poked.clear()
            try:
                self.tick()
                self._say("")
            except FLError as err:  # SuperLink is being started again, the disk is full
                self._say(err.message)
            except Exception:
                log.exception("the controller goes on after")
                time.sleep(1.0)
        self._disconnect()

    def tick(self) -> None:
        """One look at everything.

        Raises:
            UnreachableError: If SuperLink does not answer; journals were read all the same.
            StorageError: If the store cannot be written.
        """
        self._elsewhere.look()
        with self.store.read() as session:
            active = session.scalars(select(Run).where(Run.state.in_(ACTIVE)).order_by(Run.number)).all()
        for number in self._watched.keys() - {run.number for run in active}:
            del self._watched[number]
        unreachable: UnreachableError | None = None
        for run in active:
            try:
                self._step(run)
            except JournalError as err:
                self.moves.move(run, "fail", err.message)
            except UnreachableError as err:
                self._disconnect()
                unreachable = err
        self.moves.tidy_uses()
        if unreachable:
            raise unreachable
        self._start_next()

    # ---- one run ----

    def _step(self, run: Run) -> None:
        if run.kind == "app":
            self._apps.step(run)
            return
        watched = self._watch(run)
        self._ingest(run, watched)
        seen = watched.ingest.seen
        ended = seen.ended if seen.ended_line >= run.from_line else None
        if ended and ended.status == "completed":
            self._complete(run, watched)
        elif run.state in ("pausing", "stopping"):
            self._end(run, watched)
        elif run.state == "interrupted":
            return
        elif ended and ended.status == "stopped":  # by somebody at this machine, past the control room
            if self.moves.move(run, "stop", ended.reason):
                self.moves.move(run, "ended", ended.reason)
        elif ended:
            self.moves.move(run, "fail", ended.reason)
        else:
            has_begun = seen.started_line >= run.from_line
            if has_begun and run.state == "starting":
                self.moves.move(run, "began")
            if self.now() - watched.looked_s >= LOOK_EVERY_S:
                watched.looked_s = self.now()
                self._look(run, watched, has_begun)

    def _look(self, run: Run, watched: _Watched, has_begun: bool) -> None:
        """See whether a run's ServerApp lives."""
        if run.flower_run is None:  # we died while we handed it over
            found = next(self._lives(run), None)
            if found is None:
                self._died(run, watched, "the controller was started again")
            else:
                self._set(run, flower_run=str(found))
            return
        is_gone = has_begun and not held.is_held(self._journal(run))
        why = "its ServerApp is gone" if is_gone else self._why_over(run)
        if why is None:
            return
        # The last lines may have come since they were read; they count first.
        self._ingest(run, watched)
        if watched.ingest.seen.ended_line < run.from_line:
            self._died(run, watched, why)

    def _why_over(self, run: Run) -> str | None:
        """Why Flower thinks a run is over; ``None`` while it does not."""
        try:
            found = self._superlink().run(int(run.flower_run or 0))
        except UnreachableError:
            raise
        except (FLError, KeyError):  # a SuperLink with a new database knows nothing of it
            return "SuperLink does not know it any more"
        return f"its ServerApp {found.details or found.state}" if found.is_finished else None

    def _died(self, run: Run, watched: _Watched, why: str) -> None:
        done = watched.ingest.seen.committed.round if watched.ingest.seen.committed else 0
        watched.deaths = 1 if done > watched.rounds else watched.deaths + 1
        watched.rounds = done
        if watched.deaths >= MOST_DEATHS:
            self.moves.move(run, "fail", f"died {watched.deaths} times in round {done + 1}, last: {why}")
            return
        delay_s = 0.0 if watched.deaths == 1 else min(FIRST_DELAY_S * 2 ** (watched.deaths - 2), LONGEST_DELAY_S)
        watched.again_s = self.now() + delay_s
        log.info("run %s is interrupted: %s", run.name, why)
        self.moves.move(run, "died", why)

    def _end(self, run: Run, watched: _Watched) -> None:
        """End a run's ServerApp, and say so in its journal once it has let go of it."""
        if run.flower_run is not None and watched.asked_to_end != run.flower_run:
            with contextlib.suppress(InputError):  # it is over already
                self._superlink().stop(int(run.flower_run))
            watched.asked_to_end = run.flower_run
        try:
            with Journal(self._journal(run)) as journal:
                if journal.state.ended is None:
                    journal.append(events.RunEnded(status="stopped", reason=run.reason or run.state))
        except BusyError:
            self._wait_for_journal(run, watched)
            return
        self._ingest(run, watched)
        self.moves.move(run, "ended", run.reason)

    def _complete(self, run: Run, watched: _Watched) -> None:
        journal, made = self._journal(run), []

        def register(session: Session, row: Run) -> None:
            row.rounds_done = watched.ingest.seen.committed.round if watched.ingest.seen.committed else 0
            made.append(models.register(session, row, journal, watched.ingest.seen, now_s=self.now()))

        if self.moves.move(run, "complete", then=register) and made[0] is not None:
            self.live.publish("model", str(made[0].number), project=run.project, run=run.name)

    # ---- the next one ----

    def _start_next(self) -> None:
        """Start again what was interrupted, and what is next in the queue as long as there are places."""
        now_s = self.now()
        with self.store.read() as session:
            active = session.scalars(select(Run).where(Run.state.in_(ACTIVE)).order_by(Run.number)).all()
            waiting = {run.name: run for run in session.scalars(select(Run).where(Run.state == "queued"))}
            used = queue.decayed(uses(session, now_s), now_s) if waiting else {}
        free = max(0, self._runs_at_once - len(active))
        ordered = queue.order(asked(waiting.values()), used, now_s, weights=self._weights)
        wanted = [run for run in active if run.state == "interrupted"]
        wanted += [waiting[entry.run] for entry in ordered[:free]]
        for run in wanted:
            if run.kind == "app":
                self._apps.start(run)
                continue
            watched = self._watch(run)
            if now_s >= watched.again_s:
                try:
                    self._start(run, watched)
                except JournalError as err:
                    self.moves.move(run, "fail", err.message)

    def _start(self, run: Run, watched: _Watched) -> None:
        """Hand a run to SuperLink, once nobody else has its journal."""
        journal = self._journal(run)
        if held.is_held(journal):
            self._wait_for_journal(run, watched)
            return
        watched.busy_since_s = None
        control = self._superlink()
        for life in self._lives(run):  # Flower may think that it runs, or have it in its own queue
            with contextlib.suppress(InputError):
                control.stop(life)
        self._ingest(run, watched)
        lines = watched.ingest.lines
        if not self.moves.move(run, "start", lives=run.lives + 1, from_line=lines, flower_run=None):
            return
        try:
            app = runs.app_of(journal)
            started = runs.hand_over(control, journal, app, secagg=self.home.secagg)
        except UnreachableError as err:
            self._disconnect()
            self._died(run, watched, err.message)
            return
        except FLError as err:
            self.moves.move(run, "fail", err.message)
            return
        self._set(run, flower_run=str(started), app_digest=hashlib.sha256(app).hexdigest())
        log.info("run %s was handed to SuperLink as %d", run.name, started)

    def _lives(self, run: Run) -> Iterator[int]:
        """Flower's numbers of what it has of this run and has not finished."""
        journal = str(self._journal(run).resolve())
        found = self._superlink().runs()
        return iter(
            [one.run_id for one in found if one.config.get(runs.JOURNAL_KEY) == journal and not one.is_finished]
        )

    def _wait_for_journal(self, run: Run, watched: _Watched) -> None:
        """Be patient with a ServerApp that has to end; but not for ever."""
        if watched.busy_since_s is None:
            watched.busy_since_s = self.now()
        elif self.now() - watched.busy_since_s > KILL_AFTER_S:
            watched.busy_since_s = self.now()
            if held.kill_holder(self._journal(run)):
                log.warning("run %s: killed a ServerApp that did not end", run.name)

    # ---- small things ----

    def _watch(self, run: Run) -> _Watched:
        watched = self._watched.get(run.number)
        if watched is None:
            is_secure = bool(json.loads(run.config).get("secagg"))
            ingest = Ingest(run.number, self._journal(run), run.lines, is_secure=is_secure)
            watched = self._watched[run.number] = _Watched(ingest)
        return watched

    def _ingest(self, run: Run, watched: _Watched) -> None:
        ingest = watched.ingest
        while records := ingest.more():
            try:
                with self.store.write() as session:
                    ingest.write(session, records)
            except BaseException:
                ingest.forget()
                raise
            ingest.done(records)
            tell(self.live, run.name, run.project, records, now_s=self.now())
            if self._traces:
                self._traces.send(run.name, run.project, records, ingest.seen)

    def _set(self, run: Run, **changes: object) -> None:
        with self.store.write() as session:
            row = session.get_one(Run, run.number)
            for key, value in changes.items():
                setattr(row, key, value)
                setattr(run, key, value)

    def _journal(self, run: Run) -> Path:
        return self.home.path.resolve() / "runs" / run.name

    def _superlink(self) -> Control:
        if self._control is None:
            self._control = self._connect()
        return self._control

    def _disconnect(self) -> None:
        """A SuperLink of another life has another port and certificate: they are read again."""
        if self._control is not None:
            self._control.close()
            self._control = None

    def _say(self, words: str) -> None:
        if words and words != self._said:
            log.warning("%s", words)
        self._said = words
