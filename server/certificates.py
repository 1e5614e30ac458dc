"""A throwaway certificate authority for one life of a local federation, for loopback only.

The authority's private key is never written: it signs one server certificate and is forgotten, so nobody
can make a second one. Clients trust ``ca.crt``, which says nothing secret.
"""

from __future__ import annotations

import dataclasses
import datetime
import ipaddress
import secrets
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fl.files import write_atomic

# A federation on one computer that lives longer than this wants real certificates.
VALID_FOR = datetime.timedelta(days=30)
# Clocks of containers on one machine may differ a little.
VALID_SINCE = datetime.timedelta(minutes=5)
SECRET_BYTES = 32


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """Where the files lie, in one directory that only the owner can read."""

    directory: Path

    @property
    def ca(self) -> Path:
        """The authority's certificate, to be trusted by clients."""
        return self.directory / "ca.crt"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.directory / "server.crt"

    @property
    def key(self) -> Path:
        """The server's private key."""
        return self.directory / "server.key"

    @property
    def executor_secret(self) -> Path:
        """What the SuperLink and its executor share."""
        return self.directory / "executor.secret"


def create(directory: Path) -> Files:
    """Make an authority, a server certificate for this machine's loopback, and an executor secret.

    Args:
        directory: Made if needed, readable by the owner only; what lies there is replaced.

    Raises:
        StorageError: If they cannot be written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.chmod(0o700)
    files = Files(directory)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = _authority(ca_key)
    write_atomic(files.ca, _pem(ca))
    write_atomic(files.certificate, _pem(_server(key, ca, ca_key)))
    write_atomic(files.key, private_pem(key), mode=0o600)
    write_atomic(files.executor_secret, secrets.token_bytes(SECRET_BYTES), mode=0o600)
    return files


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as unencrypted PKCS 8 text."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    # The random part keeps a client from mixing up the authorities of two lives, which share their
    # subject's words.
    name = _name(f"fedfleet local authority {secrets.token_hex(4)}")
    return (
        _builder(name, name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def _server(
    key: ec.EllipticCurvePrivateKey, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _builder(_name("localhost"), ca.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(issuer, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - VALID_SINCE)
        .not_valid_after(now + VALID_FOR)
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


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
