"""The gateway as a process of a group, as ``server.superlink`` starts SuperLink."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from fl.files import socket_name
from fl.processes import Group, Restart
from server.home import Home

GATEWAY = "gateway"
ENVIRONMENT = {"GRPC_SSL_CIPHER_SUITES": "ECDHE-RSA-AES256-GCM-SHA384"}
"""gRPC has no switch for the lowest version of TLS. Our certificates have ECDSA keys, so with nothing but RSA suites
there is no way to agree on TLS 1.2; those of TLS 1.3 are not touched by this. It is read when gRPC is loaded."""

# Sites are called offline after 30 s of silence, so it must be back well before.
RESTART = Restart(most_deaths=5, within_s=60, first_delay_s=0.2, longest_delay_s=5)


def start(group: Group, *, home: Path, env: Mapping[str, str]) -> None:
    """Start the gateway of a server's home in the group; it is started again when it dies.

    Args:
        group: Whose process it becomes.
        home: The server's home; ``superlink/reach.json`` in it says where SuperLink listens.
        env: Its environment (see ``fl.processes.environment``).

    Raises:
        ProcessError: If it cannot be started.
    """
    env = {**env, **ENVIRONMENT}
    argv = [sys.executable, "-m", "fl.cli", "server", "gateway", "--home", str(home)]
    group.start(GATEWAY, argv, env=env, log=home / "gateway" / "gateway.log", restart=RESTART)


def is_ready(home: Path) -> bool:
    """Whether the gateway of a home answers on its socket, which it opens once sites can reach it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        try:
            with socket_name(Home(home).socket) as name:
                line.connect(name)
        except OSError:
            return False
    return True
