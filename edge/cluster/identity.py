"""A site's identity between its home, which may go with its pod, and the Secret that outlives it.

What is kept: who the site is (``site.toml``), its keys, its certificates, its part in secure aggregation. The keys of a
join that is on its way are kept, too, and before the centre hears of them: a pod that is killed between the centre's
yes and its own writing it down goes on with the same keys, and the one-time token counts once.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import tomli_w

from edge.home import Home, SiteFile
from fl.config import load, read_toml
from fl.errors import ConfigError
from fl.files import write_atomic

FILES: Mapping[str, str] = {
    "site.toml": "site.toml",
    "transport.key": "keys/transport.key",
    "node.key": "keys/node.key",
    "chain.pem": "certificates/chain.pem",
    "authorities.pem": "certificates/authorities.pem",
    "identity.key": "secagg/identity.key",
    "authority.pub": "secagg/authority.pub",
    "roster": "secagg/roster",
    "roster.json": "secagg/roster.json",
    "ledger.json": "secagg/ledger.json",
    "joining.token": "joining/token",
    "joining.transport.key": "joining/transport.key",
    "joining.node.key": "joining/node.key",
    "joining.identity.key": "joining/identity.key",
}
"""Names in the Secret, and where the file is in a site's home."""

LIVING = ("secagg/ledger.json", "secagg/roster", "secagg/roster.json")
"""What a home that outlived its pod has newer than the Secret."""


class Store(Protocol):
    """Where the files are kept: a Secret."""

    def read(self) -> dict[str, bytes]:
        """All files, by their names there."""

    def write(self, files: Mapping[str, bytes]) -> None:
        """All files, in place of what was there."""


def restore(home: Home, store: Store) -> bool:
    """Bring a home up to what is kept.

    Returns:
        Whether the site has joined, by what is kept or by what the home had.

    Raises:
        StorageError: If the home cannot be written.
    """
    kept = store.read()
    for name, content in kept.items():
        if name not in FILES:
            continue
        path = home.path / FILES[name]
        if path.exists() and (FILES[name] in LIVING or path.read_bytes() == content):
            continue
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, content, mode=0o600)
    return home.site_file.exists() and home.chain.exists()


def keep(home: Home, store: Store) -> bool:
    """Put what a home has into the store, if it is not there already.

    Returns:
        Whether anything was written.
    """
    found = {name: path.read_bytes() for name, path in _paths(home).items() if path.is_file()}
    if store.read() == found:
        return False
    store.write(found)
    return True


def mark(home: Home) -> str:
    """A word for the content of everything that is kept; another one when something has changed."""
    digest = hashlib.sha256()
    for name, path in _paths(home).items():
        if path.is_file():
            digest.update(f"{name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


def enrol(home: Home, store: Store, token: str | None, settings: Path | None, *, say: Callable[[str], None]) -> None:
    """Be the site that the store knows; else join with a token, and let the store know it.

    Args:
        home: The site's; made if needed.
        store: Where its identity is kept.
        token: A join token, needed once; afterwards it is not looked at.
        settings: Keys of ``site.toml`` that the chart decides; they replace what the file has.
        say: Called with a line for everything worth telling.

    Raises:
        ConfigError: If the site has not joined and there is no token, or a setting cannot be used.
        RefusedError: If the centre says no.
        StorageError: If the home or the store cannot be written.
    """
    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if restore(home, store):
        say("this site has joined before: its identity is in the Secret")
    else:
        if not token:
            hint = "make a token at the centre with fl site add, and put it into the Secret that the chart names"
            raise ConfigError("this site has not joined, and there is no join token", hint=hint)
        from edge.identity import join, prepare
        from fl.link.token import decode

        known = decode(token)
        prepare(known, home, new_keys=known.new_keys)
        keep(home, store)
        join(known, home, say=say, is_patient=True)
    apply_settings(home, settings)
    if keep(home, store):
        say("the site's identity is kept in the Secret")


def apply_settings(home: Home, settings: Path | None) -> None:
    """Put the chart's settings into ``site.toml``, where they replace what join or a former chart wrote.

    Raises:
        ConfigError: If one is unknown or out of its range, or would make it another site.
    """
    if settings is None:
        return
    site: dict[str, Any] = tomllib.loads(home.site_file.read_text(encoding="utf-8"))
    wanted = read_toml(settings)
    if wanted.get("id", site["id"]) != site["id"]:
        hint = "a join token for that site, and another Secret"
        raise ConfigError(f"{settings} is for site {wanted['id']!r}, and the Secret is {site['id']!r}'s", hint=hint)
    for key in [key for key in site if key not in wanted and key not in ("id", "gateways", "proxy")]:
        del site[key]  # a setting that the chart has dropped falls back to its default
    site |= wanted
    load(SiteFile, site)
    write_atomic(home.site_file, tomli_w.dumps(site), mode=0o600)


def _paths(home: Home) -> dict[str, Path]:
    return {name: home.path / place for name, place in FILES.items()}
