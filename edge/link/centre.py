"""Flower's calls to the centre, over whichever connection there is: signed anew, counted, within the owner's limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edge.link.channel import Channel, LostError
from edge.link.limits import Limits
from edge.link.signing import NodeKey
from fl.link import link_pb2

CALL_S = 15.0
PIECE_BYTES = 512 * 1024
SMALL_BYTES = 64 * 1024
"""What is not larger always passes: a refusal has to reach the run, whatever the hour and the budget."""
TRY_AGAIN = (429, 502, 503, 504)
# A transfer is given up when nothing at all moved for so long; keepalive finds dead connections sooner.
STALLED_S = 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What the centre answered."""

    status: int
    """HTTP's."""
    body: bytes
    refusal: str = ""
    """Why the gateway refused, in words; empty if SuperLink answered."""


@dataclass(slots=True)
class Centre:
    """What the link can ask of the centre."""

    channel: Channel
    node: NodeKey
    limits: Limits
    versions: dict[str, str] = field(default_factory=dict)
    """Flower's version headers, as the SuperNode last sent them."""

    def signature(self) -> link_pb2.Signature:
        """A fresh one, by the centre's clock."""
        return self.node.sign(time.time() + self.channel.clock_offset_s)

    async def call(
        self,
        method: str,
        body: bytes,
        *,
        wait_s: float | None = None,
        timeout_s: float = CALL_S,
        hold_s: float = 0.0,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One call with a small body.

        Args:
            method: The last part of the path.
            body: Flower's request.
            wait_s: How long to wait for a connection; ``None`` as long as it takes.
            timeout_s: How long to wait for the answer, beyond ``hold_s``.
            hold_s: How long the gateway may hold it.
            headers: More headers.

        Raises:
            LostError: If there is no connection in time, or it was lost: the call may be repeated.
            RefusedError: If the centre refuses this site or call.
        """
        async with self.channel.calling(wait_s) as stub:
            call = link_pb2.FleetCall(
                method=method,
                body=body,
                signature=self.signature(),
                headers={**self.versions, **(headers or {})},
                hold_s=hold_s,
            )
            answer = await stub.Call(call, timeout=timeout_s + hold_s)
            return Answer(answer.status or (403 if answer.refusal else 200), answer.body, answer.refusal)
        raise AssertionError("not reached")

    async def push(self, run_id: int, session_id: str, object_id: str, content: Path) -> Answer:
        """Send one object.

        Args:
            run_id: Of the reply that it belongs to.
            session_id: SuperLink's, from ``push-messages``.
            object_id: SHA-256 of the content.
            content: File with it.

        Raises:
            LostError, RefusedError: As ``call``.
            OSError: If the content cannot be read.
        """
        size = content.stat().st_size
        unreadable: list[OSError] = []

        async def pieces() -> AsyncIterator[link_pb2.PushPiece]:
            try:
                async for piece in read():
                    yield piece
            except OSError as err:  # gRPC would only cancel the call
                unreadable.append(err)
                raise

        async def read() -> AsyncIterator[link_pb2.PushPiece]:
            head = link_pb2.PushHead(
                run_id=run_id,
                session_id=session_id,
                object_id=object_id,
                size_bytes=size,
                signature=self.signature(),
                headers=self.versions,
            )
            with content.open("rb") as file:
                piece = link_pb2.PushPiece(head=head)
                while True:
                    data = file.read(self.limits.up.piece_bytes(PIECE_BYTES))
                    if not data and not piece.HasField("head"):
                        return
                    await self.limits.up.take(len(data))
                    piece.data = data
                    self.limits.count(up=len(data))
                    yield piece
                    piece = link_pb2.PushPiece()

        if size > SMALL_BYTES:
            await self.limits.may_travel()
        async with self.channel.calling() as stub:
            try:
                answer = await stub.Push(pieces(), timeout=STALLED_S)
            except asyncio.CancelledError:
                if unreadable:
                    raise unreadable[0] from None
                raise
            return Answer(answer.status or (403 if answer.refusal else 200), answer.body, answer.refusal)
        raise AssertionError("not reached")

    async def pull(self, method: str, body: bytes, *, wait_s: float | None = None) -> Answer:
        """Fetch a large answer, whole: ``pull-object`` or ``get-fab``.

        Raises:
            LostError, RefusedError: As ``call``.
        """
        await self.limits.may_travel()
        async with self.channel.calling(wait_s) as stub:
            call = link_pb2.FleetCall(method=method, body=body, signature=self.signature(), headers=self.versions)
            status, refusal, size, data = 0, "", 0, bytearray()
            async for piece in stub.Pull(call, timeout=STALLED_S):
                if piece.HasField("head"):
                    status, refusal, size = piece.head.status, piece.head.refusal, piece.head.size_bytes
                data += piece.data
                self.limits.count(down=len(piece.data))
                await self.limits.down.take(len(piece.data))
            if not status and not refusal:
                raise LostError("the centre's answer ended before it began")
            if size and len(data) != size:
                raise LostError("the centre's answer was cut short")
            return Answer(status or 403, bytes(data), refusal)
        raise AssertionError("not reached")


def is_final(answer: Answer) -> bool:
    """Whether asking again would bring the same answer."""
    return answer.status not in TRY_AGAIN and answer.status < 500
