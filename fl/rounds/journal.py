"""The journal of a run: a directory that stands alone, append-only, and survives a crash at any instant.

::

    DIR/config.json            the resolved run file
    DIR/environment.json       versions and machine of the server
    DIR/events.jsonl           one event a line, each with a checksum chained to the line before
    DIR/lock                   held by the one process that may write
    DIR/rounds/0007/           update-<site>.safetensors as they land; then model.safetensors, state-<name>.safetensors

What an event says is on disk before the event is: files are written under another name, synced, renamed, and only
then named by an event, which is synced in turn. So after a crash there are files that no event names (removed when
the journal is opened again) but no event without its files. A round has happened when its ``round_committed`` line
has; that line is the one atomic step.

A line whose checksum is wrong is a torn tail if it is the last one: it is cut off, said, and done again. Anywhere
else it is damage, and refused.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fl import __version__
from fl.errors import JournalError
from fl.files import Lock, storage_error, sync_directory, write_atomic
from fl.rounds import events
from fl.rounds.environment import environment
from fl.rounds.events import Event
from fl.rounds.state import Record, RunState

EVENTS = "events.jsonl"
CHECK_KEY = ',"check":"'
CHECK_LENGTH = 16

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Clock:
    """Where time comes from. Durations and deadlines use ``monotonic`` alone, so a wall clock may jump.

    Attributes:
        monotonic: Seconds from any origin, never going back.
        wall: Seconds since 1970, UTC.
        sleep: Lets so many seconds pass.
        poll_s: How long to wait for replies, or for sites to come online, before looking at the clock again.
        origin_s: What ``monotonic`` said when the run began; ``None``: when the journal was opened.
    """

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    sleep: Callable[[float], None] = time.sleep
    poll_s: float = 1.0
    origin_s: float | None = None


class Journal:
    """A journal opened for writing; at most one process has it so.

    Attributes:
        directory: Where it is.
        state: What the events so far amount to, kept up to date with each ``append``.
        durable: Whether the disk is waited for.
        held: Updates of the open round that are kept in memory, by site; see ``fl.rounds.spool``.
        held_limit_bytes: How many bytes of them.
        listener: Told of each line after it was written.
    """

    def __init__(
        self, directory: Path, *, clock: Clock | None = None, durable: bool = True, held_limit_bytes: int = 0
    ) -> None:
        """Open an existing journal, cutting off a torn tail.

        Args:
            directory: Where it is.
            clock: Where time comes from.
            durable: Wait for the disk with each line and file. Without it a killed process loses nothing, a power
                failure the last seconds.
            held_limit_bytes: Keep updates of the open round in memory up to so many bytes, instead of on disk. A run
                that is resumed asks for them again.

        Raises:
            BusyError: If another process is writing it.
            JournalError: If it is not a journal, damaged, or of a newer format.
        """
        self.directory = directory
        self.clock = clock or Clock()
        self.durable, self.held_limit_bytes = durable, held_limit_bytes
        self.listener: Callable[[Record], None] = lambda record: None
        self.held: dict[str, npt.NDArray[np.float32]] = {}
        self._events_path = directory / EVENTS
        if not self._events_path.is_file():
            raise JournalError(
                f"{directory} is not a journal: it has no {EVENTS}", hint="fl run list names the journals"
            )
        self._lock = Lock(directory / "lock")
        self._lock.acquire()
        try:
            reader = Reader(directory)
            self.state = RunState.of(reader.more())
            if self.state.created is None:
                raise JournalError(f"{self._events_path} does not begin with a whole line", hint="start a new run")
            self._seq, self._check = reader.seq, reader.check
            self._started = self.clock.monotonic() if self.clock.origin_s is None else self.clock.origin_s
            self._file = self._events_path.open("r+b", buffering=0)
            self._file.seek(reader.offset)
            self._end = reader.offset
            if reader.torn_bytes:
                self._file.truncate()
                self.append(events.TailDropped(line=self._seq + 1, size_bytes=reader.torn_bytes))
        except BaseException:
            self._lock.release()
            raise

    @classmethod
    def create(
        cls,
        directory: Path,
        config: dict[str, Any],
        *,
        clock: Clock | None = None,
        durable: bool = True,
        held_limit_bytes: int = 0,
    ) -> Journal:
        """Begin the journal of a new run.

        Args:
            directory: Must not exist, or be empty.
            config: The resolved configuration, with ``run.name``, ``run.rounds`` and ``run.seed``.
            clock: Where time comes from.
            durable: As for an existing one.
            held_limit_bytes: Likewise.

        Raises:
            JournalError: If something is already there.
            StorageError: If the disk refuses.
        """
        if directory.exists() and any(directory.iterdir()):
            raise JournalError(f"{directory} is not empty", hint="a new run needs a directory of its own")
        text = json.dumps(config, indent=2, sort_keys=True) + "\n"
        created = events.RunCreated(
            format=events.FORMAT,
            run=config["run"]["name"],
            rounds=config["run"]["rounds"],
            seed=config["run"]["seed"],
            config_digest=hashlib.sha256(text.encode()).hexdigest(),
            fedfleet=__version__,
        )
        now = datetime.datetime.fromtimestamp((clock or Clock()).wall(), datetime.UTC)
        try:
            (directory / "rounds").mkdir(parents=True)
        except OSError as err:
            raise storage_error(directory, err) from err
        write_atomic(directory / "config.json", text)
        write_atomic(directory / "environment.json", json.dumps(environment(), indent=2) + "\n")
        # With its first line the journal is there, without it there is none.
        write_atomic(directory / EVENTS, _encode(Record(0, now, 0.0, created), "")[0])
        return cls(directory, clock=clock, durable=durable, held_limit_bytes=held_limit_bytes)

    def append(self, event: Event) -> None:
        """Write an event, and wait until the disk has it if the journal is durable.

        Raises:
            StorageError: If the disk is full or refuses; the line is taken back.
        """
        now = datetime.datetime.fromtimestamp(self.clock.wall(), datetime.UTC)
        record = Record(self._seq, now, round(self.clock.monotonic() - self._started, 3), event)
        line, check = _encode(record, self._check)
        descriptor = self._file.fileno()
        try:
            written = os.write(descriptor, line)
            while written < len(line):
                written += os.write(descriptor, line[written:])
            if self.durable:
                os.fsync(descriptor)
        except OSError as err:
            self._file.seek(self._end)
            self._file.truncate()
            raise storage_error(self._events_path, err) from err
        self._seq, self._check, self._end = self._seq + 1, check, self._end + written
        self.state.apply(record)
        self.listener(record)

    def round_directory(self, number: int) -> Path:
        """The directory of a round's files, made if need be."""
        path = round_directory(self.directory, number)
        if not path.is_dir():
            try:
                path.mkdir(parents=True)
                if self.durable:
                    sync_directory(path.parent)
            except OSError as err:
                raise storage_error(path, err) from err
        return path

    def close(self) -> None:
        """Let another process write."""
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Reader:
    """Reads the whole lines of a journal, and on the next call those that came since, also while they are written.

    Attributes:
        seq: Number of the next line.
        check: Checksum of the last one.
        offset: Where it ends.
        torn_bytes: What stands behind it, written in part or damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / EVENTS
        self.seq, self.check, self.offset, self.torn_bytes = 0, "", 0, 0

    def more(self) -> list[Record]:
        """The lines since the last call.

        Raises:
            JournalError: If it is not a journal, damaged before its last line, or of a newer format.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                content = file.read()
        except OSError as err:
            raise JournalError(
                f"{self.path.parent} is not a journal: cannot read {self.path.name}: {err.strerror}",
                hint="fl run list names the journals",
            ) from err
        records: list[Record] = []
        start = 0
        while (end := content.find(b"\n", start)) >= 0:
            line = content[start:end]
            if self.seq == 0:
                _refuse_newer(self.path, line)
            fields = _decode(line, self.seq, self.check)
            if fields is None:
                if content.find(b"\n", end + 1) >= 0:
                    raise JournalError(
                        f"{self.path} line {self.seq + 1} is damaged: its checksum does not match",
                        hint="restore the journal from a backup: a line that was written whole never changes",
                    )
                break
            self.check = fields.pop("check")
            self.seq += 1
            self.offset += end + 1 - start
            records.append(_record(fields))
            start = end + 1
        self.torn_bytes = len(content) - start
        return records


def read(directory: Path) -> list[Record]:
    """All whole lines of a journal, also while another process writes it.

    Raises:
        JournalError: If it is not a journal, damaged, or of a newer format.
    """
    return Reader(directory).more()


def load_state(directory: Path) -> RunState:
    """What a journal's events amount to."""
    return RunState.of(read(directory))


def load_config(directory: Path) -> dict[str, Any]:
    """The resolved configuration of a journal, checked against the digest in its first event.

    Raises:
        JournalError: If it is missing or was changed after the run was created.
    """
    path = directory / "config.json"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as err:
        raise JournalError(f"cannot read {path}: {err.strerror}") from err
    first = read(directory)[0].event
    assert isinstance(first, events.RunCreated)
    if hashlib.sha256(text.encode()).hexdigest() != first.config_digest:
        raise JournalError(f"{path} was changed after the run began", hint="restore it, or start a new run")
    config: dict[str, Any] = json.loads(text)
    return config


def follow(directory: Path, *, poll_s: float = 0.2, until: Callable[[], bool] = lambda: False) -> Iterator[Record]:
    """Yield each line of a journal, then new ones as they come, until the run ends or ``until`` says so."""
    reader = Reader(directory)
    while True:
        for record in reader.more():
            yield record
            if isinstance(record.event, events.RunEnded):
                return
        if until():
            return
        time.sleep(poll_s)


@functools.lru_cache(maxsize=16)
def round_directory(directory: Path, number: int) -> Path:
    """Where the files of a round are; asked many times a round."""
    return directory / "rounds" / f"{number:04d}"


def _encode(record: Record, previous: str) -> tuple[bytes, str]:
    event = record.event
    fields = {name: getattr(event, name) for name in event.__dataclass_fields__}
    body = _ENCODER.encode({
        "seq": record.seq,
        "time": record.time.isoformat(),
        "clock_s": record.clock_s,
        "event": event.kind,
        **fields,
    })  # fmt: skip
    check = _checksum(previous, body)
    return f'{body[:-1]}{CHECK_KEY}{check}"}}\n'.encode(), check


def _checksum(previous: str, body: str) -> str:
    return hashlib.sha256(f"{previous}\n{body}".encode()).hexdigest()[:CHECK_LENGTH]


def _decode(line: bytes, seq: int, previous: str) -> dict[str, Any] | None:
    """The fields of a line, its checksum among them; ``None`` if it is not whole."""
    try:
        body, key, rest = line.decode().rpartition(CHECK_KEY)
        check = _checksum(previous, body + "}")
        if not key or rest != f'{check}"}}':
            return None
        fields: dict[str, Any] = json.loads(body + "}")
    except ValueError:
        return None
    return {**fields, "check": check} if fields.get("seq") == seq else None


def _record(fields: dict[str, Any]) -> Record:
    seq, time_text, clock_s, kind = (fields.pop(key) for key in ("seq", "time", "clock_s", "event"))
    return Record(seq, datetime.datetime.fromisoformat(time_text), clock_s, events.from_dict(kind, fields))


def _refuse_newer(path: Path, first_line: bytes) -> None:
    """Say so if the journal is from a newer version, whose lines may be checked in another way."""
    try:
        fields = json.loads(first_line)
        newer = fields["format"] > events.FORMAT
    except (ValueError, KeyError, TypeError):
        return
    if newer:
        raise JournalError(
            f"{path.parent} is a journal of format {fields['format']}, "
            f"fedfleet {__version__} reads up to {events.FORMAT}",
            hint=f"install fedfleet {fields.get('fedfleet', 'of that format')} or newer",
        )
