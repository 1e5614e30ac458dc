"""Replies on their way to the centre: on disk from the moment that the SuperNode hands them over until all have come.

The SuperNode hands a reply over at the speed of the disk and is free; from then on the reply outlives it, the link
and any partition. What travels is decided by the SuperLink: asked again, after a loss of the connection or when its
session ran out (180 s without an object), it names the objects that it does not have, and only those are sent. An
object is sent twice only if the SuperLink threw it away.

In ``outbox/<message id>/`` lie ``announcement``, the SuperNode's ``push-messages``, and one file an object, named by
the SHA-256 of its content.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge.link import fleet
from edge.link.centre import Answer, Centre, is_final
from edge.link.channel import JITTER, LostError
from fl.errors import FLError, RefusedError, StorageError
from fl.files import storage_error

log = logging.getLogger(__name__)

ANNOUNCEMENT = "announcement"
AT_ONCE = 4
FRESH_S = 120.0
"""A session that is older than this is renewed: the SuperLink ends it 180 s after its last object."""
MOST_FAILURES = 30
"""Answers in a row that bring a reply no further, after which it is given up."""
LONGEST_PAUSE_S = 10.0
CALL_WAIT_S = 10.0


class GivenUpError(FLError):
    """A reply that nobody wants any more, or that the centre will not take."""


@dataclass(eq=False, slots=True)
class Reply:
    """A reply in the outbox."""

    announced: fleet.Announced
    body: bytes
    directory: Path
    here: set[str] = field(default_factory=set)
    """Objects that the SuperNode has handed over."""
    came: asyncio.Event = field(default_factory=asyncio.Event)
    session: str = ""
    session_at: float = 0.0
    missing: int | None = None
    """Objects that the SuperLink still lacks; ``None`` before it was asked."""
    task: asyncio.Task[None] | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the SuperNode has handed all of it over."""
        return self.here.issuperset(self.announced.object_ids)


class Outbox:
    """All replies of the site that have not come yet.

    Args:
        directory: Where they lie; made if needed.
        centre: Who takes them.
        limit_bytes: Most that they may take up.
        tell: Called with a line when something worth telling happened.
    """

    def __init__(self, directory: Path, centre: Centre, *, limit_bytes: int, tell: Callable[[str], None]) -> None:
        self.directory = directory
        self.waiting: dict[str, Reply] = {}
        self.sent = 0
        """Replies that the centre has taken since the link started."""
        self.given_up: list[str] = []
        """What became of replies that it has not, in words."""
        self._over: dict[str, str] = {}
        self._centre, self._limit, self._tell = centre, limit_bytes, tell
        self._size = 0
        self._empty = asyncio.Event()
        self._empty.set()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def size_bytes(self) -> int:
        """What lies in it."""
        return self._size

    def load(self) -> None:
        """Go on with what an earlier life of the link left."""
        for directory in sorted(self.directory.iterdir(), key=lambda path: path.stat().st_mtime):
            try:
                body = (directory / ANNOUNCEMENT).read_bytes()
                reply = Reply(fleet.announced(body), body, directory)
            except (OSError, FLError) as err:
                log.warning("a reply that was not announced whole is left out: %s", err)
                shutil.rmtree(directory, ignore_errors=True)
                continue
            for object_id in reply.announced.object_ids:
                with contextlib.suppress(OSError):
                    content = (directory / object_id).read_bytes()
                    if hashlib.sha256(content).hexdigest() == object_id:  # else the power went while it was written
                        reply.here.add(object_id)
                        self._size += len(content)
            self._start(reply)
            self._tell(f"a reply of {len(reply.here)} objects is still to be sent")

    async def empty(self, timeout_s: float) -> bool:
        """Wait until everything has come; whether it has."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), timeout_s)
        return self._empty.is_set()

    def holds(self) -> list[str]:
        """The messages that are answered by replies here which need nothing more from the SuperNode."""
        return [reply.announced.reply_to for reply in self.waiting.values() if reply.is_whole]

    def forget_unfinished(self) -> None:
        """Drop what the SuperNode had not handed over whole: it was started anew, and has forgotten it."""
        for reply in [reply for reply in self.waiting.values() if not reply.is_whole]:
            if reply.task:
                reply.task.cancel()
            self._remove(reply)

    def announce(self, body: bytes) -> bytes:
        """Take the SuperNode's ``push-messages``; the answer says which objects it is to hand over.

        Raises:
            RefusedError: If it cannot be read.
            StorageError: If there is no room.
        """
        announced = fleet.announced(body)
        reply = self.waiting.get(announced.message_id)
        if reply is None:
            if self._size > self._limit:
                raise StorageError(f"the outbox holds {self._size >> 20} MiB already")
            directory = self.directory / announced.object_ids[-1]
            reply = Reply(announced, body, directory)
            self._write(directory / ANNOUNCEMENT, body)
            self._start(reply)
        return fleet.hand_over(announced, [name for name in announced.object_ids if name not in reply.here])

    async def take(self, brought: fleet.Object) -> bool:
        """Take one object; ``False`` if no reply here needs it.

        Raises:
            GivenUpError: If the reply was given up meanwhile.
            StorageError: If there is no room on the disk.
        """
        if words := self._over.get(brought.session_id):
            raise GivenUpError(words)
        reply = self.waiting.get(brought.session_id)
        if reply is None or brought.object_id not in reply.announced.object_ids:
            return False
        if brought.object_id not in reply.here:
            await asyncio.to_thread(self._write, reply.directory / brought.object_id, brought.content)
            reply.here.add(brought.object_id)
            self._size += len(brought.content)
            reply.came.set()
        return True

    async def answer(self, body: bytes, contents: dict[str, bytes]) -> None:
        """Send a reply that the link itself makes."""
        announced = fleet.announced(body)
        self.announce(body)
        for object_id, content in contents.items():
            await self.take(fleet.Object(announced.message_id, object_id, content))

    def stop(self) -> None:
        """Send no more; what is here stays on disk for the link's next life."""
        for reply in self.waiting.values():
            if reply.task:
                reply.task.cancel()

    def _start(self, reply: Reply) -> None:
        self.waiting[reply.announced.message_id] = reply
        self._empty.clear()
        reply.task = asyncio.create_task(self._bring(reply))

    async def _bring(self, reply: Reply) -> None:
        """Send one reply, however long it takes."""
        try:
            await self._until_all_came(reply)
            self.sent += 1
        except GivenUpError as err:
            self.given_up = [*self.given_up[-9:], err.message]
            self._over = {**dict([*self._over.items()][-9:]), reply.announced.message_id: err.message}
            self._tell(f"a reply was given up: {err.message}")
        except OSError as err:
            self._tell(f"a reply was lost: {err}")
        self._remove(reply)

    async def _until_all_came(self, reply: Reply) -> None:
        failures = 0
        while True:
            before = reply.missing
            try:
                names = await self._announce_there(reply)
                if await self._send(reply, names):
                    return
            except LostError:
                await asyncio.sleep(JITTER.uniform(0.05, 0.2))  # the next call waits for a connection
                continue
            except RefusedError as err:
                # The site, not the reply: it may be let in again.
                log.info("not taken now: %s", err.message)
                await asyncio.sleep(JITTER.uniform(0.5, 1) * LONGEST_PAUSE_S)
                continue
            except (GivenUpError, OSError):
                raise
            except Exception:  # a reply that nobody sends any more would hold up the site without a word
                log.exception("sending a reply failed, trying again")
            failures = 0 if before is not None and (reply.missing or 0) < before else failures + 1
            if failures > MOST_FAILURES:
                raise GivenUpError(f"the centre did not take it after {failures} tries")
            if failures:
                await asyncio.sleep(min(LONGEST_PAUSE_S, 0.2 * 2.0 ** min(failures, 8)) * JITTER.uniform(0.5, 1))

    async def _announce_there(self, reply: Reply) -> list[str]:
        """Ask the SuperLink which objects it lacks; this begins a session of 180 s."""
        answer = await self._centre.call("push-messages", reply.body)
        self._check(answer)
        if answer.status != 200:
            return []
        reply.session, names = fleet.wanted(answer.body)
        reply.session_at, reply.missing = time.monotonic(), len(names)
        return names

    async def _send(self, reply: Reply, names: list[str]) -> bool:
        """Send objects, a few at once, and the message itself last: who sees it may take the others for granted.

        Returns:
            Whether the SuperLink has all of them now.
        """
        if not reply.session:
            return False
        root = reply.announced.object_ids[-1]
        queue = [name for name in reversed(names) if name != root]
        sends = [asyncio.create_task(self._worker(reply, queue)) for _ in range(min(AT_ONCE, len(queue)))]
        renew = asyncio.create_task(self._renew(reply))
        try:
            came = all(await asyncio.gather(*sends))
            return came and await self._worker(reply, [root] if root in names else [])
        finally:
            for task in (*sends, renew):
                task.cancel()
            await asyncio.gather(*sends, renew, return_exceptions=True)
            reply.session = ""

    async def _worker(self, reply: Reply, queue: list[str]) -> bool:
        while queue:
            name = queue.pop()
            while name not in reply.here:
                reply.came.clear()
                await reply.came.wait()
            answer = await self._centre.push(reply.announced.run_id, reply.session, name, reply.directory / name)
            self._check(answer)
            if answer.status != 200 or not fleet.is_stored(answer.body):
                return False
            reply.session_at = time.monotonic()
            reply.missing = (reply.missing or 1) - 1
        return True

    async def _renew(self, reply: Reply) -> None:
        """Keep the SuperLink's session alive while objects take longer than it lives."""
        while True:
            await asyncio.sleep(FRESH_S / 8)
            if time.monotonic() - reply.session_at > FRESH_S:
                with contextlib.suppress(FLError):
                    answer = await self._centre.call("push-messages", reply.body, wait_s=CALL_WAIT_S)
                    if answer.status == 200:
                        reply.session, _ = fleet.wanted(answer.body)
                        reply.session_at = time.monotonic()

    def _check(self, answer: Answer) -> None:
        """Give up what will never be taken: the run is over, or the node is another one by now."""
        if answer.status != 200 and is_final(answer):
            if self._centre.channel.refused:
                raise RefusedError(self._centre.channel.refused)  # the site is refused, not this reply
            words = answer.refusal or ("the run is over" if answer.status == 403 else f"status {answer.status}")
            raise GivenUpError(words)

    def _write(self, path: Path, content: bytes) -> None:
        part = path.with_name(f".{path.name}.part")
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            # Not synced: after a power failure the content is checked against its name.
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(content)
            part.replace(path)
        except OSError as err:
            raise storage_error(path, err) from err

    def _remove(self, reply: Reply) -> None:
        if self.waiting.pop(reply.announced.message_id, None) is None:
            return
        for name in reply.here:
            with contextlib.suppress(OSError):
                self._size -= (reply.directory / name).stat().st_size
        shutil.rmtree(reply.directory, ignore_errors=True)
        if not self.waiting:
            self._empty.set()
