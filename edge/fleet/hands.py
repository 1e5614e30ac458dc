"""The process that decides talks to the one that holds the connections (``edge.fleet.worker``)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import select
import shutil
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from fl.errors import ProcessError
from fl.processes import Group

START_TIMEOUT_S = 60.0
TICK_S = 0.2

COMMAND = (sys.executable, "-m", "edge.fleet.worker")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of something that was done at a site."""

    site: str
    ok: bool
    result: Any = None
    kind: str = ""
    """Of a failure: ``unreachable``, ``refused`` or ``failed``."""
    error: str = ""
    """In one line."""
    seconds: float = 0.0


class Hands:
    """A worker process and the socket to it; both are gone when this is closed, however that happens.

    Args:
        hosts: Names and data for pyinfra's inventory.
        log: File for what pyinfra says.
        executes: Whether operations are run; otherwise it is only found out what they would do.
        connect_timeout_s: For each connection.
        command: The worker; tests have one whose hosts are made up.
        hold: Open files that stay open until the worker is gone: the fleet's lock.
    """

    def __init__(
        self,
        hosts: Sequence[tuple[str, Mapping[str, Any]]],
        *,
        log: Path,
        executes: bool,
        connect_timeout_s: float = 15.0,
        command: Sequence[str] = COMMAND,
        hold: Sequence[int] = (),
    ) -> None:
        self._hosts, self._log, self._executes = hosts, log, executes
        self._connect_timeout_s, self._command, self._hold = connect_timeout_s, command, hold
        self._next = 0
        self._buffer = b""

    def __enter__(self) -> Hands:
        # A socket's path is short by law; the fleet's own directory may not be.
        self._folder = Path(tempfile.mkdtemp(prefix="fl-fleet-"))
        self._group = Group(grace_s=2.0, hold=self._hold)
        try:
            self._group.erase(self._folder)
            path = self._folder / "worker"
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
                listener.listen(1)
                listener.settimeout(TICK_S)
                env = {**os.environ, "PYINFRA_PROGRESS": "off", "PYTHONUNBUFFERED": "1"}
                self._group.start("the fleet's worker", [*self._command, str(path)], env=env, log=self._log)
                self._connection = self._accept(listener)
            setup = {
                "hosts": list(self._hosts),
                "executes": self._executes,
                "connect_timeout_s": self._connect_timeout_s,
            }
            self._connection.sendall(json.dumps(setup).encode() + b"\n")
        except BaseException:
            self._group.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._group.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def each(
        self,
        sites: Iterable[str],
        do: str,
        *,
        parallel: int,
        arguments: Callable[[str], Mapping[str, Any]] = lambda site: {},
        started: Callable[[str], None] = lambda site: None,
        step: Callable[[str, str], None] = lambda site, what: None,
        is_stopping: Callable[[], bool] = lambda: False,
        tick: Callable[[], None] = lambda: None,
    ) -> Iterator[Answer]:
        """Do something at sites, so many at once, and give their answers as they come.

        Args:
            sites: Where.
            do: What, see ``edge.fleet.worker``.
            parallel: At how many at once.
            arguments: For a site; asked just before it is its turn.
            started: Told before a site's turn: what it writes down is on disk before anything happens there.
            step: Told which operation a site is at.
            is_stopping: Once it says so, no further site is begun; those at work end.
            tick: Called now and then.

        Raises:
            ProcessError: If the worker ends.
        """
        waiting, busy = deque(sites), dict[int, str]()
        while waiting or busy:
            while waiting and len(busy) < parallel and not is_stopping():
                site = waiting.popleft()
                started(site)
                self._next += 1
                busy[self._next] = site
                request = {"id": self._next, "site": site, "do": do, "arguments": dict(arguments(site))}
                self._connection.sendall(json.dumps(request).encode() + b"\n")
            if not busy:
                return
            for message in self._messages():
                site = busy.get(message["id"], "")
                if "step" in message:
                    step(site, message["step"])
                elif site:
                    del busy[message["id"]]
                    yield Answer(
                        site=site,
                        ok=message["ok"],
                        result=message.get("result"),
                        kind=message.get("kind", ""),
                        error=message.get("error", ""),
                        seconds=message["seconds"],
                    )
            tick()

    def _messages(self) -> Iterator[dict[str, Any]]:
        """What has come within a tick."""
        readable, _, _ = select.select([self._connection], [], [], TICK_S)
        if not readable:
            self._group.poll()
            return
        piece = self._connection.recv(1 << 18)
        if not piece:
            time.sleep(TICK_S)
            self._group.poll()  # says how it ended
            raise ProcessError("the fleet's worker closed its connection", hint=f"read {self._log}")
        lines = (self._buffer + piece).split(b"\n")
        self._buffer = lines.pop()
        for line in lines:
            yield json.loads(line)

    def _accept(self, listener: socket.socket) -> socket.socket:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(TimeoutError):
                return listener.accept()[0]
            self._group.poll()
            if time.monotonic() > deadline:
                raise ProcessError("the fleet's worker did not start", hint=f"read {self._log}")
