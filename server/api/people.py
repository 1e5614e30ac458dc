"""Users, tokens, sessions, and the audit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from fl.errors import FLError
from server import audit
from server.api.auth import (
    Admin,
    Viewer,
    address_of,
    check_origin,
    cookie_name,
    find_token,
)
from server.api.context import Context, context_of
from server.api.errors import ForbiddenError, SignInError
from server.audit import Actor
from server.people import LOCAL, MOST_TOKEN_DAYS, TOKEN_DAYS, NewSession, Person
from server.views import models as views
from server.views.page import MOST, Page

router = APIRouter(tags=["people"])

Name = Annotated[str, InPath(max_length=64, description="A user's name.")]
Role = Literal["viewer", "operator", "admin"]
Projects = Annotated[list[Annotated[str, Field(max_length=63)]], Field(max_length=100)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SignIn(_Strict):
    """What a browser signs in with."""

    token: Annotated[str, Field(min_length=1, max_length=256)]


class Me(BaseModel):
    """Who asks."""

    name: str
    role: Role
    projects: list[str]
    """`*` for all."""
    csrf: str
    """What a browser sends as `X-CSRF-Token` with changes; empty with a token."""


class NewUser(_Strict):
    """A user to make."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    role: Role = "viewer"
    projects: Projects = ["*"]


class NewRole(_Strict):
    """What a user may do from now on."""

    role: Role
    projects: Projects | None = None


class WantedToken(_Strict):
    """A token to make."""

    name: Annotated[str, Field(max_length=64, description="What it is for.")] = ""
    days: Annotated[float, Field(gt=0, le=MOST_TOKEN_DAYS)] = TOKEN_DAYS


class Token(BaseModel):
    """An access token; shown this once."""

    token: str
    user: str
    name: str
    expires_s: float


class Verified(BaseModel):
    """How the audit stands."""

    holds: bool
    rows: int
    chain: str
    """The last chain value: write it down elsewhere."""
    problem: str = ""


class Lines(StreamingResponse):
    """JSON, one object a line."""

    media_type = "application/x-ndjson"


@router.get("/me")
def show_me(current: Viewer) -> Me:
    """Who asks, and what they may."""
    projects = ["*"] if current.visible is None else sorted(current.visible)
    return Me(name=current.name, role=current.role, projects=projects, csrf=current.csrf)


@router.post("/session")
def open_session(request: Request, response: Response, given: SignIn) -> Me:
    """Sign a browser in with an access token: sets a cookie that scripts cannot read."""
    context = context_of(request)
    check_origin(request)
    person, session = sign_in(context, given.token, address_of(request))
    set_cookie(context, response, session)
    projects = ["*"] if person.projects is None else sorted(person.projects)
    return Me(name=person.name, role=person.role, projects=projects, csrf=session.csrf)


@router.delete("/session", status_code=204)
def close_session(request: Request, response: Response, current: Viewer) -> None:
    """Sign the browser out."""
    context = context_of(request)
    sign_out(context, request, current.actor)
    response.delete_cookie(cookie_name(context), secure=context.is_secure, httponly=True, samesite="lax")


@router.get("/users")
def list_users(request: Request, current: Admin) -> tuple[views.UserRow, ...]:
    """Everybody who may sign in, with their tokens, whose secrets are nowhere."""
    with context_of(request).store.read() as session:
        return views.users(session)


@router.post("/users", status_code=201)
def add_user(request: Request, current: Admin, wanted: NewUser) -> None:
    """Make a user."""
    context_of(request).actions.add_user(current.actor, wanted.name, wanted.role, wanted.projects)


@router.put("/users/{name}/role", status_code=204)
def set_role(request: Request, current: Admin, name: Name, wanted: NewRole) -> None:
    """Change what a user may do, from their next request on."""
    context_of(request).actions.set_role(current.actor, name, wanted.role, wanted.projects)


@router.post("/users/{name}/disable", status_code=204)
def disable_user(request: Request, current: Admin, name: Name) -> None:
    """Let a user in no longer; their tokens and sessions end."""
    context_of(request).actions.disable_user(current.actor, name)


@router.post("/users/{name}/enable", status_code=204)
def enable_user(request: Request, current: Admin, name: Name) -> None:
    """Let a user in again, with new tokens."""
    context_of(request).actions.enable_user(current.actor, name)


@router.post("/users/{name}/tokens", status_code=201)
def add_token(request: Request, current: Viewer, name: Name, wanted: WantedToken) -> Token:
    """Make an access token: one's own, or, as an admin, anybody's."""
    if name != current.name or current.is_anonymous:
        current.check("admin")
    if current.name == LOCAL == name:
        raise ForbiddenError("the local operator has no tokens", hint="fl user add NAME --role admin")
    made = context_of(request).actions.add_token(current.actor, name, wanted.name, days=wanted.days)
    return Token(token=made.secret, user=made.user, name=made.name, expires_s=made.expires_s)


@router.delete("/users/{name}/tokens/{id}", status_code=204)
def revoke_token(
    request: Request,
    current: Viewer,
    name: Name,
    id: Annotated[str, InPath(min_length=8, max_length=64, pattern="^[0-9a-f]+$")],
) -> None:
    """End an access token: one's own, or, as an admin, anybody's."""
    if name != current.name or current.is_anonymous:
        current.check("admin")
    context_of(request).actions.revoke_token(current.actor, name, id)


@router.get("/audit")
def list_audit(
    request: Request,
    current: Admin,
    who: Annotated[str, Query(max_length=64)] = "",
    action: Annotated[str, Query(max_length=64, description="Such as `run.stop`, or `run` for all of them.")] = "",
    subject: Annotated[str, Query(max_length=128)] = "",
    limit: Annotated[int, Query(ge=1, le=MOST)] = 100,
    after: Annotated[str, Query(max_length=64, description="`next` of the page before.")] = "",
) -> Page[views.AuditRow]:
    """Every change of anything, the newest first."""
    with context_of(request).store.read() as session:
        return views.audit(session, who=who, action=action, subject=subject, limit=limit, after=after)


@router.get("/audit/verify")
def verify_audit(
    request: Request,
    current: Admin,
    expect: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description="A chain value noted earlier.")] = None,
) -> Verified:
    """Compute the chain again, and name the first row that does not hold."""
    with context_of(request).store.read() as session:
        try:
            rows, chain = audit.verify(audit.rows(session), expect=expect)
        except FLError as err:
            return Verified(holds=False, rows=0, chain="", problem=err.message)
    return Verified(holds=True, rows=rows, chain=chain)


@router.get("/audit/export", response_class=Lines)
def export_audit(request: Request, current: Admin, after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0) -> Lines:
    """All rows behind a number, as JSON lines, in order."""
    return Lines(_lines(context_of(request), after))


def sign_in(context: Context, token: str, address: str) -> tuple[Person, NewSession]:
    """Open a session for whoever has a token. The local operator's opens none: it is for programs.

    Raises:
        SignInError: If the token is nobody's.
        TooOftenError: After too many tries from an address.
    """
    context.sign_ins.check_only(address, what=f"sign-ins from {address}")
    found = find_token(context, token.strip(), address)
    if found is None or found.name == LOCAL:
        raise SignInError("this token is not good: unknown, expired or revoked", hint="fl user token NAME")
    visible = None if found.visible is None else tuple(found.visible)
    person = Person(found.number, found.name, found.role, visible)
    actor = Actor(who=person.name, via="web", address=address)
    return person, context.actions.open_session(actor, person, hours=context.access.session_hours)


def sign_out(context: Context, request: Request, actor: Actor) -> None:
    """End the session of a request, if it has one."""
    if cookie := request.cookies.get(cookie_name(context)):
        context.actions.close_session(actor, cookie)


def set_cookie(context: Context, response: Response, session: NewSession) -> None:
    """Hand a session to a browser."""
    response.set_cookie(
        cookie_name(context),
        session.secret,
        max_age=int(context.access.session_hours * 3600),
        path="/",
        secure=context.is_secure,
        httponly=True,
        samesite="lax",
    )


def _lines(context: Context, after: int) -> Iterator[str]:
    with context.store.read() as session:
        for row in audit.rows(session, after=after):
            yield json.dumps({**audit.as_dict(row), "chain": row.chain}, sort_keys=True) + "\n"
