"""How a site comes in and stays in: join tokens, requests, approval, renewal. Plain functions over the registry.

1. ``server.tokens`` makes a token and forgets its private key.
2. The site proves with ``join`` that it has the token's certificate and its own three keys. The first request uses the
   token up; asked again with the same keys, it tells how the request stands, so a lost answer does no harm.
3. ``approve`` (an operator's, or automatic) makes the keys the site's and issues its certificate.
4. ``renew`` issues the next one.

What the centre believes comes from its own rows and from proofs; nothing that a site writes names another site.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from typing import Literal

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from fl.errors import ConfigError, RefusedError
from fl.link import link_pb2 as link
from fl.link.identity import RENEW_AT, PublicKeys, check_statement, read_request
from fl.secagg.encoding import printable
from fl.secagg.roster import iso
from server import audit
from server.audit import Actor
from server.ca import Issued, TransportCA
from server.sites import Admitted, Registry, check_report, rejoin_words
from server.store.models import Certificate, Event, Key, Request, Site, Token
from server.store.rows import bump, find, live_key, note

GATEWAY = Actor(who="fl", via="gateway")
SOON_S, LATER_S = 2.0, 15.0
SAME_AGAIN_S = 60.0
"""Who renews the same key again so soon gets the same certificate: a lost answer does not fill the store."""


@dataclasses.dataclass(frozen=True, slots=True)
class Waiting:
    """A site that asks to take part."""

    site: str
    fingerprint: str
    asked_s: float
    version: str


@dataclasses.dataclass(frozen=True, slots=True)
class Enrolment:
    """What the functions of this module share.

    Attributes:
        registry: The sites.
        ca: Signs certificates.
        addresses: Where sites reach the gateway.
        roster_authority: Public key that signs rosters.
        approval: Who lets a site in.
        certificate_days: How long a site's certificate lives.
        token_hours: How long a token can be used for the first time.
    """

    registry: Registry
    ca: TransportCA
    addresses: tuple[str, ...]
    roster_authority: bytes
    approval: Literal["automatic", "operator"] = "operator"
    certificate_days: float = 7.0
    token_hours: float = 24.0


# ---- requests ----


def join(it: Enrolment, der: bytes, request: link.JoinRequest) -> link.JoinReply:
    """Answer a site that asks to take part.

    Args:
        it: The centre.
        der: The certificate with which it asks; TLS has proved that it has the key.
        request: What it asks.

    Raises:
        RefusedError: If the token or the keys do not allow it, in words for the site's owner; nothing was changed.
    """
    try:
        with it.registry.store.write() as session:
            return _join(it, session, der, request)
    except RefusedError as err:
        _note_refusal(it, der, err.message)
        raise


def _join(it: Enrolment, session: Session, der: bytes, request: link.JoinRequest) -> link.JoinReply:
    now_s = it.registry.now()
    token = session.scalar(select(Token).where(Token.certificate_sha256 == hashlib.sha256(der).hexdigest()))
    if token is None or token.id != request.token_id:
        raise RefusedError("this join token was not made here, or is another one than it says")
    row = session.get_one(Site, token.site)
    asked = session.get(Request, token.id)
    keys = PublicKeys(read_request(request.transport_csr, row.id), request.node_public_key, request.identity_public_key)
    check_statement(keys, token.id, request.node_proof, request.identity_proof)
    again = rejoin_words(row.id)
    if asked is not None:
        if (asked.transport, asked.node, asked.identity) != (keys.transport, keys.node, keys.identity):
            raise RefusedError(
                f"this join token was used at {iso(asked.asked_s)} with the keys {asked.fingerprint}, and works once; "
                f"{again}"
            )
    elif token.withdrawn_s is not None:
        raise RefusedError(f"this join token was withdrawn at {iso(token.withdrawn_s)}: there is a newer one")
    elif now_s > token.expires_s:
        raise RefusedError(f"this join token expired at {iso(token.expires_s)}; {again}")
    else:
        _check_keys(session, row, keys, must_be_new=token.new_keys)
        asked = Request(
            token=token.id,
            site=row.number,
            transport=keys.transport,
            node=keys.node,
            identity=keys.identity,
            fingerprint=keys.fingerprint,
            version=printable(request.version, 64),
            asked_s=now_s,
            state="waiting",
        )
        session.add(asked)
        token.used_s = now_s
        with contextlib.suppress(RefusedError):  # a report that cannot be used keeps nobody out
            check_report(request.report)
            row.report = request.report
        note(session, row.number, now_s, "asked", f"keys {keys.fingerprint}")
        session.flush()
        facts = {"fingerprint": keys.fingerprint, "version": asked.version}
        audit.append(session, GATEWAY, "site.ask", row.id, after=facts)
        if it.approval == "automatic":
            before = {"state": row.state, "reason": row.reason}
            _approve(it, session, row, asked, "automatic")
            after = {"state": row.state, "reason": row.reason, "fingerprint": keys.fingerprint}
            audit.append(session, GATEWAY, "site.approve", row.id, before=before, after=after)
    return _reply(it, session, row, asked)


def _reply(it: Enrolment, session: Session, row: Site, asked: Request) -> link.JoinReply:
    reply = link.JoinReply(state=asked.state, message=asked.reason, fingerprint=asked.fingerprint, site=row.id)
    if asked.state == "waiting":
        reply.message = "an operator has to approve: fl site approve " + row.id
        reply.again_after_s = SOON_S if it.registry.now() - asked.asked_s < 2 * SAME_AGAIN_S else LATER_S
    elif asked.state == "approved":
        certificate = session.get_one(Certificate, asked.certificate)
        if certificate.ended_s is not None:
            reply.state, reply.message = "refused", certificate.ended_why
        elif it.registry.now() > certificate.expires_s:
            reply.state = "refused"
            reply.message = f"the certificate was not fetched before it expired at {iso(certificate.expires_s)}"
        else:
            reply.certificates.CopyFrom(_certificates(it, certificate))
    return reply


def _check_keys(session: Session, row: Site, keys: PublicKeys, *, must_be_new: bool) -> None:
    """Refuse keys of another site, and keys that must not come back."""
    hint = "make new ones: fl site join --new-keys"
    for kind, public in dataclasses.asdict(keys).items():
        known = session.get(Key, hashlib.sha256(public).hexdigest())
        column = {"transport": Request.transport, "node": Request.node, "identity": Request.identity}[kind]
        elsewhere = select(Request).where(column == public, Request.site != row.number, Request.state == "waiting")
        if (known is not None and known.site != row.number) or session.scalar(elsewhere.limit(1)):
            raise RefusedError(f"the {kind} key is another site's; {hint}")
        if known is not None and must_be_new:
            raise RefusedError(f"the {kind} key was this site's before, and has to be new; {hint}")
        if known is not None and kind == "node" and known.until_s is not None:
            raise RefusedError(f"the node key was replaced before, and Flower takes one only once; {hint}")


def _note_refusal(it: Enrolment, der: bytes, words: str) -> None:
    """Write a refusal down for the operator, once for the same words in a row."""
    with it.registry.store.write() as session:
        token = session.scalar(select(Token).where(Token.certificate_sha256 == hashlib.sha256(der).hexdigest()))
        if token is None:
            return
        last = session.scalar(select(Event).where(Event.site == token.site).order_by(Event.number.desc()).limit(1))
        if last is None or (last.what, last.words) != ("refused", words):
            note(session, token.site, it.registry.now(), "refused", words)


# ---- approval ----


def waiting(it: Enrolment) -> list[Waiting]:
    """The sites that wait for an operator, the first to ask first."""
    with it.registry.store.read() as session:
        rows = session.execute(
            select(Request, Site.id)
            .join(Site, Site.number == Request.site)
            .where(Request.state == "waiting")
            .order_by(Request.asked_s)
        )
        return [Waiting(site, asked.fingerprint, asked.asked_s, asked.version) for asked, site in rows]


def approve(it: Enrolment, site: str, *, fingerprint: str, by: str) -> None:
    """Let a site in that waits.

    Args:
        it: The centre.
        site: Its id.
        fingerprint: The one that the operator has compared: between looking and saying yes nothing may change.
        by: Who says yes.

    Raises:
        ConfigError: If it does not wait, or with other keys.
    """
    with it.registry.store.write() as session:
        row, asked = _waiting(session, site)
        if asked.fingerprint != fingerprint.strip().lower():
            raise ConfigError(
                f"{site} asks with the keys {asked.fingerprint}, not {fingerprint.strip()[:40]}",
                hint="do not approve; ask the site's owner what fl site join printed",
            )
        _approve(it, session, row, asked, by)


def refuse(it: Enrolment, site: str, *, reason: str, by: str) -> None:
    """Say no to a site that waits; its token is used up.

    Raises:
        ConfigError: If it does not wait.
    """
    with it.registry.store.write() as session:
        row, asked = _waiting(session, site)
        now_s = it.registry.now()
        asked.state, asked.reason, asked.decided_s, asked.decided_by = "refused", reason, now_s, by[:64]
        note(session, row.number, now_s, "refused", f"by {by}: {reason}")


def _waiting(session: Session, site: str) -> tuple[Site, Request]:
    row = find(session, site)
    asked = session.scalar(select(Request).where(Request.site == row.number, Request.state == "waiting"))
    if asked is None:
        raise ConfigError(f"{site} does not wait for approval; it is {row.state}", hint="fl site list")
    return row, asked


def _approve(it: Enrolment, session: Session, row: Site, asked: Request, by: str) -> None:
    now_s = it.registry.now()
    keys = PublicKeys(asked.transport, asked.node, asked.identity)
    # An operator may take days: what was checked when the site asked is checked again.
    _check_keys(session, row, keys, must_be_new=session.get_one(Token, asked.token).new_keys)
    session.execute(
        update(Certificate)
        .where(Certificate.site == row.number, Certificate.ended_s.is_(None))
        .values(ended_s=now_s, ended_why=f"{row.id} joined again at {iso(now_s)}, with another certificate")
    )
    for kind, public in dataclasses.asdict(keys).items():
        _use(session, row, kind, public, now_s)
    issued = it.ca.issue_site(row.id, keys.transport, days=it.certificate_days, now_s=now_s)
    asked.certificate = _keep(session, row, keys.transport, issued, now_s).sha256
    asked.state, asked.decided_s, asked.decided_by = "approved", now_s, by[:64]
    if row.state != "quarantined":  # which only an operator ends
        row.state, row.reason, row.changed_s = "active", "", now_s
    note(session, row.number, now_s, "approved", f"by {by}, keys {asked.fingerprint}")
    bump(session)


def _use(session: Session, row: Site, kind: str, public: bytes, now_s: float) -> None:
    """Make a key the one of its kind that the site uses."""
    digest = hashlib.sha256(public).hexdigest()
    live = live_key(session, row.number, kind)
    if live is not None and live.sha256 != digest:
        live.until_s = now_s
    known = session.get(Key, digest)
    if known is None:
        session.add(Key(sha256=digest, site=row.number, kind=kind, public=public, since_s=now_s))
    else:
        known.until_s = None
    session.flush()


def _keep(session: Session, row: Site, public: bytes, issued: Issued, now_s: float) -> Certificate:
    certificate = Certificate(
        sha256=hashlib.sha256(issued.der).hexdigest(),
        site=row.number,
        key=hashlib.sha256(public).hexdigest(),
        der=issued.der,
        issued_s=now_s,
        expires_s=issued.expires_s,
        authority=issued.authority,
        ended_why="",
    )
    session.add(certificate)
    session.flush()
    return certificate


# ---- renewal ----


def renew(it: Enrolment, admitted: Admitted, request: link.CertificateRequest) -> link.Certificates:
    """The next certificate of a site; the one before stays good until it expires, so that no message is dropped.

    Raises:
        RefusedError: If the request is for another site or key, or the site was revoked meanwhile.
    """
    now_s = it.registry.now()
    with it.registry.store.write() as session:
        row = session.get_one(Site, admitted.number)
        if row.state not in ("active", "quarantined"):
            raise RefusedError(f"the site {row.id} is {row.state}")
        public = read_request(request.transport_csr, row.id)
        digest = hashlib.sha256(public).hexdigest()
        known = session.get(Key, digest)
        if known is not None and known.site != row.number:
            raise RefusedError("the transport key is another site's")
        if known is not None and (known.kind != "transport" or known.until_s is not None):
            raise RefusedError("the transport key was replaced before")
        recent = session.scalar(
            select(Certificate)
            .where(
                Certificate.key == digest, Certificate.ended_s.is_(None), Certificate.issued_s > now_s - SAME_AGAIN_S
            )
            .limit(1)
        )
        if recent is None or now_s >= _due_s(recent):
            _use(session, row, "transport", public, now_s)
            issued = it.ca.issue_site(row.id, public, days=it.certificate_days, now_s=now_s)
            recent = _keep(session, row, public, issued, now_s)
        return _certificates(it, recent)


def _certificates(it: Enrolment, certificate: Certificate) -> link.Certificates:
    return link.Certificates(
        transport_chain=Issued(certificate.der, certificate.expires_s, certificate.authority).pem,
        authorities=it.ca.bundle(it.registry.now()),
        renew_after_s=max(0.0, _due_s(certificate) - it.registry.now()),
    )


def _due_s(certificate: Certificate) -> float:
    """When a certificate is to be renewed."""
    return certificate.issued_s + RENEW_AT * (certificate.expires_s - certificate.issued_s)
