"""What all requests share."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastapi import Request

from fl.report.prices import NO_PRICES, Prices
from server.api.config import AccessConfig, OidcConfig
from server.api.limits import Limit
from server.home import Home
from server.live import Live
from server.logs import Reader
from server.store import Store

if TYPE_CHECKING:
    from server.actions import Actions


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The control room behind the API."""

    home: Home
    store: Store
    actions: Actions
    live: Live
    log: Reader
    access: AccessConfig
    oidc: OidcConfig | None = None
    prices: Prices = NO_PRICES
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """How much each project is due in the queue."""
    public_url: str = ""
    """Under which browsers reach the control room, e.g. ``https://fl.example.org``; for the identity provider."""
    is_secure: bool = True
    """Whether it is served over HTTPS: cookies are then sent over nothing else."""
    local_token: str = ""
    """SHA-256 of the local operator's token (``HOME/control.json``); empty for none."""
    sign_ins: Limit
    writes: Limit


def context_of(request: Request) -> Context:
    """The context of a request."""
    context: Context = request.app.state.context
    return context
