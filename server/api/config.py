"""What ``server.toml`` says of who may sign in, how, and how often they may ask."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fl.config import check_range
from fl.errors import ConfigError
from fl.files import read_secret
from server.people import check_role


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class OidcConfig:
    """The ``[oidc]`` table: an identity provider where people sign in (OpenID Connect, code flow with PKCE)."""

    issuer: str
    """Its address, as its tokens name it; ``/.well-known/openid-configuration`` is found below it."""

    client_id: str
    """What the control room is called there."""

    secret_file: Path | None = None
    """File (0600) with the client's secret; without it ``FEDFLEET_OIDC_SECRET``, and without both a public client."""

    scopes: tuple[str, ...] = ("openid", "profile", "email", "groups")
    """What is asked for."""

    name_claim: str = "preferred_username"
    """Claim with a user's name; ``email`` and then ``sub`` where it is missing."""

    groups_claim: str = "groups"
    """Claim with a user's groups."""

    roles: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Role by group: ``{ fl-admins = "admin" }``; the highest counts."""

    projects: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Projects by group: ``{ radiology = ["xray", "mri"] }``; all of a user's groups count together."""

    default_role: str = ""
    """Role of those whose groups have none; empty refuses them."""

    ca_file: Path | None = None
    """Authorities that vouch for the provider's certificate; the system's without it."""

    title: str = "single sign-on"
    """What the button says: sign in with …"""

    def __post_init__(self) -> None:
        if not self.issuer.startswith(("https://", "http://127.0.0.1", "http://localhost")):
            raise ConfigError(f"oidc.issuer is {self.issuer!r}, must begin with https://")
        for role in (*self.roles.values(), *filter(None, [self.default_role])):
            check_role(role)
        for group, projects in self.projects.items():
            if not isinstance(projects, (list, tuple)) or not all(isinstance(name, str) for name in projects):
                raise ConfigError(f"oidc.projects.{group} is {projects!r}, must be a list of projects")

    def secret(self) -> str:
        """The client's secret; empty for a public client.

        Raises:
            ConfigError: If the file cannot be read, or others can read it.
        """
        if self.secret_file is None:
            return os.environ.get("FEDFLEET_OIDC_SECRET", "")
        return read_secret(self.secret_file)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AccessConfig:
    """The ``[access]`` table: who gets in, for how long, and how often they may ask."""

    anonymous_view: bool = False
    """Whether everybody who reaches the control room may look, without signing in; changes always need it."""

    session_hours: float = 12.0
    """How long a browser stays signed in."""

    sign_ins_per_minute: float = 10.0
    """Tries to sign in, and wrong tokens, from one address."""

    writes_per_minute: float = 120.0
    """Changes by one user."""

    viewers: int = 1000
    """Live views (server-sent events) at once."""

    metrics: Literal["token", "loopback", "anonymous"] = "token"
    """Who may read ``/metrics``: users' tokens and the one in ``metrics_token_file``; also all on this machine;
    or everybody."""

    metrics_token_file: Path | None = None
    """File (0600) with a token that reads ``/metrics`` and nothing else."""

    def __post_init__(self) -> None:
        check_range("access.session_hours", self.session_hours, above=0, at_most=24 * 30)
        check_range("access.sign_ins_per_minute", self.sign_ins_per_minute, above=0)
        check_range("access.writes_per_minute", self.writes_per_minute, above=0)
        check_range("access.viewers", self.viewers, at_least=1)
