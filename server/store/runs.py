"""The tables of runs: what operators asked for, what the journals say, models and their names, people, the audit.

A run's journal is the truth about its rounds; ``rounds``, ``replies`` and ``metrics`` are drawn from it
(``server.controller.ingest``) and can be drawn again at any time.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from server.store.models import Base


class Run(Base):
    """A run, over all its lives. Its number and name stay what they are, however often it is resumed."""

    __tablename__ = "runs"
    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(128), unique=True)
    """The name of its journal's directory."""
    title: Mapped[str] = mapped_column(String(128))
    """``run.name`` of the run file, or the Flower app's."""
    project: Mapped[str] = mapped_column(String(63), index=True)
    priority: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16))
    """``run`` (a run file, with a journal) or ``app`` (any Flower app, without one)."""
    state: Mapped[str] = mapped_column(String(16), index=True)
    """See ``server.controller.states``."""
    reason: Mapped[str] = mapped_column(Text, default="")
    """Why it is in this state, in words."""
    config: Mapped[str] = mapped_column(Text)
    """The resolved run file, or the app's changed settings; JSON."""
    sites: Mapped[str] = mapped_column(Text, default="{}")
    """Labels that a site must have to take part, JSON; ``{}`` for all sites."""
    app_digest: Mapped[str] = mapped_column(String(64), default="")
    """SHA-256 of the Flower app that sites run."""
    submitted_by: Mapped[str] = mapped_column(String(64))
    submitted_s: Mapped[float]
    start_s: Mapped[float]
    """Not to start before then; 0 at once. All times are seconds since 1970."""
    changed_s: Mapped[float]
    """When the state changed last."""
    finished_s: Mapped[float | None]
    flower_run: Mapped[str | None] = mapped_column(String(20))
    """Flower's number of its present or last life; as text, because it goes up to 2**64."""
    lives: Mapped[int] = mapped_column(default=0)
    """How often it was handed to SuperLink."""
    lines: Mapped[int] = mapped_column(default=0)
    """How many lines of its journal stand in these tables."""
    from_line: Mapped[int] = mapped_column(default=0, server_default="0")
    """How many lines its journal had when its present or last life began."""
    rounds_wanted: Mapped[int] = mapped_column(default=0)
    rounds_done: Mapped[int] = mapped_column(default=0)


class Use(Base):
    """A stretch of time in which a run had a place; what fair shares are computed from."""

    __tablename__ = "uses"
    number: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[int] = mapped_column(ForeignKey("runs.number"), index=True)
    from_s: Mapped[float]
    to_s: Mapped[float | None]
    sites: Mapped[int]


class Round(Base):
    """One round of a run, over all its attempts."""

    __tablename__ = "rounds"
    run: Mapped[int] = mapped_column(ForeignKey("runs.number"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(String(16))
    """``open``, ``closed``, ``abandoned`` or ``committed``."""
    attempts: Mapped[int]
    stage: Mapped[str] = mapped_column(String(16), default="")
    """The stage of secure aggregation that closed last."""
    opened_s: Mapped[float]
    closed_s: Mapped[float | None]
    committed_s: Mapped[float | None]
    online: Mapped[int]
    cohort: Mapped[int]
    wanted: Mapped[int]
    quorum: Mapped[int]
    survivors: Mapped[int] = mapped_column(default=0)
    because: Mapped[str] = mapped_column(String(64), default="")
    """Why it was closed or abandoned."""
    received_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    fold_s: Mapped[float | None]
    model_digest: Mapped[str] = mapped_column(String(64), default="")


class Reply(Base):
    """A site's part in a phase of a round: its update or evaluation, its failure, or its silence."""

    __tablename__ = "replies"
    number: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[int] = mapped_column(ForeignKey("runs.number"))
    round: Mapped[int]
    attempt: Mapped[int]
    phase: Mapped[str] = mapped_column(String(16))
    """``train``, ``evaluate`` or ``secagg``."""
    site: Mapped[str] = mapped_column(String(63))
    outcome: Mapped[str] = mapped_column(String(16))
    """``asked``, ``landed``, ``failed``, ``late`` or ``missing``."""
    code: Mapped[str] = mapped_column(String(32), default="")
    reason: Mapped[str] = mapped_column(Text, default="")
    at_s: Mapped[float]
    waited_s: Mapped[float | None]
    size_bytes: Mapped[int] = mapped_column(BigInteger, default=0)
    num_examples: Mapped[int | None]
    report: Mapped[str] = mapped_column(Text, default="")
    """What the site says of its training: device, memory, samples a second, energy; JSON."""

    __table_args__ = (Index("ix_replies_run_round", "run", "round"), Index("ix_replies_site", "site", "number"))


class Metric(Base):
    """A metric of a round's model."""

    __tablename__ = "metrics"
    run: Mapped[int] = mapped_column(ForeignKey("runs.number"), primary_key=True)
    place: Mapped[str] = mapped_column(String(16), primary_key=True)
    """``training`` (mean over the updates), ``sites`` or ``centre`` (an evaluation there)."""
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float]


class Model(Base):
    """A model that somebody may want again: the last of a run, or one that was given a name."""

    __tablename__ = "models"
    number: Mapped[int] = mapped_column(primary_key=True)
    run: Mapped[int] = mapped_column(ForeignKey("runs.number"), index=True)
    round: Mapped[int]
    digest: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(Text)
    """The safetensors file, in the journal or, once it has a name, in the home's ``models/``."""
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    parameters: Mapped[int] = mapped_column(BigInteger)
    schema_digest: Mapped[str] = mapped_column(String(64))
    """SHA-256 over the task's options, which say what its data looks like."""
    app_digest: Mapped[str] = mapped_column(String(64), default="")
    created_s: Mapped[float]


class Alias(Base):
    """A name for a model, such as ``production``; each move is a row, the newest counts."""

    __tablename__ = "aliases"
    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(63), index=True)
    model: Mapped[int] = mapped_column(ForeignKey("models.number"))
    by: Mapped[str] = mapped_column(String(64))
    at_s: Mapped[float]


class User(Base):
    """Somebody who may sign in."""

    __tablename__ = "users"
    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    """``viewer``, ``operator`` or ``admin``."""
    projects: Mapped[str] = mapped_column(Text, default='["*"]')
    """Projects whose runs this user sees and, as an operator, changes; JSON; ``*`` for all."""
    subject: Mapped[str | None] = mapped_column(String(255), unique=True)
    """Issuer and subject at the identity provider, for those who sign in there."""
    created_s: Mapped[float]
    disabled_s: Mapped[float | None]


class AccessToken(Base):
    """What a program, or a person at the dashboard, signs in with. Only its hash is here."""

    __tablename__ = "access_tokens"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    user: Mapped[int] = mapped_column(ForeignKey("users.number"), index=True)
    name: Mapped[str] = mapped_column(String(64))
    created_s: Mapped[float]
    expires_s: Mapped[float]
    used_s: Mapped[float | None]
    revoked_s: Mapped[float | None]


class WebSession(Base):
    """A browser that is signed in. Only the hash of its cookie is here."""

    __tablename__ = "web_sessions"
    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    user: Mapped[int] = mapped_column(ForeignKey("users.number"), index=True)
    csrf: Mapped[str] = mapped_column(String(64))
    created_s: Mapped[float]
    expires_s: Mapped[float]


class Audit(Base):
    """One change of anything, chained to the one before by its hash."""

    __tablename__ = "audit"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    """From 1, without gaps."""
    at_s: Mapped[float]
    who: Mapped[str] = mapped_column(String(64))
    via: Mapped[str] = mapped_column(String(16))
    """``cli``, ``api``, ``web``, ``controller`` or ``gateway``."""
    address: Mapped[str] = mapped_column(String(64), default="")
    """From where, for the API and the dashboard."""
    action: Mapped[str] = mapped_column(String(64), index=True)
    """What was done, such as ``run.stop`` or ``site.revoke``."""
    subject: Mapped[str] = mapped_column(String(128), index=True)
    """To what: a run's name, a site's id, a user's name."""
    before: Mapped[str] = mapped_column(Text, default="")
    after: Mapped[str] = mapped_column(Text, default="")
    """What changed, JSON; no secrets."""
    chain: Mapped[str] = mapped_column(String(64))
    """SHA-256 over this row and the chain of the one before (``server.audit``)."""
