"""How certificates are built: an authority, and what it signs for one end of TLS; and a throwaway pair for loopback."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# A server on loopback that lives longer than this wants real certificates.
VALID_FOR = datetime.timedelta(days=30)
# Clocks of containers on one machine may differ a little.
VALID_SINCE = datetime.timedelta(minutes=5)


def for_loopback(words: str, valid_for: datetime.timedelta = VALID_FOR) -> tuple[bytes, bytes, bytes]:
    """A throwaway authority's certificate, that of a server on this machine's loopback, and the server's key; all PEM.

    Args:
        words: What the authority is called.
        valid_for: How long they live.

    Guarantees:
        The authority's private key is forgotten here: it never signs a second certificate.
    """
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    since, until = now - VALID_SINCE, now + valid_for
    ca = authority(ca_key, words, since=since, until=until)
    names = server_names(("localhost", "127.0.0.1", "::1"))
    server = issue(key.public_key(), names, ca, ca_key, is_server=True, since=since, until=until)
    return pem(ca), pem(server), private_pem(key)


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS 8 text."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def authority(
    key: ec.EllipticCurvePrivateKey, name: str, *, since: datetime.datetime, until: datetime.datetime
) -> x509.Certificate:
    """A root that signs certificates of its own kind of end, and no further authorities.

    Args:
        key: Its key.
        name: Its common name; a random part keeps clients from mixing up two authorities with the same words.
        since: Beginning of its life.
        until: End of its life.
    """
    subject = _name(f"{name} {secrets.token_hex(4)}")
    return (
        _builder(subject, subject, key.public_key(), since, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def issue(
    public: ec.EllipticCurvePublicKey,
    names: Sequence[x509.GeneralName],
    ca: x509.Certificate,
    ca_key: ec.EllipticCurvePrivateKey,
    *,
    is_server: bool,
    since: datetime.datetime,
    until: datetime.datetime,
) -> x509.Certificate:
    """A certificate of an authority for one end of TLS.

    Args:
        public: Its key.
        names: Whom it names; the first is its common name too.
        ca: The authority's certificate.
        ca_key: The authority's key.
        is_server: Whether it is good for a server, or else for a client; never for both.
        since: Beginning of its life.
        until: End of its life.
    """
    usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
    return (
        _builder(_name(str(names[0].value)), ca.subject, public, since, until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def server_names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    """Hosts as names of a certificate: addresses as addresses, all else as DNS names."""
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate as text."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    since: datetime.datetime,
    until: datetime.datetime,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(since)
        .not_valid_after(until)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    # Strict verifiers (Python 3.13, BoringSSL) refuse an authority that does not name certificate signing.
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
