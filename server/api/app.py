"""Puts the API together."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse
from fastapi.routing import APIRoute

from fl import __version__
from fl.report.prices import NO_PRICES, Prices
from server import logs
from server.api import errors, events, fleet, metrics, models, oidc, people, runs, sites
from server.api.config import AccessConfig, OidcConfig
from server.api.context import Context, context_of
from server.api.limits import Limit
from server.api.security import Security
from server.home import Home
from server.live import Live
from server.store import Store

if TYPE_CHECKING:
    from server.actions import Actions

PREFIX = "/api/v1"
DESCRIPTION = """\
What the dashboard shows and does, for programs. Sign in with `Authorization: Bearer TOKEN`; `fl user token NAME` makes
one. Lists come in pages: hand `next` back as `after`. Errors are `application/problem+json` with `detail` (what and
where) and `hint` (what to do). All times are seconds since 1970, all sizes bytes; a name's unit is its ending.
"""


def create_app(
    *,
    home: Home,
    store: Store,
    actions: Actions,
    live: Live,
    access: AccessConfig | None = None,
    oidc_config: OidcConfig | None = None,
    prices: Prices = NO_PRICES,
    weights: Mapping[str, float] | None = None,
    public_url: str = "",
    is_secure: bool = True,
    local_token: str = "",
    log: logs.Reader | None = None,
) -> FastAPI:
    """The application, without the dashboard's pages.

    Args:
        home: The server's home.
        store: What it shows.
        actions: What it changes things with.
        live: What it tells of.
        access: Who gets in.
        oidc_config: The identity provider; none without it.
        prices: What energy and time cost.
        weights: How much each project is due in the queue.
        public_url: Under which browsers reach it.
        is_secure: Whether it is served over HTTPS.
        local_token: SHA-256 of the local operator's token (``server.people.digest``); empty for none.
        log: Reads what runs printed; from the home's SuperLink without it.

    Raises:
        ConfigError: If a secret's file cannot be used.
    """
    access = access or AccessConfig()
    app = FastAPI(
        title="fedfleet",
        version=__version__,
        description=DESCRIPTION,
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # both take their scripts from elsewhere
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        responses={
            "4XX": {"description": "Refused: problem+json", "content": {errors.MEDIA_TYPE: {}}},
            503: {"description": "The store or SuperLink does not answer now", "content": {errors.MEDIA_TYPE: {}}},
        },
    )
    app.state.context = Context(
        home=home,
        store=store,
        actions=actions,
        live=live,
        access=access,
        oidc=oidc_config,
        prices=prices,
        weights=weights or {},
        public_url=public_url.rstrip("/"),
        is_secure=is_secure,
        local_token=local_token,
        log=log or functools.partial(logs.read, home),
        sign_ins=Limit(access.sign_ins_per_minute),
        writes=Limit(access.writes_per_minute),
    )
    errors.install(app)
    for part in (runs, sites, fleet, models, people, events):
        app.include_router(part.router, prefix=PREFIX)
    metrics.install(app)
    if oidc_config is not None:
        oidc.install(app, oidc_config)
    app.add_api_route("/healthz", _health, include_in_schema=False)
    app.add_middleware(Security, is_secure=is_secure)
    return app


def _health(request: Request) -> PlainTextResponse:
    """Whether the control room works: 200 once the store answers, 503 while it doesn't."""
    with context_of(request).store.read() as session:
        session.connection()
    return PlainTextResponse("ok\n")


def _operation_id(route: APIRoute) -> str:
    return route.name
