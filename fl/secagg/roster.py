"""The roster: which sites take part, with which identity keys, signed by an authority that the server is not.

A roster is a JSON document followed by one line ``signature <hex>``; the signature covers the received bytes before
that line. Sites pin the authority's public key and refuse an older version than they have seen, so a server can
neither invent a site nor bring a revoked one back.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Mapping
from typing import Any

from fl.config import SITE_NAME
from fl.secagg.documents import sign_document, text_of, verify_document
from fl.secagg.encoding import H
from fl.secagg.errors import (
    RosterError,
    RosterExpiredError,
    RosterRollbackError,
    RosterSignatureError,
    RosterSiteError,
    SignatureError,
)
from fl.secagg.identity import Identity, fingerprint

FORMAT = "fl-roster/v1"
LABEL = "roster"
MAX_BYTES = 4 << 20

CLOCK_TOLERANCE_S = 86_400
"""Clocks of authority, server and sites may differ by a day."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One site of the roster."""

    key: bytes
    """Its Ed25519 public key, 32 bytes."""

    epoch: int
    """The roster version in which this key appeared."""

    revoked: bool = False
    """Whether it may no longer take part."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Roster:
    """A roster's content."""

    version: int
    """Counts up with every signature."""

    authority: bytes
    """Public key of who signs it, 32 bytes."""

    issued_s: int
    """When it was signed, in seconds since 1970."""

    expires_s: int
    """Until when it may be used."""

    sites: Mapping[str, Entry]
    """By site id."""

    def active(self) -> list[str]:
        """Sites that may take part, sorted."""
        return sorted(site for site, entry in self.sites.items() if not entry.revoked)

    def key_of(self, site: str) -> bytes:
        """The identity key of a site.

        Raises:
            RosterSiteError: If the roster lacks it or has revoked it.
        """
        entry = self.sites.get(site)
        if entry is None:
            raise RosterSiteError(
                f"the site {site} is not in the roster", hint=f"fl roster add {site} KEY, then fl roster sign"
            )
        if entry.revoked:
            raise RosterSiteError(f"the site {site} was revoked in the roster")
        return entry.key

    def check_time(self, now_s: float) -> None:
        """Refuse a roster that is out of date, with a day's tolerance for clocks that differ.

        Raises:
            RosterExpiredError: If it is expired or from the future.
        """
        if now_s > self.expires_s + CLOCK_TOLERANCE_S:
            raise RosterExpiredError(
                f"the roster expired on {iso(self.expires_s)}", hint="fl roster sign, with the authority's key"
            )
        if now_s < self.issued_s - CLOCK_TOLERANCE_S:
            raise RosterExpiredError(
                f"the roster was signed on {iso(self.issued_s)}, which is not yet here", hint="set this machine's clock"
            )

    def body(self) -> bytes:
        """The JSON document, without a signature."""
        sites = {
            site: {"key": entry.key.hex(), "epoch": entry.epoch, "revoked": entry.revoked}
            for site, entry in sorted(self.sites.items())
        }
        document = {
            "format": FORMAT,
            "version": self.version,
            "authority": self.authority.hex(),
            "issued": iso(self.issued_s),
            "expires": iso(self.expires_s),
            "sites": sites,
        }
        return json.dumps(document, indent=1, ensure_ascii=True).encode()


def roster_hash(data: bytes) -> bytes:
    """What a session binds itself to: a hash of the roster's received bytes."""
    return H("roster", data)


def sign_roster(roster: Roster, authority: Identity) -> bytes:
    """The roster's bytes with the authority's signature.

    Raises:
        RosterSignatureError: If the key is not the one that the roster names.
    """
    if authority.public != roster.authority:
        raise RosterSignatureError(
            f"the roster names the authority {fingerprint(roster.authority)}, "
            f"this key is {fingerprint(authority.public)}"
        )
    return sign_document(roster.body(), authority, LABEL)


def read_roster(data: bytes, *, authority: bytes) -> Roster:
    """A signed roster.

    Args:
        data: Its bytes as received.
        authority: The pinned public key.

    Raises:
        RosterSignatureError: If it is unsigned, changed, or signed by another authority.
        RosterError: If it is no roster.
    """
    if text_of(data) == data:
        raise RosterSignatureError("the roster is not signed", hint="fl roster sign, with the authority's key")
    try:
        body = verify_document(data, authority, "the roster authority", LABEL)
    except SignatureError as err:
        raise RosterSignatureError(
            f"the roster is not signed by the pinned authority {fingerprint(authority)}"
        ) from err
    roster = parse_roster(body)
    if roster.authority != authority:
        raise RosterSignatureError("the roster names another authority than the one that signed it")
    return roster


def parse_roster(data: bytes) -> Roster:
    """A roster's content, whether it is signed or not (a draft).

    Raises:
        RosterError: If it is no roster.
    """
    body = text_of(data)
    if len(body) > MAX_BYTES:
        raise RosterError(f"the roster has {len(body)} bytes, at most {MAX_BYTES} are read")
    try:
        document = json.loads(body)
        if document.pop("format") != FORMAT:
            raise ValueError("another format")
        roster = Roster(
            version=_whole(document.pop("version")),
            authority=_key(document.pop("authority")),
            issued_s=_seconds(document.pop("issued")),
            expires_s=_seconds(document.pop("expires")),
            sites={name: _entry(name, entry) for name, entry in document.pop("sites").items()},
        )
        if document:
            raise ValueError(f"unknown keys {sorted(document)}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
        raise RosterError(f"not a roster of the format {FORMAT}: {_short(err)}") from err
    keys = [entry.key for entry in roster.sites.values()]
    if len(set(keys)) != len(keys):
        raise RosterError("two sites of the roster have one key")
    return roster


def check_newer(roster: Roster, digest: bytes, *, seen_version: int, seen_digest: bytes) -> None:
    """Refuse a roster that was rolled back.

    Raises:
        RosterRollbackError: If a newer version was seen, or another roster under this version.
    """
    if roster.version < seen_version:
        raise RosterRollbackError(f"the roster has version {roster.version}, version {seen_version} was seen before")
    if roster.version == seen_version and seen_digest and digest != seen_digest:
        raise RosterRollbackError(f"another roster of version {roster.version} was seen before")


def iso(seconds: float) -> str:
    """A time as text, in UTC."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(text: Any) -> int:
    return int(datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S%z").timestamp())


def _key(text: Any) -> bytes:
    key = bytes.fromhex(text)
    if len(key) != 32:
        raise ValueError("a key has 32 bytes")
    return key


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("not a whole number")
    return value


def _entry(name: str, entry: Any) -> Entry:
    if not SITE_NAME.fullmatch(name):
        raise ValueError("a site's id has letters, digits, dots, dashes and underscores")
    if not isinstance(entry["revoked"], bool):
        raise ValueError("revoked is true or false")
    return Entry(_key(entry["key"]), _whole(entry["epoch"]), entry["revoked"])


def _short(err: Exception) -> str:
    return " ".join(str(err).split())[:120] or type(err).__name__
