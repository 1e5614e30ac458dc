"""The states of a run and every move between them, in one table.

A run is in one state; something happens; the table says the next one. What is not in the table cannot happen, and is
refused in words. ``interrupted`` is the state of a run whose processes died: the controller starts it again from its
journal, by itself.
"""

from __future__ import annotations

from typing import Literal

from fl.errors import BusyError

State = Literal[
    "queued",
    "starting",
    "running",
    "interrupted",
    "pausing",
    "paused",
    "stopping",
    "stopped",
    "failed",
    "completed",
]

Happening = Literal["start", "began", "died", "pause", "stop", "resume", "ended", "fail", "complete"]

MOVES: dict[State, dict[Happening, State]] = {
    "queued": {"start": "starting", "pause": "paused", "stop": "stopped", "fail": "failed"},
    "starting": {
        "began": "running",
        "died": "interrupted",
        "pause": "pausing",
        "stop": "stopping",
        "fail": "failed",
        "complete": "completed",
    },
    "running": {
        "died": "interrupted",
        "pause": "pausing",
        "stop": "stopping",
        "fail": "failed",
        "complete": "completed",
    },
    "interrupted": {"start": "starting", "pause": "paused", "stop": "stopped", "fail": "failed"},
    "pausing": {"ended": "paused", "stop": "stopping", "resume": "running", "fail": "failed", "complete": "completed"},
    "paused": {"resume": "queued", "stop": "stopped"},
    "stopping": {"ended": "stopped", "fail": "failed", "complete": "completed"},
    "stopped": {"resume": "queued"},
    "failed": {"resume": "queued"},
    "completed": {},
}
"""The next state, by state and by what happens.

``start`` hands the run to SuperLink, ``began`` is the first line of its ServerApp in the journal, ``died`` is a
ServerApp or SuperLink that is gone, ``ended`` a ServerApp that was asked to end and did. A run that reaches its last
round while it is being paused or stopped is complete.
"""

FINISHED: frozenset[State] = frozenset({"stopped", "failed", "completed"})
"""States in which nothing happens by itself."""

ACTIVE: frozenset[State] = frozenset({"starting", "running", "interrupted", "pausing", "stopping"})
"""States in which a run takes one of the places for runs at once."""

ASKED: dict[Happening, str] = {"pause": "paused", "stop": "stopped", "resume": "resumed"}
"""What an operator can ask for, as a participle."""


def after(state: State, happening: Happening, *, run: str) -> State:
    """The state after something happened.

    Args:
        state: Now.
        happening: What happened, or what an operator asks for.
        run: The run's name, for the error.

    Raises:
        BusyError: If the table has no such move.

    Example:
        >>> after("running", "died", run="r"), after("interrupted", "start", run="r")
        ('interrupted', 'starting')
    """
    to = MOVES[state].get(happening)
    if to is None:
        words = ASKED.get(happening, happening)
        raise BusyError(f"run {run} is {state} and cannot be {words}", hint=_hint(state, run))
    return to


def can_be(state: State, *, kind: str = "run") -> list[str]:
    """What an operator can ask of a run in this state: some of ``pause``, ``stop``, ``resume``.

    Args:
        state: Now.
        kind: ``run``, or ``app``, which cannot be paused: without a journal it would begin anew.
    """
    return [happening for happening in ASKED if happening in MOVES[state] and (kind, happening) != ("app", "pause")]


def _hint(state: State, run: str) -> str:
    possible = can_be(state)
    return f"fl run {possible[0]} {run}" if possible else f"fl run show {run}"
