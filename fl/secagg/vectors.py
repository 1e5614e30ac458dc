"""Masked vectors on their way: their digest, and their arrival in pieces.

A digest is SHA-256 of the vector's little-endian bytes; the model's is that of its float32 vector.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.secagg.errors import VectorError
from fl.secagg.profiles import Vector

Pieces = npt.NDArray[Any] | Iterable[bytes | memoryview]


def vector_digest(vector: npt.NDArray[Any]) -> bytes:
    """SHA-256 of a vector's bytes, little-endian, 32 bytes."""
    little = np.ascontiguousarray(vector, dtype=vector.dtype.newbyteorder("<"))
    return hashlib.sha256(little.reshape(-1).view(np.uint8).data).digest()


def gather(pieces: Pieces, length: int, dtype: np.dtype[Any], buffer: Vector | None) -> Vector:
    """A vector that came whole or in pieces.

    Args:
        pieces: An array of the right type, which is returned as it is, or its bytes in any cut.
        length: How many elements it must have.
        dtype: Their type.
        buffer: Where pieces are put together; made if it is missing.

    Raises:
        VectorError: If it has another length or type.
    """
    if isinstance(pieces, np.ndarray):
        if pieces.shape != (length,) or pieces.dtype.newbyteorder("<") != dtype:
            raise VectorError(f"a masked vector of {pieces.size} {pieces.dtype}, {length} {dtype} were expected")
        return np.ascontiguousarray(pieces)
    vector: Vector = np.empty(length, dtype) if buffer is None else buffer
    into = vector.view(np.uint8).data
    position = 0
    for piece in pieces:
        view = memoryview(piece).cast("B")
        if position + len(view) > len(into):
            raise VectorError(f"a masked vector of more than {len(into)} bytes")
        into[position : position + len(view)] = view
        position += len(view)
    if position != len(into):
        raise VectorError(f"a masked vector of {position} bytes, {len(into)} were expected")
    return vector
