"""The join token: one printable line with everything that a site needs to ask to take part, once.

``fl1.`` and base64url of a ``JoinToken`` message behind the first four bytes of its SHA-256, which find a line that was
cut or mistyped. It holds a short-lived certificate and its private key, good for the gateway's Enrolment service only:
whoever has the line before the site has used it can ask in the site's name, so it travels like a password. What the
site believes (the authorities) comes from this line; what the centre believes comes from its own record of the token.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import hashlib
import re
import time

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError

from fl.config import check_site_name
from fl.errors import ConfigError, InputError
from fl.link.identity import Who, certificate_fingerprint, spki, who
from fl.link.link_pb2 import JoinToken as Message

PREFIX = "fl1."
CHECK_BYTES = 4
LONGEST = 16_384
ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """What a token's line holds."""

    id: str
    """Names the token in the centre's store; no secret."""

    site: str
    """Whom it lets ask."""

    expires_s: int
    """Seconds since 1970; the site has to ask for the first time before that."""

    gateways: tuple[str, ...]
    """Where the gateway listens, ``host:port``; tried in this order."""

    authorities: tuple[bytes, ...]
    """The transport authorities' certificates, DER: first the one that vouches for the gateway now, then its successor
    while one is about to take over."""

    certificate: bytes
    """The enrolment certificate, DER."""

    key: bytes = dataclasses.field(repr=False)
    """Its private key: P-256, 32 bytes."""

    roster_authority: bytes
    """Public key that signs rosters, Ed25519, 32 bytes; the site pins it."""

    new_keys: bool = False
    """Whether all keys of the site must be new: it is renamed, or was revoked."""

    @property
    def roots(self) -> bytes:
        """The authorities, PEM."""
        return b"".join(map(_pem, self.authorities))

    @property
    def certificate_pem(self) -> bytes:
        """The enrolment certificate, PEM."""
        return _pem(self.certificate)

    @property
    def private_key(self) -> ec.EllipticCurvePrivateKey:
        """The enrolment key."""
        return ec.derive_private_key(int.from_bytes(self.key, "big"), ec.SECP256R1())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the transport authority's certificate, to be compared with the operator's."""
        return certificate_fingerprint(self.authorities[0])

    def encode(self) -> str:
        """The line."""
        message = Message(
            id=self.id,
            site=self.site,
            expires_s=self.expires_s,
            gateways=self.gateways,
            authorities=self.authorities,
            certificate=self.certificate,
            key=self.key,
            roster_authority=self.roster_authority,
            new_keys=self.new_keys,
        ).SerializeToString(deterministic=True)
        return PREFIX + base64.urlsafe_b64encode(_check(message) + message).decode().rstrip("=")

    def check_time(self, now_s: float | None = None) -> None:
        """Refuse a token that is past its date by this machine's clock.

        Raises:
            ConfigError: If it is.
        """
        now_s = time.time() if now_s is None else now_s
        if now_s > self.expires_s:
            raise ConfigError(
                f"the join token for {self.site} expired at {_when(self.expires_s)}, "
                f"and this machine's clock says {_when(now_s)}",
                hint=f"ask the operator for another: fl site rejoin {self.site}",
            )


def decode(line: str) -> JoinToken:
    """What a line holds, once its parts have been found to fit each other.

    Raises:
        ConfigError: If it is no token, or damaged.
    """
    text = "".join(line.split())
    if not text.startswith(PREFIX):
        newer = re.match(r"fl\d+\.", text)
        what = "from a newer fedfleet" if newer else "no join token: it does not begin with fl1."
        raise ConfigError(f"this is {what}", hint="copy the whole line that fl site add printed")
    try:
        if len(text) > LONGEST:
            raise ValueError("too long")
        # Its own check comes first, so that what follows reads only what a centre has written, or an attacker.
        data = base64.b64decode(text[len(PREFIX) :] + "=" * (-(len(text) - len(PREFIX)) % 4), b"-_", validate=True)
        if _check(data[CHECK_BYTES:]) != data[:CHECK_BYTES]:
            raise ValueError("the check does not fit")
        message = Message.FromString(data[CHECK_BYTES:])
        token = JoinToken(
            id=check_site_name(message.id),
            site=check_site_name(message.site),
            expires_s=message.expires_s,
            gateways=tuple(check_address(address) for address in message.gateways),
            authorities=tuple(message.authorities),
            certificate=message.certificate,
            key=message.key,
            roster_authority=message.roster_authority,
            new_keys=message.new_keys,
        )
        _check_parts(token)
    except (ValueError, binascii.Error, DecodeError, InputError, InvalidSignature, TypeError) as err:
        hint = "copy the whole line that fl site add printed, or ask the operator for another token"
        raise ConfigError("the join token is damaged", hint=hint) from err
    return token


def check_address(address: str) -> str:
    """A gateway's address, if it is ``host:port``; an IPv6 host stands in brackets.

    Raises:
        ConfigError: If it is not.
    """
    found = ADDRESS.fullmatch(address)
    if not found or not 1 <= int(found[2]) <= 65_535:
        raise ConfigError(
            f"{address[:80]!r} is no address", hint="host:port, such as fl.example.org:443 or [2001:db8::1]:443"
        )
    return address


def _check_parts(token: JoinToken) -> None:
    """Refuse a token whose certificate is of another token, key or authority."""
    authorities = [x509.load_der_x509_certificate(der) for der in token.authorities]
    certificate = x509.load_der_x509_certificate(token.certificate)
    (authority,) = [one for one in authorities if one.subject == certificate.issuer]
    certificate.verify_directly_issued_by(authority)
    public = certificate.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or spki(public) != spki(token.private_key.public_key()):
        raise ValueError("another key")
    if who(token.certificate) != Who("enrol", token.id):
        raise ValueError("another token")
    if not token.gateways or len(token.roster_authority) != 32:
        raise ValueError("no gateway or no authority")


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM)


def _check(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:CHECK_BYTES]


def _when(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
