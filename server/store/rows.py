"""What all who use the store do with its rows."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from fl.errors import ConfigError
from server.store.models import Event, Key, Revision, Site


def find(session: Session, site: str) -> Site:
    """A site's row.

    Raises:
        ConfigError: If there is no such site.
    """
    row = session.scalar(select(Site).where(Site.id == site))
    if row is None:
        raise ConfigError(f"no site {site[:80]}", hint="fl site list shows all")
    return row


def live_key(session: Session, number: int, kind: str) -> Key | None:
    """The key of a kind that a site uses now."""
    return session.scalar(select(Key).where(Key.site == number, Key.kind == kind, Key.until_s.is_(None)))


def note(session: Session, number: int, at_s: float, what: str, words: str = "") -> None:
    """Write down what happened to a site."""
    session.add(Event(site=number, at_s=at_s, what=what, words=words))


def bump(session: Session) -> None:
    """Tell every gateway that who is admitted has changed."""
    row = session.get(Revision, 1)
    if row is None:
        session.add(Revision(number=1, value=1))
    else:
        row.value += 1
