"""The centre's processes as members of one group: SuperLink, its executor, the gateway; each started again alone.

``fl server up`` runs them for a server's home; the federation on one computer (``server.local``) runs the same ones.
SuperLink listens on loopback with a certificate of this life. Its executor hands ServerApps the gateway's socket, so
that they can say who has mail.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fl import ports, processes
from fl.errors import FLError
from fl.flower.mail import VARIABLE as GATEWAY_SOCKET
from fl.processes import Group, Restart
from server import certificates, superlink
from server.control import Control
from server.gateway import start as gateway
from server.home import Home

HOST = superlink.HOST
READY_WITHIN_S = 300.0
TICK_S = 0.1
CONTROL_ROOM = "control room"
ROOM_RESTART = Restart(most_deaths=5, within_s=60, first_delay_s=0.2, longest_delay_s=5)
LOOK_EVERY_S = 5.0
STUCK_AFTER_S = 30.0
"""A run that waits so long for its ServerApp waits for an executor that does nothing any more."""


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


def start_room(group: Group, home: Home, *, say: Callable[[str], None]) -> str:
    """Start the control room in the group; it is started again when it dies, and is then where it was.

    Returns:
        Where it is.

    Raises:
        ProcessError: If it cannot be kept alive, or is not ready in time.
    """
    home.control.mkdir(mode=0o700, exist_ok=True)
    facts = home.path / "control.json"
    facts.unlink(missing_ok=True)
    group.erase(facts)
    argv = [sys.executable, "-m", "server.control_room", "--home", str(home.path)]
    env = processes.environment(home=home.superlink / "flower")
    group.start(CONTROL_ROOM, argv, env=env, log=logs(home)[CONTROL_ROOM], restart=ROOM_RESTART)
    group.wait(facts.exists, what="the start of the control room", timeout_s=READY_WITHIN_S, say=say, tick_s=TICK_S)
    return str(json.loads(facts.read_text(encoding="utf-8"))["url"])


def logs(home: Home) -> dict[str, Path]:
    """The log of each part."""
    return {
        superlink.SUPERLINK: home.superlink / "superlink.log",
        superlink.EXECUTOR: home.superlink / "executor.log",
        gateway.GATEWAY: home.gateway / "gateway.log",
        CONTROL_ROOM: home.control / "control.log",
    }


class ExecutorWatch:
    """Notices an executor that lives and does nothing, which a database error can make of Flower's, and ends it.

    Args:
        group: Whose member it is; the group starts it again.
        control: A client of its SuperLink.
    """

    def __init__(self, group: Group, control: Control) -> None:
        self._group, self._control = group, control
        self._looked = 0.0
        self._pending: dict[int, float] = {}

    def look(self) -> list[str]:
        """Look, not too often; call it in every loop. Returns a line if it was ended."""
        now, child = time.monotonic(), self._group.children.get(superlink.EXECUTOR)
        if now - self._looked < LOOK_EVERY_S or child is None:
            return []
        self._looked = now
        try:
            pending = {run.run_id for run in self._control.runs() if run.status == "pending"}
        except FLError:
            return []  # SuperLink is being started again
        since = max(now if not child.is_running else child.started_at, 0.0)
        self._pending = {run: max(self._pending.get(run, now), since) for run in pending}
        if not child.is_running or not self._pending or now - min(self._pending.values()) < STUCK_AFTER_S:
            return []
        # Its ServerApps are processes of their own, and live on.
        with contextlib.suppress(ProcessLookupError):
            os.kill(child.process.pid, signal.SIGKILL)
        self._pending.clear()
        return [f"{superlink.EXECUTOR} does nothing for {STUCK_AFTER_S:g} s though a run waits: ending it"]
