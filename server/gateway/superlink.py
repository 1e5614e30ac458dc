"""SuperLink at the other end of the gateway: Flower's Fleet API over HTTPS on this machine."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from fl.link import link_pb2 as link
from server.gateway import fleet

PROTOBUF = "application/protobuf"
PIECE_BYTES = 512 * 1024
TIMEOUT_S = 30.0
# SuperLink's uvicorn closes a connection after 5 s of silence.
KEEP_ALIVE_S = 4.0
CALLS_AT_ONCE, OBJECTS_AT_ONCE = 32, 64
"""Connections to SuperLink; it holds each object on its way in memory."""
VERSIONS = ("flwr-package-name", "flwr-package-version", "flwr-component-name")


class SuperLink:
    """Flower's SuperLink on this machine. Close it at the end.

    Args:
        address: ``host:port``.
        ca: Authority of its certificate.
    """

    def __init__(self, address: str, ca: Path) -> None:
        self.address = address
        self.requests = 0
        """How many requests it got from us."""
        # Objects have connections of their own, so that slow ones never keep a small call waiting.
        self._client, self._objects = (
            httpx.AsyncClient(
                base_url=f"https://{address}/v1/fleet/",
                verify=ssl.create_default_context(cafile=str(ca)),
                timeout=httpx.Timeout(TIMEOUT_S, pool=None),
                limits=httpx.Limits(max_connections=connections, keepalive_expiry=KEEP_ALIVE_S),
                trust_env=False,
            )
            for connections in (CALLS_AT_ONCE, OBJECTS_AT_ONCE)
        )

    async def call(
        self, method: str, body: bytes, signature: link.Signature, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """One small call.

        Returns:
            HTTP's status and the answer's body; status 503 if SuperLink cannot be reached.
        """
        repeatable = fleet.METHODS[method].repeatable
        for attempt in range(3):
            if attempt:
                await asyncio.sleep(0.2 * 4**attempt / 4)
            self.requests += 1
            try:
                answer = await self._client.post(method, content=body, headers=_headers(signature, headers))
            except httpx.ConnectError:
                continue
            except httpx.RequestError:
                if repeatable:
                    continue
                break
            # Flower answers 500 when its database was locked for too long, and no client tries that again.
            if answer.status_code != 500 or not repeatable or attempt == 2:
                return answer.status_code, answer.content
        return 503, b""

    async def push(
        self,
        node_id: int,
        head: fleet.Object,
        pieces: AsyncIterable[bytes],
        signature: link.Signature,
        headers: Mapping[str, str],
    ) -> tuple[int, bytes]:
        """Pass an object on as its pieces come.

        Raises:
            RefusedError: What ``pieces`` raises.
        """
        start = fleet.push_head(node_id, head)

        async def content() -> AsyncIterator[bytes]:
            yield start
            async for piece in pieces:
                yield piece

        size = {"content-length": str(len(start) + head.size_bytes)}
        self.requests += 1
        try:
            answer = await self._objects.post(
                "push-object", content=content(), headers=_headers(signature, headers) | size
            )
        except httpx.RequestError:
            return 503, b""
        return answer.status_code, answer.content

    @asynccontextmanager
    async def pull(
        self, method: str, body: bytes, signature: link.Signature, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[int, int, AsyncIterator[bytes]]]:
        """Status, size in bytes and pieces of a large answer; status 503 if SuperLink cannot be reached."""
        request = self._objects.build_request("POST", method, content=body, headers=_headers(signature, headers))
        self.requests += 1
        try:
            answer = await self._objects.send(request, stream=True)
        except httpx.RequestError:
            yield 503, 0, _nothing()
            return
        try:
            yield answer.status_code, int(answer.headers.get("content-length", 0)), answer.aiter_raw(PIECE_BYTES)
        finally:
            await answer.aclose()

    async def has(
        self, node_id: int, run_id: int, object_id: str, signature: link.Signature, headers: Mapping[str, str]
    ) -> bool | None:
        """Whether it waits no more for an object: it has it, or has forgotten it; ``None`` if it cannot be reached."""
        body = fleet.pull_object(node_id, run_id, object_id)
        async with self.pull("pull-object", body, signature, headers) as (status, size, pieces):
            if status == 503:
                return None
            if status != 200 or size > fleet.NO_CONTENT_BYTES:  # what is there is not read
                return True
            try:
                return not fleet.is_awaited(b"".join([piece async for piece in pieces]))
            except httpx.RequestError:
                return None

    async def is_healthy(self) -> bool:
        """Whether it answers."""
        try:
            answer = await self._client.get(f"https://{self.address}/health", timeout=5)
        except httpx.RequestError:
            return False
        return answer.status_code == 200

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()
        await self._objects.aclose()


async def _nothing() -> AsyncIterator[bytes]:
    pieces: tuple[bytes, ...] = ()
    for piece in pieces:
        yield piece


def _headers(signature: link.Signature, more: Mapping[str, str] | None) -> dict[str, str]:
    """The node's signature, and Flower's version headers: no others pass."""
    headers = {name: value for name, value in (more or {}).items() if name in VERSIONS}
    return headers | {
        "content-type": PROTOBUF,
        "flwr-public-key": signature.public_key,
        "flwr-timestamp": signature.timestamp,
        "flwr-signature": signature.signature,
    }
