"""The transport authority: who may speak to the gateway, and who is the gateway. Nothing else is signed with it.

In the directory ``ca/`` of the server's home, 0700::

    0001.crt  0001.key  0001.json     the first authority, with when it begins to vouch for the gateway
    0002.crt  …                       its successor

Rotation overlaps. A new authority signs sites' certificates at once, because the gateway trusts all of them; it signs
the gateway's certificate only after the longest life of a site's certificate, because by then each site that is alive
has renewed and got to know it. With that its predecessor is no longer trusted and its key is erased. All of this
follows from the files and the clock; nobody has to be there at the right time.

Signing is not admitting: the gateway lets in only certificates that the registry (``server.sites``) has issued and not
revoked. So a stolen authority key lets nobody in; it lets its thief play the gateway until the authority is rotated.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import time
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fl.errors import ConfigError
from fl.files import Lock, write_atomic
from fl.link.identity import BACKDATED_S, ENROL, GATEWAY_NAME, RENEW_AT, SITE, certificate_fingerprint, renew_at_s
from server import certificates

DAY_S = 86_400.0
LIFE_DAYS = 1825
"""Five years; a successor is made after two thirds of it."""

HERE = ("localhost", "127.0.0.1", "::1")


@dataclasses.dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was just signed."""

    der: bytes
    expires_s: float
    authority: int

    @property
    def pem(self) -> bytes:
        """The certificate as text."""
        return certificates.pem(x509.load_der_x509_certificate(self.der))


@dataclasses.dataclass(frozen=True, slots=True)
class Authority:
    """One authority."""

    number: int
    certificate: x509.Certificate
    serves_from_s: float
    """From when on it signs the gateway's certificate; seconds since 1970."""

    @property
    def der(self) -> bytes:
        """Its certificate."""
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of its certificate, for people."""
        return certificate_fingerprint(self.der)

    @property
    def expires_s(self) -> float:
        """End of its life."""
        return self.certificate.not_valid_after_utc.timestamp()


class TransportCA:
    """The authorities in a directory. Every method reads the directory, so processes need not tell each other.

    Args:
        directory: ``ca/`` in the server's home.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def create(self) -> Authority:
        """Make the first authority.

        Raises:
            ConfigError: If there is one.
            StorageError: If it cannot be written.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        if self.all():
            raise ConfigError(f"{self.directory} holds an authority", hint="fl server rotate-ca makes a successor")
        return self._make(1, serves_from_s=0.0, now_s=time.time())

    def all(self) -> list[Authority]:
        """All authorities that are there, the oldest first."""
        found = []
        for path in sorted(self.directory.glob("[0-9]*.json")):  # written last
            facts = json.loads(path.read_text())
            certificate = x509.load_pem_x509_certificate(path.with_suffix(".crt").read_bytes())
            found.append(Authority(int(path.stem), certificate, facts["serves_from_s"]))
        return found

    def trusted(self, now_s: float | None = None) -> list[Authority]:
        """Those that both ends trust now, the newest first.

        Raises:
            ConfigError: If there is none.
        """
        now_s = time.time() if now_s is None else now_s
        known = self.all()
        if not known:
            raise ConfigError(f"no authority in {self.directory}", hint="fl server init")
        serving = _serving(known, now_s)
        return [authority for authority in reversed(known) if authority.number >= serving.number]

    def bundle(self, now_s: float | None = None) -> bytes:
        """Certificates of the trusted ones, PEM, the newest first."""
        return b"".join(certificates.pem(authority.certificate) for authority in self.trusted(now_s))

    def serving(self, now_s: float | None = None) -> Authority:
        """The one that signs the gateway's certificate now; what a new site has to trust."""
        return self.trusted(now_s)[-1]

    def issue_site(self, site: str, public: bytes, *, days: float, now_s: float | None = None) -> Issued:
        """A client certificate that names a site.

        Args:
            site: Its id.
            public: Its key, SubjectPublicKeyInfo, DER.
            days: How long it lives.
            now_s: The present, for tests.
        """
        now_s = time.time() if now_s is None else now_s
        return self._issue_client(SITE + site, public, now_s, now_s + days * DAY_S)

    def issue_enrolment(self, token: str, *, until_s: float, now_s: float | None = None) -> tuple[Issued, bytes]:
        """A client certificate that names a join token, and its private key (32 bytes), which is kept nowhere else."""
        now_s = time.time() if now_s is None else now_s
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        issued = self._issue_client(ENROL + token, public, now_s, until_s)
        return issued, key.private_numbers().private_value.to_bytes(32, "big")

    def refresh_gateway(
        self, directory: Path, hosts: Sequence[str], *, days: float, now_s: float | None = None
    ) -> bool:
        """Make the gateway's certificate, or a new one when the old one is due, another host or authority serves.

        Args:
            directory: ``gateway/`` in the server's home: ``server.key``, made once, ``server.crt``, and
                ``authorities.pem``, whose certificates of sites it takes.
            hosts: Names and addresses under which sites reach it.
            days: How long it lives.
            now_s: The present, for tests.

        Returns:
            Whether there is a new one.

        Raises:
            StorageError: If it cannot be written.
        """
        now_s = time.time() if now_s is None else now_s
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        key_file, chain = directory / "server.key", directory / "server.crt"
        names = certificates.server_names((GATEWAY_NAME, *hosts, *HERE))
        authority, bundle, known = self.serving(now_s), self.bundle(now_s), directory / "authorities.pem"
        if not known.exists() or known.read_bytes() != bundle:
            write_atomic(known, bundle)
        if key_file.exists() and chain.exists() and _is_good(chain.read_bytes(), authority, names, now_s):
            return False
        if not key_file.exists():
            write_atomic(key_file, certificates.private_pem(ec.generate_private_key(ec.SECP256R1())), mode=0o600)
        certificate = certificates.issue(
            _load_key(key_file).public_key(),
            names,
            authority.certificate,
            self._key(authority),
            is_server=True,
            since=_time(now_s - BACKDATED_S),
            until=_time(min(now_s + days * DAY_S, authority.expires_s)),
        )
        write_atomic(chain, certificates.pem(certificate))
        return True

    def rotate(self, *, overlap_days: float, now_s: float | None = None) -> Authority:
        """Make a successor.

        Args:
            overlap_days: How long the old one goes on serving: at least the life of a site's certificate, so that no
                site has to join again. With 0 the old one is worth nothing from now on, and all sites do.
            now_s: The present, for tests.

        Raises:
            ConfigError: If a rotation is under way.
            BusyError: If another process rotates.
        """
        now_s = time.time() if now_s is None else now_s
        with Lock(self.directory / "lock", hint="another process rotates this authority"):
            newest = self.trusted(now_s)[0]
            if newest.serves_from_s > now_s and overlap_days > 0:
                raise ConfigError(
                    f"authority {newest.number} takes over at {_time(newest.serves_from_s):%Y-%m-%d %H:%M} UTC",
                    hint="wait for it; fl server rotate-ca --at-once if a key was stolen",
                )
            made = self._make(newest.number + 1, serves_from_s=now_s + overlap_days * DAY_S, now_s=now_s)
            self.tidy(now_s)
            return made

    def keep(self, *, overlap_days: float, now_s: float | None = None) -> Authority | None:
        """Make a successor when one is due, and erase what is no longer trusted. The gateway calls it every hour.

        Returns:
            The successor, if one was made.
        """
        now_s = time.time() if now_s is None else now_s
        newest = self.trusted(now_s)[0]
        made_s = newest.certificate.not_valid_before_utc.timestamp() + BACKDATED_S
        if now_s > made_s + RENEW_AT * (newest.expires_s - made_s):
            return self.rotate(overlap_days=overlap_days, now_s=now_s)
        self.tidy(now_s)
        return None

    def tidy(self, now_s: float | None = None) -> None:
        """Erase authorities that are no longer trusted, the private key first."""
        kept = {authority.number for authority in self.trusted(now_s)}
        for authority in self.all():
            if authority.number not in kept:
                for suffix in (".key", ".json", ".crt"):
                    self._path(authority.number, suffix).unlink(missing_ok=True)

    def _issue_client(self, uri: str, public: bytes, now_s: float, until_s: float) -> Issued:
        authority = self.trusted(now_s)[0]
        until_s = min(until_s, authority.expires_s)
        key = serialization.load_der_public_key(public)
        assert isinstance(key, ec.EllipticCurvePublicKey), "checked by fl.link.identity.read_request"
        certificate = certificates.issue(
            key,
            [x509.UniformResourceIdentifier(uri)],
            authority.certificate,
            self._key(authority),
            is_server=False,
            since=_time(now_s - BACKDATED_S),
            until=_time(until_s),
        )
        return Issued(certificate.public_bytes(serialization.Encoding.DER), float(int(until_s)), authority.number)

    def _make(self, number: int, *, serves_from_s: float, now_s: float) -> Authority:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = certificates.authority(
            key,
            "fedfleet transport authority",
            since=_time(now_s - BACKDATED_S),
            until=_time(now_s + LIFE_DAYS * DAY_S),
        )
        write_atomic(self._path(number, ".key"), certificates.private_pem(key), mode=0o600)
        write_atomic(self._path(number, ".crt"), certificates.pem(certificate))
        write_atomic(self._path(number, ".json"), json.dumps({"serves_from_s": serves_from_s}))
        return Authority(number, certificate, serves_from_s)

    def _key(self, authority: Authority) -> ec.EllipticCurvePrivateKey:
        return _load_key(self._path(authority.number, ".key"))

    def _path(self, number: int, suffix: str) -> Path:
        return self.directory / f"{number:04d}{suffix}"


def _serving(known: Sequence[Authority], now_s: float) -> Authority:
    """The newest whose time has come; the oldest that is left, should the clock have gone back."""
    return next((authority for authority in reversed(known) if authority.serves_from_s <= now_s), known[0])


def _is_good(chain: bytes, authority: Authority, names: Sequence[x509.GeneralName], now_s: float) -> bool:
    certificate = x509.load_pem_x509_certificate(chain)
    has = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return (
        certificate.issuer == authority.certificate.subject and list(has) == list(names) and now_s < renew_at_s(chain)
    )


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as err:
        raise ConfigError(f"cannot read the private key {path}: {err}") from err
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _time(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
