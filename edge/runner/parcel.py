"""What a task gets and what it answers, as a file: named pieces one after the other, read one at a time."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fl.files import storage_error

_HEAD = struct.Struct(">HQ")


class Writer:
    """Writes a parcel; it has its name only once it is whole.

    Args:
        path: The file, which only the owner can read.

    Raises:
        StorageError: If the disk refuses, here and in every method.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_suffix(path.suffix + ".part")
        try:
            self._file: BinaryIO = os.fdopen(os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb")
        except OSError as err:
            raise storage_error(self._part, err) from err

    def add(self, name: str, data: bytes) -> None:
        """Append a piece."""
        encoded = name.encode()
        try:
            self._file.write(_HEAD.pack(len(encoded), len(data)) + encoded)
            self._file.write(data)
        except OSError as err:
            raise storage_error(self._part, err) from err

    def finish(self) -> None:
        """Give the file its name.

        It is not synced: it has to outlive the process, not the machine, whose SuperNode would have forgotten the
        task.
        """
        try:
            self._file.close()
            self._part.rename(self._path)
        except OSError as err:
            raise storage_error(self._part, err) from err


def read(path: Path) -> Iterator[tuple[str, bytes]]:
    """The pieces of a parcel, in order.

    Raises:
        ValueError: If it is cut short.
    """
    with path.open("rb") as file:
        while head := file.read(_HEAD.size):
            if len(head) < _HEAD.size:
                raise ValueError(f"{path} is cut short")
            name_bytes, size_bytes = _HEAD.unpack(head)
            name, data = file.read(name_bytes), file.read(size_bytes)
            if len(name) < name_bytes or len(data) < size_bytes:
                raise ValueError(f"{path} is cut short")
            yield name.decode(), data
