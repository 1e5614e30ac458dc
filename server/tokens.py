"""Makes join tokens. The private key in a token is kept nowhere at the centre; its certificate's digest is."""

from __future__ import annotations

import hashlib
import secrets

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from fl.config import check_site_name
from fl.errors import ConfigError
from fl.link.token import JoinToken
from fl.secagg.roster import iso
from server.ca import DAY_S
from server.enrolment import Enrolment
from server.store.models import Key, Request, Site, Token
from server.store.rows import find, note

HOUR_S = 3600.0
ASK_LATER_S = 14 * DAY_S
"""A token's certificate lives so much longer than the token: who is late is told so in words, and an operator may take
their time."""


def invite(it: Enrolment, site: str) -> JoinToken:
    """Make a new site and its token.

    Raises:
        ConfigError: If there is a site of that id, or it cannot be one.
    """
    check_site_name(site)
    now_s = it.registry.now()
    with it.registry.store.write() as session:
        if session.scalar(select(Site).where(Site.id == site)):
            raise ConfigError(f"there is a site {site}", hint=f"fl site rejoin {site} makes another token for it")
        row = Site(id=site, state="invited", reason="", created_s=now_s, changed_s=now_s, report="")
        session.add(row)
        session.flush()
        return _token(it, session, row, new_keys=False)


def reinvite(it: Enrolment, site: str) -> JoinToken:
    """Make another token for a site that is there: it lost its keys, its certificate expired, or it was revoked.

    A site that was revoked or renamed has to bring new keys. Until it has joined, what it had is as good as before.

    Raises:
        ConfigError: If there is no such site.
    """
    with it.registry.store.write() as session:
        row = find(session, site)
        had_keys = session.scalar(select(Key).where(Key.site == row.number).limit(1)) is not None
        return _token(it, session, row, new_keys=had_keys and row.state in ("revoked", "invited"))


def _token(it: Enrolment, session: Session, row: Site, *, new_keys: bool) -> JoinToken:
    now_s = it.registry.now()
    open_ones = update(Token).where(Token.site == row.number, Token.withdrawn_s.is_(None))
    session.execute(open_ones.values(withdrawn_s=now_s))
    session.execute(
        update(Request)
        .where(Request.site == row.number, Request.state == "waiting")
        .values(state="refused", reason="a newer token was made for this site", decided_s=now_s)
    )
    token_id, expires_s = secrets.token_hex(8), int(now_s + it.token_hours * HOUR_S)
    issued, key = it.ca.issue_enrolment(token_id, until_s=expires_s + ASK_LATER_S, now_s=now_s)
    digest = hashlib.sha256(issued.der).hexdigest()
    session.add(
        Token(
            id=token_id,
            site=row.number,
            certificate_sha256=digest,
            issued_s=now_s,
            expires_s=float(expires_s),
            new_keys=new_keys,
        )
    )
    note(session, row.number, now_s, "invited", f"token {token_id}, until {iso(expires_s)}")
    return JoinToken(
        id=token_id,
        site=row.id,
        expires_s=expires_s,
        gateways=it.addresses,
        authorities=tuple(authority.der for authority in reversed(it.ca.trusted(now_s))),
        certificate=issued.der,
        key=key,
        roster_authority=it.roster_authority,
        new_keys=new_keys,
    )
