"""Errors on the wire: ``application/problem+json`` (RFC 9457) with what went wrong, where, and what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from fl.errors import (
    BusyError,
    FLError,
    InputError,
    RefusedError,
    StorageError,
    UnreachableError,
)
from server.views.page import NotFoundError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class SignInError(RefusedError):
    """Nobody is signed in, or with something that is no longer good."""


class ForbiddenError(RefusedError):
    """Signed in, and not allowed to."""


class TooOftenError(RefusedError):
    """Asked more often than is allowed.

    Args:
        message: What and where.
        again_after_s: When to ask again.
    """

    def __init__(self, message: str, *, again_after_s: float) -> None:
        super().__init__(message, hint=f"ask again in {again_after_s:.0f} s")
        self.again_after_s = again_after_s


STATUSES: tuple[tuple[type[FLError], int], ...] = (
    (SignInError, 401),
    (ForbiddenError, 403),
    (NotFoundError, 404),
    (TooOftenError, 429),
    (BusyError, 409),
    (RefusedError, 409),
    (InputError, 422),
    (StorageError, 503),
    (UnreachableError, 503),
)
"""The first that fits; 500 for the others."""


def status_of(error: FLError) -> int:
    """The status of an error."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


Page = Callable[[Request, FLError, int], Response]
"""Draws an error for people; ``app.state.error_page``, set by the dashboard."""


def problem(request: Request, error: FLError) -> Response:
    """An error as the API answers it; as a page for a browser, outside the API proper."""
    status = status_of(error)
    if (page := _page(request, error, status)) is not None:
        return page
    headers = {}
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="fedfleet"'
    if isinstance(error, TooOftenError):
        headers["Retry-After"] = f"{max(1, round(error.again_after_s))}"
    elif status == 503:
        headers["Retry-After"] = "5"
    return _answer(request, status, type(error).__name__, error.message, error.hint, headers)


def _page(request: Request, error: FLError, status: int) -> Response | None:
    """The error as a page, for a browser; ``None`` for a program."""
    page: Page | None = getattr(request.app.state, "error_page", None)
    if page is None or "text/html" not in request.headers.get("accept", ""):
        return None
    return page(request, error, status)


def install(app: FastAPI) -> None:
    """Have an application answer all errors so."""

    @app.exception_handler(FLError)
    def _ours(request: Request, error: FLError) -> Response:
        return problem(request, error)

    @app.exception_handler(RequestValidationError)
    def _invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        words = str(first["msg"])
        said = f"{where}: {words[:1].lower()}{words[1:]}"[:300]
        if (page := _page(request, InputError(said), 422)) is not None:
            return page
        return _answer(request, 422, "InputError", said, "see /api/v1/openapi.json", {})

    @app.exception_handler(HTTPException)
    def _http(request: Request, error: HTTPException) -> Response:
        words = {404: "nothing is here", 405: f"{request.method} is not possible here"}
        said = words.get(error.status_code, str(error.detail).lower())
        if (page := _page(request, InputError(said), error.status_code)) is not None:
            return page
        return _answer(request, error.status_code, "InputError", said, None, dict(error.headers or {}))

    @app.exception_handler(SQLAlchemyError)
    def _store(request: Request, error: SQLAlchemyError) -> Response:
        log.error("the store failed: %s", error)
        down = StorageError("the store does not answer", hint="it is tried again with the next request")
        return problem(request, down)

    @app.exception_handler(Exception)
    def _bug(request: Request, error: Exception) -> Response:
        log.error("a bug in %s %s", request.method, request.url.path, exc_info=error)
        said = "this is a bug of fedfleet; its log has the trace"
        return _page(request, FLError(said), 500) or _answer(request, 500, "Bug", said, None, {})


def _answer(
    request: Request, status: int, kind: str, message: str, hint: str | None, headers: Mapping[str, str]
) -> Response:
    body = {
        "type": f"urn:fedfleet:{kind}",
        "title": kind,
        "status": status,
        "detail": message,
        "hint": hint,
        "instance": request.url.path,
    }
    return JSONResponse(body, status, dict(headers), media_type=MEDIA_TYPE)
