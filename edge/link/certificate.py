"""The site's transport certificate: read, checked, and what the link shows the gateway."""

from __future__ import annotations

import contextlib
import stat
import time
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge.home import Home
from fl.errors import ConfigError, RefusedError


def credentials(home: Home) -> grpc.ChannelCredentials:
    """The site's certificate and key, and whom it trusts.

    Raises:
        ConfigError: If a file is missing.
        RefusedError: If the certificate has run out.
    """
    try:
        chain, authorities = home.chain.read_bytes(), home.authorities.read_bytes()
        ends_s = x509.load_pem_x509_certificate(chain).not_valid_after_utc.timestamp()
        key = read_key(home.transport_key)
    except FileNotFoundError as err:
        raise ConfigError(f"no such file: {err.filename}", hint="fl site join TOKEN") from err
    except ValueError as err:
        raise ConfigError(f"{home.chain} is no certificate", hint="fl site join TOKEN") from err
    if time.time() > ends_s:
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(ends_s))
        raise RefusedError(f"this site's certificate ran out on {day}; the operator lets it in: fl site rejoin ID")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return grpc.ssl_channel_credentials(authorities, pem, chain)


def read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The site's transport key.

    Raises:
        ConfigError: If it is missing, open to others, or no EC key.
    """
    try:
        data, mode = path.read_bytes(), stat.S_IMODE(path.stat().st_mode)
    except OSError as err:
        raise ConfigError(f"cannot read {path}: {err.strerror}", hint="fl site join TOKEN") from err
    if mode & 0o077:
        raise ConfigError(f"the private key {path} is open to other users", hint=f"chmod 600 {path}")
    for load in (serialization.load_pem_private_key, serialization.load_ssh_private_key):
        with contextlib.suppress(ValueError, TypeError):
            key = load(data, password=None)
            if isinstance(key, ec.EllipticCurvePrivateKey):
                return key
    raise ConfigError(f"{path} is no private EC key")


def ends_s(home: Home) -> float | None:
    """Wall time at which the site's certificate runs out; ``None`` if there is none."""
    try:
        return x509.load_pem_x509_certificate(home.chain.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError):
        return None
