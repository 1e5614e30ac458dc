"""The server's running sum of masked vectors, and what a round reveals in the end.

Three vectors are held at most, for any number of sites: the sum, the one that is arriving, the decoded mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from fl.arrays import F32
from fl.secagg.config import RoundConfig
from fl.secagg.encoding import pieces
from fl.secagg.errors import UnmaskError, VectorError
from fl.secagg.keystream import Stream, add_streams
from fl.secagg.profiles import Vector
from fl.secagg.quantise import check_trailer, decode_mean
from fl.secagg.sidevector import SideSum, decode_side, side_length
from fl.secagg.vectors import Pieces, gather, vector_digest

IN_SUM: Pieces = ()
"""Stands for a vector that a restored sum holds already."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoundSum:
    """What a round revealed.

    Attributes:
        mean_P: Weighted mean of the survivors' updates, float32, shape ``(P,)``.
        side: Examples, weight and metrics of all survivors together.
        survivors: Whose updates are in it.
        dropped: Sites of the cohort whose updates are not.
        receipt: The signed transcript.
    """

    mean_P: F32
    side: SideSum
    survivors: tuple[str, ...]
    dropped: tuple[str, ...]
    receipt: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a site is out of a session, or which of its shares were skipped.

    Attributes:
        stage: Where.
        error: The class of the failed check; of a refusal, the one that the site names.
        reason: One line.
        refused: Whether the site itself refused.
    """

    stage: str
    error: str
    reason: str
    refused: bool = False


class MaskedSum:
    """The sum of masked vectors and side vectors.

    Attributes:
        vector: The sum so far, shape ``(P + trailer,)``; ``None`` before the first.
    """

    def __init__(self, config: RoundConfig) -> None:
        self.vector: Vector | None = None
        self._config = config
        self._side = np.zeros(side_length(config.metrics), np.uint64)
        self._buffer: Vector | None = None

    def check_side(self, side: bytes) -> None:
        """Refuse a side vector of another length.

        Raises:
            MessageError: If it is not as long as the configuration says.
        """
        pieces(side, 8, self._side.size)

    def add(self, vector: Pieces, digest: bytes, site: str) -> None:
        """Add a site's masked vector once all of it is there and is the one that was signed.

        Raises:
            VectorError: If it is not; the sum is as it was.
        """
        if vector is IN_SUM:
            return
        length, dtype = self._config.length, self._config.ring.dtype
        came = gather(vector, length, dtype, self._buffer)
        self._buffer = None if came is vector else came
        if vector_digest(came) != digest:
            raise VectorError(f"the masked vector of {site} is not the one that it signed")
        if self.vector is None:
            self.vector = came.copy()
        else:
            np.add(self.vector, came, out=self.vector)

    def add_side(self, side: bytes) -> None:
        """Add a site's side vector."""
        self._side += np.frombuffer(side, "<u8")

    def finish(self) -> None:
        """No further vector comes: forget the buffer."""
        self._buffer = None

    def unmask(
        self, plus: Sequence[bytes], minus: Sequence[bytes], *, count: int, threads: int | None
    ) -> tuple[F32, SideSum]:
        """Add and subtract the streams of these seeds, check the sum of ``count`` sites, and decode it.

        Raises:
            UnmaskError: If the sum does not carry its check values.
        """
        config, vector = self._config, self.vector
        if vector is None:
            raise UnmaskError("the sum of the masked vectors is missing")
        for label, masked in (("vector", vector), ("aux", self._side)):
            add_streams(
                masked,
                [Stream(seed, label, config.suite) for seed in plus],
                [Stream(seed, label, config.suite) for seed in minus],
                threads=threads,
            )
        check_trailer(vector, count, config.ring, config.n_max)
        side = decode_side(config.metrics, self._side, count=count)
        mean_P = decode_mean(
            vector,
            config.sizes,
            config.clips,
            total_weight=side.weight,
            profile=config.ring,
            n_max=config.n_max,
        )
        self.vector = None
        return mean_P, side
