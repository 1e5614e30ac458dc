"""Who asks: an access token (``Authorization: Bearer``), or a browser's session cookie with a CSRF token for changes.

Roles: a *viewer* looks at runs of their projects; an *operator* starts and ends them, and, if their projects are all,
looks after sites; an *admin* does everything. The operator at the server itself (``HOME/control.json``) is an admin.
"""

from __future__ import annotations

import dataclasses
import hmac
import urllib.parse
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request

from server.api.context import Context, context_of
from server.api.errors import ForbiddenError, SignInError
from server.audit import Actor, Via
from server.people import LOCAL, ROLES, Person, Role, digest
from server.views.page import NotFoundError, Visible

SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
CSRF_HEADER = "X-CSRF-Token"
SIGN_IN_HINT = "sign in, or send Authorization: Bearer TOKEN with a token of fl user token"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """Who asks."""

    name: str
    role: Role
    visible: Visible
    """Projects whose runs they see; ``None`` for all."""
    via: Via
    """``web`` for a browser's session, ``cli`` for the local operator, else ``api``."""
    address: str
    csrf: str = ""
    """The session's CSRF token, for forms; empty without a session."""
    number: int = 0
    is_anonymous: bool = False

    @property
    def actor(self) -> Actor:
        """The same, for the audit."""
        return Actor(who=self.name, via=self.via, address=self.address)

    def may(self, role: Role) -> bool:
        """Whether they have a role, or a higher one."""
        return not (self.is_anonymous and role != "viewer") and ROLES.index(self.role) >= ROLES.index(role)

    @property
    def may_change_sites(self) -> bool:
        """Whether they look after sites, which belong to no project."""
        return self.may("operator") and self.visible is None

    def check(self, role: Role) -> None:
        """Refuse who has not the role.

        Raises:
            SignInError: If nobody is signed in.
            ForbiddenError: If the role is a lower one.
        """
        if self.is_anonymous and role != "viewer":
            raise SignInError("not signed in", hint=SIGN_IN_HINT)
        if not self.may(role):
            raise ForbiddenError(
                f"{self.name} is {self.role}, this needs {role}", hint=f"an admin can: fl user role {self.name} {role}"
            )

    def check_sites(self) -> None:
        """Refuse who does not look after sites.

        Raises:
            SignInError, ForbiddenError: As ``check``.
        """
        self.check("operator")
        if self.visible is not None:
            raise ForbiddenError(
                f"{self.name} sees some projects only, and sites belong to all",
                hint=f"an admin can: fl user role {self.name} operator --project '*'",
            )

    def check_project(self, project: str) -> None:
        """Refuse a project that they cannot see.

        Raises:
            NotFoundError: The same as for one that isn't there.
        """
        if self.visible is not None and project not in self.visible:
            known = ", ".join(sorted(self.visible)) or "none"
            raise NotFoundError(f"no project {project[:63]}", hint=f"yours: {known}")


def current_user(request: Request) -> Current:
    """Who asks, for routes that anybody signed in may use.

    Raises:
        SignInError: If nobody is signed in, and looking needs it.
        ForbiddenError: If a change by a browser lacks its CSRF token, or comes from another site's page.
        TooOftenError: After too many changes, or wrong tokens.
    """
    context = context_of(request)
    found = _find(request, context)
    if request.method not in SAFE:
        context.writes.check(found.name, what=f"changes by {found.name}")
    return found


def signed_in(request: Request) -> Current | None:
    """Who asks, or nobody; for pages that look different then. Does not check CSRF: only for ``GET``."""
    try:
        return _find(request, context_of(request))
    except (SignInError, ForbiddenError):
        return None


def check_csrf(request: Request, current: Current, given: str) -> None:
    """Refuse a change by a browser that does not come from our own page.

    Args:
        request: It.
        current: Who asks.
        given: The token from the header or the form.

    Raises:
        ForbiddenError: If it is not the session's, or the page is another site's.
    """
    check_origin(request)
    if not current.csrf or not hmac.compare_digest(given.encode(), current.csrf.encode()):
        hint = f"load the page again; programs send {CSRF_HEADER}, or a token instead of a cookie"
        raise ForbiddenError("the CSRF token is missing or not this session's", hint=hint)


def check_origin(request: Request) -> None:
    """Refuse a request that a page of another site makes.

    Raises:
        ForbiddenError: If it is one.
    """
    origin = request.headers.get("origin")
    if origin and urllib.parse.urlsplit(origin).netloc != request.headers.get("host", ""):
        raise ForbiddenError(f"the page of {origin[:80]} cannot change anything here")


def needs(role: Role) -> Callable[[Current], Current]:
    """A dependency: who asks, if they have a role."""

    def dependency(current: Annotated[Current, Depends(current_user)]) -> Current:
        current.check(role)
        return current

    return dependency


def needs_sites(current: Annotated[Current, Depends(current_user)]) -> Current:
    """A dependency: who asks, if they look after sites."""
    current.check_sites()
    return current


Viewer = Annotated[Current, Depends(needs("viewer"))]
Operator = Annotated[Current, Depends(needs("operator"))]
Admin = Annotated[Current, Depends(needs("admin"))]
SiteKeeper = Annotated[Current, Depends(needs_sites)]


def cookie_name(context: Context) -> str:
    """Of the session's cookie; with ``__Host-`` no other host and no plain HTTP can set it."""
    return "__Host-fedfleet" if context.is_secure else "fedfleet"


def address_of(request: Request) -> str:
    """From where a request comes."""
    return request.client.host if request.client else ""


def bearer_of(request: Request) -> str | None:
    """The access token of a request; ``None`` without one."""
    scheme, _, secret = request.headers.get("authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else None


def find_token(context: Context, secret: str, address: str) -> Current | None:
    """Who has an access token; ``None`` if it is nobody's. Wrong ones are counted, and then refused for a while.

    Raises:
        TooOftenError: After too many wrong ones from an address.
    """
    context.sign_ins.check_only(address, what=f"wrong tokens from {address}")
    if context.local_token and hmac.compare_digest(digest(secret), context.local_token):
        return Current(name=LOCAL, role="admin", visible=None, via="cli", address=address)
    person = context.actions.find_token(secret)
    if person is None:
        context.sign_ins.count(address)
        return None
    return of_person(person, via="api", address=address)


def of_person(person: Person, *, via: Via, address: str, csrf: str = "") -> Current:
    """Somebody who is known, as who asks."""
    return Current(
        name=person.name,
        role=person.role,
        visible=person.projects,
        via=via,
        address=address,
        csrf=csrf,
        number=person.number,
    )


def _find(request: Request, context: Context) -> Current:
    address = address_of(request)
    if (secret := bearer_of(request)) is not None:
        found = find_token(context, secret, address)
        if found is None:
            raise SignInError("this token is not good: unknown, expired or revoked", hint="fl user token NAME")
        return found
    cookie = request.cookies.get(cookie_name(context))
    if cookie:
        session = context.actions.find_session(cookie)
        if session is not None:
            current = of_person(session[0], via="web", address=address, csrf=session[1])
            # Pages send their forms with the token as a field, and check it themselves (``check_csrf``).
            if request.method not in SAFE and request.url.path.startswith("/api/"):
                check_csrf(request, current, request.headers.get(CSRF_HEADER, ""))
            return current
        if not context.access.anonymous_view:
            raise SignInError("the session is over", hint="sign in again")
    if context.access.anonymous_view:
        return Current(name="anonymous", role="viewer", visible=None, via="web", address=address, is_anonymous=True)
    raise SignInError("not signed in", hint=SIGN_IN_HINT)
