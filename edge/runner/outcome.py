"""What comes of a task, wherever it ran."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task."""

    failure: str
    """Why no answer lies ready; empty if one does."""
    raised: str
    """What the app raised, if that is its answer."""
    passed_s: float
    peak_mib: int
    used_gpu: bool
