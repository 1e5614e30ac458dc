"""The gateway as one process: its parts, put together, started and ended."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import itertools
import json
import logging
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import uvicorn
from grpc import aio

from fl.errors import BusyError, FLError, RefusedError, StorageError
from fl.link import link_pb2_grpc
from server import claims
from server.centre import Centre
from server.gateway import centre as port
from server.gateway.calls import Calls
from server.gateway.config import MIB, GatewayConfig
from server.gateway.counters import Counters
from server.gateway.ledger import Ledger
from server.gateway.nodes import Node, Nodes
from server.gateway.service import Door, EnrolmentService, LinkService
from server.gateway.superlink import SuperLink
from server.home import Home
from server.superlink import DATABASE, LEDGER

log = logging.getLogger(__name__)

COUNT_EVERY_S, COUNT_ALL_EVERY = 5.0, 12
"""Counts of runs are handed over every five seconds; a thousand idle sites, each with its row, once a minute."""

SWEEP_EVERY_S = 600.0
GRACE_S = 2.0
PIECE_MIB = 9
"""Largest gRPC message: the largest small call and a little."""


class Gateway:
    """Answers sites until it is closed.

    Args:
        config: Where it listens, and bounds.
        centre: The registry.
        home: Directory of ``gateway.sock`` and ``gateway/``, which holds ``server.key``, ``server.crt`` (a chain) and
            the ledger.
        authorities: PEM file of those who sign the certificates of sites.
        superlink: Address of SuperLink.
        superlink_ca: Authority of its certificate.
    """

    def __init__(
        self,
        config: GatewayConfig,
        centre: port.Centre,
        *,
        home: Path,
        authorities: Path,
        superlink: str,
        superlink_ca: Path,
    ) -> None:
        self._config, self._centre, self._home = config, centre, home
        self._keys = Keys(home / "gateway", authorities)
        self.counters = Counters()
        self._ledger = Ledger(home / "gateway" / LEDGER)
        self.nodes = Nodes(self._ledger)
        self._superlink = SuperLink(superlink, superlink_ca)
        self._door = Door(config, centre, self.nodes, self.counters)
        self._calls = Calls(config, self._superlink, self.nodes, self.counters, self._changed, home / "gateway")
        self.ports: list[int] = []
        """The ports that it listens on, in the order of ``config.listen``."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Gateway]:
        """Serve for as long as the block lasts.

        Raises:
            BusyError: If an address is taken.
            StorageError: If keys cannot be read.
        """
        server = aio.server(options=_options(self._config))
        versions = [importlib.metadata.version(name) for name in ("fedfleet", "flwr")]
        service = LinkService(self._config, self._door, self._calls, self.counters, *versions)
        link_pb2_grpc.add_LinkServicer_to_server(service, server)
        link_pb2_grpc.add_EnrolmentServicer_to_server(EnrolmentService(self._centre, self.counters), server)
        credentials = self._keys.credentials()
        for address in self._config.listen:
            try:
                self.ports.append(server.add_secure_port(address, credentials))
            except RuntimeError as err:
                raise BusyError(f"cannot listen on {address}", hint="gateway.listen names another address") from err
        async with asyncio.TaskGroup() as tasks:
            loops = [self._calls.postbox.run(), self._calls.leases.run(), self._count(), self._sweep()]
            if self._config.health:
                loops.append(_serve_health(self._config.health, self.status))
            started = [tasks.create_task(loop) for loop in loops]
            await asyncio.to_thread(self._give_back)
            await server.start()
            notices = await self._calls.notices.serve(Home(self._home).socket)
            log.info("listening on %s", ", ".join(self._config.listen))
            try:
                yield self
            finally:
                notices.close()
                for task in started:
                    task.cancel()
                await server.stop(GRACE_S)
        self.counters.drain(self._centre.count)
        await self._superlink.close()
        self._ledger.close()

    async def status(self) -> dict[str, Any]:
        """How it is, for probes and people."""
        total = self.counters.total
        return {
            "superlink": await self._superlink.is_healthy(),
            "sites": len(self.nodes),
            "waiting": self._calls.postbox.waiting,
            "calls": total.calls,
            "refused": self.counters.refused,
            "up_bytes": total.up_bytes,
            "down_bytes": total.down_bytes,
            "superlink_requests": self._superlink.requests,
        }

    def _give_back(self) -> None:
        """Free the mail that an earlier life of this gateway asked SuperLink for, and died before it wrote it down."""
        try:
            claims.release(Home(self._home).superlink / DATABASE, self.nodes.known(), replies=False)
        except StorageError as err:  # SuperLink's database is elsewhere, or busy: deadlines do the rest
            log.warning("no mail is given back: %s", err.message)

    def _changed(self) -> None:
        self._door.changed()
        for node in self.nodes:
            try:
                node.is_quarantined = self._door.admit(node.certificate).state != "active"
            except RefusedError:
                node.is_quarantined = True  # ``leases`` tells SuperLink
        self._calls.postbox.recheck(self._recheck)

    def _recheck(self, node: Node) -> None:
        self._door.admit(node.certificate)

    async def _count(self) -> None:
        for turn in itertools.count(1):
            await asyncio.sleep(COUNT_EVERY_S)
            try:
                self.counters.drain(self._centre.count, only_runs=turn % COUNT_ALL_EVERY > 0)
            except FLError as err:
                log.error("cannot write counts: %s", err.message)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY_S)
            self.nodes.sweep()


def run(home: Home) -> None:
    """Run the gateway of a server's home until SIGTERM or SIGINT.

    Raises:
        ConfigError: If the home was not made, or its configuration cannot be used.
        UnreachableError: If no SuperLink was started from it.
        BusyError: If an address is taken.
        StorageError: If its files cannot be used.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with Centre(home) as centre:
        asyncio.run(_serve(home, centre))


async def _serve(home: Home, centre: Centre) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    address, ca = home.reach()
    gateway = Gateway(
        centre.config.gateway,
        centre,
        home=home.path,
        authorities=home.gateway / "authorities.pem",
        superlink=address,
        superlink_ca=ca,
    )
    async with gateway.running():
        await ended.wait()


class Keys:
    """The gateway's key, its certificate, and who signs the certificates of sites; read again when a file changes.

    Args:
        directory: Of ``server.key`` and ``server.crt``.
        authorities: PEM file.
    """

    def __init__(self, directory: Path, authorities: Path) -> None:
        self._paths = (directory / "server.key", directory / "server.crt", authorities)
        self._stamps: tuple[tuple[int, int], ...] = ()

    def credentials(self) -> grpc.ServerCredentials:
        """Mutual TLS.

        Raises:
            StorageError: If a file cannot be read.
        """
        try:
            first = self._read()
        except OSError as err:
            raise StorageError(f"cannot read {err.filename}: {err.strerror}", hint="fl server init") from err
        # gRPC takes None for "as before", its types do not say so.
        changed: Callable[[], Any] = self._changed
        return grpc.dynamic_ssl_server_credentials(first, changed, require_client_authentication=True)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        self._stamps = self._stat()
        key, chain, authorities = (path.read_bytes() for path in self._paths)
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=authorities)

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """New files, if they are; asked at every handshake. Files that cannot be used leave the earlier ones."""
        try:
            return None if self._stat() == self._stamps else self._read()
        except OSError as err:
            log.error("cannot read %s: %s", err.filename, err.strerror)
            return None

    def _stat(self) -> tuple[tuple[int, int], ...]:
        return tuple((stat.st_mtime_ns, stat.st_ino) for stat in (path.stat() for path in self._paths))


def _options(config: GatewayConfig) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", PIECE_MIB * MIB),
        ("grpc.max_send_message_length", PIECE_MIB * MIB),
        ("grpc.max_concurrent_streams", config.calls_at_once + 8),
        ("grpc.max_metadata_size", 8 * 1024),
        ("grpc.so_reuseport", 0),
        # A connection that is cut is noticed, and its calls end; a link may ask as often.
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.max_ping_strikes", 3),
    ]


class _Health(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Signals are the process's, not the endpoint's."""
        yield


def _serve_health(address: str, status: Any) -> Coroutine[Any, Any, None]:
    """``/live`` says that the process answers, ``/ready`` that SuperLink does too; both with facts as JSON."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        facts = await status() if scope["path"] == "/ready" else {}
        found = {"/live": 200, "/ready": 200 if facts.get("superlink") else 503}.get(scope["path"], 404)
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": found, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(facts).encode()})

    host, _, port = address.rpartition(":")
    options = uvicorn.Config(
        app, host=host.strip("[]"), port=int(port), lifespan="off", log_level="error", access_log=False, ws="none"
    )
    return _Health(options).serve()
