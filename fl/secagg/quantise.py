r"""Updates as integers: clip, weight, round at random, and check values at the end.

A site's update becomes :math:`q_j = SR(w\, clip(\Delta_j, c_j)\, q_{max} / c_j)`, where SR rounds up or down at random
so that the mean is exact, from a cipher's stream and not from a statistics generator: whoever predicts the rounding
learns digits of the update. Shape letters: P parameters, T tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.arrays import F32
from fl.secagg.ciphers import cipher, fill
from fl.secagg.errors import UnmaskError, UpdateError
from fl.secagg.profiles import AES_SUITE, CANARY, Profile, Vector

BLOCK = 1 << 15
"""Elements at a time: two float64 scratch blocks and the dither stay in the second-level cache."""

DITHER = 2.0**-16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Quantised:
    """A quantised update.

    Attributes:
        vector: Shape ``(P + trailer,)``: signed integers in two's complement, then the trailer.
        clipped: How many elements lay outside their bound.
    """

    vector: Vector
    clipped: int


def quantise(
    update_P: F32,
    sizes_T: Sequence[int],
    clips_T: Sequence[float],
    *,
    weight: float,
    profile: Profile,
    n_max: int,
    dither_key: bytes,
    out: Vector | None = None,
) -> Quantised:
    """Turn one site's update into the integers that are summed.

    Args:
        update_P: Local minus global parameters, float32, shape ``(P,)``.
        sizes_T: Elements of each tensor; they add up to P.
        clips_T: Largest absolute value of each tensor; what lies outside is clipped to it.
        weight: w, in (0, 1].
        profile: Ring and trailer.
        n_max: Most sites that can take part: a sum of that many cannot overflow.
        dither_key: 32 secret random bytes, used for this update only.
        out: Memory for the vector, to be used again from round to round; made if not given.

    Raises:
        UpdateError: If the update holds NaN or infinity, is empty, has another size, or the weight is outside
            (0, 1].
        RingError: If the ring has no room for ``n_max`` sites.

    Guarantees:
        The expected value of each element is ``w * clip(update) * q_max / clip`` to 2**-17, and it differs by less
        than 1 from it. Absolute values stay at or below ``q_max``.
    """
    if not update_P.size or update_P.shape != (sum(sizes_T),):
        raise UpdateError(f"the update has {update_P.size} parameters, the round's model {sum(sizes_T)}")
    if not 0 < weight <= 1:
        raise UpdateError(f"the update's weight is {weight:g}, must be above 0 and at most 1")
    q_max = profile.q_max(n_max)
    if out is None:
        out = np.empty(update_P.size + profile.trailer, profile.dtype)
    if out.shape != (update_P.size + profile.trailer,) or out.dtype != profile.dtype:
        raise ValueError(f"out has {out.size} {out.dtype}, {update_P.size + profile.trailer} are needed")
    signed = _signed(out)
    worker = _Quantiser(weight * q_max, dither_key, update_P.size)
    start = 0
    for size, clip in _merged(sizes_T, clips_T):
        for here in range(start, start + size, BLOCK):
            stop = min(here + BLOCK, start + size)
            worker.block(update_P[here:stop], clip, signed[here:stop])
        start += size
    canaries = [CANARY * (1 + k) for k in range(profile.canaries)]
    trailer = [max(1, round(weight * q_max)), 1, *canaries]
    out[update_P.size :] = np.array([value % 2**profile.ring_bits for value in trailer], profile.dtype)
    return Quantised(vector=out, clipped=worker.clipped)


class _Quantiser:
    """The loop's scratch memory and dither stream."""

    def __init__(self, limit: float, dither_key: bytes, elements: int) -> None:
        self._limit = limit
        self._scaled = np.empty(BLOCK, np.float64)
        self._noise = np.empty(BLOCK, np.float64)
        self._dither_bytes = memoryview(bytearray(2 * BLOCK))
        self._dither = np.frombuffer(self._dither_bytes, "<u2")
        self._cipher = cipher(dither_key, 0, AES_SUITE, length_bytes=2 * elements)
        self.clipped = 0

    def block(self, update_B: F32, clip: float, out_B: npt.NDArray[Any]) -> None:
        size = update_B.size
        scaled, noise, dither = self._scaled[:size], self._noise[:size], self._dither[:size]
        # Converted first: a multiplication of mixed types goes through a buffer of NumPy's own.
        np.copyto(scaled, update_B)
        scaled *= self._limit / clip
        if not (update_B.max() <= clip and update_B.min() >= -clip):  # true for NaN too
            if not np.isfinite(update_B).all():
                raise UpdateError(
                    "the update holds NaN or infinity",
                    hint="lower training.learning_rate, or look at the site's data",
                )
            self.clipped += int(np.count_nonzero(np.abs(update_B) > clip))
            np.clip(scaled, -self._limit, self._limit, out=scaled)
        fill(self._cipher, self._dither_bytes[: 2 * size])
        np.copyto(noise, dither)
        noise *= DITHER
        scaled += noise
        np.floor(scaled, out=scaled)
        np.copyto(out_B, scaled, casting="unsafe")


def _signed(vector: Vector) -> npt.NDArray[Any]:
    """The same bytes as signed integers."""
    return vector.view(np.int32 if vector.itemsize == 4 else np.int16)


def _merged(sizes_T: Sequence[int], clips_T: Sequence[float]) -> list[tuple[int, float]]:
    """Neighbouring tensors with one clip as one."""
    merged: list[tuple[int, float]] = []
    for size, clip in zip(sizes_T, clips_T, strict=True):
        if merged and merged[-1][1] == clip:
            merged[-1] = (merged[-1][0] + size, clip)
        else:
            merged.append((size, clip))
    return merged


def check_trailer(sum_V: Vector, count: int, profile: Profile, n_max: int) -> int:
    """Check an unmasked sum's trailer; returns the sum of the rounded weights.

    Raises:
        UnmaskError: If it is not that of a sum of ``count`` sites: the masks did not cancel.
    """
    weight, *values = (int(value) for value in sum_V[-profile.trailer :])
    if tuple(values) != profile.check_values(count):
        raise UnmaskError(f"the sum does not carry the check values of {count} sites: its masks did not cancel")
    if not 0 < weight <= count * profile.q_max(n_max):
        raise UnmaskError(f"the sum's weight {weight} cannot come from {count} sites")
    return weight


def decode_mean(
    sum_V: Vector,
    sizes_T: Sequence[int],
    clips_T: Sequence[float],
    *,
    total_weight: float,
    profile: Profile,
    n_max: int,
) -> F32:
    """The weighted mean of the updates from their integer sum, float32, shape ``(P,)``.

    Args:
        sum_V: The unmasked sum with its trailer.
        sizes_T: As in ``quantise``.
        clips_T: As in ``quantise``.
        total_weight: The sum of the sites' weights.
        profile: As in ``quantise``.
        n_max: As in ``quantise``.

    Guarantees:
        Apart from float32's own rounding, each element differs from the mean of the clipped updates by less than
        ``n * clip / (q_max * total_weight)``, with standard deviation at most half of ``sqrt(n)`` times that over n.
    """
    q_max = profile.q_max(n_max)
    signed = _signed(sum_V)
    mean_P = np.empty(sum(sizes_T), np.float32)
    start = 0
    for size, clip in _merged(sizes_T, clips_T):
        step = clip / (q_max * total_weight)
        for here in range(start, start + size, BLOCK):
            stop = min(here + BLOCK, start + size)
            # In float64: the integers have more digits than float32 keeps.
            np.multiply(signed[here:stop], step, out=mean_P[here:stop], dtype=np.float64, casting="unsafe")
        start += size
    return mean_P
