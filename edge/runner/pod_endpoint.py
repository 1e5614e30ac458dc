"""Where task pods get their work from the runner and bring their answers: HTTPS, a token a pod.

::

    GET  /v1/task                       waits up to 20 s; 200 an order, 204 nothing yet, 410 go away
    GET  /v1/task/N/{bundle,received,secagg}     the app, the message, the site's part in secure aggregation
    POST /v1/task/N/alive               200 go on, 410 give it up; every 2 s while a task runs
    PUT  /v1/task/N/{answered,secagg}   the reply; what secure aggregation has to remember
    POST /v1/task/N/outcome             how it went: the last word about a task

A pod sees its own tasks and nothing else: another's number is unknown to it. The certificate is made anew in each life
of the runner, and pods get its authority with their token.
"""

from __future__ import annotations

import dataclasses
import hashlib
import http.server
import json
import os
import secrets
import shutil
import socket
import ssl
import threading
import time
from pathlib import Path
from typing import Any

from fl.errors import BusyError
from fl.files import write_atomic
from fl.link.certificates import for_loopback

POLL_S = 20.0
STALLED_S = 60.0
LONGEST_JSON_BYTES = 1024 * 1024
ASK, AGAIN, GO = 200, 204, 410


@dataclasses.dataclass(slots=True, kw_only=True)
class Job:
    """One task, offered to a pod."""

    number: int
    order: dict[str, Any]
    """What the pod is told: the app's digest, limits, threads."""
    inputs: dict[str, Path]
    """Files that the pod may fetch, by name."""
    outputs: dict[str, Path]
    """Where files go that the pod brings."""
    taken_at: float | None = None
    """Monotonic time at which the pod fetched its message, which is when the task starts."""
    outcome: dict[str, Any] | None = None
    is_withdrawn: bool = False


class Seat:
    """What the endpoint knows of one pod: its token, its task, when it was heard last.

    Args:
        endpoint: Whose seat it is.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.token = secrets.token_urlsafe(32)
        self.heard_at: float | None = None
        """Monotonic time of its last request; ``None`` before the first."""
        self._job: Job | None = None
        self._is_dismissed = False
        self._changed = endpoint.changed

    @property
    def job(self) -> Job | None:
        """Its present task."""
        return self._job

    def offer(self, job: Job) -> None:
        """Give it a task; it fetches it as soon as it asks."""
        with self._changed:
            self._job = job
            self._changed.notify_all()

    def withdraw(self) -> None:
        """Take its task back: it is told to give it up."""
        with self._changed:
            if self._job is not None:
                self._job.is_withdrawn = True
            self._job = None
            self._changed.notify_all()

    def dismiss(self) -> None:
        """Have it end when it asks next."""
        with self._changed:
            self._job, self._is_dismissed = None, True
            self._changed.notify_all()

    def wait(self, job: Job, timeout_s: float) -> None:
        """Wait until the pod has given its last word about a task, or for a while."""
        with self._changed:
            self._changed.wait_for(lambda: job.outcome is not None, timeout_s)

    def next_job(self) -> tuple[int, Job | None]:
        """What to tell the pod that asks for a task, which may take up to ``POLL_S``."""
        with self._changed:
            self._changed.wait_for(lambda: self._job is not None or self._is_dismissed, POLL_S)
            if self._is_dismissed:
                return GO, None
            if self._job is None or self._job.outcome is not None:
                return AGAIN, None
            return ASK, self._job

    def close_job(self, job: Job, outcome: dict[str, Any]) -> None:
        """The pod's last word."""
        with self._changed:
            job.outcome = outcome
            self._changed.notify_all()


class Endpoint:
    """The server, in threads of this process.

    Args:
        work: Directory for the certificate's key, which only the owner can read.
        port: Where to listen, on all addresses; 0 takes a free one.

    Raises:
        BusyError: If the port is taken.
    """

    def __init__(self, work: Path, port: int) -> None:
        self.changed = threading.Condition()
        self._seats: dict[bytes, Seat] = {}
        self.authority, certificate, key = for_loopback("fedfleet runner")
        write_atomic(work / "endpoint.pem", certificate)
        write_atomic(work / "endpoint.key", key, mode=0o600)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(work / "endpoint.pem", work / "endpoint.key")
        try:
            self._server = _Server(("", port), self, context)
        except OSError as err:
            raise BusyError(f"port {port} for task pods is taken", hint="change port in pods.toml") from err
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, name="pods", daemon=True).start()

    def seat(self) -> Seat:
        """A place for one more pod."""
        seat = Seat(self)
        with self.changed:
            self._seats[_digest(seat.token)] = seat
        return seat

    def leave(self, seat: Seat) -> None:
        """Forget a pod: its token is worth nothing any more."""
        seat.dismiss()
        with self.changed:
            self._seats.pop(_digest(seat.token), None)

    def who(self, token: str) -> Seat | None:
        """Whose token this is; looked up by its digest, so that the time it takes says nothing about a token."""
        with self.changed:
            return self._seats.get(_digest(token))

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, address: tuple[str, int], endpoint: Endpoint, context: ssl.SSLContext) -> None:
        self.endpoint = endpoint
        self._context = context
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(STALLED_S)
        # The handshake happens in the handler's thread: who stalls it keeps nobody else waiting.
        return self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A pod that hangs up is no event; it calls again, or Kubernetes tells what became of it."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Hand out an order or a file."""
        if (seat := self._seat()) is None:
            return
        if self.path == "/v1/task":
            status, job = seat.next_job()
            self._json(status, {"number": job.number} | job.order if job else None)
            return
        found = self._job(seat)
        if found is None:
            return
        job, name = found
        if name not in job.inputs:
            self._json(404)
            return
        with job.inputs[name].open("rb") as file:
            self.send_response(200)
            self.send_header("Content-Length", str(os.fstat(file.fileno()).st_size))
            self.end_headers()
            shutil.copyfileobj(file, self.wfile, 1 << 20)
        if name == "received" and job.taken_at is None:
            job.taken_at = time.monotonic()

    def do_PUT(self) -> None:
        """Take a file."""
        if (seat := self._seat()) is None or (found := self._job(seat)) is None:
            return
        job, name = found
        if name not in job.outputs:
            self._json(404)
            return
        path = job.outputs[name]
        part = path.with_suffix(f"{path.suffix}.{secrets.token_hex(4)}.part")
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                left = self._length()
                while left and (data := self.rfile.read(min(left, 1 << 20))):
                    file.write(data)
                    left -= len(data)
            if left:
                self.close_connection = True  # it hung up in the middle
                return
            if job.is_withdrawn:
                self._json(GO)
                return
            part.rename(path)
        except OSError:  # no room: the pod is told so, and says so in its outcome
            self.close_connection = True
            self._json(507)
            return
        finally:
            part.unlink(missing_ok=True)
        self._json(200)

    def do_POST(self) -> None:
        """Hear that a task is alive, or how it ended."""
        if (seat := self._seat()) is None:
            return
        said = self._read_json()
        if (found := self._job(seat)) is None or said is None:
            return
        job, name = found
        if name == "outcome":
            seat.close_job(job, said)
        self._json(200 if name in ("outcome", "alive") else 404)

    def _seat(self) -> Seat | None:
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        seat = self.server.endpoint.who(token) if kind == "Bearer" else None
        if seat is None:
            self.close_connection = True
            # A pod whose place is gone is not wanted any more; whoever else this is learns the same.
            self._json(GO)
            return None
        seat.heard_at = time.monotonic()
        return seat

    def _job(self, seat: Seat) -> tuple[Job, str] | None:
        """The seat's task and what is wanted of it, if the path names it."""
        parts = self.path.split("/")
        job = seat.job
        if len(parts) == 5 and parts[:3] == ["", "v1", "task"] and job is not None and parts[3] == str(job.number):
            return job, parts[4]
        self.close_connection = True
        self._json(GO)
        return None

    def _length(self) -> int:
        length = self.headers.get("Content-Length", "0")
        return int(length) if length.isdigit() else 0

    def _read_json(self) -> dict[str, Any] | None:
        if self._length() > LONGEST_JSON_BYTES:
            self.close_connection = True
            self._json(413)
            return None
        try:
            said = json.loads(self.rfile.read(self._length()) or b"{}")
        except ValueError:
            said = None
        if not isinstance(said, dict):
            self._json(400)
            return None
        return said

    def _json(self, status: int, body: dict[str, Any] | None = None) -> None:
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        if status != AGAIN:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Pods ask every few seconds; the runner's log tells what matters."""


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
