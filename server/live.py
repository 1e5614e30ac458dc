"""What happens, told within the process to all who watch: browsers, ``fl run log -f``, anything on server-sent events.

Whoever changes something publishes a ``Change`` (from any thread); whoever watches awaits the changes behind the
last one that it has seen. There is one ring for all, so a slow watcher costs nothing: one that falls behind the ring,
or comes back from an earlier life of this process, is told to load everything again.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import itertools
import json
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal

Topic = Literal["run", "round", "reply", "metric", "site", "model", "queue", "audit", "user"]

KEPT = 20_000
"""Changes that somebody who was away for a moment can catch up with."""

TOGETHER_S = 0.25
"""Changes so close to each other are handed over at once: a watcher wakes up for many, not for each."""


@dataclasses.dataclass(frozen=True, slots=True)
class Change:
    """Something that changed."""

    number: int
    """From 1, in this life of the process."""
    at_s: float
    """Seconds since 1970."""
    topic: Topic
    name: str
    """Of what: the run's name for ``run``, ``round``, ``reply`` and ``metric``, the site's id, the model's number."""
    project: str
    """Whose run it is; empty for what belongs to no project."""
    text: str
    """What is new, JSON: ``topic``, ``name``, ``at_s``, and what the publisher said."""


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """What a watcher gets at once."""

    id: str
    """Of the last change that was looked at, to go on from (``Last-Event-ID``)."""
    changes: tuple[Change, ...]
    """In order; none is a sign of life."""
    again: bool = False
    """Whether changes were missed: load everything again."""


class Live:
    """The hub.

    Args:
        kept: Changes that are kept.
    """

    def __init__(self, *, kept: int = KEPT) -> None:
        self._life = secrets.token_hex(4)
        self._ring: collections.deque[Change] = collections.deque(maxlen=kept)
        self._lock = threading.Lock()
        self._newest = 0
        self._wakers: dict[asyncio.AbstractEventLoop, asyncio.Event] = {}
        self._told: set[asyncio.AbstractEventLoop] = set()
        self._closed = False
        self.watching = 0
        """Watchers now."""
        self.told: Callable[[Change], None] = lambda change: None
        """Called with each change that this process published; see ``server.relay``."""

    def publish(self, topic: Topic, name: str, *, project: str = "", **facts: Any) -> None:
        """Tell of a change. From any thread; takes microseconds and never blocks or fails for a watcher's sake."""
        now_s = time.time()
        text = json.dumps({"topic": topic, "name": name, "at_s": round(now_s, 3), **facts}, separators=(",", ":"))
        self.told(self.hear(topic, name, project, now_s, text))

    def hear(self, topic: Topic, name: str, project: str, at_s: float, text: str) -> Change:
        """Tell of a change that another process published."""
        with self._lock:
            self._newest += 1
            change = Change(self._newest, at_s, topic, name, project, text)
            self._ring.append(change)
            loops = self._asleep()
        self._wake(loops)
        return change

    def missed(self) -> None:
        """Tell all who watch to load everything again: changes of another process were missed."""
        with self._lock:
            self._newest += 1
            self._ring.clear()
            loops = self._asleep()
        self._wake(loops)

    @property
    def now(self) -> str:
        """The id from which on everything is new."""
        return f"{self._life}-{self._newest}"

    def close(self) -> None:
        """End all watches."""
        self._closed = True
        self._wake(list(self._wakers))

    async def watch(
        self, wants: Callable[[Change], bool], *, since: str = "", heartbeat_s: float = 15.0
    ) -> AsyncIterator[Batch]:
        """Yield what changes, within ``TOGETHER_S`` of the change, and an empty batch when nothing did for a while.

        Args:
            wants: Which changes.
            since: The id of the last batch that was seen; from now on without it.
            heartbeat_s: After how long without a change to say so.
        """
        seen, again = self._start(since)
        event = self._join(asyncio.get_running_loop())
        self.watching += 1
        try:
            yield Batch(self._id(seen), (), again)
            while not self._closed:
                fresh, seen, again = self._behind(seen)
                wanted = tuple(filter(wants, fresh))
                if wanted or again:
                    yield Batch(self._id(seen), wanted, again)
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(event.wait(), heartbeat_s)
                    await asyncio.sleep(TOGETHER_S)
                    event = self._join(asyncio.get_running_loop())
                    continue
                yield Batch(self._id(seen), ())
        finally:
            self.watching -= 1

    def _start(self, since: str) -> tuple[int, bool]:
        life, _, number = since.partition("-")
        if not since:
            return self._newest, False
        if life != self._life or not number.isdigit() or int(number) > self._newest:
            return self._newest, True
        return int(number), False

    def _behind(self, seen: int) -> tuple[Sequence[Change], int, bool]:
        """Changes behind a number, the newest number, and whether some between are gone."""
        with self._lock:
            if seen == self._newest:
                return (), seen, False
            missing = self._newest - seen
            if missing > len(self._ring):
                return (), self._newest, True
            fresh = list(itertools.islice(reversed(self._ring), missing))
            return fresh[::-1], self._newest, False

    def _id(self, number: int) -> str:
        return f"{self._life}-{number}"

    def _join(self, loop: asyncio.AbstractEventLoop) -> asyncio.Event:
        with self._lock:
            return self._wakers.setdefault(loop, asyncio.Event())

    def _asleep(self) -> Sequence[asyncio.AbstractEventLoop]:
        """Loops whose watchers have not been told to wake up; they are told now."""
        loops = [loop for loop in self._wakers if loop not in self._told]
        self._told.update(loops)
        return loops

    def _wake(self, loops: Sequence[asyncio.AbstractEventLoop]) -> None:
        for loop in loops:
            with contextlib.suppress(RuntimeError):  # a loop that has ended has no watchers
                loop.call_soon_threadsafe(self._ring_bell, loop)

    def _ring_bell(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wake the watchers of a loop, all of them; the next change rings another bell."""
        with self._lock:
            self._told.discard(loop)
            event = self._wakers.pop(loop, None)
        if event is not None:
            event.set()


def as_event(batch: Batch) -> bytes:
    """A batch as server-sent events: the id stands at the last one, so that a batch is seen whole or not at all."""
    if batch.again:
        return f"id: {batch.id}\nevent: again\ndata: {{}}\n\n".encode()
    if not batch.changes:
        return f"id: {batch.id}\n: alive\n\n".encode()
    lines = [f"event: {change.topic}\ndata: {change.text}\n\n" for change in batch.changes]
    lines[-1] = f"id: {batch.id}\n{lines[-1]}"
    return "".join(lines).encode()


def facts_of(change: Change) -> Mapping[str, Any]:
    """What a change says."""
    return dict(json.loads(change.text))
