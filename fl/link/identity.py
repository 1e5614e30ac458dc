"""Who is who on the link: names in certificates, fingerprints that people compare, proofs that a site has its keys.

A site's certificate names it by a URI, ``urn:fedfleet:site:<id>``; the certificate inside a join token names the token,
``urn:fedfleet:enrol:<token id>``. Both are made by the transport authority and live for days.
"""

from __future__ import annotations

import dataclasses
import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fl.config import check_site_name
from fl.errors import ConfigError, RefusedError

SITE, ENROL = "urn:fedfleet:site:", "urn:fedfleet:enrol:"

GATEWAY_NAME = "gateway.fedfleet"
"""The name in the gateway's certificate, whatever its address is: the authority vouches for no other server."""

BACKDATED_S = 86_400
"""Certificates are valid from so long before they are made: a clock that is off is told in words, not by TLS."""

RENEW_AT = 2 / 3
"""Part of a certificate's life after which it is renewed."""

CLOCK_TOLERANCE_S = 300.0
"""Flower refuses what a site signed by a clock that is further off."""

CSR_BYTES, NODE_KEY_BYTES = 4096, 1024
"""A request or public key that is longer is not looked at."""


@dataclasses.dataclass(frozen=True, slots=True)
class Who:
    """Whom a certificate names."""

    kind: str
    """``site`` or ``enrol``."""
    name: str
    """The site's or the token's id."""


@dataclasses.dataclass(frozen=True, slots=True)
class PublicKeys:
    """The three public keys of a site."""

    transport: bytes
    """EC P-256, SubjectPublicKeyInfo in DER: the link's TLS."""
    node: bytes
    """EC P-384, PEM: what Flower's SuperNode signs with."""
    identity: bytes
    """Ed25519, 32 bytes: secure aggregation."""

    @property
    def fingerprint(self) -> str:
        """All three for people: 80 bits in groups of four, which the operator and the site's owner compare."""
        return short_fingerprint(b"".join(map(_digest, (self.transport, self.node, self.identity))))

    def statement(self, token_id: str) -> bytes:
        """What the node's and the identity key sign when a site joins; it fits this token and these keys only."""
        # Digests have one length, so nothing can be moved from one field to the next.
        parts = (token_id.encode(), self.transport, self.node, self.identity)
        return b"fedfleet join v1\0" + b"".join(map(_digest, parts))


def who(certificate: bytes) -> Who:
    """Whom a certificate (DER) names. Only its name is read: TLS has checked where it comes from.

    Raises:
        RefusedError: If it names no site and no token, or more than one.
    """
    try:
        loaded = x509.load_der_x509_certificate(certificate)
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, x509.ExtensionNotFound) as err:
        raise RefusedError("this certificate names no site") from err
    for kind, prefix in (("site", SITE), ("enrol", ENROL)):
        if len(uris) == 1 and uris[0].startswith(prefix):
            try:
                return Who(kind, check_site_name(uris[0].removeprefix(prefix)))
            except ConfigError as err:
                raise RefusedError(f"this certificate's name: {err.message}") from err
    raise RefusedError("this certificate names no site")


def sign_request(key: ec.EllipticCurvePrivateKey, site: str) -> bytes:
    """A request for a site's certificate (PKCS 10, DER), signed with the key that it is for."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, site)])
    uri = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(SITE + site)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).add_extension(uri, critical=False)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def read_request(csr: bytes, site: str) -> bytes:
    """The public key (SubjectPublicKeyInfo, DER) of a request for a site's certificate.

    Args:
        csr: The request, PKCS 10, DER.
        site: Who asks.

    Raises:
        RefusedError: If it is none, its signature does not fit, its key is not EC P-256, or it is for another site.
    """
    if len(csr) > CSR_BYTES:
        raise RefusedError(f"the certificate request has {len(csr)} bytes, at most {CSR_BYTES} are read")
    try:
        request = x509.load_der_x509_csr(csr)
        key = request.public_key()
        uris = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.UniformResourceIdentifier
        )
        fits = request.is_signature_valid
    except (ValueError, x509.ExtensionNotFound, TypeError) as err:
        raise RefusedError("the certificate request cannot be read") from err
    if not fits:
        raise RefusedError("the certificate request is not signed with the key that it is for")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RefusedError("the certificate request's key is not EC P-256")
    if uris != [SITE + site]:
        asked = ", ".join(uri.removeprefix(SITE)[:80] for uri in uris) or "nobody"
        raise RefusedError(f"the certificate request is for {asked!r}, but {site!r} asks")
    return spki(key)


def sign_statement(
    keys: PublicKeys, token_id: str, node: ec.EllipticCurvePrivateKey, identity: Ed25519PrivateKey
) -> tuple[bytes, bytes]:
    """The proofs of a site that joins: signatures of its node's and of its identity key."""
    statement = keys.statement(token_id)
    return node.sign(statement, ec.ECDSA(hashes.SHA256())), identity.sign(statement)


def check_statement(keys: PublicKeys, token_id: str, node_proof: bytes, identity_proof: bytes) -> None:
    """Check that who joins has the private keys.

    Raises:
        RefusedError: If a key cannot be used, or its proof does not fit.
    """
    statement = keys.statement(token_id)
    node = read_node_key(keys.node)
    try:
        node.verify(node_proof, statement, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as err:
        raise RefusedError("the site has not proved that it has the node's private key") from err
    try:
        Ed25519PublicKey.from_public_bytes(keys.identity).verify(identity_proof, statement)
    except (InvalidSignature, ValueError) as err:
        raise RefusedError("the site has not proved that it has the identity's private key") from err


def read_node_key(pem: bytes) -> ec.EllipticCurvePublicKey:
    """A node's public key, as Flower takes it.

    Raises:
        RefusedError: If it is not an EC key on a NIST curve, or not in the one form that Flower keeps.
    """
    try:
        key = serialization.load_pem_public_key(pem[:NODE_KEY_BYTES])
    except (ValueError, TypeError) as err:
        raise RefusedError("the node's public key cannot be read") from err
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1 | ec.SECP256R1):
        raise RefusedError("the node's public key is not an EC key on P-256 or P-384")
    if public_pem(key) != pem:  # one key, one text: else a site could bring another's key in other clothes
        raise RefusedError("the node's public key is not in its usual form")
    return key


def renew_at_s(certificate: bytes) -> float:
    """When a certificate (PEM, the first of a chain) is to be renewed, seconds since 1970."""
    loaded = x509.load_pem_x509_certificate(certificate)
    made_s = loaded.not_valid_before_utc.timestamp() + BACKDATED_S
    return made_s + RENEW_AT * (loaded.not_valid_after_utc.timestamp() - made_s)


def short_fingerprint(data: bytes) -> str:
    """80 bits of a SHA-256, in groups of four.

    Example:
        >>> short_fingerprint(b"")
        'e3b0-c442-98fc-1c14-9afb'
    """
    text = hashlib.sha256(data).hexdigest()[:20]
    return "-".join(text[start : start + 4] for start in range(0, 20, 4))


def certificate_fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate (DER), as ``openssl x509 -fingerprint -sha256`` writes it."""
    return _digest(certificate).hex(":").upper()


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as SubjectPublicKeyInfo, DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_pem(key: ec.EllipticCurvePublicKey) -> bytes:
    """A public key as SubjectPublicKeyInfo, PEM: the form in which Flower keeps a node's."""
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def clock_words(difference_s: float) -> str:
    """How far a site's clock is off, in words; empty when that does no harm.

    Args:
        difference_s: The site's clock minus the centre's.

    Example:
        >>> clock_words(-3600)
        "the site's clock is 1 h 00 min behind the centre's; Flower accepts at most 5 minutes"
        >>> clock_words(20)
        ''
    """
    if abs(difference_s) <= CLOCK_TOLERANCE_S:
        return ""
    minutes = round(abs(difference_s) / 60)
    size = f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
    side = "ahead of" if difference_s > 0 else "behind"
    return f"the site's clock is {size} {side} the centre's; Flower accepts at most 5 minutes"


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
