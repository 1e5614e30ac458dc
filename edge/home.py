"""A site's home directory, and ``site.toml`` in it: who the site is and how it reaches the centre.

::

    site.toml            this file's SiteFile; written by fl site join, changed by hand
    policy.toml          the owner's policy (edge.policy)
    keys/                transport.key, node.key, executor.secret: made here, 0600, never leave
    certificates/        chain.pem and authorities.pem from the centre; local.{pem,key} of the link's own endpoint
    secagg/              identity.key, authority.pub, roster, ledger: the site's part in secure aggregation
    outbox/              replies on their way to the centre
    status.json          written by the link, read by fl site status
    usage.json           what was used today
    link.sock runner.sock    datagrams between link and runner
"""

from __future__ import annotations

import dataclasses
import ipaddress
from pathlib import Path
from typing import Literal

from fl.config import check_range, check_site_name, load, read_toml
from fl.errors import ConfigError

DEFAULT_HOME = Path(".fedfleet/site")
DEFAULT_PORT = 443


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SiteFile:
    """``site.toml``."""

    id: str
    """The site's id, as the centre knows it."""

    gateways: tuple[str, ...]
    """Addresses of the gateway, `host:port` or `[IPv6]:port`, tried in this order; the port is 443 if left out."""

    proxy: str = ""
    """HTTP proxy that the link asks to CONNECT, `http://host:port`; empty connects directly. The environment's
    `https_proxy` is not used."""

    proxy_credentials_file: Path | None = None
    """File with `user:password` for the proxy, readable by its owner only."""

    data_dir: Path | None = None
    """Where the site's own data lies; tasks find it in the node's config."""

    partition_id: int = 0
    """Without a `data_dir`: which part of a task's common data is this site's, counted from 0."""

    num_partitions: int = 1
    """Without a `data_dir`: into how many parts the common data is cut."""

    health: str = ""
    """Where the link answers `GET /livez` and `/readyz` for probes, `host:port`; empty answers nowhere."""

    outbox_mib: int = 4096
    """Most that replies may take up on disk while they wait to be sent."""

    longest_backoff_s: float = 30.0
    """Longest pause between two tries to reach the gateway; each is drawn at random between half of it and all."""

    threads: int | None = None
    """Compute threads of each of the site's processes; unset leaves the choice to them."""

    memory_mib: int | None = None
    """Most memory of one task; unset sets no limit."""

    time_s: float | None = None
    """Longest that one task may take; unset sets no limit."""

    cpu_s: int | None = None
    """Most processor time of one task; unset sets no limit."""

    warm_apps: int = 3
    """Apps that are kept imported for their next task; 0 imports an app anew in each task, as Flower does."""

    pods: Path | None = None
    """File that says how tasks run as Kubernetes pods (`pods.toml`); unset runs them in processes of this machine."""

    identity_secret: str = ""
    """In a cluster: Secret of the site's own namespace that is kept up to date with its keys and certificates."""

    preload_at: Literal["start", "first-task"] = "start"
    """When torch is imported: at once, or with the first task, which spares a site that only waits its memory."""

    def __post_init__(self) -> None:
        check_site_name(self.id)
        check_range("num_partitions", self.num_partitions, at_least=1)
        check_range("partition_id", self.partition_id, at_least=0, below=self.num_partitions)
        check_range("outbox_mib", self.outbox_mib, at_least=1)
        check_range("longest_backoff_s", self.longest_backoff_s, at_least=0.1, at_most=600)
        check_range("threads", self.threads, at_least=1)
        check_range("memory_mib", self.memory_mib, at_least=64)
        check_range("time_s", self.time_s, above=0)
        check_range("cpu_s", self.cpu_s, above=0)
        check_range("warm_apps", self.warm_apps, at_least=0)
        if not self.gateways:
            raise ConfigError("gateways is empty", hint='gateways = ["gateway.example.org:443"]')
        for address in (*self.gateways, *([self.health] if self.health else [])):
            _ = split_address(address)
        if self.proxy:
            scheme, _, rest = self.proxy.partition("://")
            if scheme != "http" or "@" in rest or not split_address(rest.rstrip("/"))[0]:
                raise ConfigError(
                    f"proxy is {self.proxy.rpartition('@')[2]!r}, must be http://host:port",
                    hint="a user and password go into proxy_credentials_file",
                )


@dataclasses.dataclass(frozen=True, slots=True)
class Home:
    """Paths in a site's home."""

    path: Path

    @property
    def site_file(self) -> Path:
        """Who the site is."""
        return self.path / "site.toml"

    @property
    def policy(self) -> Path:
        """What the owner allows."""
        return self.path / "policy.toml"

    @property
    def keys(self) -> Path:
        """Private keys; only the owner can read it."""
        return self.path / "keys"

    @property
    def certificates(self) -> Path:
        """What the centre issued."""
        return self.path / "certificates"

    @property
    def chain(self) -> Path:
        """The site's certificate and what leads to the authority, PEM."""
        return self.certificates / "chain.pem"

    @property
    def authorities(self) -> Path:
        """The transport authorities that are trusted now, PEM."""
        return self.certificates / "authorities.pem"

    @property
    def local_ca(self) -> Path:
        """Whom the SuperNode trusts: the throwaway authority of the link's own endpoint."""
        return self.certificates / "local.ca"

    @property
    def roster(self) -> Path:
        """The signed roster, as the centre last had it."""
        return self.secagg / "roster"

    @property
    def transport_key(self) -> Path:
        """The key of the site's certificate."""
        return self.keys / "transport.key"

    @property
    def node_key(self) -> Path:
        """What the SuperNode signs with."""
        return self.keys / "node.key"

    @property
    def executor_secret(self) -> Path:
        """What SuperNode and runner share, made at every start."""
        return self.keys / "executor.secret"

    @property
    def secagg(self) -> Path:
        """The site's part in secure aggregation."""
        return self.path / "secagg"

    @property
    def outbox(self) -> Path:
        """Replies on their way."""
        return self.path / "outbox"

    @property
    def status(self) -> Path:
        """How the link is."""
        return self.path / "status.json"

    @property
    def usage(self) -> Path:
        """What was used today."""
        return self.path / "usage.json"

    @property
    def link_socket(self) -> Path:
        """Where the link hears from the runner."""
        return self.path / "link.sock"

    @property
    def runner_socket(self) -> Path:
        """Where the runner hears from the link."""
        return self.path / "runner.sock"

    def site(self) -> SiteFile:
        """Who the site is.

        Raises:
            ConfigError: If the site has not joined, or a key is wrong.
        """
        if not self.site_file.exists():
            raise ConfigError(f"{self.path} is no site's home: no site.toml", hint="fl site join TOKEN")
        site = load(SiteFile, read_toml(self.site_file))
        for path in (site.data_dir, self.path):
            if "'" in str(path) or '"' in str(path):
                raise ConfigError(f"directory {path} has a quote in its name, which Flower cannot take")
        return site


def split_address(address: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """Host and port of ``host:port``, ``[IPv6]:port``, ``host`` or ``[IPv6]``.

    Raises:
        ConfigError: If it is none of them.

    Example:
        >>> split_address("[::1]:8443"), split_address("gateway.example.org")
        (('::1', 8443), ('gateway.example.org', 443))
    """
    host, colon, port = address.rpartition(":")
    if not colon or address.endswith("]"):
        host, port = address, str(default_port)
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    is_v6 = _is_v6(bare)
    is_name = is_v6 if bracketed else bare and not set(bare) & set(":/[] ") and not bare.isdigit()
    fits = is_name and port.isdigit() and 0 < int(port) < 65536
    if not fits:
        hint = f"[{address}]:{default_port}" if _is_v6(address) else f"gateway.example.org:{default_port}"
        raise ConfigError(f"{address!r} is no address host:port", hint=hint)
    return bare, int(port)


def _is_v6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 6
    except ValueError:
        return False
