"""Who signs: a site's long-term Ed25519 key, and the checks of signatures.

The key says *who* takes part; it never encrypts anything, so losing it later reveals no earlier update.
"""

from __future__ import annotations

import dataclasses
import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fl.secagg.encoding import Field, enc
from fl.secagg.errors import SignatureError

KEY_BYTES = 32
SIGNATURE_BYTES = 64


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """A name and the private key that speaks for it: a site's, the aggregator's, the roster authority's."""

    name: str
    key: Ed25519PrivateKey = dataclasses.field(repr=False)

    @classmethod
    def from_seed(cls, name: str, seed: bytes) -> Identity:
        """The identity whose private key is these 32 bytes."""
        return cls(name, Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""
        return self.key.public_key().public_bytes_raw()

    def sign(self, label: str, *fields: Field) -> bytes:
        """A signature over labelled fields, 64 bytes."""
        return self.key.sign(enc(label, *fields))


def verify(public: bytes, signature: bytes, who: str, label: str, *fields: Field) -> None:
    """Check a signature over labelled fields.

    Raises:
        SignatureError: If it does not fit, naming ``who``.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, enc(label, *fields))
    except (InvalidSignature, ValueError) as err:
        raise SignatureError(f"the signature of {who} does not fit its {label} message") from err


def fingerprint(public: bytes) -> str:
    """A public key for people: the first 16 bytes of its SHA-256, in groups of four.

    Example:
        >>> fingerprint(bytes(32))
        '6668-7aad-f862-bd77-6c8f-c18b-8e9f-8e20'
    """
    text = hashlib.sha256(public).hexdigest()[:32]
    return "-".join(text[start : start + 4] for start in range(0, 32, 4))
