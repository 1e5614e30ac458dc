"""The registry of sites: who is let in, what their state is, what they sent. The gateway asks it with each message.

A site is let in by a certificate that this registry has issued to it and not ended. Looking that up takes
microseconds: what was found is remembered until the registry changes, which SQLite tells each process for itself
(``PRAGMA data_version``), so a revocation by ``fl site revoke`` holds for the next message.

States: ``invited`` (a token was made), ``active``, ``quarantined`` (may renew and report, gets no work), ``revoked``.
How a site gets from the first to the second is in ``server.enrolment``.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from fl.config import check_site_name
from fl.errors import ConfigError, RefusedError
from fl.link.identity import RENEW_AT
from fl.link.report import from_json
from fl.secagg.encoding import printable
from fl.secagg.roster import iso
from server.store import Store
from server.store.models import Certificate, Counter, Event, Key, Request, Site, Token
from server.store.rows import bump, find, live_key, note

KEPT_S = 90 * 86_400.0
"""How long a certificate stays in the store after its end."""


@dataclasses.dataclass(frozen=True, slots=True)
class Admitted:
    """A site whose certificate is valid now."""

    site: str
    number: int
    state: str
    """``active`` or ``quarantined``."""
    node_id: int
    """Its node at SuperLink; 0 while it is not registered there."""
    node_public_key: bytes
    """PEM, as registered at SuperLink."""
    certificate: str
    """SHA-256 of the certificate, in hexadecimal."""
    expires_s: float
    renew_at_s: float

    @property
    def renew_after_s(self) -> float:
        """Seconds until this certificate should be renewed; 0 at once."""
        return max(0.0, self.renew_at_s - time.time())


@dataclasses.dataclass(frozen=True, slots=True)
class SiteRecord:
    """What ``fl site list`` and ``show`` tell of a site. Times are seconds since 1970."""

    site: str
    state: str
    reason: str
    created_s: float
    seen_s: float | None
    node_id: int
    certificate_expires_s: float | None
    fingerprint: str
    """Of its three keys, or of those that wait for approval."""
    waiting: bool
    """Whether it asks to take part and an operator has to say yes."""
    release: str
    """Version of fedfleet at the site, as it last said; empty before it said anything."""
    report: dict[str, Any]
    up_bytes: int
    down_bytes: int
    calls: int


class Registry:
    """All sites. One object a process; its methods may be called from several threads.

    Args:
        store: Where they are kept.
        now: The clock, for tests.
    """

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self.store = store
        self.now = now
        self._known: dict[bytes, Admitted | RefusedError] = {}
        self._lock = threading.Lock()
        self._watch = store.watch()
        self._version: Any = None
        self._revision = -1
        self._seen: dict[str, tuple[float, str]] = {}
        self._counts: dict[tuple[str, int], list[int]] = {}

    # ---- what the gateway asks ----

    def site_of_certificate(self, der: bytes) -> Admitted:
        """Whose certificate this is.

        Args:
            der: The certificate that the client proved to have the key of.

        Raises:
            RefusedError: If it is unknown, ended or expired, in words for the site's owner.
        """
        with self._lock:
            version = self._watch.version()
            if version != self._version:
                revision = self._watch.revision()
                if revision != self._revision:
                    self._known.clear()
                self._version, self._revision = version, revision
            digest = hashlib.sha256(der).digest()
            found = self._known.get(digest) or self._find(digest)
        if isinstance(found, RefusedError):
            raise RefusedError(found.message)
        if self.now() > found.expires_s:
            raise RefusedError(
                f"the certificate of {found.site} expired at {iso(found.expires_s)}; {rejoin_words(found.site)}"
            )
        return found

    def changed(self) -> None:
        """Forget what was remembered: somebody changed the registry."""
        with self._lock:
            self._version = None
            self._revision = -1

    def node_of(self, site: str) -> int:
        """A site's node at SuperLink; 0 if it has none now.

        Raises:
            ConfigError: If there is no such site.
        """
        with self.store.read() as session:
            key = live_key(session, find(session, site).number, "node")
            return int(key.node_id or 0) if key else 0

    def seen(self, site: str, report: str = "") -> None:
        """Note that a site was heard of now, and what it reports (JSON). Written by ``flush``.

        Raises:
            RefusedError: If the report is too long, or not a JSON object.
        """
        if report:
            check_report(report)
        with self._lock:
            _, last = self._seen.get(site, (0.0, ""))
            self._seen[site] = (self.now(), report or last)

    def count(self, site: str, run_id: int, *, up: int, down: int, calls: int) -> None:
        """Add to what a site sent and got in a run (0: in none), in bytes and calls. Written by ``flush``."""
        with self._lock:
            entry = self._counts.setdefault((site, run_id), [0, 0, 0])
            for place, value in enumerate((up, down, calls)):
                entry[place] += value

    def flush(self) -> None:
        """Write what was seen and counted, in one transaction; the gateway calls it every few seconds.

        Raises:
            StorageError: If the disk is full; nothing of it is lost then.
        """
        with self._lock:
            seen, self._seen = self._seen, {}
            counts, self._counts = self._counts, {}
        if not seen and not counts:
            return
        try:
            with self.store.write() as session:
                numbers = {site.id: site.number for site in session.scalars(select(Site))}
                for site, (at_s, report) in seen.items():
                    values: dict[str, object] = {"seen_s": at_s, **({"report": report} if report else {})}
                    session.execute(update(Site).where(Site.id == site).values(**values))
                for (site, run_id), (up, down, calls) in counts.items():
                    if site in numbers:
                        _add(session, numbers[site], str(run_id), up, down, calls)
        except BaseException:
            with self._lock:
                for site, entry in seen.items():
                    self._seen.setdefault(site, entry)
            for (site, run_id), (up, down, calls) in counts.items():
                self.count(site, run_id, up=up, down=down, calls=calls)
            raise

    def tidy(self) -> None:
        """Forget certificates that ended long ago."""
        old_s = self.now() - KEPT_S
        with self.store.write() as session:
            wanted = select(Request.certificate).where(Request.certificate.is_not(None))
            session.execute(delete(Certificate).where(Certificate.expires_s < old_s, Certificate.sha256.not_in(wanted)))

    # ---- what operators do ----

    def all(self) -> list[SiteRecord]:
        """All sites, by id."""
        with self.store.read() as session:
            return [self._record(session, site) for site in session.scalars(select(Site).order_by(Site.id))]

    def show(self, site: str) -> SiteRecord:
        """One site.

        Raises:
            ConfigError: If there is no such site.
        """
        with self.store.read() as session:
            return self._record(session, find(session, site))

    def events(self, site: str) -> list[tuple[float, str, str]]:
        """What happened to a site: when, what, and words; the oldest first."""
        with self.store.read() as session:
            number = find(session, site).number
            rows = session.scalars(select(Event).where(Event.site == number).order_by(Event.number))
            return [(row.at_s, row.what, row.words) for row in rows]

    def quarantine(self, site: str, reason: str) -> None:
        """Give a site no more work; it stays connected.

        Raises:
            ConfigError: If there is no such site, or it is not active.
        """
        self._set_state(site, {"active"}, "quarantined", reason)

    def release(self, site: str) -> None:
        """End a quarantine.

        Raises:
            ConfigError: If there is none.
        """
        self._set_state(site, {"quarantined"}, "active", "")

    def revoke(self, site: str, reason: str) -> None:
        """Let a site in no longer, from its next message on; its keys are not taken again.

        Raises:
            ConfigError: If there is no such site, or it is revoked.
        """
        with self.store.write() as session:
            row = find(session, site)
            if row.state == "revoked":
                raise ConfigError(f"{site} was revoked at {iso(row.changed_s)}", hint=f"fl site rejoin {site}")
            self._change(session, row, "revoked", reason)
            words = f"{site} was revoked at {iso(self.now())}" + (f": {reason}" if reason else "")
            self.end_everything(session, row, words)

    def rename(self, site: str, new: str) -> None:
        """Give a site another id. It has to join again under it, with new keys: Flower takes a node's key only once.

        Raises:
            ConfigError: If there is no such site, or another with that id.
        """
        check_site_name(new)
        with self.store.write() as session:
            row = find(session, site)
            if session.scalar(select(Site).where(Site.id == new)):
                raise ConfigError(f"there is a site {new}", hint="fl site list")
            self.end_everything(session, row, f"{site} was renamed to {new} at {iso(self.now())}")
            note(session, row.number, self.now(), "renamed", f"from {site} to {new}")
            row.id, row.state, row.reason, row.changed_s = new, "invited", "", self.now()

    # ---- shared with server.enrolment and server.membership ----

    def identities(self) -> dict[str, bytes]:
        """Identity key of each site that may take part, by id: what the roster should say."""
        with self.store.read() as session:
            rows = session.execute(
                select(Site.id, Key.public)
                .join(Key, Key.site == Site.number)
                .where(Site.state.in_(("active", "quarantined")), Key.kind == "identity", Key.until_s.is_(None))
            )
            return dict(rows.all())

    def end_everything(self, session: Session, row: Site, words: str) -> None:
        """End all certificates, keys, tokens and waiting requests of a site, with words for its owner."""
        now_s = self.now()
        ended = {"ended_s": now_s, "ended_why": words}
        session.execute(
            update(Certificate).where(Certificate.site == row.number, Certificate.ended_s.is_(None)).values(**ended)
        )
        session.execute(update(Key).where(Key.site == row.number, Key.until_s.is_(None)).values(until_s=now_s))
        open_tokens = update(Token).where(Token.site == row.number, Token.withdrawn_s.is_(None))
        session.execute(open_tokens.values(withdrawn_s=now_s))
        session.execute(
            update(Request)
            .where(Request.site == row.number, Request.state == "waiting")
            .values(state="refused", reason=words, decided_s=now_s)
        )
        bump(session)

    def _set_state(self, site: str, allowed: set[str], state: str, reason: str) -> None:
        with self.store.write() as session:
            row = find(session, site)
            if row.state not in allowed:
                raise ConfigError(f"{site} is {row.state}, not {' or '.join(sorted(allowed))}")
            self._change(session, row, state, reason)
            bump(session)

    def _change(self, session: Session, row: Site, state: str, reason: str) -> None:
        row.state, row.reason, row.changed_s = state, reason, self.now()
        note(session, row.number, self.now(), state, reason)

    def _find(self, digest: bytes) -> Admitted | RefusedError:
        """What a certificate is good for now, remembered if this registry issued it."""
        with self.store.read() as session:
            certificate = session.get(Certificate, digest.hex())
            if certificate is None:
                return RefusedError("this certificate was not issued by this centre's registry")
            row = session.get_one(Site, certificate.site)
            found: Admitted | RefusedError
            if certificate.ended_s is not None or row.state not in ("active", "quarantined"):
                why = certificate.ended_why or f"the site {row.id} is {row.state}"
                found = RefusedError(f"{why}; {rejoin_words(row.id)}")
            else:
                node = live_key(session, row.number, "node")
                found = Admitted(
                    site=row.id,
                    number=row.number,
                    state=row.state,
                    node_id=int(node.node_id or 0) if node else 0,
                    node_public_key=node.public if node else b"",
                    certificate=certificate.sha256,
                    expires_s=certificate.expires_s,
                    renew_at_s=certificate.issued_s + RENEW_AT * (certificate.expires_s - certificate.issued_s),
                )
        self._known[digest] = found
        return found

    def _record(self, session: Session, site: Site) -> SiteRecord:
        node = live_key(session, site.number, "node")
        expires_s = session.scalar(
            select(func.max(Certificate.expires_s)).where(
                Certificate.site == site.number, Certificate.ended_s.is_(None)
            )
        )
        latest = session.scalar(
            select(Request).where(Request.site == site.number).order_by(Request.asked_s.desc()).limit(1)
        )
        sums = session.execute(
            select(func.sum(Counter.up_bytes), func.sum(Counter.down_bytes), func.sum(Counter.calls)).where(
                Counter.site == site.number
            )
        ).one()
        report = json.loads(site.report) if site.report else {}
        facts = report.get("facts")
        release = facts.get("fedfleet") if isinstance(facts, dict) else None
        return SiteRecord(
            site=site.id,
            state=site.state,
            reason=site.reason,
            created_s=site.created_s,
            seen_s=site.seen_s,
            node_id=int(node.node_id or 0) if node else 0,
            certificate_expires_s=expires_s,
            fingerprint=latest.fingerprint if latest else "",
            waiting=latest is not None and latest.state == "waiting",
            release=printable(str(release or (latest.version if latest else "")), 64),
            report=report,
            up_bytes=int(sums[0] or 0),
            down_bytes=int(sums[1] or 0),
            calls=int(sums[2] or 0),
        )


def check_report(report: str) -> None:
    """Refuse a report that is none, or too long.

    Raises:
        RefusedError: If it is.
    """
    try:
        from_json(report)
    except (ValueError, RecursionError) as err:
        raise RefusedError(f"the report cannot be used: {printable(str(err), 200)}") from err


def _add(session: Session, number: int, run_id: str, up: int, down: int, calls: int) -> None:
    row = session.get(Counter, (number, run_id))
    if row is None:
        session.add(Counter(site=number, run_id=run_id, up_bytes=up, down_bytes=down, calls=calls))
    else:
        row.up_bytes, row.down_bytes, row.calls = row.up_bytes + up, row.down_bytes + down, row.calls + calls


def rejoin_words(site: str) -> str:
    """What a site's owner is told to do."""
    return f"ask the operator for a token: fl site rejoin {site}"
