"""Signing in and out."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse, Response

from server.api.auth import address_of, check_origin, cookie_name, signed_in
from server.api.context import context_of
from server.api.errors import SignInError, TooOftenError, status_of
from server.api.oidc import local_path
from server.api.people import set_cookie, sign_in, sign_out
from server.web.page import changing, draw

router = APIRouter()


@router.get("/sign-in")
def ask(request: Request, to: str = "/") -> Response:
    """The form; whoever is signed in goes on."""
    current = signed_in(request)
    if current is not None and not current.is_anonymous:
        return RedirectResponse(local_path(to), 303)
    return draw(request, "sign_in.html", None, to=local_path(to), error=None)


@router.post("/sign-in")
def enter(
    request: Request,
    token: Annotated[str, Form(max_length=256)] = "",
    to: Annotated[str, Form(max_length=500)] = "/",
) -> Response:
    """Sign in with an access token."""
    context = context_of(request)
    check_origin(request)
    try:
        _, session = sign_in(context, token, address_of(request))
    except (SignInError, TooOftenError) as err:
        return draw(request, "sign_in.html", None, status=status_of(err), to=local_path(to), error=err)
    answer = RedirectResponse(local_path(to), 303)
    set_cookie(context, answer, session)
    return answer


@router.post("/sign-out")
def leave(request: Request, csrf: Annotated[str, Form(max_length=128)] = "") -> Response:
    """Sign out."""
    context, current = context_of(request), changing(request, csrf)
    sign_out(context, request, current.actor)
    answer = RedirectResponse("/sign-in", 303)
    answer.delete_cookie(cookie_name(context), secure=context.is_secure, httponly=True, samesite="lax")
    return answer
