"""The link's calls as gRPC: who calls is read from the certificate with each one, counted, bounded, and answered.

A certificate that is not let in ends a call with PERMISSION_DENIED, a site that is too fast with RESOURCE_EXHAUSTED;
a call that a site may not make is answered with status 403 and the reason.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn, TypeVar

import grpc
from grpc import aio

from fl.errors import FLError, RefusedError
from fl.link import link_pb2 as link
from fl.link import link_pb2_grpc
from server.gateway.calls import Calls, NotYetError
from server.gateway.centre import Centre
from server.gateway.config import GatewayConfig
from server.gateway.counters import Counters
from server.gateway.limits import SiteLimits
from server.gateway.nodes import Node, Nodes
from server.sites import Admitted

log = logging.getLogger(__name__)

T = TypeVar("T")
Context = aio.ServicerContext[Any, Any]

PROTOCOL = 1
CLOCK_TOLERANCE_S = 60.0
FORBIDDEN, UNAVAILABLE = 403, 503
TROUBLE = "the centre has trouble of its own"
JOINS_AT_ONCE = 4


class Door:
    """Who may come in.

    Args:
        config: Bounds.
        centre: The registry.
        nodes: Where a site's node is found.
        counters: Where refusals are counted.
    """

    def __init__(self, config: GatewayConfig, centre: Centre, nodes: Nodes, counters: Counters) -> None:
        self.centre, self.generation = centre, 0
        self._config, self._nodes, self._counters = config, nodes, counters
        self._limits: dict[str, SiteLimits] = {}
        self._trouble = ""

    def changed(self) -> None:
        """The registry changed: streams look again."""
        self.centre.changed()
        self.generation += 1

    def admit(self, der: bytes) -> Admitted:
        """Whose certificate it is.

        Raises:
            RefusedError: If it is not let in.
            StorageError: If the store does not answer.
        """
        return self.centre.site_of_certificate(der)

    @asynccontextmanager
    async def enter(self, context: Context) -> AsyncIterator[tuple[Admitted, Node]]:
        """Let a site's call in, or end it with a status."""
        der = certificate(context)
        try:
            admitted = self.admit(der)
            limits = self._limits.setdefault(admitted.site, SiteLimits(self._config))
        except RefusedError as err:
            self._counters.refused += 1
            await _abort(context, grpc.StatusCode.PERMISSION_DENIED, err.message)
        except FLError as err:  # the store is away: nobody knows who was revoked, so everybody waits
            self._say(err.message)
            await _abort(context, grpc.StatusCode.UNAVAILABLE, TROUBLE)
        self._trouble = ""
        try:
            delay_s = limits.enter()
        except RefusedError as err:
            self._counters.refused += 1
            await _abort(context, grpc.StatusCode.RESOURCE_EXHAUSTED, err.message)
        node = self._nodes.of(admitted, der)
        node.calls += 1
        node.contact_at = time.monotonic()
        self._counters.add(admitted.site, 0, calls=1)
        try:
            if delay_s:
                await asyncio.sleep(delay_s)
            yield admitted, node
        except RefusedError as err:
            self._counters.refused += 1
            await _abort(context, grpc.StatusCode.PERMISSION_DENIED, err.message)
        except FLError as err:
            self._say(err.message)
            await _abort(context, grpc.StatusCode.UNAVAILABLE, TROUBLE)
        finally:
            limits.leave()
            node.calls -= 1
            node.contact_at = time.monotonic()

    def _say(self, words: str) -> None:
        """Log what is wrong here; every call of every site finds the same, so once."""
        if words != self._trouble:
            log.error("%s", words)
        self._trouble = words

    async def watched(self, der: bytes, pieces: AsyncIterator[T]) -> AsyncIterator[T]:
        """Pieces of a stream, for as long as its site is let in."""
        generation = self.generation
        async for piece in pieces:
            if generation != self.generation:
                generation = self.generation
                self.admit(der)
            yield piece


class LinkService(link_pb2_grpc.LinkServicer):
    """What sites call."""

    def __init__(
        self, config: GatewayConfig, door: Door, calls: Calls, counters: Counters, version: str, flower: str
    ) -> None:
        self._config, self._door, self._calls, self._counters = config, door, calls, counters
        self._version, self._flower = version, flower

    async def Hello(self, request: link.HelloRequest, context: Context) -> link.HelloReply:
        """The first call of a connection."""
        async with self._door.enter(context) as (admitted, node):
            node.instance = request.instance[:64]
            apart_s = request.clock_s - time.time()
            message = ""
            if abs(apart_s) > CLOCK_TOLERANCE_S:
                side = "ahead of" if apart_s > 0 else "behind"
                message = (
                    f"this site's clock is {abs(apart_s):.0f} s {side} the centre's; Flower refuses more than 300 s"
                )
            return link.HelloReply(
                version=self._version,
                flower=self._flower,
                protocol=min(PROTOCOL, request.protocol or PROTOCOL),
                clock_s=time.time(),
                site=admitted.site,
                state=admitted.state,
                roster_version=self._door.centre.roster_version(),
                renew_after_s=admitted.renew_after_s,
                hold_s=self._config.hold_s,
                message=message,
            )

    async def Call(self, request: link.FleetCall, context: Context) -> link.FleetAnswer:
        """One small call of Flower's."""
        async with self._door.enter(context) as (admitted, node):
            try:
                status, body = await self._calls.call(node, request)
                return link.FleetAnswer(status=status, body=body)
            except NotYetError as err:
                return link.FleetAnswer(status=UNAVAILABLE, refusal=err.message)
            except RefusedError as err:
                return link.FleetAnswer(status=FORBIDDEN, refusal=self._refused(context, admitted, err))

    async def Push(self, request_iterator: AsyncIterator[link.PushPiece], context: Context) -> link.FleetAnswer:
        """An object on its way up."""
        async with self._door.enter(context) as (admitted, node):
            pieces = self._door.watched(certificate(context), request_iterator)
            first = await anext(pieces, None)
            if first is None or not first.HasField("head"):
                await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, "the first piece has no head")
            try:
                status, body = await self._calls.push(node, first.head, _data(first, pieces))
                return link.FleetAnswer(status=status, body=body)
            except RefusedError as err:
                return link.FleetAnswer(status=FORBIDDEN, refusal=self._refused(context, admitted, err))

    async def Pull(self, request: link.FleetCall, context: Context) -> AsyncIterator[link.AnswerPiece]:
        """An object or an app on its way down."""
        async with self._door.enter(context) as (admitted, node):
            head: link.AnswerHead | None = None
            try:
                async for status, size, data in self._door.watched(
                    certificate(context), self._calls.pull(node, request)
                ):
                    is_first, head = head is None, head or link.AnswerHead(status=status, size_bytes=size)
                    yield link.AnswerPiece(head=head if is_first else None, data=data)
            except NotYetError as err:
                yield link.AnswerPiece(head=link.AnswerHead(status=UNAVAILABLE, refusal=err.message))
            except RefusedError as err:
                refusal = self._refused(context, admitted, err)
                if head is not None:  # it was let in before, so the site itself is refused now
                    await _abort(context, grpc.StatusCode.PERMISSION_DENIED, refusal)
                yield link.AnswerPiece(head=link.AnswerHead(status=FORBIDDEN, refusal=refusal))

    async def Report(self, request: link.SiteReport, context: Context) -> link.ReportReply:
        """How the site is."""
        async with self._door.enter(context) as (admitted, _):
            try:
                self._door.centre.seen(admitted.site, request.json)
            except RefusedError as err:
                await _abort(context, grpc.StatusCode.INVALID_ARGUMENT, err.message)
            return link.ReportReply(
                state=admitted.state,
                roster_version=self._door.centre.roster_version(),
                renew_after_s=admitted.renew_after_s,
            )

    async def Renew(self, request: link.CertificateRequest, context: Context) -> link.Certificates:
        """New certificates."""
        async with self._door.enter(context) as (admitted, _):
            return await asyncio.to_thread(self._door.centre.renew, admitted, request)

    async def Trust(self, request: link.TrustRequest, context: Context) -> link.TrustReply:
        """The roster and the authorities."""
        async with self._door.enter(context) as (admitted, _):
            return await asyncio.to_thread(self._door.centre.trust, admitted, request)

    def _refused(self, context: Context, admitted: Admitted, err: RefusedError) -> str:
        """Count and log a refusal.

        Raises:
            RefusedError: If the site as a whole is not let in any more.
        """
        self._door.admit(certificate(context))
        self._counters.refused += 1
        log.warning("refused %s: %s", admitted.site, err.message)
        return err.message


class EnrolmentService(link_pb2_grpc.EnrolmentServicer):
    """What the holder of a join token calls."""

    def __init__(self, centre: Centre, counters: Counters) -> None:
        self._centre, self._counters = centre, counters
        self._at_once = asyncio.Semaphore(JOINS_AT_ONCE)

    async def Join(self, request: link.JoinRequest, context: Context) -> link.JoinReply:
        """Ask to take part."""
        try:
            async with self._at_once:
                return await asyncio.to_thread(self._centre.join, certificate(context), request)
        except RefusedError as err:
            self._counters.refused += 1
            await _abort(context, grpc.StatusCode.PERMISSION_DENIED, err.message)
        except FLError as err:
            log.error("%s", err.message)
            await _abort(context, grpc.StatusCode.UNAVAILABLE, TROUBLE)


def certificate(context: Context) -> bytes:
    """The caller's certificate, DER."""
    (pem,) = context.auth_context()["x509_pem_cert"]  # the port demands one
    return _der(bytes(pem))


@functools.lru_cache(maxsize=4096)
def _der(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


async def _data(first: link.PushPiece, pieces: AsyncIterator[link.PushPiece]) -> AsyncIterator[bytes]:
    yield first.data
    async for piece in pieces:
        yield piece.data


async def _abort(context: Context, code: grpc.StatusCode, words: str) -> NoReturn:
    await context.abort(code, words)
    raise AssertionError("abort raises")
