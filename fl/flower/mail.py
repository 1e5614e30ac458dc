"""A line to the gateway beside SuperLink: whom a ServerApp has written to, and which replies are whole.

It only saves time: without a gateway, or when it is away, sites are asked for mail a little later, and replies are
looked for a little later.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
from collections.abc import Iterable
from pathlib import Path

from fl.files import socket_name

log = logging.getLogger(__name__)

VARIABLE = "FEDFLEET_GATEWAY_SOCKET"
"""Where the gateway's unix socket is; SuperLink's executor passes it on to ServerApps."""

AGAIN_S = 2.0
SEND_S = 2.0
CHUNK_BYTES = 65536
NODES_A_LINE = 10_000


class GatewayLine:
    """Talks to the gateway while it is there; nothing here raises or waits long.

    Args:
        path: The gateway's socket; ``None`` if there is no gateway.
        run_id: The run whose replies are of interest.
    """

    def __init__(self, path: Path | None, run_id: int) -> None:
        self._path, self._run_id = path, run_id
        self._socket: socket.socket | None = None
        self._again_at = float("-inf")

    @classmethod
    def from_environment(cls, run_id: int) -> GatewayLine:
        """The line that ``FEDFLEET_GATEWAY_SOCKET`` names, if it is set."""
        path = os.environ.get(VARIABLE)
        return cls(Path(path) if path else None, run_id)

    @property
    def is_open(self) -> bool:
        """Whether the gateway is there, as far as the last word with it says."""
        return self._socket is not None

    def mail(self, node_ids: Iterable[int]) -> None:
        """Tell the gateway which nodes have mail."""
        nodes = list(node_ids)
        for start in range(0, len(nodes), NODES_A_LINE):
            self._send({"mail": nodes[start : start + NODES_A_LINE]})

    def wait(self, timeout_s: float) -> bool:
        """Wait for word of a reply.

        Returns:
            Whether one is whole that was not a moment ago; otherwise the time is over.
        """
        connection = self._connection()
        if connection is None:
            time.sleep(timeout_s)
            return False
        try:
            connection.settimeout(max(timeout_s, 0.001))
            if connection.recv(CHUNK_BYTES):  # each line says the same: look now
                return True
        except TimeoutError:
            return False
        except OSError:
            pass
        self._lose()
        return False

    def close(self) -> None:
        """End the line."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, note: dict[str, object]) -> None:
        connection = self._connection()
        if connection is None:
            return
        try:
            connection.settimeout(SEND_S)
            connection.sendall(json.dumps(note).encode() + b"\n")
        except OSError:
            self._lose()

    def _connection(self) -> socket.socket | None:
        """The open socket; a gateway that went away is tried again every two seconds."""
        if self._path is None or self._socket is not None or time.monotonic() < self._again_at:
            return self._socket
        self._again_at = time.monotonic() + AGAIN_S
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            opened.settimeout(SEND_S)
            with socket_name(self._path) as name:
                opened.connect(name)
            opened.sendall(json.dumps({"run": self._run_id}).encode() + b"\n")
        except OSError:
            opened.close()
            return None
        self._socket = opened
        return opened

    def _lose(self) -> None:
        log.info("the gateway is away; replies are looked for without it")
        self.close()
