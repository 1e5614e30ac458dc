"""Shamir's secret sharing of 32-byte secrets over the prime 2**256 + 297.

The one piece of arithmetic of our own; everything else comes from ``cryptography``. Python's integers do not run in
constant time: a share is made and used on the machine that owns the secret, or by the server after it was revealed,
so what leaks is timing to a process on the same machine, which docs/secagg names as out of scope.

Shamir, How to share a secret, CACM 1979.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

PRIME = 2**256 + 297
SHARE_BYTES = 33
COEFFICIENT_BYTES = 48
"""Random bytes reduced to a coefficient; 16 more than the prime's, so the bias is below 2**-120."""

REDUCE_EVERY = 16
"""Horner steps between reductions: x has at most 13 bits, so numbers stay below 500 bits."""

Random = Callable[[int], bytes]
"""A source of secret random bytes with the signature of ``os.urandom``."""


def split(secret: bytes, threshold: int, count: int, random: Random) -> list[bytes]:
    """Shares of a secret, of which any ``threshold`` rebuild it and fewer say nothing.

    Args:
        secret: 32 bytes.
        threshold: t, from 1.
        count: How many shares; the holder with index ``i`` (from 1) gets ``shares[i - 1]``.
        random: Secret randomness.

    Returns:
        ``count`` shares of 33 bytes.
    """
    if len(secret) != 32 or not 1 <= threshold <= count:
        raise ValueError(f"cannot share {len(secret)} bytes among {count} with threshold {threshold}")
    noise = random(COEFFICIENT_BYTES * (threshold - 1))
    coefficients = [
        int.from_bytes(noise[start : start + COEFFICIENT_BYTES], "big") % PRIME
        for start in range(0, len(noise), COEFFICIENT_BYTES)
    ]
    coefficients.append(int.from_bytes(secret, "big"))
    return [evaluate(coefficients, x, PRIME).to_bytes(SHARE_BYTES, "big") for x in range(1, count + 1)]


def evaluate(coefficients: Sequence[int], x: int, prime: int) -> int:
    """A polynomial at ``x``, highest coefficient first, modulo a prime."""
    value = 0
    for start in range(0, len(coefficients), REDUCE_EVERY):
        for coefficient in coefficients[start : start + REDUCE_EVERY]:
            value = value * x + coefficient
        value %= prime
    return value


def lagrange_at_zero(points: Sequence[int], prime: int = PRIME) -> list[int]:
    """The factor of each share in the secret, for shares at these distinct points from 1."""
    if len(set(points)) != len(points) or min(points) < 1:
        raise ValueError("shares need distinct positive points")
    factors = []
    for point in points:
        top, bottom = 1, 1
        for other in points:
            if other != point:
                top = top * other % prime
                bottom = bottom * (other - point) % prime
        factors.append(top * pow(bottom, -1, prime) % prime)
    return factors


def combine(shares: Mapping[int, bytes], factors: Mapping[int, int]) -> int:
    """The secret as a number below the prime.

    Args:
        shares: By point, exactly threshold of them.
        factors: ``lagrange_at_zero`` of the same points.
    """
    return sum(int.from_bytes(share, "big") * factors[point] for point, share in shares.items()) % PRIME


def secret_bytes(number: int) -> bytes | None:
    """A combined secret as 32 bytes; ``None`` if shares were wrong and it does not fit."""
    return number.to_bytes(32, "big") if number < 2**256 else None
