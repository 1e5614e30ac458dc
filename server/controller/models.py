"""The last model of a run that is complete, with where it comes from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from fl.rounds.checkpoint import model_path
from server.controller.ingest import Seen
from server.store.runs import Model, Run


def register(session: Session, run: Run, journal: Path, seen: Seen, *, now_s: float) -> Model | None:
    """Write down a run's newest model, once.

    Args:
        session: A transaction that writes.
        run: The run.
        journal: Its directory.
        seen: What its journal says.
        now_s: Seconds since 1970.

    Returns:
        The model's row; ``None`` if it has none, or its file is gone.
    """
    if seen.committed is None:
        return None
    number, path = seen.committed.round, model_path(journal, seen.committed.round)
    found = session.scalar(select(Model).where(Model.run == run.number, Model.round == number))
    if found is not None or not path.is_file():
        return found
    task = json.loads(run.config).get("task", {})
    row = Model(
        run=run.number,
        round=number,
        digest=seen.committed.model_digest[:64],
        path=str(path.resolve()),
        size_bytes=path.stat().st_size,
        parameters=seen.initialised.parameters if seen.initialised else 0,
        schema_digest=hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest(),
        app_digest=run.app_digest,
        created_s=now_s,
    )
    session.add(row)
    session.flush()
    return row
