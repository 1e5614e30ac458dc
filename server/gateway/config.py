"""What the gateway is told: where it listens, and the bounds that hold for each site."""

from __future__ import annotations

import dataclasses

from fl.config import check_range
from fl.errors import ConfigError

MIB = 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GatewayConfig:
    """The ``[gateway]`` table of ``server.toml``."""

    listen: tuple[str, ...] = ("[::]:8443",)
    """Addresses that sites reach, ``host:port``; ``[::]`` takes IPv4 and IPv6."""

    health: str | None = None
    """Address of the health endpoint, plain HTTP; without it there is none."""

    hold_s: float = 25.0
    """How long a site's question for mail is held; below Flower's client time-out of 30 s."""

    calls_per_s: float = 200.0
    """Calls that a site may make each second, over time."""

    calls_burst: int = 1000
    """Calls that a site may make at once after a pause."""

    calls_at_once: int = 32
    """Calls of one site that are answered at the same time."""

    object_mib: int = 1024
    """Largest object that a site may push."""

    reply_mib: int = 65536
    """Largest reply of a site, all its objects together."""

    polls_per_s: float = 5.0
    """Questions to SuperLink each second on behalf of idle sites, for apps that do not say who has mail."""

    busy_polls_per_s: float = 40.0
    """The same on behalf of sites that had mail within the last minute."""

    heartbeats_per_s: float = 2.0
    """Heartbeats that SuperLink gets each second, for all sites together; leases grow with the number of sites."""

    lost_after_s: float = 45.0
    """Silence after which a site counts as offline; a SuperNode that works says a word every 21 to 27 s."""

    def __post_init__(self) -> None:
        check_range("gateway.hold_s", self.hold_s, at_least=1, at_most=28)
        check_range("gateway.calls_per_s", self.calls_per_s, above=0)
        check_range("gateway.calls_burst", self.calls_burst, at_least=1)
        check_range("gateway.calls_at_once", self.calls_at_once, at_least=4)
        check_range("gateway.object_mib", self.object_mib, at_least=1)
        check_range("gateway.reply_mib", self.reply_mib, at_least=1)
        check_range("gateway.polls_per_s", self.polls_per_s, above=0)
        check_range("gateway.busy_polls_per_s", self.busy_polls_per_s, above=0)
        check_range("gateway.heartbeats_per_s", self.heartbeats_per_s, above=0)
        check_range("gateway.lost_after_s", self.lost_after_s, at_least=1)
        if not self.listen:
            raise ConfigError("gateway.listen is empty", hint='listen = ["[::]:8443"]')
        for address in (*self.listen, *filter(None, [self.health])):
            host, _, port = address.rpartition(":")
            if not host or not port.isdigit():
                raise ConfigError(f"gateway: address {address!r} must be host:port")
