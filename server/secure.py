"""The local federation's part in secure aggregation: a throwaway authority, a roster of its sites, the server's key.

Elsewhere an operator keeps the authority's key away from the server (``fl roster``). Here both are on one computer
anyway, and all of it ends with the federation.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl.files import write_atomic
from fl.rounds.secure import AUTHORITY, IDENTITY, ROSTER
from fl.secagg.roster import Entry, Roster, sign_roster
from fl.secagg.storage import read_identity, read_public_key, write_private_key

AUTHORITY_KEY = "authority.key"
DAY_S = 86_400


def begin(directory: Path) -> Path:
    """Make the authority's and the server's keys, and return the file with the authority's public one."""
    directory.mkdir(mode=0o700)
    authority = Ed25519PrivateKey.generate()
    write_private_key(directory / AUTHORITY_KEY, authority)
    write_private_key(directory / IDENTITY, Ed25519PrivateKey.generate())
    write_atomic(directory / AUTHORITY, authority.public_key().public_bytes_raw().hex() + "\n")
    return directory / AUTHORITY


def sign(directory: Path, identities: Mapping[str, Path]) -> None:
    """Sign the roster of these sites, each with the file of its public key."""
    authority = read_identity(directory / AUTHORITY_KEY, "authority")
    now_s = int(time.time())
    roster = Roster(
        version=1,
        authority=authority.public,
        issued_s=now_s - 60,
        expires_s=now_s + 30 * DAY_S,
        sites={name: Entry(read_public_key(str(path)), 1) for name, path in identities.items()},
    )
    write_atomic(directory / ROSTER, sign_roster(roster, authority))
