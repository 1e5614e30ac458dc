"""The messages of the five stages, as bytes with one encoding, and what their signatures cover.

A message is ``enc(protocol, kind, field, ...)``; ``decode`` accepts exactly the fields of its kind. Every reply ends
with the sender's signature over the fields before it and over the session it belongs to (``context``: the
configuration's hash, the session's id, or both with the model).

==============  =======================================  =================================================
stage           server to site                           site to server
==============  =======================================  =================================================
R0 advertise    ``Proposal``                             ``Advertisement``
R1 share        ``Keys``                                 ``Shares``
R2 mask         ``Masking``                              ``MaskedInput`` (and the masked vector beside it)
R3 agree        ``Survivors``                            ``Agreement``
R4 unmask       ``Agreements``                           ``Reveal``
any                                                      ``Refusal``
==============  =======================================  =================================================
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import typing
from collections.abc import Sequence
from typing import Any, ClassVar, Self

from fl.secagg.encoding import PROTOCOL, H, as_bytes, dec, dec_site, dec_text, enc
from fl.secagg.errors import DuplicateError, MessageError
from fl.secagg.identity import SIGNATURE_BYTES, Identity, verify

STAGES = ("advertise", "share", "mask", "agree", "unmask")
"""The stages R0 to R4, in order."""

MAX_BYTES = 64 << 20
"""Largest message: 4096 sites' shares with room to spare. The masked vector is not part of one."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message; subclasses list its fields, of the types ``bytes``, ``str`` and ``tuple[bytes, ...]``."""

    KIND: ClassVar[str]
    SIZES: ClassVar[dict[str, int]] = {}
    """Exact sizes of fields of bytes."""

    def encode(self) -> bytes:
        """The message's bytes."""
        return enc(PROTOCOL, self.KIND, *self._fields())

    def _fields(self) -> list[bytes]:
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        return [enc(*value) if isinstance(value, tuple) else as_bytes(value) for value in values]

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The message in these bytes.

        Raises:
            MessageError: If they are not a whole message of this kind.
        """
        if not isinstance(data, bytes) or len(data) > MAX_BYTES:
            raise MessageError(f"a {cls.KIND} message has at most {MAX_BYTES} bytes")
        parts = dec(data)
        if parts[:1] != [PROTOCOL.encode()]:
            raise MessageError(f"not a message of {PROTOCOL}")
        if parts[1:2] != [cls.KIND.encode()]:
            raise MessageError(f"another message where {cls.KIND} was expected")
        types = _types(typing.cast(Any, cls))
        if len(parts) != 2 + len(types):
            raise MessageError(f"a {cls.KIND} message has {len(types)} fields, {len(parts) - 2} came")
        values: dict[str, Any] = {}
        for (name, kind), part in zip(types, parts[2:], strict=True):
            if kind is str:
                values[name] = dec_site(part) if name == "site" else dec_text(part)
            elif kind is bytes:
                values[name] = part
                if name in cls.SIZES and len(part) != cls.SIZES[name]:
                    raise MessageError(f"{name} of a {cls.KIND} message has {len(part)} bytes, not {cls.SIZES[name]}")
            else:
                values[name] = tuple(dec(part))
        return cls(**values)


@functools.cache
def _types(cls: Any) -> list[tuple[str, Any]]:
    hints = typing.get_type_hints(cls)
    return [(field.name, hints[field.name]) for field in dataclasses.fields(cls)]


def kind_of(data: bytes) -> str:
    """The kind of a message, unchecked otherwise; empty if it has none, which decoding it then explains."""
    try:
        parts = dec(data) if len(data) <= MAX_BYTES else []
        return dec_text(parts[1]) if len(parts) > 1 and parts[0] == PROTOCOL.encode() else ""
    except MessageError:
        return ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SignedMessage(Message):
    """A site's reply: fields, and a signature over them in their context."""

    SIZES: ClassVar[dict[str, int]] = {"signature": SIGNATURE_BYTES}

    site: str
    signature: bytes = b""

    def signed(self, identity: Identity, context: bytes) -> Self:
        """The same message with its signature."""
        return dataclasses.replace(self, signature=identity.sign(self.KIND, *self._covered(context)))

    def check(self, public: bytes, context: bytes) -> None:
        """Check the signature.

        Raises:
            SignatureError: If it is not this site's over this message in this context.
        """
        verify(public, self.signature, f"site {self.site}", self.KIND, *self._covered(context))

    def _covered(self, context: bytes) -> list[bytes]:
        fields = dataclasses.replace(self, signature=b"")._fields()
        return [context, *fields]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Proposal(Message):
    """R0, to all sites: the configuration and the roster."""

    KIND: ClassVar[str] = "proposal"
    config: bytes
    roster: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Advertisement(SignedMessage):
    """R0, from a site: its keys of this attempt and the nonce's commitment; signed over the configuration."""

    KIND: ClassVar[str] = "advertise"
    SIZES: ClassVar[dict[str, int]] = {"signature": 64, "mask_key": 32, "channel_key": 32, "commitment": 32}
    mask_key: bytes
    channel_key: bytes
    commitment: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Keys(Message):
    """R1, to all sites: every advertisement as received, in the order of the sites' ids."""

    KIND: ClassVar[str] = "keys"
    advertisements: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shares(Message):
    """R1, from a site: its header, the encrypted shares for the others, and a commitment to every share.

    ``ciphertexts`` (82 bytes each) and ``commitments`` (64 each: self mask, mask key) stand in the order of the
    session's sites; a site's ciphertext for itself is zeros. The header's signature covers a hash of the commitments.
    """

    KIND: ClassVar[str] = "shares"
    header: bytes
    ciphertexts: bytes
    commitments: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SharesHeader(SignedMessage):
    """The signed part of R1: what the others need to know besides their own share."""

    KIND: ClassVar[str] = "share"
    SIZES: ClassVar[dict[str, int]] = {"signature": 64, "root": 32, "self_hash": 32, "nonce": 32}
    root: bytes
    self_hash: bytes
    nonce: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Masking(Message):
    """R2, to one site: headers of the sites that shared, each one's ciphertext for it, and the model's digest."""

    KIND: ClassVar[str] = "masking"
    SIZES: ClassVar[dict[str, int]] = {"model": 32}
    headers: tuple[bytes, ...]
    ciphertexts: bytes
    model: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MaskedInput(SignedMessage):
    """R2, from a site: the digest of its masked vector (which travels beside it) and its masked side vector."""

    KIND: ClassVar[str] = "mask"
    SIZES: ClassVar[dict[str, int]] = {"signature": 64, "digest": 32, "sharers": 32}
    digest: bytes
    side: bytes
    sharers: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Survivors(Message):
    """R3, to all survivors: who they are, what was hashed of the sharers, and the model."""

    KIND: ClassVar[str] = "survivors"
    SIZES: ClassVar[dict[str, int]] = {"sharers": 32, "model": 32}
    survivors: tuple[bytes, ...]
    sharers: bytes
    model: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Agreement(SignedMessage):
    """R3, from a site: its one signature over session, model, sharers and survivors."""

    KIND: ClassVar[str] = "agree"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Agreements(Message):
    """R4, to the survivors that agreed: all their agreements."""

    KIND: ClassVar[str] = "agreements"
    agreements: tuple[bytes, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reveal(SignedMessage):
    """R4, from a site: for each sharer 33 bytes, a share of its self mask, or of its mask key if it dropped."""

    KIND: ClassVar[str] = "reveal"
    shares: bytes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refusal(SignedMessage):
    """From a site, at any stage: which check failed, in words. Signed over the request that it refuses."""

    KIND: ClassVar[str] = "refusal"
    error: str
    reason: str
    hint: str


def refusal_context(request: bytes) -> bytes:
    """What a refusal is bound to: the request's bytes."""
    return H("request", request)


def agreement_context(sid2: bytes, config: bytes, model: bytes, sharers: bytes, survivors: Sequence[str]) -> bytes:
    """What an agreement covers: session and model (``sid2``), configuration, model, sharers, survivors."""
    return enc(sid2, config, model, sharers, names_hash("survivors", survivors))


def names_hash(label: str, sites: Sequence[str]) -> bytes:
    """A hash of a set of sites, in the order of their ids."""
    return H(label, *sorted(sites))


def ordered_names(names: Sequence[str], what: str) -> tuple[str, ...]:
    """Names that must come sorted and once each.

    Raises:
        DuplicateError: If one comes twice.
        MessageError: If they are out of order.
    """
    for before, after in itertools.pairwise(names):
        if before == after:
            raise DuplicateError(f"the site {before} stands twice among the {what}")
        if before > after:
            raise MessageError(f"the {what} are not in the order of their ids")
    return tuple(names)
