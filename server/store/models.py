"""The tables. A change here needs a step in ``migrations/versions``; a test compares both."""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, LargeBinary, MetaData, String, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
"""Constraints need names, or a later step cannot change them on SQLite."""


class Base(DeclarativeBase):
    """All tables."""

    metadata = MetaData(naming_convention=NAMES)


class Site(Base):
    """A site; its number stays when it is renamed."""

    __tablename__ = "sites"
    number: Mapped[int] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(String(63), unique=True)
    state: Mapped[str] = mapped_column(String(16))
    """``invited`` (has not joined yet), ``active``, ``quarantined`` or ``revoked``."""
    reason: Mapped[str] = mapped_column(Text, default="")
    """Why it is quarantined or revoked."""
    created_s: Mapped[float]
    changed_s: Mapped[float]
    """When the state changed last. All times are seconds since 1970."""
    seen_s: Mapped[float | None]
    report: Mapped[str] = mapped_column(Text, default="")
    """The last report, JSON."""
    labels: Mapped[str] = mapped_column(Text, default="{}", server_default="{}")
    """What operators say of it, JSON: ``{"region": "north"}``; runs choose sites by it."""


class Key(Base):
    """A public key of a site, of now or of earlier. No key belongs to two sites, ever."""

    __tablename__ = "keys"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    site: Mapped[int] = mapped_column(ForeignKey("sites.number"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    """``transport``, ``node`` or ``identity``."""
    public: Mapped[bytes] = mapped_column(LargeBinary)
    """DER, PEM, or 32 bytes; as in ``fl.link.identity.PublicKeys``."""
    since_s: Mapped[float]
    until_s: Mapped[float | None]
    node_id: Mapped[str | None] = mapped_column(String(20))
    """Flower's number of a node's key, while it is registered; as text, because it goes up to 2**64."""


class Certificate(Base):
    """A client certificate that was issued to a site. One that is not here is not let in, whoever signed it."""

    __tablename__ = "certificates"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    site: Mapped[int] = mapped_column(ForeignKey("sites.number"), index=True)
    key: Mapped[str] = mapped_column(ForeignKey("keys.sha256"))
    der: Mapped[bytes] = mapped_column(LargeBinary)
    issued_s: Mapped[float]
    expires_s: Mapped[float]
    authority: Mapped[int]
    ended_s: Mapped[float | None]
    """When it was revoked or replaced."""
    ended_why: Mapped[str] = mapped_column(Text, default="")


class Token(Base):
    """A join token. Its private key is nowhere at the centre."""

    __tablename__ = "tokens"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    site: Mapped[int] = mapped_column(ForeignKey("sites.number"), index=True)
    certificate_sha256: Mapped[str] = mapped_column(String(64), unique=True)
    issued_s: Mapped[float]
    expires_s: Mapped[float]
    new_keys: Mapped[bool]
    used_s: Mapped[float | None]
    withdrawn_s: Mapped[float | None]


class Request(Base):
    """What a site asked with a token, and what became of it."""

    __tablename__ = "requests"
    token: Mapped[str] = mapped_column(ForeignKey("tokens.id"), primary_key=True)
    site: Mapped[int] = mapped_column(ForeignKey("sites.number"), index=True)
    transport: Mapped[bytes] = mapped_column(LargeBinary)
    node: Mapped[bytes] = mapped_column(LargeBinary)
    identity: Mapped[bytes] = mapped_column(LargeBinary)
    fingerprint: Mapped[str] = mapped_column(String(24))
    version: Mapped[str] = mapped_column(String(64))
    asked_s: Mapped[float]
    state: Mapped[str] = mapped_column(String(16))
    """``waiting``, ``approved`` or ``refused``."""
    decided_s: Mapped[float | None]
    decided_by: Mapped[str] = mapped_column(String(64), default="")
    reason: Mapped[str] = mapped_column(Text, default="")
    certificate: Mapped[str | None] = mapped_column(ForeignKey("certificates.sha256"))


class Counter(Base):
    """What a site sent and got in a run (``0``: in none)."""

    __tablename__ = "counters"
    site: Mapped[int] = mapped_column(ForeignKey("sites.number"), primary_key=True)
    run_id: Mapped[str] = mapped_column(String(20), primary_key=True)
    up_bytes: Mapped[int] = mapped_column(BigInteger)
    down_bytes: Mapped[int] = mapped_column(BigInteger)
    calls: Mapped[int] = mapped_column(BigInteger)


class Event(Base):
    """Something that happened to a site, for ``fl site show``."""

    __tablename__ = "events"
    number: Mapped[int] = mapped_column(primary_key=True)
    site: Mapped[int] = mapped_column(ForeignKey("sites.number"), index=True)
    at_s: Mapped[float]
    what: Mapped[str] = mapped_column(String(32))
    words: Mapped[str] = mapped_column(Text, default="")


class Revision(Base):
    """One row that counts changes of who is admitted, so that a gateway need not read all of it again."""

    __tablename__ = "revision"
    number: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[int]
