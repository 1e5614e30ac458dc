"""What a site has used today: bytes both ways and GPU seconds, kept in a small file that link and runner share.

A day ends at midnight of the policy's time zone. Both processes write, so each change is made under a file lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from edge import windows
from edge.policy import MIB, Policy
from fl.errors import RefusedError
from fl.files import write_atomic

FILE = "usage.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Day:
    """What was used on one day."""

    day: str
    """Its date, ``2026-01-31``."""
    up_bytes: int = 0
    """Sent to the centre: parts of updates."""
    down_bytes: int = 0
    """Received: parts of models, apps."""
    gpu_s: float = 0.0
    """Seconds for which tasks held the GPU."""


class Usage:
    """Today's use, and what is left of the policy's budgets.

    Args:
        path: The file; made when something is first used.
        policy: Whose budgets and day.
    """

    def __init__(self, path: Path, policy: Policy) -> None:
        self.path = path
        self.policy = policy

    def today(self, now: datetime.datetime | None = None) -> Day:
        """What was used since midnight; nothing, if the file is of another day or cannot be read."""
        date = self._date(now)
        try:
            day = Day(**json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return Day(date)
        return day if day.day == date else Day(date)

    def add(
        self, *, up_bytes: int = 0, down_bytes: int = 0, gpu_s: float = 0.0, now: datetime.datetime | None = None
    ) -> Day:
        """Count something as used now.

        Raises:
            StorageError: If the file cannot be written.
        """
        with self._locked():
            day = self.today(now)
            day = Day(day.day, day.up_bytes + up_bytes, day.down_bytes + down_bytes, day.gpu_s + gpu_s)
            write_atomic(self.path, json.dumps(dataclasses.asdict(day)), mode=0o600)
        return day

    def bytes_left(self, now: datetime.datetime | None = None) -> int | None:
        """What may still travel today; ``None`` without a budget."""
        if self.policy.limits.mib_per_day is None:
            return None
        day = self.today(now)
        return max(0, int(self.policy.limits.mib_per_day * MIB) - day.up_bytes - day.down_bytes)

    def gpu_left_s(self, policy: Policy | None = None, now: datetime.datetime | None = None) -> float | None:
        """Seconds for which tasks may still hold the GPU today; ``None`` without a budget."""
        minutes = (policy or self.policy).limits.gpu_minutes_per_day
        return None if minutes is None else max(0.0, minutes * 60 - self.today(now).gpu_s)

    def check(self, now: datetime.datetime | None = None) -> None:
        """Refuse new work when a budget is spent.

        Raises:
            RefusedError: Naming the budget and when it starts anew.
        """
        again = f"it starts anew at midnight, {self.policy.hours.time_zone}"
        if self.bytes_left(now) == 0:
            raise RefusedError(f"the {self.policy.limits.mib_per_day:g} MiB of limits.mib_per_day are spent; {again}")
        if self.gpu_left_s(now=now) == 0:
            minutes = self.policy.limits.gpu_minutes_per_day
            raise RefusedError(f"the {minutes:g} minutes of limits.gpu_minutes_per_day are spent; {again}")

    def _date(self, now: datetime.datetime | None) -> str:
        zone = windows.find_zone(self.policy.hours.time_zone)
        return (now or datetime.datetime.now(datetime.UTC)).astimezone(zone).date().isoformat()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self.path.with_name(self.path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)
