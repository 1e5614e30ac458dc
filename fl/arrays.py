"""Models and updates as flat float32 vectors in safetensors files.

In memory a model is a mapping from parameter names to arrays; on disk it is one safetensors file whose data section
lies in the order of its ``Layout``, without gaps. So the whole file is also *one* vector of shape ``(P,)`` that can
be memory-mapped and folded block by block without knowing the names. Everything is float32: what a task holds in
another type is converted at the task.

Shape letters: P parameters of the model.

The format is that of the safetensors library (8 bytes of header length, JSON header, data); its own writer wants all
tensors in memory at once, which is why the streaming writer is here. Reading through the library is a test.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.digests import DIGESTS, Algorithm, FollowingHasher
from fl.errors import JournalError
from fl.files import storage_error, sync_directory

F32 = npt.NDArray[np.float32]
Arrays = Mapping[str, F32]

WRITE_BLOCK_BYTES = 4 << 20
"""How much is written at a time."""

HEADERS = 8
"""How many headers of files are remembered."""


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Names and shapes of a model's parameters, in the order in which they lie in the vector."""

    entries: tuple[tuple[str, tuple[int, ...]], ...]
    size: int = dataclasses.field(init=False, repr=False, compare=False)
    """P: how many parameters there are."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", sum(math.prod(shape) for _, shape in self.entries))

    @classmethod
    def of(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> Layout:
        """The layout of a mapping, in its own order."""
        if isinstance(arrays, LazyArrays | VectorArrays):
            return arrays.layout
        return cls(tuple((name, tuple(array.shape)) for name, array in arrays.items()))

    @property
    def size_bytes(self) -> int:
        """Bytes of the vector."""
        return 4 * self.size

    def split(self, vector_P: F32) -> dict[str, F32]:
        """The vector as named arrays that share its memory."""
        arrays, start = {}, 0
        for name, shape in self.entries:
            stop = start + math.prod(shape)
            arrays[name] = vector_P[start:stop].reshape(shape)
            start = stop
        return arrays

    def difference(self, other: Layout) -> str | None:
        """The first way in which another layout differs, in words; ``None`` if they are equal."""
        mine, theirs = dict(self.entries), dict(other.entries)
        for name, shape in mine.items():
            if name not in theirs:
                return f"{name} is missing"
            if theirs[name] != shape:
                return f"{name} has shape {list(theirs[name])}, expected {list(shape)}"
        for name in theirs:
            if name not in mine:
                return f"{name} is not a parameter of the model"
        return None if self == other else "the parameters are in another order"


class LazyArrays(Mapping[str, F32]):
    """Named arrays of known shapes, each fetched when it is looked up and not kept.

    Args:
        layout: Names and shapes.
        fetch: Gives an array by name; one of another shape than the layout says is refused.
    """

    def __init__(self, layout: Layout, fetch: Callable[[str], F32]) -> None:
        self.layout, self._fetch = layout, fetch
        self._shapes = dict(layout.entries)

    def __getitem__(self, name: str) -> F32:
        array, shape = self._fetch(name), self._shapes[name]
        if array.shape != shape:
            raise ValueError(f"{name} has shape {list(array.shape)}, announced as {list(shape)}")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class VectorArrays(Mapping[str, F32]):
    """Named arrays that are one vector; views of them are made when the first is looked up.

    Args:
        layout: Names and shapes.
        vector_P: All of them, shape ``(P,)``.
    """

    __slots__ = ("_views", "layout", "vector_P")

    def __init__(self, layout: Layout, vector_P: F32) -> None:
        self.layout, self.vector_P = layout, vector_P
        self._views: dict[str, F32] | None = None

    def __getitem__(self, name: str) -> F32:
        if self._views is None:
            self._views = self.layout.split(self.vector_P)
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.layout.entries)

    def __len__(self) -> int:
        return len(self.layout.entries)


SMALL_BYTES = 1 << 16
"""A file up to this size is read sooner than it is mapped."""


class ArrayFile:
    """A safetensors file in layout order, memory-mapped read-only; a small one is read.

    Attributes:
        path: Where it is.
        layout: Names and shapes.
        metadata: The header's free text fields.
        vector_P: The whole data section, float32, shape ``(P,)``; valid until ``close``.
    """

    def __init__(self, path: Path) -> None:
        """Map or read the file.

        Raises:
            JournalError: If it is missing, cut short, or not a float32 safetensors file without gaps.
        """
        self.path = path
        try:
            with open(path, "rb", buffering=0) as file:
                is_small = os.fstat(file.fileno()).st_size <= SMALL_BYTES
                self._map = None if is_small else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                content = file.read() if self._map is None else self._map
        except (OSError, ValueError) as err:
            raise JournalError(f"cannot read {path}: {err}") from err
        try:
            self.layout, self.metadata, start = _read_header(memoryview(content))
            self.vector_P: F32 = np.frombuffer(content, np.float32, self.layout.size, start)
        except (ValueError, KeyError, TypeError, struct.error) as err:
            raise JournalError(f"{path} is not a whole safetensors file: {err}") from err

    def arrays(self) -> dict[str, F32]:
        """Named views into the map."""
        return self.layout.split(self.vector_P)

    def release(self) -> None:
        """Give the mapped pages back: they are read again when touched, and no longer count as ours."""
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Unmap as soon as no view is left."""
        del self.vector_P
        with contextlib.suppress(BufferError):  # a view is still alive: the map goes with it
            if self._map is not None:
                self._map.close()

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class ArrayWriter:
    """Writes a file of arrays piece by piece, hashing it on the way.

    The file grows under ``<path>.part`` and appears under its name only when it is whole; a writer that is left by an
    exception removes what it wrote.

    Args:
        path: Where to.
        layout: What the vector holds.
        metadata: Free text fields of the header.
        durable: Wait until the disk has it (file and directory).
        algorithm: Of the digest: ``sha256`` identifies a file, ``crc32`` finds damage in a third of the time.

    Raises:
        StorageError: If the disk is full or refuses.
    """

    def __init__(
        self,
        path: Path,
        layout: Layout,
        *,
        metadata: Mapping[str, str] | None = None,
        durable: bool = True,
        algorithm: Algorithm = "sha256",
    ) -> None:
        self.path, self.layout, self._durable = path, layout, durable
        self._part = path.with_name(path.name + ".part")
        self._left_bytes = layout.size_bytes
        with self._storage():
            self._file = self._part.open("w+b", buffering=0)
        self._hasher = FollowingHasher(self._file.fileno(), DIGESTS[algorithm]())
        try:
            self._put(memoryview(_header(layout, tuple((metadata or {}).items()))))
        except BaseException:
            self.abandon()
            raise

    def write(self, block: npt.NDArray[Any] | memoryview | bytes) -> None:
        """Append the next piece of the vector, float32 or its little-endian bytes, of any size.

        Raises:
            ValueError: If it is more than the layout has room for.
        """
        view = _bytes_of(block)
        if len(view) > self._left_bytes:
            raise ValueError(f"more than the {self.layout.size_bytes} bytes of the layout")
        self._left_bytes -= len(view)
        for start in range(0, len(view), WRITE_BLOCK_BYTES):
            self._put(view[start : start + WRITE_BLOCK_BYTES])

    def finish(self) -> str:
        """Make the file whole and return its digest: SHA-256 in hexadecimal, or ``crc32:`` and eight digits.

        Raises:
            ValueError: If bytes are missing.
        """
        if self._left_bytes:
            raise ValueError(f"{self._left_bytes} of {self.layout.size_bytes} bytes are missing")
        with self._storage():
            if self._durable:
                os.fsync(self._file.fileno())
            digest = self._hasher.finish()
            self._file.close()
            self._part.rename(self.path)
            if self._durable:
                sync_directory(self.path.parent)
        return digest

    def abandon(self) -> None:
        """Remove what was written; nothing happens after ``finish``."""
        self._hasher.stop()
        self._file.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if kind or not self._file.closed:
            self.abandon()

    def _put(self, view: memoryview) -> None:
        with self._storage():
            while view:  # a signal or a nearly full disk may cut a write short
                written = os.write(self._file.fileno(), view)
                self._hasher.follow(written)
                view = view[written:]

    @contextlib.contextmanager
    def _storage(self) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise storage_error(self.path, err) from err


def write_arrays(
    path: Path,
    layout: Layout,
    blocks: Iterable[npt.NDArray[Any] | memoryview | bytes],
    *,
    metadata: Mapping[str, str] | None = None,
    durable: bool = True,
    algorithm: Algorithm = "sha256",
) -> str:
    """Write a whole file of arrays and return its digest; see ``ArrayWriter``."""
    with ArrayWriter(path, layout, metadata=metadata, durable=durable, algorithm=algorithm) as writer:
        for block in blocks:
            writer.write(block)
        return writer.finish()


def vector_of(arrays: Arrays, out: F32 | None = None) -> F32:
    """All arrays one after the other in one vector, float32: a new one, or ``out``."""
    if isinstance(arrays, VectorArrays) and out is None:
        return arrays.vector_P.copy()
    blocks = [arrays.vector_P] if isinstance(arrays, VectorArrays) else list(flat_blocks(arrays))
    vector_P: F32 = np.concatenate(blocks, out=out)
    return vector_P


def flat_blocks(arrays: Arrays) -> Iterator[F32]:
    """The arrays one after the other as flat float32 pieces, converted where they are something else."""
    for array in arrays.values():
        yield np.ascontiguousarray(array, dtype=np.float32).reshape(-1)


def _bytes_of(block: npt.NDArray[Any] | memoryview | bytes) -> memoryview:
    if isinstance(block, np.ndarray):
        block = np.ascontiguousarray(block, dtype="<f4").data
    return memoryview(block).cast("B")


@functools.lru_cache(maxsize=HEADERS)
def _header(layout: Layout, metadata: tuple[tuple[str, str], ...]) -> bytes:
    table: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name, shape in layout.entries:
        stop = start + 4 * math.prod(shape)
        table[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of 8
    return struct.pack("<Q", len(text)) + text


def _read_header(view: memoryview) -> tuple[Layout, dict[str, str], int]:
    (length,) = struct.unpack_from("<Q", view)
    if length > len(view) - 8:
        raise ValueError("the header is cut short")
    layout, metadata = _described(bytes(view[8 : 8 + length]))
    if layout.size_bytes != len(view) - 8 - length:
        raise ValueError(f"{len(view) - 8 - length} bytes of data, the header describes {layout.size_bytes}")
    return layout, dict(metadata), 8 + length


@functools.lru_cache(maxsize=HEADERS)
def _described(header: bytes) -> tuple[Layout, Mapping[str, str]]:
    """What a header says: a run reads the same one in every round."""
    table = json.loads(header)
    metadata = table.pop("__metadata__", {})
    entries = sorted(table.items(), key=lambda entry: entry[1]["data_offsets"])
    position = 0
    for name, entry in entries:
        start, stop = entry["data_offsets"]
        if entry["dtype"] != "F32":
            raise ValueError(f"{name} is {entry['dtype']}, expected F32")
        if start != position or stop - start != 4 * math.prod(entry["shape"]):
            raise ValueError(f"{name} does not start where the one before it ends")
        position = stop
    return Layout(tuple((name, tuple(entry["shape"])) for name, entry in entries)), metadata
