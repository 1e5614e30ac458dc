"""Keys of one attempt: X25519 pairs, the seeds that two sites share, and the encryption of shares."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fl.secagg.encoding import H, enc, kdf
from fl.secagg.errors import KeySubstitutionError, ShareError
from fl.secagg.shamir import SHARE_BYTES

CIPHERTEXT_BYTES = 2 * SHARE_BYTES + 16

NONCE = bytes(12)
"""Every share key encrypts one message, so its nonce is constant."""


def public_key(private: bytes | bytearray) -> bytes:
    """The X25519 public key of 32 private bytes."""
    return private_key(private).public_key().public_bytes_raw()


def private_key(private: bytes | bytearray) -> X25519PrivateKey:
    """The X25519 private key of 32 bytes."""
    return X25519PrivateKey.from_private_bytes(bytes(private))


def exchange(private: X25519PrivateKey, public: bytes, who: str) -> bytes:
    """The X25519 secret of two sites.

    Raises:
        KeySubstitutionError: If the public key is of small order, so that the secret would be known to all.
    """
    try:
        return private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as err:
        raise KeySubstitutionError(f"the site {who} advertised a key of small order") from err


def pair_seed(secret: bytes, suite: str, sid2: bytes, one: str, other: str) -> bytes:
    """The seed of the mask that two sites add and subtract."""
    return kdf(secret, suite, sid2, "pair", min(one, other), max(one, other))


def self_seed(secret: bytes, suite: str, sid2: bytes, site: str) -> bytes:
    """The seed of a site's own mask."""
    return kdf(secret, suite, sid2, "self", site)


def seal_share(
    secret: bytes, suite: str, sid: bytes, sender: str, receiver: str, self_share: bytes, key_share: bytes
) -> bytes:
    """Two shares for one receiver, encrypted and bound to session, sender and receiver."""
    key = kdf(secret, suite, sid, "share", sender, receiver)
    return AESGCM(key).encrypt(NONCE, self_share + key_share, enc(sid, sender, receiver))


def open_share(
    secret: bytes, suite: str, sid: bytes, sender: str, receiver: str, ciphertext: bytes
) -> tuple[bytes, bytes]:
    """The shares of the self mask and of the mask key that a sender dealt.

    Raises:
        ShareError: If the ciphertext was changed, swapped, or is of another session.
    """
    key = kdf(secret, suite, sid, "share", sender, receiver)
    try:
        plain = AESGCM(key).decrypt(NONCE, ciphertext, enc(sid, sender, receiver))
    except (InvalidTag, ValueError) as err:
        raise ShareError(f"the share that {sender} dealt to {receiver} does not open") from err
    if len(plain) != 2 * SHARE_BYTES:
        raise ShareError(f"the share that {sender} dealt to {receiver} has {len(plain)} bytes")
    return plain[:SHARE_BYTES], plain[SHARE_BYTES:]


def share_commitment(sid: bytes, kind: str, dealer: str, holder: str, share: bytes) -> bytes:
    """What a dealer publishes about each share, so that a wrong one can be told from a right one."""
    return H("commit", sid, kind, dealer, holder, share)


def self_hash(sid: bytes, site: str, secret: bytes) -> bytes:
    """What a site publishes about its self mask's secret."""
    return H("self", sid, site, secret)
