"""The one connection to the centre: found again after any loss, renewed before its certificate runs out.

A fresh gRPC channel is made for each try, so that names are looked up anew and no hidden backoff adds to ours. Two
exist for moments only: when a certificate was renewed, the new one takes all new calls, and the old one is closed
once its calls are through.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import importlib.metadata
import logging
import random
import secrets
import stat
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc

from edge.home import Home, SiteFile, split_address
from edge.link.certificate import credentials
from fl.errors import ConfigError, FLError, RefusedError, UnreachableError
from fl.link import identity, link_pb2, link_pb2_grpc

log = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.5
HELLO_S = 10.0
ASK_AGAIN_S = 60.0
DRAIN_S = 120.0
# Calls on a lost connection fail by themselves, with the reason.
FAIL_S = 1.0
JITTER = random.SystemRandom()
PROTOCOL = 1
OPTIONS: tuple[tuple[str, Any], ...] = (
    # A connection that went silent, as after a power cut of a router, is found within half a minute.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.ssl_target_name_override", identity.GATEWAY_NAME),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.enable_retries", 0),
)
SAYS_NO = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)


class LostError(UnreachableError):
    """The connection to the centre was lost, or there is none yet; what was asked may be asked again."""


@dataclasses.dataclass(slots=True, eq=False)
class Connection:
    """One gRPC channel over which the gateway said hello."""

    address: str
    channel: grpc.aio.Channel
    stub: link_pb2_grpc.LinkAsyncStub
    hello: link_pb2.HelloReply
    since_s: float
    lost: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)


class Channel:
    """The connection to the centre.

    Args:
        home: The site's, with its certificate and keys.
        site: How the centre is reached.
        tell: Called with a line when something worth telling happened.
    """

    def __init__(self, home: Home, site: SiteFile, *, tell: Callable[[str], None]) -> None:
        self.home, self.site = home, site
        self.words = "the first answer of the centre"
        """What is waited for while there is no connection; empty while there is one."""
        self.refused = ""
        """Why the centre refuses this site; empty if it does not."""
        self.message = ""
        """What the centre has to say to the site's owner."""
        self.clock_offset_s = 0.0
        """The centre's clock minus ours, as far as known."""
        self.last_contact_s = 0.0
        """Wall time of the last answer of the centre."""
        self.renew_at_s = 0.0
        """Wall time at which the certificate is to be renewed, as the centre said; 0 before it said anything."""
        self.roster_version = 0
        """Of the roster that the centre has."""
        self._tell = tell
        self._instance = secrets.token_hex(8)
        self._now: Connection | None = None
        self._up = asyncio.Event()
        self._hurry = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def connection(self) -> Connection | None:
        """The connection that new calls use; ``None`` while there is none."""
        return self._now

    async def run(self) -> None:
        """Keep connected until cancelled."""
        failures, turn = 0, 0
        try:
            while True:
                address = self.site.gateways[turn % len(self.site.gateways)]
                try:
                    self._use(await self._connect(address))
                    failures = 0
                    await self._gone()
                    delay_s = self._backoff_s(0)
                except RefusedError as err:
                    self._say_refused(err.message)
                    longest_s = min(ASK_AGAIN_S, 2 * self.site.longest_backoff_s)
                    turn, delay_s = turn + 1, longest_s * JITTER.uniform(0.5, 1)
                except FLError as err:
                    failures, turn = failures + 1, turn + 1
                    if self.words != err.message:
                        self.words = err.message
                        self._tell(f"waiting for the centre: {err.message}")
                    delay_s = self._backoff_s(failures)
                self._hurry.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), delay_s)
        finally:
            self._up.clear()
            closing = [c for c in (self._now,) if c is not None]
            self._now = None
            for connection in closing:
                await connection.channel.close(0)

    async def _gone(self) -> None:
        """Wait until the connection in use is lost; one that replaces it after a renewal counts as the same."""
        while (now := self._now) is not None:
            watch = asyncio.create_task(_watch(now))
            await now.lost.wait()
            watch.cancel()
            if self._now is now:
                self._up.clear()
                self._now = None
                self.words = self.words or "the connection to come back"
                self._tell("the connection to the centre was lost")
                self._retire(now, grace_s=FAIL_S)

    def hurry(self) -> None:
        """Try again now: something changed, such as the certificate."""
        self._hurry.set()

    async def reconnect(self) -> None:
        """Take a fresh connection for new calls, while those of the present one go on to their end.

        Raises:
            FLError: If there is none to be had; the present one stays in use.
        """
        old = self._now
        if old is None:
            self.hurry()
            return
        new = await self._connect(old.address)
        if self._now is not old:  # lost meanwhile, and perhaps found again with the new certificate
            self._retire(new, grace_s=0)
            self.hurry()
            return
        self._use(new)
        old.lost.set()
        self._retire(old, grace_s=DRAIN_S)

    def _use(self, connection: Connection) -> None:
        self._now = connection
        self.words = ""
        self.heard(connection.hello)
        self._tell(f"connected to {connection.address} as {connection.hello.site}")
        self._up.set()

    def heard(self, said: link_pb2.HelloReply | link_pb2.ReportReply) -> None:
        """Take what the centre says about this site."""
        self.message = said.message
        self.roster_version = said.roster_version
        self.renew_at_s = time.time() + max(0.0, said.renew_after_s)
        is_out = said.state == "quarantined"
        self.refused = (said.message or "the operator has put this site in quarantine") if is_out else ""

    def _say_refused(self, words: str) -> None:
        if self.refused != words:
            self._tell(f"the centre refuses this site: {words}")
        self.refused, self.words = words, "the centre to let this site in again"

    def _backoff_s(self, failures: int) -> float:
        return min(self.site.longest_backoff_s, FIRST_BACKOFF_S * 2.0 ** min(failures, 16)) * JITTER.uniform(0.5, 1)

    def _retire(self, connection: Connection, *, grace_s: float) -> None:
        async def close() -> None:
            with contextlib.suppress(Exception):  # it is going away: how does not matter
                await connection.channel.close(grace_s or None)

        task = asyncio.create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _connect(self, address: str) -> Connection:
        """A channel to one address over which the gateway said hello.

        Raises:
            RefusedError: If the centre, or the site's own certificate, says no.
            UnreachableError: If nobody answers.
            ConfigError: If a file of the site cannot be used.
        """
        channel = grpc.aio.secure_channel(target(address), credentials(self.home), options(self.site))
        stub = link_pb2_grpc.LinkStub(channel)
        request = link_pb2.HelloRequest(
            version=importlib.metadata.version("fedfleet"),
            flower=importlib.metadata.version("flwr"),
            protocol=PROTOCOL,
            clock_s=time.time(),
            instance=self._instance,
        )
        sent_s = time.time()
        try:
            hello = await stub.Hello(request, timeout=HELLO_S, wait_for_ready=False)
        except grpc.aio.AioRpcError as err:
            await channel.close()
            if err.code() in SAYS_NO:
                raise RefusedError(err.details() or "the centre gave no reason") from err
            raise UnreachableError(f"{address}: {_words(err)}") from err
        except BaseException:
            await channel.close()
            raise
        now_s = time.time()
        if not 0 < hello.protocol <= PROTOCOL:
            await channel.close()
            raise RefusedError(f"the centre (fedfleet {hello.version}) speaks another protocol, {hello.protocol}")
        self.last_contact_s = now_s
        self.clock_offset_s = hello.clock_s - (sent_s + now_s) / 2
        return Connection(address, channel, stub, hello, now_s)

    @contextlib.asynccontextmanager
    async def calling(self, wait_s: float | None = None) -> AsyncIterator[link_pb2_grpc.LinkAsyncStub]:
        """What to call the centre with, once there is a connection.

        Args:
            wait_s: How long to wait for one; ``None`` as long as it takes.

        Raises:
            LostError: If there is none in time, or it was lost during the block.
            RefusedError: If the centre refused the call, in words.
        """
        try:
            await asyncio.wait_for(self._up.wait(), wait_s)
        except TimeoutError as err:
            raise LostError(self.words or "no connection to the centre") from err
        connection = self._now
        if connection is None:
            raise LostError(self.words or "no connection to the centre")
        try:
            yield connection.stub
        except grpc.aio.AioRpcError as err:
            raise self._error(connection, err) from err
        except grpc.aio.UsageError as err:  # the channel was closed before the call
            connection.lost.set()
            raise LostError("the connection was closed") from err
        except asyncio.CancelledError as err:
            # gRPC cancels who waits on a channel that is closed, and also a call that could not be written to its end,
            # before anybody knows of a loss. Whoever cancels this task itself means it otherwise.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise LostError("the connection was closed") from err
        self.last_contact_s = time.time()

    def _error(self, connection: Connection, err: grpc.aio.AioRpcError) -> FLError:
        code = err.code()
        if code in SAYS_NO:
            connection.lost.set()
            self._say_refused(err.details() or "the centre gave no reason")
            return RefusedError(self.refused)
        if code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE, grpc.StatusCode.UNIMPLEMENTED):
            return RefusedError(err.details() or code.name)
        if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return LostError(f"the gateway asks to slow down: {err.details()}")
        if code is grpc.StatusCode.CANCELLED and connection.lost.is_set():
            return LostError("the connection was closed")
        if code is not grpc.StatusCode.DEADLINE_EXCEEDED:  # a busy centre is slow; keepalive finds out if it is gone
            connection.lost.set()
        return LostError(_words(err))


async def _watch(connection: Connection) -> None:
    """Notice a connection that broke while no call was on it."""
    with contextlib.suppress(grpc.aio.UsageError):  # it was closed
        while (state := connection.channel.get_state()) is grpc.ChannelConnectivity.READY:
            await connection.channel.wait_for_state_change(state)
        connection.lost.set()


def target(address: str) -> str:
    """An address as gRPC takes it."""
    host, port = split_address(address)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def options(site: SiteFile) -> tuple[tuple[str, Any], ...]:
    """What a channel to the gateway needs: keep-alive, the gateway's name, the proxy."""
    if not site.proxy:
        return (*OPTIONS, ("grpc.enable_http_proxy", 0))
    url = site.proxy.rstrip("/")
    if site.proxy_credentials_file is not None:
        scheme, _, rest = url.partition("://")
        url = f"{scheme}://{_credentials(site.proxy_credentials_file)}@{rest}"
    return (*OPTIONS, ("grpc.enable_http_proxy", 1), ("grpc.http_proxy", url))


def _credentials(path: Path) -> str:
    """``user:password`` of a file that nobody else can read."""
    try:
        text, mode = path.read_text(encoding="utf-8").strip(), stat.S_IMODE(path.stat().st_mode)
    except OSError as err:
        raise ConfigError(f"cannot read {path}: {err.strerror}") from err
    if mode & 0o077:
        raise ConfigError(f"{path} is open to other users", hint=f"chmod 600 {path}")
    if ":" not in text:
        raise ConfigError(f"{path} has no user:password")
    return text


def _words(err: grpc.aio.AioRpcError) -> str:
    """What went wrong with a connection, in words that help; gRPC's own are long and cut."""
    details = str(err.details() or "")
    known = (
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not of an authority that this site trusts, or not valid now"),
        ("certificate expired", "it says that this site's certificate ran out"),
        ("certificate unknown", "it does not know this site's certificate"),
        ("Ssl handshake failed", "no TLS with it: does it speak TLS 1.3, and is this the gateway's port?"),
        ("Connection refused", "nobody listens there"),
        ("HTTP proxy returned", details[details.find("HTTP proxy returned") :]),
        ("DNS resolution failed", "there is no such name, or no name server answers"),
        ("Domain name not found", "there is no such name"),
    )
    for sign, words in known:
        if sign.lower() in details.lower():
            return words[:200]
    if err.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time"
    return " ".join(details.split())[-160:] or err.code().name
