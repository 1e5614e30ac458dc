"""What ``server.toml`` says of the control room, checked as a whole before anything starts."""

from __future__ import annotations

import dataclasses

from fl.config import load
from fl.report.prices import Prices
from server.api.config import AccessConfig, OidcConfig
from server.home import ControlConfig, Home, ServerConfig


@dataclasses.dataclass(frozen=True, slots=True)
class RoomConfig:
    """Its tables."""

    server: ServerConfig
    control: ControlConfig
    access: AccessConfig
    oidc: OidcConfig | None
    prices: Prices


def read(home: Home) -> RoomConfig:
    """The configuration of a home.

    Raises:
        ConfigError: If the home was not made, or a key or value cannot be used.
    """
    server = home.config()
    return RoomConfig(
        server=server,
        control=server.control,
        access=load(AccessConfig, server.access, table="access"),
        oidc=None if server.oidc is None else load(OidcConfig, server.oidc, table="oidc"),
        prices=load(Prices, server.prices, table="prices"),
    )
