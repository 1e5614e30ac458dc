"""The suites' stream ciphers, each able to start anywhere, and AES-CTR in the quickest way that this machine has.

OpenSSL computes GCM with the widest AES instructions of a processor, plain CTR often with narrower ones. GCM encrypts
in counter mode beside its check sum, so GCM over zeros, begun at the right counter, *is* the CTR stream, to the bit;
its tag is never asked for. Where that is faster, long streams are made so. Formula: NIST SP 800-38D, section 7.1.
"""

from __future__ import annotations

import functools
import time

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from fl.secagg.profiles import CHACHA_SUITE

BLOCK_BYTES = 128 << 10
"""What one call makes: this much keystream, and the stretch of the vector under it, stay in the second-level cache."""

LONG_BYTES = 1 << 20
"""From here on a stream is worth the 50 µs of finding GCM's starting value."""

GCM_MOST_BYTES = 1 << 35
"""Longer streams stay with CTR: GCM has a limit of its own, 2**36 - 32 bytes."""

_ZEROS = memoryview(bytes(BLOCK_BYTES))
_POLYNOMIAL = 1 << 128 | 0x87  # x^128 + x^7 + x^2 + x + 1


def cipher(key: bytes, offset_bytes: int, suite: str, *, length_bytes: int = 0) -> CipherContext:
    """The suite's stream cipher under a 32-byte key.

    Args:
        key: 32 bytes.
        offset_bytes: Where in the stream it starts, a multiple of 64.
        suite: Which cipher.
        length_bytes: How much will be read, if that is known. It decides the way, never the bytes.
    """
    assert offset_bytes % 64 == 0
    if suite == CHACHA_SUITE:
        counter = (offset_bytes // 64).to_bytes(8, "little")
        return Cipher(algorithms.ChaCha20(key, counter + bytes(8)), mode=None).encryptor()
    if length_bytes >= LONG_BYTES and offset_bytes + length_bytes <= GCM_MOST_BYTES and gcm_is_faster():
        return counter_through_gcm(key, offset_bytes)
    return _counter(key, offset_bytes)


def fill(context: CipherContext, out: memoryview) -> None:
    """Write the next ``len(out)`` bytes of keystream, at most a block.

    A cipher writes as many bytes as it was given and says nothing about a longer buffer, so what it wrote is
    checked: a byte left over would be a parameter without its mask.
    """
    written = context.update_into(_ZEROS[: len(out)], out)
    if written != len(out):
        raise RuntimeError(f"the cipher wrote {written} of {len(out)} bytes")


@functools.cache
def gcm_is_faster() -> bool:
    """Whether GCM makes a stream clearly faster than CTR on this machine, by a trial of a fraction of a millisecond."""
    contexts = {"ctr": _counter(bytes(32), 0), "gcm": counter_through_gcm(bytes(32), 0)}
    out, best_s = memoryview(bytearray(BLOCK_BYTES)), dict.fromkeys(contexts, 1.0)
    for _ in range(8):
        for name, context in contexts.items():
            before = time.perf_counter()
            fill(context, out)
            best_s[name] = min(best_s[name], time.perf_counter() - before)
    return best_s["gcm"] < 0.9 * best_s["ctr"]


def counter_through_gcm(key: bytes, offset_bytes: int) -> CipherContext:
    """AES-CTR from an offset below ``GCM_MOST_BYTES``, made by GCM.

    GCM takes its first counter from the IV by ``J0 = (IV * H + L) * H`` in GF(2**128), where ``H`` is the encrypted
    zero block and ``L`` the length of the IV, 128 bits; data begin at the counter after it. Solved for the IV:
    ``IV = (J0 / H + L) / H``.
    """
    hash_key = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(bytes(16))  # noqa: S305 - as GCM has it
    inverse = _inverse(_element(hash_key))
    before_first = (offset_bytes // 16 - 1) % 2**32  # GCM counts in the last 32 bits; ours need no more
    start = _element(bytes(12) + before_first.to_bytes(4, "big"))
    length = _element((128).to_bytes(16, "big"))
    return Cipher(
        algorithms.AES(key), modes.GCM(_block(_product(_product(start, inverse) ^ length, inverse)))
    ).encryptor()


def _counter(key: bytes, offset_bytes: int) -> CipherContext:
    return Cipher(algorithms.AES(key), modes.CTR((offset_bytes // 16).to_bytes(16, "big"))).encryptor()


def _element(block: bytes) -> int:
    """A block as a polynomial: GCM writes the lowest power first, an integer has it last."""
    return int(f"{int.from_bytes(block, 'big'):0128b}"[::-1], 2)


def _block(element: int) -> bytes:
    return int(f"{element:0128b}"[::-1], 2).to_bytes(16, "big")


def _product(one: int, other: int) -> int:
    product = 0
    while other:
        lowest = other & -other
        product ^= one * lowest  # a shift
        other ^= lowest
    while (size := product.bit_length()) > 128:
        product ^= _POLYNOMIAL << (size - 129)
    return product


def _inverse(element: int) -> int:
    """Euclid's algorithm for polynomials; the element is not zero (a hash key is, once in 2**128 keys)."""
    one, other, factor, co_factor = element, _POLYNOMIAL, 1, 0
    while one != 1:
        shift = one.bit_length() - other.bit_length()
        if shift < 0:
            one, other, factor, co_factor, shift = other, one, co_factor, factor, -shift
        one ^= other << shift
        factor ^= co_factor << shift
    return factor
