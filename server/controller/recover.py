"""Runs whose journals are there and whose rows are not: after a store was restored, or lost."""

from __future__ import annotations

import json
from pathlib import Path

from sqlalchemy import select

from fl.errors import JournalError
from fl.rounds.journal import load_config, load_state
from server import audit
from server.controller.ingest import Ingest
from server.controller.models import register
from server.controller.moves import BY_ITSELF
from server.store import Store
from server.store.runs import Run


def adopt(store: Store, folder: Path) -> list[str]:
    """Give each journal without a row one, and its rounds their tables.

    A run that was under way is stopped, not started: whoever brought the journal here decides.

    Returns:
        The names of the runs that were found.
    """
    with store.read() as session:
        known = set(session.scalars(select(Run.name)))
    found = []
    for directory in sorted(folder.iterdir()) if folder.is_dir() else []:
        if directory.name in known or not (directory / "events.jsonl").is_file():
            continue
        try:
            state, config = load_state(directory), load_config(directory)
        except JournalError:
            continue  # it is damaged, and stays where it is
        if state.created is None or state.created_at is None:
            continue
        ended_s = state.updated.timestamp() if state.updated else None
        status = state.status if state.status in ("completed", "failed", "stopped") else "stopped"
        with store.write() as session:
            row = Run(
                name=directory.name,
                title=state.created.run[:128],
                project="default",
                priority=0,
                kind="run",
                state=status,
                reason=state.ended.reason if state.ended else "its journal was found here",
                config=json.dumps(config, sort_keys=True),
                submitted_by=BY_ITSELF.who,
                submitted_s=state.created_at.timestamp(),
                start_s=0.0,
                changed_s=ended_s or state.created_at.timestamp(),
                finished_s=ended_s,
                rounds_wanted=state.created.rounds,
                rounds_done=state.committed_rounds,
            )
            session.add(row)
            audit.append(session, BY_ITSELF, "run.found", directory.name, after={"state": status})
        _fill(store, row, directory)
        found.append(directory.name)
    return found


def _fill(store: Store, run: Run, journal: Path) -> None:
    """Bring all of a journal into the tables."""
    ingest = Ingest(run.number, journal, run.lines, is_secure=bool(json.loads(run.config).get("secagg")))
    while records := ingest.more():
        with store.write() as session:
            ingest.write(session, records)
        ingest.done(records)
    if run.state == "completed":
        with store.write() as session:
            register(session, session.get_one(Run, run.number), journal, ingest.seen, now_s=run.changed_s)
