"""One log of all parts: what each writes into its own file, line by line, told as it is written.

On a terminal a line reads ``12:03:04 gateway       listening on 0.0.0.0:8443``; elsewhere each is a JSON object with
``ts`` (seconds since 1970), ``part``, ``level`` and ``message``, ready for whatever collects logs.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

AT_ONCE_BYTES = 1 << 20
LONGEST = 4000
"""Characters of a line that are told."""

COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
LINE = re.compile(
    r"(?:\d{4}-\d\d-\d\d[ T][\d:,.]+\S*\s+)?(DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|EXCEPTION)\b\s*:?\s*(.*)"
)
DULL = re.compile(
    r"\[uvicorn\.access\] .* [23]\d\d$|\[Fleet\.\w+\]|ControlServicer\.(?:List|Stream)|\[\w+\.\w+\] HTTP Request:"
)
"""A line for each call that went well: it stays in the part's own file, and would bury the rest."""
LEVELS = {"WARN": "warning", "CRITICAL": "error", "EXCEPTION": "error"}


@dataclasses.dataclass(slots=True)
class _Followed:
    part: str
    path: Path
    offset: int
    level: str = "info"
    rest: bytes = b""


class Logbook:
    """Follows files and writes their lines.

    Args:
        write: Takes a line without its end.
        as_json: Whether to write JSON.
    """

    def __init__(self, write: Callable[[str], object], *, as_json: bool) -> None:
        self._write, self._as_json = write, as_json
        self._followed: dict[Path, _Followed] = {}

    def follow(self, part: str, path: Path) -> None:
        """Tell what is written into a file from now on; again for the same file does nothing."""
        if path not in self._followed:
            self._followed[path] = _Followed(part, path, path.stat().st_size if path.exists() else 0)

    def say(self, message: str, *, part: str = "fl", level: str = "info") -> None:
        """Tell something of our own."""
        now_s = time.time()
        text = COLOUR.sub("", message)[:LONGEST]
        if self._as_json:
            facts = {"ts": round(now_s, 3), "part": part, "level": level, "message": text}
            self._write(json.dumps(facts, ensure_ascii=False))
        else:
            mark = "" if level in ("info", "debug") else f"{level}: "
            self._write(f"{time.strftime('%H:%M:%S', time.localtime(now_s))} {part:<19} {mark}{text}")

    def poll(self) -> None:
        """Tell what came since the last call; call it in every loop."""
        for entry in self._followed.values():
            for line in _fresh(entry):
                if line.strip():
                    entry.level, message = parse(line, entry.level)
                    if entry.level in ("debug", "info") and DULL.match(message):
                        continue
                    self.say(message, part=entry.part, level=entry.level)


def parse(line: str, before: str) -> tuple[str, str]:
    """Level and message of a line; one that names no level belongs to the line before, as a traceback does.

    Example:
        >>> parse("2026-01-31 12:03:04,123 WARNING server.centre: late", "info")
        ('warning', 'server.centre: late')
        >>> parse("  File x, line 3", "error")
        ('error', '  File x, line 3')
    """
    plain = COLOUR.sub("", line).rstrip()
    found = LINE.match(plain)
    if found is None:
        return before, plain
    return LEVELS.get(found[1], found[1].lower()), found[2]


def _fresh(entry: _Followed) -> list[str]:
    """Whole lines that came since; a file that became shorter is read anew."""
    try:
        with entry.path.open("rb") as file:
            size = file.seek(0, 2)
            if size < entry.offset:
                entry.offset, entry.rest = 0, b""
            file.seek(entry.offset)
            content = file.read(AT_ONCE_BYTES)
    except OSError:
        return []
    entry.offset += len(content)
    *lines, entry.rest = (entry.rest + content).split(b"\n")
    if len(entry.rest) > AT_ONCE_BYTES:
        lines, entry.rest = [*lines, entry.rest], b""
    return [line.decode(errors="replace") for line in lines]
