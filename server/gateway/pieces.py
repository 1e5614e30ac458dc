"""Pieces of messages that several sites get, the model above all: asked of SuperLink once, and kept a moment.

SuperLink answers one question at a time and takes some milliseconds for each, so a round at 1,000 sites would ask it
1,000 times for every array of the model. A piece is named by its SHA-256, so whoever may have it gets the same bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator

from server.gateway.config import MIB
from server.gateway.fleet import NO_CONTENT_BYTES

LONGEST_BYTES = 8 * MIB
"""Longest piece that is kept; Flower cuts arrays into 5 MiB. A longer one is streamed to each site by itself."""
ALL_BYTES = 64 * MIB
"""Most that is kept, and most that is on its way to slow sites; beyond that pieces are streamed."""
KEEP_S = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class Fetched:
    """What came of a question; ``content`` is ``None`` if it was not read, and is to be streamed."""

    status: int
    content: bytes | None


class Pieces:
    """Pieces by run and name, within a bound of memory; the least recently used goes first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[int, str], bytes] = OrderedDict()
        self._bytes = 0
        self._coming: dict[tuple[int, str], asyncio.Task[Fetched]] = {}
        self._held: dict[tuple[int, str], int] = {}
        self._held_bytes = 0

    @contextlib.contextmanager
    def held(self, run_id: int, object_id: str, content: bytes) -> Iterator[None]:
        """Count a piece as on its way to a site."""
        key = run_id, object_id
        self._held[key] = self._held.get(key, 0) + 1
        self._held_bytes += len(content) if self._held[key] == 1 else 0
        try:
            yield
        finally:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]
                self._held_bytes -= len(content)

    async def get(self, run_id: int, object_id: str, fetch: Callable[[], Awaitable[Fetched]]) -> Fetched:
        """A piece, from here or from SuperLink.

        Args:
            run_id: Its run.
            object_id: Its name.
            fetch: Asks SuperLink. A refusal is the asker's alone: whoever waited for the same piece asks by himself.
        """
        key = run_id, object_id
        while (content := self._kept.get(key)) is None and (coming := self._coming.get(key)) is not None:
            fetched = await asyncio.shield(coming)
            if fetched.status == 200:
                return fetched
        if content is not None:
            self._kept.move_to_end(key)
            return Fetched(200, content)
        if self._held_bytes > ALL_BYTES:
            return Fetched(200, None)
        task = self._coming[key] = asyncio.ensure_future(self._fetch(key, fetch))
        return await asyncio.shield(task)

    async def _fetch(self, key: tuple[int, str], fetch: Callable[[], Awaitable[Fetched]]) -> Fetched:
        try:
            fetched = await fetch()
            if fetched.status == 200 and fetched.content is not None and len(fetched.content) > NO_CONTENT_BYTES:
                self._keep(key, fetched.content)
            return fetched
        finally:
            del self._coming[key]

    def _keep(self, key: tuple[int, str], content: bytes) -> None:
        self._kept[key] = content
        self._bytes += len(content)
        while self._bytes > ALL_BYTES:
            self._drop(next(iter(self._kept)))
        asyncio.get_running_loop().call_later(KEEP_S, self._drop, key)

    def _drop(self, key: tuple[int, str]) -> None:
        self._bytes -= len(self._kept.pop(key, b""))
