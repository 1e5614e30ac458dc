"""People who may sign in, and what they sign in with. The part of ``server.actions`` that is about them.

A secret (an access token, a session's cookie) is shown once to whom it belongs; the store has its SHA-256. They are
256 random bits, so a slow hash would protect nothing more.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Literal, cast, get_args

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from fl.config import check_range, unknown
from fl.errors import ConfigError, InputError
from server import audit
from server.audit import Actor
from server.store import Store
from server.store.runs import AccessToken, User, WebSession

Role = Literal["viewer", "operator", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
"""From the one that may least: look; start and end runs; change sites, people and everything else."""

TOKEN_PREFIX = "fl_"  # noqa: S105  # how a token begins, so that scanners for leaked secrets know one
TOKEN_DAYS = 90.0
MOST_TOKEN_DAYS = 730.0
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
PROJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
LOCAL = "local"
"""Name of the operator at the server itself; nobody else can have it."""

DAY_S = 86_400.0


@dataclasses.dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is known."""

    number: int
    name: str
    role: Role
    projects: tuple[str, ...] | None
    """Projects whose runs they see; ``None`` for all."""


@dataclasses.dataclass(frozen=True, slots=True)
class NewToken:
    """An access token, shown once."""

    secret: str
    user: str
    name: str
    expires_s: float


@dataclasses.dataclass(frozen=True, slots=True)
class NewSession:
    """A browser that has just signed in."""

    secret: str
    """The cookie's value, shown once."""
    csrf: str
    expires_s: float


def digest(secret: str) -> str:
    """What the store has of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


class People:
    """Changes of users, tokens and sessions, each with its row in the audit.

    Args:
        store: Where they are.
        now: The clock, for tests.
    """

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self.store = store
        self.now = now

    # ---- users ----

    def add_user(self, actor: Actor, name: str, role: str = "viewer", projects: Sequence[str] = ("*",)) -> None:
        """Make a user, who can do nothing before they get a token or sign in at the identity provider.

        Raises:
            ConfigError: If there is one of that name, or role or projects cannot be.
        """
        check_role(role)
        shown = check_projects(projects)
        if not NAME.fullmatch(name) or name == LOCAL:
            raise ConfigError(f"{name[:80]!r} cannot be a user's name", hint="letters, digits and . _ @ + -, up to 64")
        with self.store.write() as session:
            if session.scalar(select(User).where(User.name == name)):
                raise ConfigError(f"there is a user {name}", hint=f"fl user role {name} {role}")
            session.add(User(name=name, role=role, projects=json.dumps(shown), created_s=self.now()))
            audit.append(session, actor, "user.add", name, after={"role": role, "projects": shown})

    def set_role(self, actor: Actor, name: str, role: str, projects: Sequence[str] | None = None) -> None:
        """Change what a user may do, and on which projects; holds from their next request on.

        Raises:
            ConfigError: If there is no such user, or it is the last admin.
        """
        check_role(role)
        with self.store.write() as session:
            user = find_user(session, name)
            before = {"role": user.role, "projects": json.loads(user.projects)}
            if user.role == "admin" and role != "admin":
                _keep_an_admin(session, user)
            user.role = role
            if projects is not None:
                user.projects = json.dumps(check_projects(projects))
            after = {"role": role, "projects": json.loads(user.projects)}
            audit.append(session, actor, "user.role", name, before=before, after=after)

    def disable_user(self, actor: Actor, name: str) -> None:
        """Let a user in no longer: tokens and sessions end with it. Their name stays in the audit, and is taken.

        Raises:
            ConfigError: If there is no such user, it is disabled, or the last admin.
        """
        with self.store.write() as session:
            user = find_user(session, name)
            if user.disabled_s is not None:
                raise ConfigError(f"{name} is disabled", hint=f"fl user enable {name}")
            _keep_an_admin(session, user)
            user.disabled_s = self.now()
            for token in session.scalars(
                select(AccessToken).where(AccessToken.user == user.number, AccessToken.revoked_s.is_(None))
            ):
                token.revoked_s = self.now()
            session.execute(delete(WebSession).where(WebSession.user == user.number))
            audit.append(session, actor, "user.disable", name)

    def enable_user(self, actor: Actor, name: str) -> None:
        """Let a user in again, with new tokens.

        Raises:
            ConfigError: If there is no such user, or it is not disabled.
        """
        with self.store.write() as session:
            user = find_user(session, name)
            if user.disabled_s is None:
                raise ConfigError(f"{name} is not disabled", hint="fl user list")
            user.disabled_s = None
            audit.append(session, actor, "user.enable", name)

    # ---- tokens ----

    def add_token(self, actor: Actor, user: str, name: str = "", *, days: float = TOKEN_DAYS) -> NewToken:
        """Make an access token.

        Args:
            actor: Who.
            user: Whose.
            name: What it is for.
            days: How long it is good.

        Raises:
            ConfigError: If there is no such user, or it is disabled.
        """
        check_range("days", days, above=0, at_most=MOST_TOKEN_DAYS)
        secret, now_s = TOKEN_PREFIX + secrets.token_urlsafe(32), self.now()
        expires_s = now_s + days * DAY_S
        with self.store.write() as session:
            row = find_user(session, user)
            if row.disabled_s is not None:
                raise ConfigError(f"{user} is disabled", hint=f"fl user enable {user}")
            token = AccessToken(
                sha256=digest(secret), user=row.number, name=name[:64], created_s=now_s, expires_s=expires_s
            )
            session.add(token)
            facts = {"id": token.sha256[:12], "name": token.name, "expires_s": round(expires_s)}
            audit.append(session, actor, "token.add", user, after=facts)
        return NewToken(secret, user, name[:64], expires_s)

    def revoke_token(self, actor: Actor, user: str, id: str) -> None:
        """End an access token, from the next request on.

        Args:
            actor: Who.
            user: Whose.
            id: The first 12 characters of its hash, as lists show them.

        Raises:
            ConfigError: If there is no such token that is good.
        """
        with self.store.write() as session:
            row = find_user(session, user)
            tokens = session.scalars(select(AccessToken).where(AccessToken.user == row.number)).all()
            found = [token for token in tokens if len(id) >= 8 and token.sha256.startswith(id)]
            if len(found) != 1 or found[0].revoked_s is not None:
                raise ConfigError(f"{user} has no token {id[:12]} that is good", hint="fl user list")
            found[0].revoked_s = self.now()
            audit.append(session, actor, "token.revoke", user, before={"id": id[:12], "name": found[0].name})

    def find_token(self, secret: str) -> Person | None:
        """Whose token this is; ``None`` if it is nobody's, was revoked or has expired, or its user is disabled."""
        with self.store.read() as session:
            token = session.get(AccessToken, digest(secret))
            if token is None or token.revoked_s is not None or token.expires_s < self.now():
                return None
            user = session.get_one(User, token.user)
            used_s = token.used_s or 0.0
        if user.disabled_s is not None:
            return None
        if self.now() - used_s > 60:  # once a minute is exact enough, and cheap
            with self.store.write() as session:
                session.get_one(AccessToken, token.sha256).used_s = self.now()
        return person(user)

    # ---- sessions ----

    def open_session(self, actor: Actor, user: Person, *, hours: float) -> NewSession:
        """Sign a browser in. A session ends after its hours, however often it is used."""
        secret, csrf, now_s = secrets.token_urlsafe(32), secrets.token_urlsafe(32), self.now()
        with self.store.write() as session:
            session.execute(delete(WebSession).where(WebSession.expires_s < now_s))
            made = WebSession(
                sha256=digest(secret), user=user.number, csrf=csrf, created_s=now_s, expires_s=now_s + hours * 3600
            )
            session.add(made)
            audit.append(session, actor, "session.open", user.name)
        return NewSession(secret, csrf, now_s + hours * 3600)

    def find_session(self, secret: str) -> tuple[Person, str] | None:
        """Whose session a cookie is, and its CSRF token; ``None`` if it is over or was never."""
        with self.store.read() as session:
            found = session.get(WebSession, digest(secret))
            if found is None or found.expires_s < self.now():
                return None
            user = session.get_one(User, found.user)
        return None if user.disabled_s is not None else (person(user), found.csrf)

    def close_session(self, actor: Actor, secret: str) -> None:
        """Sign a browser out; nothing if it isn't signed in."""
        with self.store.write() as session:
            found = session.get(WebSession, digest(secret))
            if found is not None:
                session.delete(found)
                audit.append(session, actor, "session.close", session.get_one(User, found.user).name)

    def sign_in_from_provider(
        self, actor: Actor, subject: str, name: str, role: str, projects: Sequence[str]
    ) -> Person:
        """The user who was proved by the identity provider; made at the first time, changed when the groups changed.

        Args:
            actor: The user, from where.
            subject: Issuer and subject: what identifies them, whatever their name is.
            name: What they are called, if nobody is.
            role: By their groups.
            projects: By their groups.

        Raises:
            ConfigError: If they are disabled here.
        """
        check_role(role)
        shown = check_projects(projects)
        with self.store.write() as session:
            user = session.scalar(select(User).where(User.subject == subject))
            if user is None:
                user = User(
                    name=_free_name(session, name),
                    role=role,
                    projects=json.dumps(shown),
                    subject=subject,
                    created_s=self.now(),
                )
                session.add(user)
                audit.append(session, actor, "user.add", user.name, after={"role": role, "projects": shown})
            elif user.disabled_s is not None:
                raise ConfigError(f"{user.name} is disabled here", hint="ask an admin: fl user enable")
            elif (user.role, json.loads(user.projects)) != (role, shown):
                before = {"role": user.role, "projects": json.loads(user.projects)}
                user.role, user.projects = role, json.dumps(shown)
                after = {"role": role, "projects": shown}
                audit.append(session, actor, "user.role", user.name, before=before, after=after)
            session.flush()
            return person(user)


def person(user: User) -> Person:
    """A user's row as who they are."""
    projects = tuple(json.loads(user.projects))
    everything = user.role == "admin" or "*" in projects
    return Person(user.number, user.name, cast(Role, user.role), None if everything else projects)


def find_user(session: Session, name: str) -> User:
    """A user's row.

    Raises:
        ConfigError: If there is none, with the nearest name.
    """
    row = session.scalar(select(User).where(User.name == name))
    if row is None:
        raise unknown("user", name[:80], list(session.scalars(select(User.name))))
    return row


def check_role(role: str) -> None:
    """Refuse a word that is no role.

    Raises:
        ConfigError: With the roles.
    """
    if role not in ROLES:
        raise unknown("role", role[:40], ROLES)


def check_projects(projects: Sequence[str]) -> list[str]:
    """Projects as they are stored.

    Raises:
        InputError: If there is none, or one cannot be.
    """
    if not projects:
        raise InputError("a user without projects sees nothing", hint='"*" is all projects')
    for project in projects:
        check_project(project, also_all=True)
    return sorted(set(projects))


def check_project(project: str, *, also_all: bool = False) -> str:
    """A project's name.

    Raises:
        InputError: If it cannot be one.
    """
    if not PROJECT.fullmatch(project) and not (also_all and project == "*"):
        raise InputError(f"{project[:80]!r} cannot be a project", hint="letters, digits, dots, dashes, underscores")
    return project


def _keep_an_admin(session: Session, user: User) -> None:
    if user.role != "admin":
        return
    admins = session.scalar(
        select(func.count()).select_from(User).where(User.role == "admin", User.disabled_s.is_(None))
    )
    if admins == 1 and user.disabled_s is None:
        raise ConfigError(f"{user.name} is the last admin", hint="make another one first: fl user role NAME admin")


def _free_name(session: Session, name: str) -> str:
    """A name that nobody has: the provider's names are theirs to choose, and must not be somebody else's here."""
    base = "".join(letter if re.match(r"[A-Za-z0-9._@+-]", letter) else "-" for letter in name).strip("-._@+")[:56]
    base, number = base or "user", 1
    found = base if base != LOCAL else f"{base}-2"
    while session.scalar(select(User.number).where(User.name == found)):
        number += 1
        found = f"{base}-{number}"
    return found
