"""``python -m edge.runner.pod_agent``: a task pod's processes. They ask the runner for tasks and bring the answers.

As at a runner without pods: a base that has torch, a zygote with the app imported, a process a task (``zygote``,
``warm``, ``execution``); only that tasks come over HTTPS and not from a SuperNode. It has one token, for the runner.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge.runner import threads

given = threads.hold_back()
os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")

import functools  # noqa: E402

from edge.runner import clientapp, limits, pod_files  # noqa: E402
from edge.runner.channel import Channel  # noqa: E402
from edge.runner.clientapp import AppError  # noqa: E402
from edge.runner.config import PRELOAD, Limits  # noqa: E402
from edge.runner.execution import Executor  # noqa: E402
from edge.runner.outcome import Outcome  # noqa: E402
from edge.runner.warm import Warm, ZygoteGoneError  # noqa: E402
from edge.runner.zygote import Zygote, flush, live  # noqa: E402
from fl import console  # noqa: E402

ALIVE_S = 2.0
ORPHANED_S = 60.0
"""Without the runner for so long, the pod ends."""
CALL_S = 40.0
SERVER_NAME = "localhost"
"""What the endpoint's certificate names, whatever its address is; who it is, its authority alone vouches for."""


_Body = Path | dict[str, Any] | None


class GivenUpError(Exception):
    """The runner does not want this task any more, or this pod."""


class OrphanedError(Exception):
    """Nobody answers where the runner should be."""


class Runner:
    """The runner's endpoint, seen from a pod.

    Args:
        address: ``host:port``.
        secrets: Directory with ``token`` and ``authority.pem``.
    """

    def __init__(self, address: str, secrets: Path) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._token = (secrets / "token").read_text()
        self._tls = ssl.create_default_context(cadata=(secrets / "authority.pem").read_text())
        self._tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self._connection: http.client.HTTPConnection | None = None

    def ask(self) -> dict[str, Any] | None:
        """The next order; ``None`` if there is none yet.

        Raises:
            GivenUpError: If this pod is not wanted any more.
            OrphanedError: If nobody answers.
        """
        with self._call("GET", "/v1/task") as answer:
            return dict(json.loads(answer.read())) if answer.status == 200 else None

    def fetch(self, number: int, name: str, path: Path) -> None:
        """Write a file of a task."""
        with self._call("GET", f"/v1/task/{number}/{name}") as answer, path.open("wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
            if file.tell() != int(answer.headers["Content-Length"]):
                raise OSError(f"{name} was cut short")

    def bring(self, number: int, name: str, path: Path) -> None:
        """Hand a file of a task over."""
        with self._call("PUT", f"/v1/task/{number}/{name}", path) as answer:
            if answer.status != 200:
                raise OSError(f"the runner has no room for the {name} of the task")

    def tell(self, number: int, what: str, said: dict[str, Any] | None = None) -> None:
        """Say that a task is alive, or how it went."""
        with self._call("POST", f"/v1/task/{number}/{what}", said or {}) as answer:
            answer.read()

    @contextlib.contextmanager
    def _call(self, method: str, path: str, body: _Body = None) -> Iterator[http.client.HTTPResponse]:
        deadline = time.monotonic() + ORPHANED_S
        while True:
            try:
                answer = self._once(method, path, body)
                break
            except (OSError, http.client.HTTPException) as err:
                self._close()
                if time.monotonic() > deadline:
                    raise OrphanedError(f"the runner does not answer: {err}") from err
                time.sleep(0.5)
        if answer.status == 410:
            self._close()
            raise GivenUpError("the runner does not want it any more")
        try:
            yield answer
        except BaseException:
            self._close()
            raise
        answer.read()
        if answer.will_close:
            self._close()

    def _once(self, method: str, path: str, body: _Body) -> http.client.HTTPResponse:
        connection = self._connect()
        headers = {"Authorization": f"Bearer {self._token}"}
        if isinstance(body, Path):
            with body.open("rb") as file:
                headers["Content-Length"] = str(os.fstat(file.fileno()).st_size)
                connection.request(method, path, file, headers)
        else:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
        return connection.getresponse()

    def _connect(self) -> http.client.HTTPConnection:
        if self._connection is None:
            connection = _Pinned(self._host, self._port, self._tls)
            connection.connect()
            self._connection = connection
        return self._connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _Pinned(http.client.HTTPSConnection):
    """TLS to an address that the certificate does not name: it is checked against the authority that came with us."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(host.strip("[]"), port, timeout=CALL_S, context=context)
        self._pinned = context

    def connect(self) -> None:
        """Connect, and check who answers."""
        http.client.HTTPConnection.connect(self)
        self.sock = self._pinned.wrap_socket(self.sock, server_hostname=SERVER_NAME)


class Agent:
    """Answers one task after the other.

    Args:
        runner: Who has them.
        base: Channel of the process that forks.
        work: Directory to write to.
    """

    def __init__(self, runner: Runner, base: Channel, work: Path) -> None:
        self._runner = runner
        self._base = base
        self._warm = Warm(base, PRELOAD, 1, console.say)
        self._work = work
        (work / "apps").mkdir(parents=True, exist_ok=True)
        self._beat_at = 0.0

    def serve(self) -> None:
        """Until the runner sends us away, or is away itself."""
        self._warm.preload()
        while True:
            order = self._runner.ask()
            if order is None:
                continue
            try:
                self._handle(order)
            except GivenUpError:
                console.say(f"task {order['number']}: given up")

    def _handle(self, order: dict[str, Any]) -> None:
        number = int(order["number"])
        received, answered = self._work / "received.parcel", self._work / "answered.parcel"
        borrowed, back = self._work / "secagg.out", self._work / "secagg.in"
        bundle = self._work / "bundle.fab"
        secagg = Path(order["secagg"])
        limits_ = Limits(**order["limits"])
        executor = Executor(self._warm, self._base, limits_, order["threads"] or threads.wanted(given, None))
        try:
            for name, path in (("bundle", bundle), ("secagg", borrowed), ("received", received)):
                self._runner.fetch(number, name, path)
            before = pod_files.unpack(borrowed, secagg)
            try:
                app = clientapp.unpack(bundle.read_bytes(), order["digest"], self._work / "apps")
            except AppError as err:
                outcome = Outcome(str(err), "", 0.0, 0, used_gpu=False)
            else:
                outcome = executor.run(
                    app, received, answered, beat=lambda: self._beat(number), gpu_left_s=order["gpu_left_s"]
                )
            if not outcome.failure:
                if pod_files.changed(secagg, before, back):
                    self._runner.bring(number, "secagg", back)
                self._runner.bring(number, "answered", answered)
            said = {"failure": outcome.failure, "raised": outcome.raised, "passed_s": outcome.passed_s}
            said |= {"peak_mib": outcome.peak_mib, "used_gpu": outcome.used_gpu}
            self._runner.tell(number, "outcome", said)
            console.say(f"task {number}: {outcome.failure or outcome.raised or 'answered'}; {outcome.passed_s:.2f} s")
        except OSError as err:
            said = {"failure": f"the task's pod could not write or send: {err.strerror or err}"}
            self._runner.tell(number, "outcome", said)
        finally:
            executor.settle()
            for path in (received, answered, borrowed, back, bundle):
                path.unlink(missing_ok=True)
            for file in secagg.rglob("*") if secagg.is_dir() else ():
                if file.is_file():
                    file.unlink()

    def _beat(self, number: int) -> None:
        if time.monotonic() > self._beat_at:
            self._runner.tell(number, "alive")
            self._beat_at = time.monotonic() + ALIVE_S


def main() -> int:
    """Fork the agent, and serve it as its base."""
    parser = argparse.ArgumentParser(prog="edge.runner.pod_agent", description="Run the tasks of one pod.")
    parser.add_argument("--address", required=True)
    parser.add_argument("--secrets", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    # The first process of a container ignores what it has no handler for: it would be killed after a wait.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))
    ours, theirs = Channel.pair()
    flush()
    pid = os.fork()
    if pid == 0:
        limits.die_with_parent()
        ours.close()
        live(functools.partial(_serve, options, theirs))
    theirs.close()
    zygote = Zygote(ours, given)
    zygote.watch(pid)
    zygote.serve()
    return 0


def _serve(options: argparse.Namespace, base: Channel) -> None:
    try:
        Agent(Runner(options.address, options.secrets), base, options.work).serve()
    except (GivenUpError, OrphanedError, ZygoteGoneError) as err:
        console.say(f"the pod ends: {err}")


if __name__ == "__main__":
    sys.exit(main())
