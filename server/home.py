"""The server's home: where everything of the centre lies, and ``server.toml``, which says how it behaves.

::

    server.toml      this configuration
    ca/              the transport authority's keys (``server.ca``)
    gateway/         the gateway's key and certificate
    store.db         sites, certificates, tokens, counters (``server.store``)
    secagg/          the roster and the keys of secure aggregation at the centre (``server.roster``)
    superlink/       Flower's database, logs, and ``reach.json``: where it listens while it runs
    control/         the control room's certificate and log; control.json, where it is while it runs
    runs/, models/   a journal for each run; models that have a name
    gateway.sock     how others on this machine talk to the gateway
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fl import config as configs
from fl.config import check_range
from fl.errors import ConfigError, UnreachableError
from fl.files import socket_name, write_atomic
from fl.link.token import check_address
from server.gateway.config import GatewayConfig

if TYPE_CHECKING:
    from server.control import Control
    from server.store import Store

DEFAULT = Path(".fedfleet/server")
VARIABLE = "FEDFLEET_SERVER_HOME"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentConfig:
    """The ``[enrolment]`` table: how sites come in, and how long what they get is good for."""

    approval: Literal["automatic", "operator"] = "operator"
    """Who lets a site in that brings a valid token: ``automatic``, or an ``operator`` who compares its fingerprint."""

    token_hours: float = 24.0
    """How long a join token can be used for the first time."""

    certificate_days: float = 7.0
    """How long a certificate of a site or of the gateway lives; it renews itself after two thirds of that."""

    roster_days: int = 365
    """How long a roster is valid that is signed here."""

    def __post_init__(self) -> None:
        check_range("enrolment.token_hours", self.token_hours, above=0, at_most=720)
        check_range("enrolment.certificate_days", self.certificate_days, above=0, at_most=90)
        check_range("enrolment.roster_days", self.roster_days, at_least=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ControlConfig:
    """The ``[control]`` table: the control room, which starts runs and shows them."""

    enabled: bool = True
    """Whether ``fl server up`` starts it."""

    listen: str = "127.0.0.1:8444"
    """Where it listens, ``host:port``; port 0 takes a free one."""

    public_url: str = ""
    """Under which browsers reach it, e.g. ``https://fl.example.org``; for the identity provider."""

    certificate_file: Path | None = None
    """Its certificate and those up to the authority, PEM; without it one of this home's transport authority."""

    key_file: Path | None = None
    """The private key of ``certificate_file``, 0600."""

    insecure_http: bool = False
    """Serve HTTP without TLS: behind a proxy on this machine only, because tokens travel in it."""

    runs_at_once: int = 4
    """How many runs have a place; the others wait in the queue."""

    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """How much each project is due, in proportion; 1 for those that are not named."""

    def __post_init__(self) -> None:
        check_range("control.runs_at_once", self.runs_at_once, at_least=1, at_most=256)
        host, _, port = self.listen.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            raise ConfigError(f"control.listen is {self.listen!r}, must be host:port", hint='listen = "127.0.0.1:8444"')
        if (self.certificate_file is None) != (self.key_file is None):
            raise ConfigError("control.certificate_file and control.key_file go together")
        for project, weight in self.weights.items():
            check_range(f"control.weights.{project}", weight, above=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """The ``[store]`` table: where sites, runs, people and the audit are kept."""

    url_file: Path | None = None
    """File (0600) with the URL of a PostgreSQL database; without it ``FEDFLEET_STORE_URL``, else SQLite in the home."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """``server.toml``."""

    addresses: tuple[str, ...]
    """Where sites reach the gateway, ``host:port``, tried in this order; they stand in join tokens."""

    enrolment: EnrolmentConfig = dataclasses.field(default_factory=EnrolmentConfig)
    """How sites come in, and how long certificates live."""

    gateway: GatewayConfig = dataclasses.field(default_factory=GatewayConfig)
    """Where the gateway listens, and its bounds."""

    control: ControlConfig = dataclasses.field(default_factory=ControlConfig)
    """The control room: where it listens, and how many runs have a place."""

    store: StoreConfig = dataclasses.field(default_factory=StoreConfig)
    """Where the store is."""

    access: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Who gets into the control room, and how often they may ask (``server.api.config.AccessConfig``)."""

    oidc: dict[str, Any] | None = None
    """An identity provider where people sign in (``server.api.config.OidcConfig``)."""

    prices: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What energy and time cost (``fl.report.prices.Prices``)."""

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ConfigError("addresses is empty", hint='addresses = ["fl.example.org:8443"]')
        for address in self.addresses:
            check_address(address)

    @property
    def hosts(self) -> tuple[str, ...]:
        """The addresses without ports and brackets."""
        return tuple(address.rpartition(":")[0].strip("[]") for address in self.addresses)


@dataclasses.dataclass(frozen=True, slots=True)
class Home:
    """Paths in the server's home."""

    path: Path

    @property
    def config_file(self) -> Path:
        """``server.toml``."""
        return self.path / "server.toml"

    @property
    def ca(self) -> Path:
        """Directory of the transport authority."""
        return self.path / "ca"

    @property
    def gateway(self) -> Path:
        """Directory of the gateway's key and certificate."""
        return self.path / "gateway"

    @property
    def store(self) -> Path:
        """The store."""
        return self.path / "store.db"

    @property
    def secagg(self) -> Path:
        """Directory of the centre's part in secure aggregation."""
        return self.path / "secagg"

    @property
    def superlink(self) -> Path:
        """Directory of Flower's SuperLink."""
        return self.path / "superlink"

    @property
    def control(self) -> Path:
        """Directory of the control room's key, certificate and log."""
        return self.path / "control"

    @property
    def runs(self) -> Path:
        """Directory of the runs' journals."""
        return self.path / "runs"

    @property
    def socket(self) -> Path:
        """The gateway's unix socket."""
        return self.path / "gateway.sock"

    def config(self) -> ServerConfig:
        """The configuration.

        Raises:
            ConfigError: If the home was not made, or a key or value cannot be used.
        """
        if not self.config_file.exists():
            raise ConfigError(f"{self.path} is no server's home", hint="fl server init makes one; --home names it")
        return configs.load(ServerConfig, configs.read_toml(self.config_file))

    def write_config(self, config: ServerConfig) -> None:
        """Write ``server.toml``."""
        import tomli_w

        tables = configs.to_dict(config)
        write_atomic(self.config_file, tomli_w.dumps(_written(tables, configs.to_dict(_defaults(config)))))

    def write_reach(self, address: str, ca: Path) -> None:
        """Say where the SuperLink of this home listens, for commands that register and unregister nodes."""
        facts = {"address": address, "ca": str(ca.resolve())}
        write_atomic(self.superlink / "reach.json", json.dumps(facts), mode=0o600)

    def open_store(self, config: ServerConfig | None = None) -> Store:
        """The store, wherever it is.

        Args:
            config: The configuration, if it is known or not written yet.

        Raises:
            ConfigError: If the home was not made, or the store's URL cannot be used.
            StorageError: If it cannot be opened.
        """
        from server.store import Store
        from server.store.places import place_of

        return Store(place_of(self.store, (config or self.config()).store.url_file))

    def connect(self) -> Control:
        """A client of this home's SuperLink.

        Raises:
            UnreachableError: If none was started from this home.
        """
        from server.control import Control

        return Control(*self.reach())

    def reach(self) -> tuple[str, Path]:
        """Address of this home's SuperLink, and the file of its certificate authority.

        Raises:
            UnreachableError: If none was started from this home.
        """
        try:
            facts: dict[str, Any] = json.loads((self.superlink / "reach.json").read_text())
        except FileNotFoundError as err:
            raise UnreachableError(f"no SuperLink runs in {self.path}") from err
        return facts["address"], Path(facts["ca"])

    def tell_gateway(self) -> None:
        """Say that the registry has changed, so that calls in progress of a revoked site end; nothing if none runs."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(2.0)
            with socket_name(self.socket) as name:
                link.connect(name)
            link.sendall(b'{"changed": true}\n')


def choose(option: Path | None) -> Home:
    """The server's home: the option, else ``FEDFLEET_SERVER_HOME``, else ``.fedfleet/server`` here."""
    return Home(option or Path(os.environ.get(VARIABLE) or DEFAULT))


def _defaults(config: ServerConfig) -> ServerConfig:
    return ServerConfig(addresses=config.addresses)


def _written(tables: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """What differs from the defaults, and the two keys that everybody should see."""
    shown = {"addresses": tables["addresses"], "enrolment": {}, "gateway": {}}
    for name in ("enrolment", "gateway"):
        for key, value in tables[name].items():
            if value != defaults[name].get(key) or key in ("approval", "certificate_days", "listen"):
                shown[name][key] = value
    for name in ("control", "store", "access", "oidc", "prices"):
        if tables.get(name) and tables[name] != defaults.get(name):
            shown[name] = {key: value for key, value in tables[name].items() if value is not None}
    return shown
