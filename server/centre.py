"""The centre as one object: registry, authority, roster and SuperLink's nodes, for the gateway and for commands.

The gateway keeps one open in a ``with`` block: a thread then writes counts, brings SuperLink's nodes in line and keeps
certificates fresh. A command makes one, changes something, and calls ``apply``.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from fl.errors import ConfigError, FLError, UnreachableError
from fl.link import link_pb2 as link
from fl.link.bundle import check_no_secrets
from fl.link.identity import clock_words
from server import enrolment, membership
from server.ca import TransportCA
from server.enrolment import Enrolment
from server.home import Home, ServerConfig
from server.roster import Rosters
from server.sites import Admitted, Registry

log = logging.getLogger(__name__)

FLUSH_EVERY_S, SYNC_EVERY_S, REFRESH_EVERY_S, TIDY_EVERY_S = 2.0, 15.0, 600.0, 86_400.0
TICK_S = 0.5
REFRESHES_A_LIFE, DAY_S = 12, 86_400.0


def found(home: Home, config: ServerConfig, *, roster_authority: bytes | None) -> None:
    """Make a server's home: the transport authority, the store, the roster authority's public key, ``server.toml``.

    Args:
        home: Where; made if needed. A founding that was interrupted goes on.
        config: Its configuration.
        roster_authority: Public key of an authority whose private key is elsewhere; without it the key is made here.

    Raises:
        ConfigError: If it is a server's home already.
        StorageError: If it cannot be written.
    """
    if home.config_file.exists():
        raise ConfigError(f"{home.path} is a server's home already", hint="fl server show")
    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.path.chmod(0o700)
    ca = TransportCA(home.ca)
    if not ca.all():
        ca.create()
    home.open_store(config).close()
    Rosters(home.secagg).create(roster_authority)
    ca.refresh_gateway(home.gateway, config.hosts, days=config.enrolment.certificate_days)
    home.superlink.mkdir(mode=0o700, exist_ok=True)
    home.write_config(config)  # last: without it this is no home yet


class Centre:
    """The centre of a home.

    Args:
        home: The server's home, made by ``fl server init``.
        connect: Makes a client of SuperLink; the home's by default.

    Raises:
        ConfigError: If the home was not made, or its configuration cannot be used.
    """

    def __init__(
        self, home: Home, *, connect: Callable[[], contextlib.AbstractContextManager[membership.Nodes]] | None = None
    ) -> None:
        self.home, self.config = home, home.config()
        self.registry = Registry(home.open_store(self.config))
        self.ca, self.rosters = TransportCA(home.ca), Rosters(home.secagg)
        rules = self.config.enrolment
        self.enrolment = Enrolment(
            registry=self.registry,
            ca=self.ca,
            addresses=self.config.addresses,
            roster_authority=self.rosters.authority,
            approval=rules.approval,
            certificate_days=rules.certificate_days,
            token_hours=rules.token_hours,
        )
        self._connect = connect or home.connect
        self._alone = threading.Lock()
        self._roster: tuple[bytes, int] = (b"", 0)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look_after, name="centre", daemon=True)
        self._said: list[str] = []

    # ---- what the gateway asks (server.gateway.centre) ----

    def site_of_certificate(self, der: bytes) -> Admitted:
        """Whose certificate this is; see ``Registry.site_of_certificate``."""
        return self.registry.site_of_certificate(der)

    def changed(self) -> None:
        """Forget what was remembered of the registry."""
        self.registry.changed()

    def seen(self, site: str, report: str) -> None:
        """Take a site's report, JSON."""
        self.registry.seen(site, report)

    def count(self, site: str, run_id: int, *, up: int, down: int, calls: int) -> None:
        """Add to what a site sent and got in a run, in bytes and calls."""
        self.registry.count(site, run_id, up=up, down=down, calls=calls)

    def roster_version(self) -> int:
        """Version of the signed roster; 0 if there is none yet."""
        data = self.rosters.signed()
        if data != self._roster[0]:
            current = self.rosters.current()
            self._roster = (data, current.version if current else 0)
        return self._roster[1]

    def join(self, der: bytes, request: link.JoinRequest) -> link.JoinReply:
        """Answer a request to take part; see ``server.enrolment.join``."""
        reply = enrolment.join(self.enrolment, der, request)
        if reply.state == "approved":
            for line in self.apply():
                log.info("%s", line)
            reply.roster = self.rosters.signed()
            check_no_secrets(
                {
                    "certificate": reply.certificates.transport_chain,
                    "authorities": reply.certificates.authorities,
                    "roster": reply.roster,
                }
            )
        reply.roster_authority = self.rosters.authority
        reply.clock_s = time.time()
        words = clock_words(request.clock_s - reply.clock_s)
        reply.message = "; ".join(filter(None, (reply.message, words)))
        return reply

    def renew(self, admitted: Admitted, request: link.CertificateRequest) -> link.Certificates:
        """New certificates for a site."""
        return enrolment.renew(self.enrolment, admitted, request)

    def trust(self, admitted: Admitted, request: link.TrustRequest) -> link.TrustReply:
        """The roster, if the site has an older one, and the authorities."""
        newer = self.roster_version() > request.roster_version
        return link.TrustReply(roster=self._roster[0] if newer else b"", authorities=self.ca.bundle())

    # ---- what commands do ----

    def apply(self) -> list[str]:
        """Bring roster and nodes in line with the registry, as far as they can be reached, and tell the gateway.

        Returns:
            What was done, and what could not be, in lines.
        """
        lines = []
        with self._alone:
            try:
                words = self.rosters.update(self.registry.identities, days=self.config.enrolment.roster_days)
                lines += [words] if words else []
            except FLError as err:
                lines.append(f"the roster stays as it was: {err.message}")
            lines += self._sync()
        self.home.tell_gateway()
        return lines

    def refresh(self) -> None:
        """Make a certificate for the gateway if it needs one, and a successor of the authority when its time comes.

        Raises:
            StorageError: If they cannot be written.
        """
        days = self.config.enrolment.certificate_days
        if made := self.ca.keep(overlap_days=days):
            log.info("authority %d takes over in %g days: %s", made.number, days, made.fingerprint)
        if self.ca.refresh_gateway(self.home.gateway, self.config.hosts, days=days):
            log.info("the gateway has a new certificate")

    def close(self) -> None:
        """Write what was counted, and close the store."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        self.registry.flush()
        self.registry.store.close()

    def __enter__(self) -> Centre:
        self.refresh()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _look_after(self) -> None:
        """Flush, sync and refresh, each in its time, until closed."""
        # Often enough for the gateway's certificate, however short its life is.
        refresh_s = min(REFRESH_EVERY_S, self.config.enrolment.certificate_days * DAY_S / REFRESHES_A_LIFE)
        table = [  # what, how often, and how long after the start for the first time
            (self.registry.flush, FLUSH_EVERY_S, 0.0),
            (self._sync_alone, SYNC_EVERY_S, 0.0),
            (self.refresh, refresh_s, refresh_s),
            (self.registry.tidy, TIDY_EVERY_S, 60.0),
        ]
        begun = time.monotonic()
        due = [first for _, _, first in table]
        while not self._ended.wait(TICK_S):
            now = time.monotonic() - begun
            for number, (work, every, _) in enumerate(table):
                if now >= due[number]:
                    due[number] = now + every
                    try:
                        work()
                    except FLError as err:  # the disk is full, say: said, and tried again
                        log.error("%s", err.message)

    def _sync_alone(self) -> None:
        with self._alone:
            lines = self._sync()
        if lines != self._said:
            for line in lines:
                log.info("%s", line)
        self._said = lines

    def _sync(self) -> list[str]:
        try:
            with self._connect() as control:
                return membership.sync(self.registry, control)
        except UnreachableError as err:
            return [f"nodes follow later: {err.message}"]
        except FLError as err:
            return [f"nodes stay as they were: {err.message}"]
