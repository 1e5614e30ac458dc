"""The unix socket beside the gateway: ServerApps say whom they have written to, and hear which replies are whole.

Lines of JSON. To the gateway: ``{"run": id}`` (this ServerApp tells of each message it sends), ``{"mail": [nodes]}``,
``{"changed": true}`` (the registry changed: look again). From it, to those who named the run: ``{"landed": message}``.
Only processes of the gateway's user can connect.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from fl.files import socket_name

log = logging.getLogger(__name__)

LONGEST_LINE = 1024 * 1024
MOST_UNREAD = 256 * 1024
"""Bytes that a ServerApp may leave unread before it is cut off; it then polls."""


class Notices:
    """The socket and who listens on it.

    Args:
        mail: Called with the ids of nodes that have mail.
        changed: Called when the registry changed.
    """

    def __init__(self, mail: Callable[[Iterable[int]], None], changed: Callable[[], None]) -> None:
        self._mail, self._changed = mail, changed
        self._listeners: dict[asyncio.StreamWriter, int | None] = {}
        self._runs: Counter[int] = Counter()

    def is_noticed(self, run_id: int) -> bool:
        """Whether the ServerApp of a run tells whom it writes to."""
        return self._runs[run_id] > 0

    def landed(self, run_id: int, message_id: str) -> None:
        """Tell the ServerApp of a run that the reply to one of its messages is whole."""
        line = json.dumps({"landed": message_id}).encode() + b"\n"
        for writer, run in self._listeners.items():
            if run == run_id:
                if writer.transport.get_write_buffer_size() > MOST_UNREAD:
                    writer.close()
                else:
                    writer.write(line)

    async def serve(self, path: Path) -> asyncio.Server:
        """Listen; a socket that a crashed gateway left behind is replaced."""
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        os.fchmod(listening.fileno(), 0o600)  # before it has a name, so that nobody else ever can connect
        with socket_name(path) as name:
            listening.bind(name)
        return await asyncio.start_unix_server(self._talk, sock=listening, limit=LONGEST_LINE)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._listeners[writer] = None
        try:
            while line := await reader.readline():
                self._take(writer, json.loads(line))
        except (ConnectionError, asyncio.CancelledError):
            pass  # it is gone, or we are about to be
        except (ValueError, TypeError, AttributeError) as err:
            log.warning("a line on the gateway's socket cannot be used: %s", err)
        finally:
            if (run := self._listeners.pop(writer)) is not None:
                self._runs[run] -= 1
            writer.close()

    def _take(self, writer: asyncio.StreamWriter, line: dict[str, object]) -> None:
        match line:
            case {"run": int(run)} if self._listeners[writer] is None:
                self._listeners[writer] = run
                self._runs[run] += 1
            case {"mail": [*nodes]}:
                self._mail([node for node in nodes if isinstance(node, int)])
            case {"changed": True}:
                self._changed()
            case _:
                raise ValueError("it says nothing that is known")
