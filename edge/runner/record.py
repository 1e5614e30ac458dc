"""What the runner has in hand, on disk, so that its next life can answer for it.

A task without an answer holds up the SuperNode, and so the site: for a minute if the app had not answered, for ever
if an answer was announced and its pieces never came.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path

from edge.runner.flower import Task
from fl.files import write_atomic


@dataclasses.dataclass(frozen=True, slots=True)
class InHand:
    """A claimed task."""

    task: Task
    session: str = ""
    """In which the pieces of its reply are pushed, once that is announced."""
    wanted: tuple[str, ...] = ()
    """The pieces that the SuperNode wants."""


class Record:
    """The file; its owner alone can read it, because it has the task's token."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, in_hand: InHand) -> None:
        """Put down what is in hand.

        Raises:
            StorageError: If the disk refuses.
        """
        facts = {"task": in_hand.task.as_json(), "session": in_hand.session, "wanted": in_hand.wanted}
        write_atomic(self._path, json.dumps(facts), mode=0o600, sync=False)

    def read(self) -> InHand | None:
        """What the former life had in hand; ``None`` if nothing, or nothing readable."""
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            facts = json.loads(self._path.read_text(encoding="utf-8"))
            return InHand(Task.from_json(facts["task"]), facts["session"], tuple(facts["wanted"]))
        return None

    def clear(self) -> None:
        """Nothing is in hand."""
        self._path.unlink(missing_ok=True)
