"""Hours in which a site's owner allows something: ``Sat 01:00-05:00 Europe/Berlin``.

A window is days, a span of the clock, and optionally a time zone: ``Mon-Fri 18:00–07:00``, ``Sat,Sun 00:00-24:00 UTC``,
``daily 22:00-06:00``. Hyphen and en dash mean the same. A span that ends before it starts goes on into the next day,
and belongs to the day on which it starts. What counts is the clock on the wall of that zone, also on the two days a
year on which it is moved.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
import zoneinfo
from collections.abc import Sequence

from fl.errors import ConfigError

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MINUTES = 24 * 60
_FORM = re.compile(
    r"(?P<days>daily|[a-z]{3}(?:\s*[-–,]\s*[a-z]{3})*)\s+"
    r"(?P<start>\d{1,2}:\d\d)\s*[-–]\s*(?P<end>\d{1,2}:\d\d)(?:\s+(?P<zone>\S+))?",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """One window.

    Attributes:
        text: As it was written.
        days: On which it starts, 0 is Monday.
        start: Minutes after midnight.
        end: Minutes after midnight of the day on which it starts; above 1440 it ends on the next day.
        zone: Whose clock.
    """

    text: str
    days: frozenset[int]
    start: int
    end: int
    zone: zoneinfo.ZoneInfo

    def is_open(self, now: datetime.datetime) -> bool:
        """Whether ``now`` (with its time zone) lies in it; its end does not."""
        local = now.astimezone(self.zone)
        minute = local.hour * 60 + local.minute
        today, yesterday = local.weekday(), (local.weekday() - 1) % 7
        return (today in self.days and self.start <= minute < self.end) or (
            yesterday in self.days and minute + MINUTES < self.end
        )

    def next_start(self, now: datetime.datetime) -> datetime.datetime:
        """When it opens next after ``now``, in its zone."""
        local = now.astimezone(self.zone)
        for ahead in range(9):  # a week, and a day more if the start of today is over
            day = local.date() + datetime.timedelta(days=ahead)
            start = datetime.datetime.combine(day, datetime.time(*divmod(self.start, 60)), self.zone)
            if day.weekday() in self.days and start > now:
                return start
        raise AssertionError("a window opens every week")


def parse(text: str, zone: str = "UTC") -> Window:
    """The window that a text means.

    Args:
        text: Days, a span, and optionally a zone.
        zone: Whose clock, if the text names none.

    Raises:
        ConfigError: If it cannot be read, saying which part.

    Example:
        >>> parse("Sat 01:00–05:00 Europe/Berlin").is_open(datetime.datetime(2026, 1, 3, 0, 30, tzinfo=datetime.UTC))
        True
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{text!r} is no window", hint="Sat 01:00-05:00 Europe/Berlin, or daily 22:00-06:00")
    start, end = (_minutes(match[key], text) for key in ("start", "end"))
    if start == end:
        raise ConfigError(f"{text!r} starts when it ends", hint="daily 00:00-24:00 is always")
    if start == MINUTES:
        raise ConfigError(f"{text!r} starts at 24:00", hint="that is 00:00 of the next day")
    return Window(
        text, _days(match["days"], text), start, end if end > start else end + MINUTES, find_zone(match["zone"] or zone)
    )


def is_open(windows: Sequence[Window], now: datetime.datetime) -> bool:
    """Whether one of the windows is open; no windows at all allow any hour."""
    return not windows or any(window.is_open(now) for window in windows)


def opens_next(windows: Sequence[Window], now: datetime.datetime) -> str:
    """When the first of them opens, in words: ``Sat 2026-01-03 01:00 Europe/Berlin``."""
    first = min((window.next_start(now) for window in windows), key=lambda start: start.timestamp())
    return f"{DAYS[first.weekday()]} {first:%Y-%m-%d %H:%M} {first.tzinfo}"


def find_zone(name: str) -> zoneinfo.ZoneInfo:
    """A time zone by its name.

    Raises:
        ConfigError: If there is none of that name.
    """
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as err:
        raise ConfigError(f"no time zone {name!r}", hint="Europe/Berlin, America/New_York, UTC") from err


def _minutes(text: str, window: str) -> int:
    hours, minutes = map(int, text.split(":"))
    if minutes > 59 or hours * 60 + minutes > MINUTES:
        raise ConfigError(f"{window!r}: there is no {text} o'clock")
    return hours * 60 + minutes


def _days(text: str, window: str) -> frozenset[int]:
    if text.lower() == "daily":
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.replace("–", "-").split(","):
        ends = [_day(name.strip(), window) for name in part.split("-")]
        if len(ends) > 2:
            raise ConfigError(f"{window!r}: {part.strip()!r} has more than two ends")
        found.update((ends[0] + step) % 7 for step in range((ends[-1] - ends[0]) % 7 + 1))
    return frozenset(found)


def _day(name: str, window: str) -> int:
    for number, day in enumerate(DAYS):
        if day.lower() == name.lower():
            return number
    raise ConfigError(f"{window!r}: {name!r} is no day", hint=", ".join(DAYS))
