"""Keys and a roster for sites inside one process: real ones, made for the run and gone with it."""

from __future__ import annotations

import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl.rounds.secure import Credentials
from fl.rounds.secure_site import AUTHORITY, IDENTITY, SecureSite
from fl.secagg.identity import Identity
from fl.secagg.roster import Entry, Roster, sign_roster
from fl.secagg.storage import write_private_key

DAY_S = 86_400


def secure_federation(directory: Path, names: list[str]) -> tuple[Credentials, dict[str, SecureSite]]:
    """The server's credentials and each site's part, with the sites' keys below ``directory``.

    A resumed run gets new keys; an attempt that was under way is begun anew.
    """
    authority = Identity("authority", Ed25519PrivateKey.generate())
    sites, entries = {}, {}
    for name in names:
        home = directory / name
        home.mkdir()
        key = Ed25519PrivateKey.generate()
        write_private_key(home / IDENTITY, key)
        (home / AUTHORITY).write_text(authority.public.hex())
        entries[name] = Entry(key.public_key().public_bytes_raw(), 1)
        sites[name] = SecureSite(home, {})
    now_s = int(time.time())
    roster = Roster(
        version=1, authority=authority.public, issued_s=now_s - 60, expires_s=now_s + 30 * DAY_S, sites=entries
    )
    server = Identity("aggregator", Ed25519PrivateKey.generate())
    credentials = Credentials(identity=server, roster=sign_roster(roster, authority), authority=authority.public)
    return credentials, sites
