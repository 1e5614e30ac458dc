"""How much travels, and when: the owner's rates, windows and daily budget, for models and updates.

Small things (heartbeats, questions for mail, reports, refusals) always pass. New work is refused, with words, as soon
as a transfer that it needs could not take place; what has begun waits for the next window or the next day.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import time
from collections.abc import Callable
from pathlib import Path

from edge import policy as rules
from edge.policy import PINNED, SIGNATURE, Policy
from edge.usage import Usage
from fl.errors import FLError, RefusedError

LOOK_AGAIN_S = 1.0
WRITE_EVERY_BYTES, WRITE_EVERY_S = 16 * 1024 * 1024, 5.0
BYTES_PER_MBIT = 125_000.0
BURST_S = 0.25


class Bucket:
    """A rate, as a token bucket that holds what a quarter of a second lets through.

    Args:
        rate: Bytes a second now, asked at each use; ``None`` sets no limit.
    """

    def __init__(self, rate: Callable[[], float | None]) -> None:
        self._rate = rate
        self._tokens = 0.0
        self._at = time.monotonic()

    async def take(self, size_bytes: int) -> None:
        """Wait until so many bytes may pass. Waiters pass in the order in which they came."""
        rate = self._rate()
        if rate is None:
            return
        now = time.monotonic()
        self._tokens = min(self._tokens + (now - self._at) * rate, rate * BURST_S) - size_bytes
        self._at = now
        # Below zero the bucket is in debt: who comes next waits for those before, too.
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / rate)

    def piece_bytes(self, most: int) -> int:
        """Size of the pieces in which to send, so that they come evenly: at most ``most``."""
        rate = self._rate()
        return most if rate is None else max(4096, min(most, int(rate * BURST_S)))


class PolicyFile:
    """The owner's policy as it is now: read again when the file changes.

    Args:
        path: ``policy.toml``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[object, ...] = ()
        self._policy = Policy()
        self.error = ""
        """Why the file cannot be used; all work is refused meanwhile."""

    def now(self) -> Policy:
        """The policy. One that cannot be read leaves the earlier one's rates in force; see ``check``."""
        seen = tuple(
            map(_stamp, (self.path, self.path.with_name(self.path.name + SIGNATURE), self.path.parent / PINNED))
        )
        if seen != self._seen:
            self._seen = seen
            try:
                self._policy, self.error = Policy.from_file(self.path), ""
            except FLError as err:
                self.error = err.message
        return self._policy

    def check(self) -> None:
        """Refuse work while the file cannot be used.

        Raises:
            RefusedError: Saying what is wrong with it.
        """
        self.now()
        if self.error:
            raise RefusedError(f"this site's policy file cannot be used: {self.error}")


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Limits:
    """What the owner lets pass.

    Args:
        policy: The owner's.
        usage: Where today's bytes are counted.
    """

    def __init__(self, policy: PolicyFile, usage: Path) -> None:
        self.policy = policy
        self._usage = usage
        self._up = self._down = 0
        self._wrote_at = time.monotonic()
        self.up = Bucket(lambda: _rate(policy.now().limits.upload_mbit_per_s))
        self.down = Bucket(lambda: _rate(policy.now().limits.download_mbit_per_s))

    @property
    def usage(self) -> Usage:
        """Today's use."""
        return Usage(self._usage, self.policy.now())

    def check_new_work(self, now: datetime.datetime | None = None) -> None:
        """Refuse a message that the owner does not want now: hours, budgets, an unusable policy.

        Raises:
            RefusedError: Saying which, and until when.
        """
        now = now or datetime.datetime.now(datetime.UTC)
        self.policy.check()
        policy = self.policy.now()
        rules.check_work_hours(policy, now)
        rules.check_transfer_hours(policy, now)
        self.flush()
        self.usage.check(now)

    def closed(self, now: datetime.datetime | None = None) -> str:
        """Why nothing may travel now, in words; empty if it may."""
        try:
            rules.check_transfer_hours(self.policy.now(), now or datetime.datetime.now(datetime.UTC))
            left = self.usage.bytes_left(now)
            if left is not None and left - self._up - self._down <= 0:
                return "today's limits.mib_per_day is spent"
        except RefusedError as err:
            return err.message
        return ""

    async def may_travel(self) -> None:
        """Wait until something may travel."""
        while self.closed():
            await asyncio.sleep(LOOK_AGAIN_S)

    def count(self, *, up: int = 0, down: int = 0) -> None:
        """Count bytes that travelled."""
        self._up += up
        self._down += down
        late = time.monotonic() - self._wrote_at > WRITE_EVERY_S
        if late or self._up + self._down > WRITE_EVERY_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what was counted; a full disk costs the count, not the transfer."""
        if self._up or self._down:
            with contextlib.suppress(FLError, OSError):
                self.usage.add(up_bytes=self._up, down_bytes=self._down)
            self._up = self._down = 0
        self._wrote_at = time.monotonic()


def _rate(mbit_per_s: float | None) -> float | None:
    return None if mbit_per_s is None else mbit_per_s * BYTES_PER_MBIT
