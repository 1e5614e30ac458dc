"""A process that forks workers from a state with the app loaded and nothing running.

It is forked itself before the ServerApp starts, so a worker that is made later, for one that died, begins exactly as
the first did, and without the locks of threads that the ServerApp has started since. It also is the workers' watchdog:
when the simulator ends, in whatever way, its socket closes, and the nursery kills them.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NoReturn

Serve = Callable[[Connection], None]
_PID = struct.Struct("q")


class Nursery:
    """Forks workers.

    Args:
        serve: What a worker does with its end of a pipe, until that is closed.
    """

    def __init__(self, serve: Serve) -> None:
        self._control, control = socket.socketpair()
        _flush()  # or each process would print it again
        self._pid = os.fork()
        if self._pid == 0:
            self._control.close()
            _run(functools.partial(_rear, control, serve))
        control.close()

    def fork(self) -> tuple[int, Connection]:
        """A new worker: its process number, and our end of its pipe."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"."], [theirs.fileno()])
        (pid,) = _PID.unpack(self._control.recv(_PID.size, socket.MSG_WAITALL))
        return pid, Connection(ours.detach())

    def close(self) -> None:
        """Kill all workers, and wait until they are gone."""
        self._control.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


def _rear(control: socket.socket, serve: Serve) -> None:
    # The terminal sends Ctrl-C to all of us; the simulator alone decides what comes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.freeze()  # a collection would write to, and so copy, every page that is shared
    children: set[int] = set()
    try:
        while fds := socket.recv_fds(control, 1, 1)[1]:
            children -= {pid for pid in children if os.waitpid(pid, os.WNOHANG)[0]}
            pid = os.fork()
            if pid == 0:
                control.close()
                pipe = Connection(fds[0])
                _run(functools.partial(serve, pipe))
            os.close(fds[0])
            children.add(pid)
            control.sendall(_PID.pack(pid))
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _run(function: Callable[[], None]) -> NoReturn:
    """Run a forked process to its end, without what the process it was forked from would do at exit."""
    status = 1
    try:
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        _flush()
        os._exit(status)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
