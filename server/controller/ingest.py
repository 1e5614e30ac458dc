"""From journals into tables: what a run's events say, as rows of rounds, replies and metrics.

Lines are taken in order, each exactly once: how many stand in the tables is written in the transaction that wrote them
(``runs.lines``), so an ingest that was killed goes on where it was. Replies of open rounds are known by number, so that
a reply that lands is one update by key. Nobody else writes these tables.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Table, bindparam, func, insert, select, update
from sqlalchemy.orm import Session

from fl.rounds import events
from fl.rounds.journal import Reader
from fl.rounds.port import EVALUATION
from fl.rounds.state import Record
from server.store.runs import Metric, Reply, Round, Run

AT_ONCE = 2000
"""Lines of one transaction."""

Key = tuple[int, int, str, str]
"""Round, attempt, phase and site of a reply. Evaluations are of attempt 1."""

COLUMNS = ("outcome", "code", "reason", "at_s", "waited_s", "size_bytes", "num_examples", "report")


@dataclasses.dataclass(slots=True)
class Seen:
    """What all lines so far say of the run as a whole. Lines count from 0; -1 is none."""

    started_line: int = -1
    """Of the newest ``run_started``."""
    ended_line: int = -1
    ended: events.RunEnded | None = None
    """The newest, unless the run was taken up again since."""
    initialised: events.ModelInitialised | None = None
    committed: events.RoundCommitted | None = None
    """The newest."""
    created_s: float | None = None
    """Seconds since 1970."""
    opened_s: dict[int, float] = dataclasses.field(default_factory=dict)
    """When each round was first opened."""

    def take(self, record: Record) -> None:
        """Take one more line into account."""
        match record.event:
            case events.RunCreated():
                self.created_s = record.time.timestamp()
            case events.RoundOpened() as event:
                self.opened_s.setdefault(event.round, record.time.timestamp())
            case events.RunStarted():
                self.started_line, self.ended = record.seq, None
            case events.RunEnded() as event:
                self.ended_line, self.ended = record.seq, event
            case events.ModelInitialised() as event:
                self.initialised = event
            case events.RoundCommitted() as event:
                self.committed = event


class Ingest:
    """The tables of one run, kept up with its journal.

    Args:
        run: The run's number.
        journal: Its directory.
        lines: Lines that stand in the tables already.
        is_secure: Whether its rounds are secure aggregation.

    Attributes:
        seen: What all lines that were read say.
    """

    def __init__(self, run: int, journal: Path, lines: int, *, is_secure: bool) -> None:
        self.run, self.lines = run, lines
        self._phase = "secagg" if is_secure else "train"
        self.seen = Seen()
        self._reader = Reader(journal)
        self._waiting: list[Record] = []
        self._replies: dict[Key, dict[str, Any]] | None = None
        self._changed: set[Key] = set()
        self._rounds: dict[int, Round] = {}
        self._metrics: dict[tuple[str, str, int], float] = {}

    def more(self) -> Sequence[Record]:
        """Lines that came since, at most ``AT_ONCE``; the same again until ``write`` took them.

        Raises:
            JournalError: If the journal is damaged.
        """
        if not self._waiting:
            for record in self._reader.more():
                self.seen.take(record)
                if record.seq >= self.lines:
                    self._waiting.append(record)
        return self._waiting[:AT_ONCE]

    def write(self, session: Session, records: Sequence[Record]) -> None:
        """Bring lines that ``more`` gave into the tables, in this transaction; then ``done`` or ``forget``."""
        run = session.get_one(Run, self.run)
        replies = self._replies = self._known(session) if self._replies is None else self._replies
        self._changed.clear()
        self._metrics.clear()
        for record in records:
            self._take(session, run, replies, record)
        self._write_replies(session, replies)
        for (place, name, number), value in self._metrics.items():
            if not math.isfinite(value):
                continue  # a model that diverged; SQLite keeps no NaN, and a curve has a gap there
            session.merge(Metric(run=self.run, place=place, name=name, round=number, value=value))
        run.lines = records[-1].seq + 1
        session.flush()

    def done(self, records: Sequence[Record]) -> None:
        """The transaction is committed."""
        self.lines = records[-1].seq + 1
        del self._waiting[: len(records)]
        self._rounds.clear()
        if replies := self._replies:
            # What is told of a round long committed is told of a late reply; that one is looked up anew.
            newest = max(key[0] for key in replies)
            self._replies = {key: row for key, row in replies.items() if key[0] >= newest - 1}

    def forget(self) -> None:
        """The transaction was undone: what was remembered of it is not so."""
        self._replies = None
        self._rounds.clear()

    # ---- events ----

    def _take(self, session: Session, run: Run, replies: dict[Key, dict[str, Any]], record: Record) -> None:
        at_s = record.time.timestamp()
        match record.event:
            case events.RunCreated() as event:
                run.rounds_wanted = event.rounds
            case events.RoundOpened() as event:
                self._open(session, event, at_s)
                landed = {
                    key[3] for key, row in replies.items() if key[0] == event.round and row["outcome"] == "landed"
                }
                for site in event.cohort:
                    if site not in landed:
                        self._set((event.round, event.attempt, self._phase, site), at_s, outcome="asked")
            case events.UpdateLanded() as event:
                self._land(session, event, at_s)
            case events.StageClosed() as event:
                self._round(session, event.round).stage = event.stage
            case events.SumLanded() as event:
                self._land_sum(session, event, at_s)
            case events.UpdateDropped() as event:
                self._drop(session, event, at_s)
            case events.ReplyFailed() as event:
                key = (event.round, event.attempt, event.phase, event.site)
                self._set(
                    key, at_s, outcome="failed", code=event.code[:32], reason=event.reason, waited_s=event.waited_s
                )
            case events.ReplyLate() as event:
                key = self._newest(session, event.round, event.phase, event.site)
                if replies.get(key, {}).get("outcome") != "landed":  # else it answered twice
                    self._set(key, at_s, outcome="late")
            case events.RoundClosed() as event:
                entry = self._round(session, event.round)
                entry.state, entry.closed_s, entry.survivors = "closed", at_s, len(event.survivors)
                entry.because = event.because[:64]
                self._miss(event.round, event.attempt, {"train", "secagg"}, at_s)
            case events.RoundAbandoned() as event:
                entry = self._round(session, event.round)
                entry.state, entry.because = "abandoned", event.because[:64]
                self._miss(event.round, event.attempt, {"train", "secagg"}, at_s)
            case events.RoundCommitted() as event:
                entry = self._round(session, event.round)
                entry.state, entry.committed_s, entry.fold_s = "committed", at_s, event.fold_s
                entry.model_digest = event.model_digest[:64]
                run.rounds_done = event.round
                self._measure("training", event.round, event.metrics)
            case events.EvaluationOpened() as event:
                for site in event.cohort:
                    self._set((event.round, 1, "evaluate", site), at_s, outcome="asked")
            case events.EvaluationLanded() as event:
                key = (event.round, 1, "evaluate", event.site)
                self._set(key, at_s, outcome="landed", waited_s=event.waited_s, num_examples=event.num_examples)
            case events.Evaluated() as event:
                self._measure(event.at, event.round, event.metrics)
                if event.at == "sites":
                    self._miss(event.round, 1, {"evaluate"}, at_s)

    def _open(self, session: Session, event: events.RoundOpened, at_s: float) -> None:
        entry = session.get(Round, (self.run, event.round))
        if entry is None:
            entry = Round(run=self.run, number=event.round, opened_s=at_s, stage="", survivors=0, received_bytes=0)
            session.add(entry)
        entry.state, entry.attempts, entry.because, entry.stage = "open", event.attempt, "", ""
        entry.online, entry.cohort = event.online, len(event.cohort)
        entry.wanted, entry.quorum = event.wanted, event.quorum
        self._rounds[event.round] = entry

    def _land(self, session: Session, event: events.UpdateLanded, at_s: float) -> None:
        self._round(session, event.round).received_bytes += event.size_bytes
        self._set(
            (event.round, event.attempt, self._phase, event.site),
            at_s,
            outcome="landed",
            code="",
            reason="",
            waited_s=event.waited_s,
            size_bytes=event.size_bytes,
            num_examples=event.num_examples,
            report=json.dumps(event.report) if event.report else "",
        )

    def _land_sum(self, session: Session, event: events.SumLanded, at_s: float) -> None:
        self._round(session, event.round).received_bytes += event.size_bytes * len(event.survivors)
        for site in event.survivors:
            self._set(
                (event.round, event.attempt, "secagg", site),
                at_s,
                outcome="landed",
                waited_s=event.waited_s,
                size_bytes=event.size_bytes,
            )

    def _drop(self, session: Session, event: events.UpdateDropped, at_s: float) -> None:
        key = self._newest(session, event.round, self._phase, event.site)
        entry = self._round(session, event.round)
        size_bytes = (self._replies or {}).get(key, {}).get("size_bytes", 0)
        entry.received_bytes -= size_bytes
        entry.state, entry.closed_s = "open", None
        self._set(key, at_s, outcome="asked", waited_s=None, size_bytes=0, num_examples=None, report="")

    def _measure(self, place: str, number: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if not name.startswith(EVALUATION):
                self._metrics[place[:16], name[:64], number] = float(value)

    # ---- rows ----

    def _round(self, session: Session, number: int) -> Round:
        if number not in self._rounds:
            self._rounds[number] = session.get_one(Round, (self.run, number))
        return self._rounds[number]

    def _newest(self, session: Session, number: int, phase: str, site: str) -> Key:
        """The last attempt in which a site was asked, looked up if it is long ago."""
        assert self._replies is not None
        known = [key for key in self._replies if (key[0], key[2], key[3]) == (number, phase, site)]
        if not known:
            query = select(Reply).where(Reply.run == self.run, Reply.round == number, Reply.site == site)
            found = _remembered(session.scalars(query.where(Reply.phase == phase)))
            self._replies.update(found)
            known = list(found)
        return max(known, default=(number, 1, phase, site))

    def _set(self, key: Key, at_s: float, **values: Any) -> None:
        assert self._replies is not None
        row = self._replies.get(key)
        if row is None:
            row = self._replies[key] = {"number": None, **_blank()}
        row.update(values, at_s=at_s)
        self._changed.add(key)

    def _miss(self, number: int, attempt: int, phases: set[str], at_s: float) -> None:
        """Those of whom nothing came."""
        for key, row in (self._replies or {}).items():
            if key[0] == number and key[1] == attempt and key[2] in phases and row["outcome"] == "asked":
                row.update(outcome="missing", waited_s=at_s - row["at_s"], at_s=at_s)
                self._changed.add(key)

    def _write_replies(self, session: Session, replies: dict[Key, dict[str, Any]]) -> None:
        fresh = [key for key in replies if key in self._changed and replies[key]["number"] is None]
        known = [key for key in self._changed if replies[key]["number"] is not None]
        if known:
            table = cast(Table, Reply.__table__)
            values: dict[str, Any] = {name: bindparam(f"new_{name}") for name in COLUMNS}
            statement = update(table).where(table.c.number == bindparam("key")).values(**values)
            session.connection().execute(
                statement,
                [
                    {"key": replies[key]["number"], **{f"new_{name}": replies[key][name] for name in COLUMNS}}
                    for key in known
                ],
            )
        if fresh:
            next_number = (session.scalar(select(func.max(Reply.number))) or 0) + 1
            rows = []
            for number, key in enumerate(fresh, next_number):
                replies[key]["number"] = number
                rows.append(_row(self.run, key, replies[key]))
            session.connection().execute(insert(Reply), rows)

    def _known(self, session: Session) -> dict[Key, dict[str, Any]]:
        """Replies of the last rounds, as they stand in the tables."""
        newest = session.scalar(select(func.max(Reply.round)).where(Reply.run == self.run)) or 0
        query = select(Reply).where(Reply.run == self.run, Reply.round >= newest - 1)
        return _remembered(session.scalars(query.order_by(Reply.number)))


def _remembered(rows: Iterable[Reply]) -> dict[Key, dict[str, Any]]:
    return {
        (row.round, row.attempt, row.phase, row.site): {
            "number": row.number,
            **{name: getattr(row, name) for name in COLUMNS},
        }
        for row in rows
    }


def _blank() -> dict[str, Any]:
    return {
        "outcome": "asked",
        "code": "",
        "reason": "",
        "at_s": 0.0,
        "waited_s": None,
        "size_bytes": 0,
        "num_examples": None,
        "report": "",
    }


def _row(run: int, key: Key, row: Mapping[str, Any]) -> dict[str, Any]:
    number, attempt, phase, site = key
    return {"run": run, "round": number, "attempt": attempt, "phase": phase, "site": site, **row}
