"""TCP ports of this computer's loopback: a free one, one that was asked for, and whether anybody answers."""

from __future__ import annotations

import random
import socket

from fl.errors import BusyError

# Ports of this range are never handed out by the kernel for outgoing connections (from 32768 on Linux), so
# nobody takes one by chance between our choice and the start of the server.
CHOSEN_PORTS = range(20_000, 32_768)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody uses.

    Raises:
        BusyError: If there is none.
    """
    for port in random.SystemRandom().sample(CHOSEN_PORTS, 200):
        if is_free(port):
            return port
    raise BusyError(f"no free port between {CHOSEN_PORTS.start} and {CHOSEN_PORTS.stop - 1}")


def check_port(port: int) -> int:
    """Give back a port that was asked for, if it can be used.

    Raises:
        BusyError: If somebody else uses it.
    """
    if not is_free(port):
        raise BusyError(f"port {port} is in use", hint="leave out --port to have a free one chosen")
    return port


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of 127.0.0.1 now."""
    with socket.socket() as server:
        # As servers do, so that connections of an earlier one that are still fading out do not count.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("127.0.0.1", port))
            server.listen()
        except OSError:
            return False
    return True


def accepts_connections(host: str, port: int) -> bool:
    """Whether somebody listens there now."""
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False
