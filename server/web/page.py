"""Draws pages: the templates' environment, what every page needs, errors as pages, files of our own."""

from __future__ import annotations

import datetime
import functools
import json
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from fl import __version__
from fl.console import human_seconds
from fl.errors import FLError, InputError
from fl.report import words
from fl.report.page import asset
from fl.report.page import environment as report_environment
from server.api.auth import SAFE, Current, check_csrf, current_user
from server.api.context import context_of
from server.api.errors import SignInError
from server.views.condition import span

STATIC: Mapping[str, tuple[str, str, str]] = {
    "report.css": ("fl.report", "page.css", "text/css"),
    "room.css": ("server.web", "static/room.css", "text/css"),
    "charts.js": ("fl.report", "page.js", "text/javascript"),
    "room.js": ("server.web", "static/room.js", "text/javascript"),
}
"""Files that browsers load: where they lie, and what they are."""

DAY_S = 86_400.0


def draw(request: Request, name: str, current: Current | None, *, status: int = 200, **facts: Any) -> HTMLResponse:
    """A page.

    Args:
        request: Whose answer it is.
        name: Its template.
        current: Who looks; ``None`` where nobody has to be known.
        status: Of the answer.
        facts: What it shows.
    """
    html = (
        _environment()
        .get_template(f"templates/{name}")
        .render(
            current=current,
            here=request.url.path,
            address=str(request.url.path) + (f"?{request.url.query}" if request.url.query else ""),
            query=request.query_params,
            now_s=time.time(),
            version=__version__,
            oidc_title=getattr(request.app.state, "oidc_title", ""),
            **facts,
        )
    )
    return HTMLResponse(html, status)


def changing(request: Request, csrf: str) -> Current:
    """Who sends a form, if it comes from a page of ours.

    Raises:
        SignInError: If nobody is signed in.
        ForbiddenError: If the form is not of this session.
    """
    current = current_user(request)
    current.check("viewer" if not current.is_anonymous else "operator")
    check_csrf(request, current, csrf)
    return current


def back_to(path: str, said: str = "") -> RedirectResponse:
    """Go to a page after a change; ``said`` is shown there."""
    query = f"?{urllib.parse.urlencode({'said': said})}" if said else ""
    return RedirectResponse(path + query, 303)


def error_page(request: Request, error: FLError, status: int) -> Response:
    """An error for people. Whoever is not signed in is asked to, and comes back to where they were."""
    if isinstance(error, SignInError) and request.method in SAFE and request.url.path != "/sign-in":
        to = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/sign-in?{urllib.parse.urlencode({'to': to})}", 303)
    return draw(request, "error.html", None, status=status, error=error, code=status)


def number(text: str, what: str, *, least: int, most: int) -> int:
    """A whole number of a form or an address.

    Raises:
        InputError: If it is none, or out of its range.
    """
    try:
        value = int(text)
    except ValueError as err:
        raise InputError(f"{what} is {text[:40]!r}", hint=f"a whole number, {least} to {most}") from err
    if not least <= value <= most:
        raise InputError(f"{what} is {value}, must be {least} to {most}")
    return value


def serve(name: str) -> Response:
    """A file of ours; 404 for any other."""
    if name not in STATIC:
        return Response(status_code=404)
    package, path, kind = STATIC[name]
    return Response(
        asset(path, package), media_type=kind, headers={"Cache-Control": "no-cache", "ETag": f'"{__version__}"'}
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = report_environment("server.web")
    environment.filters |= {
        "when": when,
        "span": span,
        "time": human_seconds,
        "pretty": lambda value: json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False),
        "query": lambda value: urllib.parse.urlencode({k: v for k, v in value.items() if v not in ("", None)}),
    }
    environment.globals |= {"nothing": words.NOTHING}
    return environment


def when(time_s: float | None) -> str:
    """A time of the wall clock, to the second; UTC, as the machines' logs have it."""
    if time_s is None:
        return words.NOTHING
    return f"{datetime.datetime.fromtimestamp(time_s, datetime.UTC):%Y-%m-%d %H:%M:%S} UTC"


def signed(request: Request) -> Current:
    """Who looks at a page.

    Raises:
        SignInError: If nobody is signed in, and looking needs it.
    """
    current = current_user(request)
    current.check("viewer")
    return current


def store_of(request: Request) -> Any:
    """The store."""
    return context_of(request).store
