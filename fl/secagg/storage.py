"""Files of secure aggregation: private keys (only their owner may read them), public keys, rosters, ledgers.

The only module of the package that touches a disk.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl.errors import ConfigError, StorageError
from fl.files import write_atomic
from fl.secagg.errors import RosterError
from fl.secagg.identity import Identity
from fl.secagg.ledger import Ledger
from fl.secagg.roster import Roster, read_roster


def write_private_key(path: Path, key: Ed25519PrivateKey, password: bytes | None = None) -> None:
    """Write a private key as PKCS#8 PEM, encrypted if there is a password, readable by its owner only.

    Raises:
        StorageError: If a file is there already: a key is never overwritten.
    """
    if path.exists():
        raise StorageError(f"{path} exists; a key is never overwritten")
    how = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)
    write_atomic(path, pem, mode=0o600)


def read_identity(path: Path, name: str, password: bytes | None = None) -> Identity:
    """The identity whose private key is in a file.

    Raises:
        ConfigError: If it is missing, open to others, no Ed25519 key, or the password does not fit.
    """
    data = _read(path)
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"the private key {path} is open to other users", hint=f"chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(data, password)
    except TypeError as err:  # cryptography's word for a password too many or too few
        words = "needs no password" if password else "is encrypted and needs its password"
        raise ConfigError(f"the private key {path} {words}", hint="--password-file FILE") from err
    except (ValueError, InvalidKey) as err:
        raise ConfigError(f"{path} is not a private key that opens with this password") from err
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path} is not an Ed25519 key", hint="fl secagg key makes one")
    return Identity(name, key)


def read_public_key(text: str) -> bytes:
    """A public key from 64 hexadecimal digits, or from a file that holds them.

    Raises:
        ConfigError: If it is neither.
    """
    for candidate in (text, _read(Path(text)).decode(errors="replace") if Path(text).is_file() else ""):
        try:
            key = bytes.fromhex(candidate.strip())
        except ValueError:
            continue
        if len(key) == 32:
            return key
    raise ConfigError(
        f"{text!r} is neither 64 hexadecimal digits nor a file that holds them", hint="fl secagg key prints them"
    )


def load_roster(path: Path, authority: bytes) -> tuple[Roster, bytes]:
    """A signed roster and its bytes.

    Raises:
        RosterError: If it is missing, or cannot be trusted.
    """
    data = read_roster_file(path)
    return read_roster(data, authority=authority), data


def read_roster_file(path: Path) -> bytes:
    """A roster's bytes.

    Raises:
        RosterError: If the file is missing.
    """
    try:
        return path.read_bytes()
    except OSError as err:
        raise RosterError(f"cannot read the roster {path}: {err.strerror}", hint="fl roster init makes one") from err


def load_ledger(path: Path) -> Ledger:
    """A site's ledger; an empty one if there is no file yet.

    Raises:
        SecAggError: If it is damaged.
    """
    return Ledger.decode(_read(path)) if path.exists() else Ledger()


def save_ledger(path: Path, ledger: Ledger) -> None:
    """Store a site's ledger, durably: before the reply that it is about leaves the site.

    Raises:
        StorageError: If the disk is full or refuses.
    """
    write_atomic(path, ledger.encode(), mode=0o600)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as err:
        raise ConfigError(f"cannot read {path}: {err.strerror}") from err
