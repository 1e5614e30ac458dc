"""Short notes between two processes of one site: JSON objects as datagrams on unix sockets.

A note only says that it is worth looking now; whoever misses one looks a little later. So sending never waits,
and a note to nobody is no error.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl.errors import StorageError
from fl.files import socket_name

LONGEST_BYTES = 4096


class Mailbox:
    """A socket in the site's home that takes notes.

    Args:
        path: Where it is; what is there from an earlier life is replaced. Only the owner can write to it.

    Raises:
        StorageError: If it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            path.unlink(missing_ok=True)
            with socket_name(path) as name:
                self._socket.bind(name)
            path.chmod(0o600)
        except OSError as err:
            self._socket.close()
            raise StorageError(f"cannot make the socket {path}: {err.strerror}") from err

    def fileno(self) -> int:
        """The socket, to wait for."""
        return self._socket.fileno()

    def receive(self) -> list[dict[str, Any]]:
        """All notes that have come; what is no JSON object is left out."""
        notes = []
        with contextlib.suppress(BlockingIOError):
            while True:
                said = self._socket.recv(LONGEST_BYTES)
                with contextlib.suppress(ValueError):
                    note = json.loads(said)
                    if isinstance(note, dict):
                        notes.append(note)
        return notes

    def close(self) -> None:
        """Take no more notes."""
        self._socket.close()
        self.path.unlink(missing_ok=True)


def send(path: Path, note: Mapping[str, object]) -> bool:
    """Leave a note in a mailbox, without waiting.

    Returns:
        Whether somebody has a mailbox there with room in it.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        try:
            with socket_name(path) as name:
                sender.sendto(json.dumps(note).encode(), name)
        except OSError:
            return False
    return True
