"""Messages between the runner, its zygotes and a task: one JSON object each, with open files if need be."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

LONGEST_BYTES = 512 * 1024


class Channel:
    """One end of a pair."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two ends; a message to one comes out of the other, whole or not at all."""
        ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in ends:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * LONGEST_BYTES)
        return cls(ends[0]), cls(ends[1])

    @classmethod
    def of(cls, fd: int) -> Channel:
        """An end that came as an open file."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """The open file, to wait for or to send along."""
        return self._socket.fileno()

    def send(self, message: Mapping[str, Any], files: Sequence[Channel] = ()) -> None:
        """Send a message, with other channels' ends, which stay open here.

        Raises:
            OSError: If nobody has the other end any more.
        """
        socket.send_fds(self._socket, [json.dumps(message).encode()], [file.fileno() for file in files])

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """Wait for a message and the files that came with it; ``None`` when the other end is closed."""
        try:
            said, files, _, _ = socket.recv_fds(self._socket, LONGEST_BYTES, 4)
        except ConnectionResetError:
            return None
        if not said:
            for file in files:
                os.close(file)
            return None
        return json.loads(said), files

    def close(self) -> None:
        """Close our end."""
        self._socket.close()
