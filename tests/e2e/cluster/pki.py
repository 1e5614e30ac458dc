"""Certificates and kubeconfigs of the test cluster: ``python pki.py DIRECTORY --node NAME --address ADDRESS``."""

from __future__ import annotations

import argparse
import base64
import datetime
import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFE = datetime.timedelta(days=30)
SERVICE = "10.96.0.1"
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


class Authority:
    """The cluster's own certificate authority, in a directory.

    Args:
        directory: Where keys (0600) and certificates go.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("fedfleet test cluster")
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        builder = self._builder(self._name, self._key)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        builder = builder.add_extension(usage, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False)
        self.certificate = builder.sign(self._key, hashes.SHA256())
        self._write("ca", self._key, self.certificate)

    def issue(self, file: str, user: str, group: str = "", names: Sequence[str] = ()) -> None:
        """A certificate for a server with these names, which is also a user of a group."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = self._builder(_name(user, group), key)
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(identifier, critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), False)
        self._write(file, key, builder.sign(self._key, hashes.SHA256()))

    def account_key(self) -> None:
        """The key that service-account tokens are signed with."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._write("accounts", key)
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        (self._directory / "accounts.pub").write_bytes(public)

    def kubeconfig(self, user: str, server: str) -> None:
        """A kubeconfig for a user whose certificate was issued."""
        text = {kind: base64.b64encode((self._directory / kind).read_bytes()).decode()
                for kind in ("ca.crt", f"{user}.crt", f"{user}.key")}  # fmt: skip
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": text["ca.crt"]}}],
            "users": [
                {
                    "name": user,
                    "user": {
                        "client-certificate-data": text[f"{user}.crt"],
                        "client-key-data": text[f"{user}.key"],
                    },
                }
            ],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": user}}],
            "current-context": "test",
        }
        path = self._directory / f"{user}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))

    def _builder(self, subject: x509.Name, key: Key) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + LIFE)
        )

    def _write(self, file: str, key: Key, certificate: x509.Certificate | None = None) -> None:
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
        path = self._directory / f"{file}.key"
        path.touch(mode=0o600)
        path.write_bytes(private)
        if certificate is not None:
            pem = certificate.public_bytes(serialization.Encoding.PEM)
            (self._directory / f"{file}.crt").write_bytes(pem)


def _name(user: str, group: str = "") -> x509.Name:
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _alternative(name: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(name)) if name[0].isdigit() else x509.DNSName(name)


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--node", required=True)
    parser.add_argument("--address", required=True)
    given = parser.parse_args()
    given.directory.mkdir(parents=True, mode=0o700)
    authority = Authority(given.directory)
    service = [f"kubernetes{rest}" for rest in ("", ".default", ".default.svc", ".default.svc.cluster.local")]
    authority.issue("apiserver", "kube-apiserver", names=["127.0.0.1", SERVICE, given.address, "localhost", *service])
    authority.issue("admin", "admin", "system:masters")
    authority.issue("controller-manager", "system:kube-controller-manager")
    authority.issue("scheduler", "system:kube-scheduler")
    authority.issue("kubelet", f"system:node:{given.node}", "system:nodes", [given.address, given.node, "127.0.0.1"])
    authority.issue("proxy", "system:kube-proxy")
    authority.account_key()
    for user in ("admin", "controller-manager", "scheduler", "kubelet", "proxy"):
        authority.kubeconfig(user, f"https://{given.address}:6443")


if __name__ == "__main__":
    main()
