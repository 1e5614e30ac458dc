"""Named parameter sets and cipher suites. A profile is chosen by name; its numbers are not options.

``standard`` has 32-bit integers: 4 bytes a parameter, error far below float32's own. ``packed16`` has 16-bit ones:
half the bytes, for up to 128 sites, with a rounding error that training tolerates (docs/secagg). ``tests_only``
switches to the sparse mask graph at a dozen sites with a bound of 2**-6, so that tests reach that code; a site
refuses it unless its policy says otherwise.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.config import unknown
from fl.secagg.errors import RingError

Vector = npt.NDArray[np.uint32] | npt.NDArray[np.uint16]

CANARY = 0x01234567
AES_SUITE = "X25519-Ed25519-HKDFSHA256-AES256GCM-AES256CTR"
CHACHA_SUITE = "X25519-Ed25519-HKDFSHA256-AES256GCM-CHACHA20"
SUITES = (AES_SUITE, CHACHA_SUITE)
"""Cipher suites; they differ in the mask stream only. ChaCha20 is for processors without AES instructions."""

MAX_SITES = 4096
"""Largest cohort: shares are dense, so the key plane grows with its square."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One parameter set.

    Attributes:
        name: What configuration files call it.
        ring_bits: b; the sum is taken modulo ``2**ring_bits``.
        q_min: The smallest largest quantised value that still carries an update.
        canaries: How many check values stand at the end of the vector.
        sparse_above: Above this many sites the mask graph is sparse.
        graph_bits: The sparse graph fails with probability at most ``2**-graph_bits``.
    """

    name: str
    ring_bits: int
    q_min: int
    canaries: int
    sparse_above: int = 256
    graph_bits: int = 40

    @property
    def dtype(self) -> np.dtype[Any]:
        """The integer type of a vector, little-endian on the wire."""
        return np.dtype("<u4") if self.ring_bits == 32 else np.dtype("<u2")

    @property
    def largest(self) -> int:
        """The largest value that the ring holds as a signed integer."""
        return (1 << (self.ring_bits - 1)) - 1

    @property
    def trailer(self) -> int:
        """Elements behind the parameters: weight, count, canaries."""
        return 2 + self.canaries

    @property
    def max_sites(self) -> int:
        """How many sites the ring has room for."""
        return min(MAX_SITES, self.largest // self.q_min)

    def q_max(self, n_max: int) -> int:
        """The largest quantised value of one site, such that ``n_max`` of them cannot overflow.

        Raises:
            RingError: If that many sites do not fit, naming the limit.
        """
        if n_max > self.max_sites:
            raise RingError(
                f"{n_max} sites, the profile {self.name} has room for {self.max_sites}",
                hint='invite fewer sites a round, or use profile = "standard"',
            )
        return self.largest // n_max

    def check_values(self, count: int) -> tuple[int, ...]:
        """What the trailer behind the weight must hold in a sum of ``count`` sites: the count and the canaries."""
        modulus = 2**self.ring_bits
        return (count % modulus, *(CANARY * (1 + k) * count % modulus for k in range(self.canaries)))


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(name="standard", ring_bits=32, q_min=2**16, canaries=1),
        Profile(name="packed16", ring_bits=16, q_min=255, canaries=3),
        Profile(name="tests_only", ring_bits=32, q_min=2**16, canaries=1, sparse_above=11, graph_bits=6),
    )
}


def profile_named(name: str) -> Profile:
    """The profile of that name.

    Raises:
        ConfigError: If there is none, naming the nearest.
    """
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    return PROFILES[name]
