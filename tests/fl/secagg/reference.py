"""A second implementation of fl-secagg/v1's arithmetic: slow, obvious, from the specification alone.

It imports nothing of ``fl.secagg``. Keys come from hmac and hashlib, streams from one AES block at a time, polynomials
from Fractions-free textbook sums. Only X25519 and the AES block come from a library.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

P = 2**256 + 297
SUITE = "X25519-Ed25519-HKDFSHA256-AES256GCM-AES256CTR"


def field(value: object) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    data = data.to_bytes(8, "big") if isinstance(data, int) else data
    assert isinstance(data, bytes)
    return len(data).to_bytes(4, "big") + data


def enc(*values: object) -> bytes:
    return b"".join(field(value) for value in values)


def sha(label: str, *values: object) -> bytes:
    return hashlib.sha256(enc(label, *values)).digest()


def hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, one block of output."""
    pseudorandom = hmac.new(salt or bytes(32), key, hashlib.sha256).digest()
    return hmac.new(pseudorandom, info + b"\x01", hashlib.sha256).digest()


def kdf(key: bytes, salt: bytes, *info: object) -> bytes:
    return hkdf(key, salt, enc("fl-secagg/v1", SUITE, *info))


def aes_ctr(key: bytes, size: int) -> bytes:
    """Counter mode from single blocks, counter from zero, most significant byte first."""
    block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # one block at a time, by hand
    return b"".join(block.update(number.to_bytes(16, "big")) for number in range(-(-size // 16)))[:size]


def stream(seed: bytes, label: str, count: int, bits: int) -> list[int]:
    """The first integers of a mask stream, within its first segment."""
    width = bits // 8
    data = aes_ctr(kdf(seed, b"", "segment", label, 0), count * width)
    return [int.from_bytes(data[start : start + width], "little") for start in range(0, len(data), width)]


def exchange(private: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def session_id(config: bytes, keys: Sequence[tuple[str, bytes, bytes, bytes]]) -> bytes:
    """From (site, mask key, channel key, nonce commitment) of every site in order."""
    return sha("sid", sha("cfg", config), *(part for entry in sorted(keys) for part in entry))


def masked(
    quantised: Sequence[int],
    bits: int,
    label: str,
    site: str,
    self_secret: bytes,
    private: bytes,
    others: dict[str, bytes],
    sid2: bytes,
) -> list[int]:
    """y_u = q_u + PRG(self) + sum of sgn(u, v) PRG(s_uv), from the formula, element by element."""
    masks = [(1, stream(kdf(self_secret, sid2, "self", site), label, len(quantised), bits))]
    for other, public in others.items():
        first, second = sorted((site, other))
        seed = kdf(exchange(private, public), sid2, "pair", first, second)
        masks.append((1 if site == first else -1, stream(seed, label, len(quantised), bits)))
    return [(value + sum(sign * mask[k] for sign, mask in masks)) % 2**bits for k, value in enumerate(quantised)]


def rebuild(shares: dict[int, bytes]) -> int:
    """Lagrange's formula at zero."""
    total = 0
    for x, share in shares.items():
        term = int.from_bytes(share, "big")
        for other in shares:
            if other != x:
                term = term * -other * pow(x - other, -1, P) % P
        total += term
    return total % P
