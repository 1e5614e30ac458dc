"""What a run's ServerApp printed, in pieces: from SuperLink, which keeps it."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Protocol

from fl.errors import FLError, UnreachableError
from server.home import Home

WAIT_S = 2.0


class Reader(Protocol):
    """Reads what a run printed; ``read`` with a home, or ``elsewhere``."""

    def __call__(self, name: str, flower_run: str | None, *, after: float = 0.0) -> tuple[str, float, bool]:
        """See ``read``."""


def read(home: Home, name: str, flower_run: str | None, *, after: float = 0.0) -> tuple[str, float, bool]:
    """What was printed since a time.

    Args:
        home: The server's home.
        name: The run's name, for errors.
        flower_run: Flower's number of the run's present or last life.
        after: Seconds since 1970, as an earlier call gave it; 0 for everything.

    Returns:
        The text, the time to ask with next, and whether the run is over.

    Raises:
        UnreachableError: If SuperLink does not run, or does not know the run any more.
    """
    if not flower_run:
        raise UnreachableError(f"run {name} has not started, and printed nothing", hint=f"fl run show {name}")
    with home.connect() as control:
        run = control.run(int(flower_run))
        pieces: queue.SimpleQueue[tuple[str, float] | None] = queue.SimpleQueue()

        def follow() -> None:
            with contextlib.suppress(FLError):  # the connection is closed when we have waited long enough
                for piece in control.log(int(flower_run), after=after):
                    pieces.put(piece)
                    return
            pieces.put(None)

        # SuperLink answers when there is something new, or when the run ends: nobody is held up for that.
        threading.Thread(target=follow, name="log", daemon=True).start()
        with contextlib.suppress(queue.Empty):
            found = pieces.get(timeout=WAIT_S)
            if found is not None:
                return found[0], found[1], False
        return "", after, bool(run and run.is_finished)


def elsewhere(home: Home, room: str) -> Reader:
    """A reader that asks the control room beside SuperLink, which nobody else can ask.

    Args:
        home: The home that both share; it has the token of the local operator.
        room: Where that control room is.
    """

    def read(name: str, flower_run: str | None, *, after: float = 0.0) -> tuple[str, float, bool]:
        from server.client import Client

        with Client.of_home(home.path, at=room) as client:
            found = client.log(name, after=after)
        return found.text, found.after, found.is_finished

    return read
