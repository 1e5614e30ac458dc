"""A site's session between two messages: what it holds, how that is sealed, and how it is erased.

Flower runs every message in a process of its own, so the state leaves the process; it does so only encrypted, under
a key that is kept elsewhere in the site's memory (``SiteSession.seal``).
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fl.secagg.errors import SealError
from fl.secagg.shamir import SHARE_BYTES, Random

OVER = 99
"""The stage of a session that ended or failed."""

LABEL = b"fl-secagg/v1 site session"
NONCE_BYTES = 12


@dataclasses.dataclass(slots=True)
class SiteState:
    """Everything that a session remembers.

    Secrets are bytearrays, so that they can be overwritten; copies that Python or a library made in passing cannot.
    """

    stage: int = 0
    """The next message's place in ``STAGES``; ``OVER`` after the last or a failed one."""

    config: bytes = b""
    roster: bytes = b""
    advertisement: bytes = b""
    keys: tuple[bytes, ...] = ()
    """All advertisements, as received."""

    headers: tuple[bytes, ...] = ()
    """Of the sites that shared, as received."""

    model: bytes = b""
    survivors: tuple[str, ...] = ()
    mask_private: bytearray = dataclasses.field(default_factory=bytearray, repr=False)
    channel_private: bytearray = dataclasses.field(default_factory=bytearray, repr=False)
    self_secret: bytearray = dataclasses.field(default_factory=bytearray, repr=False)
    nonce: bytearray = dataclasses.field(default_factory=bytearray, repr=False)
    shares: dict[str, bytearray] = dataclasses.field(default_factory=dict, repr=False)
    """What each dealer dealt to this site: share of the self mask, then of the mask key."""

    def erase(self) -> None:
        """Overwrite the secrets and end the session."""
        for secret in (self.mask_private, self.channel_private, self.self_secret, self.nonce, *self.shares.values()):
            secret[:] = bytes(len(secret))
        self.shares = {}
        self.stage = OVER

    def encode(self) -> bytes:
        """The state as bytes, secrets and all."""
        document: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, (bytes, bytearray)):
                value = value.hex()
            elif isinstance(value, dict):
                value = {dealer: share.hex() for dealer, share in value.items()}
            elif isinstance(value, tuple):
                value = [item.hex() if isinstance(item, bytes) else item for item in value]
            document[field.name] = value
        return json.dumps(document).encode()

    @classmethod
    def decode(cls, data: bytes) -> SiteState:
        """The state of ``encode``."""
        document = json.loads(data)
        secrets = ("mask_private", "channel_private", "self_secret", "nonce")
        values: dict[str, Any] = {"stage": document["stage"], "survivors": tuple(document["survivors"])}
        values |= {name: bytearray.fromhex(document[name]) for name in secrets}
        values |= {name: bytes.fromhex(document[name]) for name in ("config", "roster", "advertisement", "model")}
        values |= {name: tuple(bytes.fromhex(item) for item in document[name]) for name in ("keys", "headers")}
        shares = {dealer: bytearray.fromhex(share) for dealer, share in document["shares"].items()}
        return cls(**values, shares=shares)

    def share_of(self, dealer: str, *, of_self_mask: bool) -> bytes:
        """One of a dealer's two shares."""
        both = self.shares[dealer]
        return bytes(both[:SHARE_BYTES] if of_self_mask else both[SHARE_BYTES:])


def seal(state: SiteState, key: bytes, random: Random) -> bytes:
    """A state encrypted with AES-256-GCM under a random nonce."""
    nonce = random(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, state.encode(), LABEL)


def open_sealed(key: bytes, data: bytes) -> SiteState:
    """The state of ``seal``.

    Raises:
        SealError: If the key is another or the bytes were changed.
    """
    try:
        return SiteState.decode(AESGCM(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], LABEL))
    except (InvalidTag, ValueError) as err:
        raise SealError(
            "the sealed session does not open with this key", hint="the site waits for the next attempt"
        ) from err
