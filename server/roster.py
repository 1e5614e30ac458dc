"""The centre's copy of the roster: a draft made from the registry, and the signed roster that sites are given.

In ``secagg/`` of the server's home::

    authority.pub    public key of the roster authority; stands in every join token
    authority.key    only if ``fl server init --roster-key-here`` put it there: then changes are signed at once
    roster.json      the signed roster
    draft.roster     what the registry says and no signature covers yet; for ``fl roster sign`` where the key lies
    aggregator.key   what the aggregator signs receipts with
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl.errors import BusyError, ConfigError
from fl.files import Lock, write_atomic
from fl.rounds.secure import AUTHORITY, IDENTITY, ROSTER
from fl.secagg.errors import RosterRollbackError
from fl.secagg.roster import Entry, Roster, iso, read_roster, sign_roster
from fl.secagg.storage import read_identity, read_public_key, write_private_key

AUTHORITY_KEY, DRAFT = "authority.key", "draft.roster"
DAY_S = 86_400
PATIENCE_S = 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class Rosters:
    """The files of secure aggregation at the centre.

    Args:
        directory: ``secagg/`` in the server's home.
    """

    directory: Path

    def create(self, authority: bytes | None) -> bytes:
        """Make the directory and the aggregator's key.

        Args:
            authority: Public key of an authority whose private key is elsewhere; without it one is made here.

        Returns:
            The authority's public key.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self.directory / IDENTITY, *([] if authority else [self.directory / AUTHORITY_KEY])):
            if not path.exists():  # a making that was interrupted goes on
                write_private_key(path, Ed25519PrivateKey.generate())
        if authority is None:
            authority = read_identity(self.directory / AUTHORITY_KEY, "authority").public
        write_atomic(self.directory / AUTHORITY, authority.hex() + "\n")
        return authority

    @property
    def authority(self) -> bytes:
        """Public key of the roster authority.

        Raises:
            ConfigError: If the home has none.
        """
        return read_public_key(str(self.directory / AUTHORITY))

    @property
    def signs_here(self) -> bool:
        """Whether the authority's private key lies in this home."""
        return (self.directory / AUTHORITY_KEY).exists()

    @property
    def draft_file(self) -> Path:
        """What waits for a signature; there only while something does."""
        return self.directory / DRAFT

    def signed(self) -> bytes:
        """The signed roster; empty if there is none yet."""
        with contextlib.suppress(FileNotFoundError):
            return (self.directory / ROSTER).read_bytes()
        return b""

    def current(self) -> Roster | None:
        """What the signed roster says, if there is one."""
        data = self.signed()
        return read_roster(data, authority=self.authority) if data else None

    def update(self, identities: Callable[[], Mapping[str, bytes]], *, days: int = 365) -> str:
        """Bring the roster to what the registry says: signed here if the key is here, else as a draft.

        Args:
            identities: Asked for the identity key of each site that may take part, by id, once nobody else changes
                the roster. Sites that are missing are revoked; their entries stay.
            days: How long a roster that is signed here is valid.

        Returns:
            What happened, in words; empty if the roster says all of this already.
        """
        with self._alone():
            current, authority, now_s = self.current(), self.authority, int(time.time())
            version = current.version if current else 0
            before = current.sites if current else {}
            sites = merge(before, identities(), version + 1)
            if current and sites == dict(before) and now_s < current.expires_s - days * DAY_S // 3:
                self.draft_file.unlink(missing_ok=True)
                return ""
            draft = Roster(version=version, authority=authority, issued_s=now_s, expires_s=now_s, sites=sites)
            if not self.signs_here:
                if current and sites == dict(before):
                    return f"the roster expires on {iso(current.expires_s)}"
                write_atomic(self.draft_file, draft.body() + b"\n")
                return f"the roster waits for a signature: {self.draft_file}"
            signer = read_identity(self.directory / AUTHORITY_KEY, "authority")
            done = dataclasses.replace(draft, version=version + 1, expires_s=now_s + days * DAY_S)
            write_atomic(self.directory / ROSTER, sign_roster(done, signer))
            self.draft_file.unlink(missing_ok=True)
            return f"signed roster version {done.version} with {len(done.active())} sites"

    def install(self, data: bytes) -> Roster:
        """Take a roster that was signed elsewhere.

        Raises:
            RosterError: If it is not signed by this home's authority, expired, or not newer than the one here.
        """
        with self._alone():
            roster, current = read_roster(data, authority=self.authority), self.current()
            roster.check_time(time.time())
            if current and roster.version <= current.version and data != self.signed():
                raise RosterRollbackError(
                    f"this roster has version {roster.version}, the server has version {current.version}",
                    hint=f"sign the newest draft, {self.draft_file}",
                )
            write_atomic(self.directory / ROSTER, data)
            return roster

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the roster; several sites may join at once."""
        lock = Lock(self.directory / "lock", hint="another process changes the roster")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                lock.acquire()
                break
            except BusyError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        try:
            yield
        finally:
            lock.release()


def merge(before: Mapping[str, Entry], identities: Mapping[str, bytes], version: int) -> dict[str, Entry]:
    """The entries of the next roster: keys that appear get its version, sites that vanish stay as revoked ones.

    Raises:
        ConfigError: If a key would stand under two names; a renamed site has new keys.
    """
    sites: dict[str, Entry] = {}
    for site, entry in before.items():
        sites[site] = entry if site in identities else dataclasses.replace(entry, revoked=True)
    for site, key in identities.items():
        old = before.get(site)
        sites[site] = old if old and old.key == key and not old.revoked else Entry(key, version)
    keys = [entry.key for entry in sites.values()]
    if len(set(keys)) != len(keys):
        raise ConfigError("one identity key stands under two sites' names in the roster")
    return sites
