"""The mask stream: AES-256-CTR (or ChaCha20) read as little-endian integers, added to vectors block by block.

Every stream has a key of its own, derived from a seed and a label, so the initial counter is zero; a key serves at
most 2**28 bytes (a segment), which keeps a cipher's block permutation indistinguishable from random by far. A block
of 128 KiB stays in the processor's second-level cache while all streams are added to it. Nothing is allocated in
the loop, and several threads each take a stretch of the vector: both ciphers can start anywhere.
"""

from __future__ import annotations

import concurrent.futures
import itertools
import os
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import CipherContext

from fl.secagg.ciphers import BLOCK_BYTES, cipher, fill
from fl.secagg.encoding import kdf
from fl.secagg.profiles import AES_SUITE, Vector

SEGMENT_BYTES = 1 << 28
STREAMS_AT_ONCE = 64
"""How many cipher states are alive in a thread; more are added in a further pass."""

Masked = Vector | npt.NDArray[np.uint64]


class Stream:
    """One mask stream.

    Args:
        seed: 32 bytes, for this stream only.
        label: ``vector`` or ``aux``; streams of one seed with different labels have nothing in common.
        suite: Which cipher.
    """

    __slots__ = ("_label", "_seed", "_suite")

    def __init__(self, seed: bytes, label: str, suite: str = AES_SUITE) -> None:
        self._seed, self._label, self._suite = seed, label, suite

    def context(self, offset_bytes: int, length_bytes: int) -> CipherContext:
        """A cipher that continues at an offset, a multiple of 64, for a length within its segment."""
        segment, start = divmod(offset_bytes, SEGMENT_BYTES)
        key = kdf(self._seed, self._suite, b"", "segment", self._label, segment)
        return cipher(key, start, self._suite, length_bytes=length_bytes)


def keystream(seed: bytes, label: str, count: int, dtype: npt.DTypeLike, suite: str = AES_SUITE) -> Masked:
    """The first ``count`` integers of a stream."""
    out: Masked = np.zeros(count, dtype)
    add_streams(out, [Stream(seed, label, suite)], [])
    return out


def add_streams(
    vector_P: Masked, plus: Sequence[Stream], minus: Sequence[Stream], *, threads: int | None = None
) -> None:
    """Add streams to a vector and subtract others from it, in place, modulo the size of its integers.

    Args:
        vector_P: Unsigned integers, contiguous.
        plus: Streams to add.
        minus: Streams to subtract.
        threads: How many; by default one a core, and one for short vectors.
    """
    assert vector_P.flags.c_contiguous
    assert vector_P.dtype.kind == "u"
    blocks = -(-vector_P.nbytes // BLOCK_BYTES)
    threads = min(threads or _cores(), max(1, blocks // 8))
    work = [(stream, np.add) for stream in plus] + [(stream, np.subtract) for stream in minus]
    # Cut between blocks, so that each thread starts where a cipher can start.
    cuts = [min(vector_P.nbytes, blocks * part // threads * BLOCK_BYTES) for part in range(threads + 1)]
    stretches = list(itertools.pairwise(cuts))
    if threads == 1:
        _add_stretch(vector_P, 0, vector_P.nbytes, work)
        return
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        for job in [pool.submit(_add_stretch, vector_P, start, stop, work) for start, stop in stretches]:
            job.result()


def _add_stretch(vector_P: Masked, start: int, stop: int, work: Sequence[tuple[Stream, np.ufunc]]) -> None:
    """Streams over the bytes from ``start`` to ``stop`` of a vector."""
    width = vector_P.itemsize
    buffer = bytearray(BLOCK_BYTES)
    view = memoryview(buffer)
    mask = np.frombuffer(buffer, vector_P.dtype)
    for first in range(0, len(work), STREAMS_AT_ONCE):
        batch = work[first : first + STREAMS_AT_ONCE]
        position = start
        while position < stop:
            segment_end = min(stop, (position // SEGMENT_BYTES + 1) * SEGMENT_BYTES)
            contexts = [(stream.context(position, segment_end - position), operation) for stream, operation in batch]
            for here in range(position, segment_end, BLOCK_BYTES):
                size = min(BLOCK_BYTES, segment_end - here)
                block = vector_P[here // width : (here + size) // width]
                piece, bytes_ = (mask, view) if size == BLOCK_BYTES else (mask[: size // width], view[:size])
                for context, operation in contexts:
                    fill(context, bytes_)
                    operation(block, piece, block)
            position = segment_end
    for index in range(0, BLOCK_BYTES, 4096):
        buffer[index : index + 4096] = bytes(4096)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
