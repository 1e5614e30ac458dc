"""Digests of files: written down when a file is made, compared when it is read again.

SHA-256 identifies a file; CRC-32 finds damage in a third of the time (docs/adr/0009).
"""

from __future__ import annotations

import errno
import hashlib
import os
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, Protocol

from fl.errors import JournalError

READ_BACK_BYTES = 1 << 20
"""How much is read back and hashed at a time: little enough to stay in the processor's cache between the two."""

HASH_AHEAD_BYTES = 1 << 20
"""How much is written before the hash is taken on; a smaller file is hashed at its end."""


class Digest(Protocol):
    """What hashlib's objects have in common with ``Crc32``."""

    def update(self, data: memoryview, /) -> None:
        """Take more bytes into account."""

    def hexdigest(self) -> str:
        """The digest as text."""


class Crc32:
    """CRC-32 (ISO 3309, as zlib computes it) with the face of hashlib; its text says that it is one."""

    def __init__(self) -> None:
        self._value = 0

    def update(self, data: memoryview | bytes, /) -> None:
        """Take more bytes into account."""
        self._value = zlib.crc32(data, self._value)

    def hexdigest(self) -> str:
        """``crc32:`` and eight hexadecimal digits."""
        return f"crc32:{self._value:08x}"


Algorithm = Literal["sha256", "crc32"]
DIGESTS: Mapping[str, Callable[[], Digest]] = {"sha256": hashlib.sha256, "crc32": Crc32}


class FollowingHasher:
    """Hashes a file while it grows, in a thread that reads back what was just written.

    It may lag behind the writer: a block belongs to its owner again as soon as it is written, and hashing goes on
    while the disk works. Reading back from the page cache costs a tenth of the hashing itself.
    """

    def __init__(self, descriptor: int, digest: Digest) -> None:
        self._descriptor, self._digest = descriptor, digest
        self._written_bytes = self._hashed_bytes = self._expected_bytes = 0
        self._thread: ThreadPoolExecutor | None = None

    def follow(self, written_bytes: int) -> None:
        """So much more was written; small files are not worth a thread, and wait for ``finish``."""
        self._written_bytes += written_bytes
        if self._written_bytes - self._expected_bytes >= HASH_AHEAD_BYTES:
            self._expected_bytes = self._written_bytes
            self._thread = self._thread or ThreadPoolExecutor(1, "sha256")
            self._thread.submit(self._catch_up, self._written_bytes)

    def finish(self) -> str:
        """Hash what is left and return the digest; ``OSError`` if the file cannot be read back."""
        if self._thread:
            self._thread.shutdown()
        self._catch_up(self._written_bytes)
        return self._digest.hexdigest()

    def stop(self) -> None:
        """End the thread, so that nobody reads from the descriptor when it is closed."""
        if self._thread:
            self._thread.shutdown(cancel_futures=True)

    def _catch_up(self, stop: int) -> None:
        buffer = memoryview(bytearray(min(READ_BACK_BYTES, stop - self._hashed_bytes)))
        while self._hashed_bytes < stop:
            piece = buffer[: stop - self._hashed_bytes]
            read_bytes = os.preadv(self._descriptor, [piece], self._hashed_bytes)
            if not read_bytes:
                raise OSError(errno.EIO, "the file became shorter while it was written")
            self._digest.update(piece[:read_bytes])
            self._hashed_bytes += read_bytes


def file_digest(path: Path, algorithm: Algorithm = "sha256") -> str:
    """The digest of a file, as ``ArrayWriter.finish`` returns it.

    Raises:
        JournalError: If it cannot be read.
    """
    digest = DIGESTS[algorithm]()
    buffer = memoryview(bytearray(READ_BACK_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            while read_bytes := file.readinto(buffer):
                digest.update(buffer[:read_bytes])
    except OSError as err:
        raise JournalError(f"cannot read {path}: {err}") from err
    return digest.hexdigest()


def is_intact(path: Path, digest: str) -> bool:
    """Whether a file still has the digest that was written down for it.

    Raises:
        JournalError: If it cannot be read.
    """
    return file_digest(path, "crc32" if digest.startswith("crc32:") else "sha256") == digest
