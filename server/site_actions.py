"""Every change of a site that an operator makes: the part of ``server.actions`` that is about sites."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from fl.errors import ConfigError
from fl.link.token import JoinToken
from fl.secagg.roster import Roster
from server import audit, enrolment, tokens
from server.audit import Actor
from server.ca import Authority
from server.centre import Centre
from server.enrolment import Enrolment
from server.live import Live, Topic
from server.people import People
from server.store.models import Site
from server.store.rows import find

LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,62}")


class SiteActions(People):
    """Changes of sites, of people and of the centre itself.

    Args:
        centre: The centre; its store is where everything is.
        live: Who watches is told of each change.
        poke: Called after a change of a run, so that the controller need not wait for its next look.
        now: The clock, for tests.
    """

    def __init__(
        self,
        centre: Centre,
        live: Live | None = None,
        *,
        poke: Callable[[], None] = lambda: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(centre.registry.store, now=now)
        self.centre, self.home = centre, centre.home
        self._live, self._poke = live or Live(), poke

    def add_site(self, actor: Actor, site: str, *, hours: float | None = None) -> JoinToken:
        """Invite a site; the token is shown this once.

        Raises:
            ConfigError: If there is a site of that id, or it cannot be one.
        """
        with self.store.write() as session:
            token = tokens.invite(self._rules(hours), site)
            audit.append(session, actor, "site.add", site, after={"expires_s": token.expires_s})
        self._tell("site", site)
        return token

    def rejoin_site(self, actor: Actor, site: str, *, hours: float | None = None) -> JoinToken:
        """Invite a site again that lost its keys, slept past its certificate's end, or was revoked.

        Raises:
            ConfigError: If there is no such site.
        """
        with self.store.write() as session:
            before = _state(find(session, site))
            token = tokens.reinvite(self._rules(hours), site)
            facts = {"expires_s": token.expires_s, "new_keys": token.new_keys}
            audit.append(session, actor, "site.rejoin", site, before=before, after=facts)
        self._tell("site", site)
        return token

    def rename_site(self, actor: Actor, site: str, new: str) -> tuple[JoinToken, list[str]]:
        """Give a site another id; it is out until it joins again.

        Returns:
            The token with which it does, shown this once, and what else was done, in lines.

        Raises:
            ConfigError: If there is no such site, or another with that id.
        """
        with self.store.write() as session:
            before = {"id": site, **_state(find(session, site))}
            self.centre.registry.rename(site, new)
            token = tokens.reinvite(self.centre.enrolment, new)
            after = {"id": new, **_state(find(session, new)), "expires_s": token.expires_s}
            audit.append(session, actor, "site.rename", site, before=before, after=after)
        self._tell("site", new)
        return token, self._apply(site)

    def approve(self, actor: Actor, site: str, fingerprint: str) -> list[str]:
        """Let a site in that waits.

        Returns:
            What else was done, and what could not be, in lines.

        Raises:
            ConfigError: If it does not wait, or with other keys.
        """
        with self.store.write() as session:
            before = _state(find(session, site))
            enrolment.approve(self.centre.enrolment, site, fingerprint=fingerprint, by=actor.who)
            facts = {**_state(find(session, site)), "fingerprint": fingerprint}
            audit.append(session, actor, "site.approve", site, before=before, after=facts)
        return self._apply(site)

    def refuse(self, actor: Actor, site: str, reason: str = "") -> None:
        """Say no to a site that waits.

        Raises:
            ConfigError: If it does not wait.
        """
        with self.store.write() as session:
            enrolment.refuse(self.centre.enrolment, site, reason=reason, by=actor.who)
            audit.append(session, actor, "site.refuse", site, after={"reason": reason})
        self._tell("site", site)

    def quarantine(self, actor: Actor, site: str, reason: str = "") -> list[str]:
        """Give a site no more work; returns as ``approve``.

        Raises:
            ConfigError: If there is no such site, or it is not active.
        """
        return self._change_site(actor, site, "quarantine", lambda: self.centre.registry.quarantine(site, reason))

    def release(self, actor: Actor, site: str) -> list[str]:
        """End a quarantine; returns as ``approve``.

        Raises:
            ConfigError: If there is none.
        """
        return self._change_site(actor, site, "release", lambda: self.centre.registry.release(site))

    def revoke(self, actor: Actor, site: str, reason: str = "") -> list[str]:
        """Let a site in no longer; returns as ``approve``.

        Raises:
            ConfigError: If there is no such site, or it is revoked.
        """
        return self._change_site(actor, site, "revoke", lambda: self.centre.registry.revoke(site, reason))

    def label(self, actor: Actor, site: str, labels: Mapping[str, str | None]) -> None:
        """Give a site labels, by which runs choose sites.

        Args:
            actor: Who.
            site: Which.
            labels: New values; ``None`` takes a label away. Others stay.

        Raises:
            ConfigError: If there is no such site, or a label cannot be one.
        """
        for key, value in labels.items():
            if not LABEL.fullmatch(key) or (value is not None and not LABEL.fullmatch(value)):
                raise ConfigError(f"{key[:64]}={(value or '')[:64]} cannot be a label", hint="letters, digits, . _ / -")
        with self.store.write() as session:
            row = find(session, site)
            before = json.loads(row.labels)
            now = {key: value for key, value in {**before, **labels}.items() if value is not None}
            row.labels = json.dumps(now, sort_keys=True)
            audit.append(session, actor, "site.label", site, before={"labels": before}, after={"labels": now})
        self._tell("site", site)

    def note_rollout(self, actor: Actor, rollout: str, what: str, facts: Mapping[str, Any]) -> None:
        """Write down what ``fl fleet`` did to the sites' hosts.

        Args:
            actor: Who rolls out.
            rollout: ``fleet/id``.
            what: ``begin``, ``resume``, ``wave``, ``end`` or ``rollback``.
            facts: Release, status, counts of sites.
        """
        with self.store.write() as session:
            audit.append(session, actor, f"fleet.{what}", rollout, after=facts)
        self._live.publish("audit", rollout)

    # ---- the centre itself ----

    def rotate_authority(self, actor: Actor, *, at_once: bool) -> Authority:
        """Make a successor of the transport authority.

        Args:
            actor: Who.
            at_once: Whether the one before is worth nothing from now on, so that all sites have to join again.

        Raises:
            ConfigError: If there is a successor already.
            StorageError: If it cannot be written.
        """
        days = 0.0 if at_once else self.centre.config.enrolment.certificate_days
        with self.store.write() as session:
            before = {"authority": self.centre.ca.serving().number}
            made = self.centre.ca.rotate(overlap_days=days)
            facts = {"authority": made.number, "fingerprint": made.fingerprint, "at_once": at_once}
            audit.append(session, actor, "server.rotate_ca", f"authority {made.number}", before=before, after=facts)
        self.centre.refresh()
        self.home.tell_gateway()
        return made

    def install_roster(self, actor: Actor, data: bytes) -> tuple[Roster, list[str]]:
        """Take a roster that was signed elsewhere.

        Returns:
            The roster, and what else was done, in lines.

        Raises:
            RosterError: If it is not signed by this home's authority, expired, or not newer than the one here.
        """
        with self.store.write() as session:
            current = self.centre.rosters.current()
            done = self.centre.rosters.install(data)
            before, after = {"version": current.version if current else 0}, {"version": done.version}
            audit.append(session, actor, "server.roster", f"version {done.version}", before=before, after=after)
        return done, self.centre.apply()

    def note(self, actor: Actor, action: str, subject: str) -> None:
        """Write down what was done with the centre's files, such as a backup, which has its keys."""
        with self.store.write() as session:
            audit.append(session, actor, action, subject)

    def _change_site(self, actor: Actor, site: str, action: str, change: Callable[[], None]) -> list[str]:
        with self.store.write() as session:
            before = _state(find(session, site))
            change()
            after_ = _state(find(session, site))
            audit.append(session, actor, f"site.{action}", site, before=before, after=after_)
        return self._apply(site)

    def _apply(self, site: str) -> list[str]:
        """Bring roster and nodes in line, as far as they can be reached, and tell the gateway."""
        self.centre.registry.changed()
        lines = self.centre.apply()
        self._tell("site", site)
        return lines

    def _rules(self, hours: float | None) -> Enrolment:
        rules = self.centre.enrolment
        return rules if hours is None else dataclasses.replace(rules, token_hours=hours)

    def _tell(self, topic: Topic, name: str, project: str = "", **facts: Any) -> None:
        self._live.publish(topic, name, project=project, **facts)
        self._live.publish("audit", name)
        if topic == "run":
            self._poke()


def _state(site: Site) -> dict[str, str]:
    return {"state": site.state, "reason": site.reason}
