"""The centre's processes as members of one group: SuperLink, its executor, the gateway; each started again alone.

``fl server up`` runs them for a server's home; the federation on one computer (``server.local``) runs the same ones.
SuperLink listens on loopback with a certificate of this life. Its executor hands ServerApps the gateway's socket, so
that they can say who has mail.
"""

from __future__ import annotations

from collections.abc import Callable

from fl import ports, processes
from fl.flower.mail import VARIABLE as GATEWAY_SOCKET
from fl.processes import Group
from server import certificates, superlink
from server.control import Control
from server.gateway import start as gateway
from server.home import Home

HOST = superlink.HOST
READY_WITHIN_S = 300.0
TICK_S = 0.1


def start(group: Group, home: Home, *, say: Callable[[str], None]) -> Control:
    """Start the centre's processes and wait until sites can reach it.

    Args:
        group: Whose processes they become. What is secret about this life of SuperLink is erased with it.
        home: The server's home, made by ``server.centre.found``.
        say: Called with a line for everything worth telling.

    Returns:
        A client of the SuperLink; the caller closes it.

    Raises:
        ConfigError: If the home was not made.
        ProcessError: If a process cannot be kept alive, or is not ready in time.
    """
    home.config()
    keys = home.superlink / "keys"
    home.superlink.mkdir(mode=0o700, exist_ok=True)
    for path in (keys, home.superlink / "reach.json", home.socket):
        group.erase(path)
    files = certificates.create(keys)
    port = ports.free_port()
    env = processes.environment(home=home.superlink / "flower", extra={GATEWAY_SOCKET: str(home.socket.resolve())})
    home.write_reach(f"{superlink.HOST}:{port}", files.ca)
    superlink.start(group, home=home.superlink, port=port, files=files, env=env)
    gateway.start(group, home=home.path, env=env)  # it starts as slowly as SuperLink, and waits for it

    def ready() -> bool:
        return superlink.is_healthy(port, files.ca) and gateway.is_ready(home.path)

    group.wait(ready, what="the start of SuperLink and gateway", timeout_s=READY_WITHIN_S, say=say, tick_s=TICK_S)
    control = Control(f"{superlink.HOST}:{port}", files.ca)
    # Runs of an earlier life would start again from nothing, because their ServerApps are gone: they are resumed
    # from their journals instead.
    for run in control.runs():
        if not run.is_finished:
            control.stop(run.run_id)
    superlink.start_executor(group, home=home.superlink, port=port, files=files, env=env)
    return control
