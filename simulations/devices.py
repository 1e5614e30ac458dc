"""How fast simulated sites are: their devices and links, and when they can be reached at all.

Presets are orders of magnitude, for experiments that need *some* realistic mixture; an experiment about one fleet
writes its own numbers. ``samples_per_s`` is for a small network such as the digits' CNN; scale it to the task at hand
(a run's report says what a real machine reached).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from fl import seeding
from fl.config import check_range, load, unknown
from fl.errors import ConfigError

HOUR_S = 3600.0

AVAILABILITY: Mapping[str, tuple[float, ...]] = {
    "always": (1.0,) * 24,
    "nights": (0.9,) * 6 + (0.1,) * 16 + (0.9,) * 2,
    "office": (0.05,) * 8 + (0.95,) * 10 + (0.05,) * 6,
}
"""The probability of being there, by local hour. ``nights`` has the shape of phones that are idle, charging and on an
unmetered network (Bonawitz et al. 2019, "Towards Federated Learning at Scale", fig. 5), ``office`` of workstations."""

DEVICES: Mapping[str, Mapping[str, Any]] = {
    "phone": {"samples_per_s": 400.0, "watts": 4.0, "availability": "nights"},
    "jetson": {"samples_per_s": 4_000.0, "watts": 15.0},
    "workstation": {"samples_per_s": 20_000.0, "watts": 250.0, "availability": "office"},
    "server": {"samples_per_s": 100_000.0, "watts": 500.0},
}
"""Devices that a scenario may name without saying more."""

LINKS: Mapping[str, Mapping[str, Any]] = {
    "fibre": {"down_mbit_s": 250.0, "up_mbit_s": 100.0, "latency_ms": 10.0},
    "dsl": {"down_mbit_s": 50.0, "up_mbit_s": 10.0, "latency_ms": 25.0},
    "lte": {"down_mbit_s": 30.0, "up_mbit_s": 8.0, "latency_ms": 50.0},
    "satellite": {"down_mbit_s": 10.0, "up_mbit_s": 1.0, "latency_ms": 600.0},
}
"""Links that a scenario may name without saying more."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """One ``[[devices]]`` table: a kind of device that some of the sites have."""

    TABLE: ClassVar[str] = "devices"

    name: str
    """Its name; of a preset (``phone``, ``jetson``, ``workstation``, ``server``), keys left out have its values."""

    share: float = 1.0
    """How many of the sites have it, in proportion to the shares of the others."""

    samples_per_s: float = 1_000.0
    """Examples that it trains on in a second."""

    watts: float = 0.0
    """What it draws while it trains."""

    availability: str | tuple[float, ...] = "always"
    """The probability that such a site is there, for each of the 24 hours of its day: 24 numbers, or ``always``,
    ``nights`` or ``office``."""

    utc_offset_h: float = 0.0
    """Its local time, as hours ahead of UTC; the run begins at 00:00 UTC."""

    def __post_init__(self) -> None:
        check_range("devices.share", self.share, above=0)
        check_range("devices.samples_per_s", self.samples_per_s, above=0)
        check_range("devices.watts", self.watts, at_least=0)
        check_range("devices.utc_offset_h", self.utc_offset_h, at_least=-14, at_most=14)
        self.by_hour()

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> DeviceConfig:
        """An entry of a scenario, a preset's values under it."""
        return load(cls, {**DEVICES.get(str(table.get("name")), {}), **table}, table=cls.TABLE)

    def by_hour(self) -> tuple[float, ...]:
        """The probability of being there for each local hour.

        Raises:
            ConfigError: If ``availability`` is neither a known word nor 24 probabilities.
        """
        if isinstance(self.availability, str):
            if self.availability not in AVAILABILITY:
                raise unknown("availability", self.availability, AVAILABILITY)
            return AVAILABILITY[self.availability]
        if len(self.availability) != 24:
            raise ConfigError(f"devices.availability has {len(self.availability)} numbers, must be 24, one an hour")
        for value in self.availability:
            check_range("devices.availability", value, at_least=0, at_most=1)
        return self.availability


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LinkConfig:
    """One ``[[links]]`` table: a kind of network link that some of the sites have."""

    TABLE: ClassVar[str] = "links"

    name: str
    """Its name; of a preset (``fibre``, ``dsl``, ``lte``, ``satellite``), keys left out have its values."""

    share: float = 1.0
    """How many of the sites have it, in proportion to the shares of the others."""

    down_mbit_s: float = 100.0
    """Towards the site, in megabits a second."""

    up_mbit_s: float = 20.0
    """From the site, in megabits a second."""

    latency_ms: float = 20.0
    """One way."""

    def __post_init__(self) -> None:
        check_range("links.share", self.share, above=0)
        check_range("links.down_mbit_s", self.down_mbit_s, above=0)
        check_range("links.up_mbit_s", self.up_mbit_s, above=0)
        check_range("links.latency_ms", self.latency_ms, at_least=0)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> LinkConfig:
        """An entry of a scenario, a preset's values under it."""
        return load(cls, {**LINKS.get(str(table.get("name")), {}), **table}, table=cls.TABLE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one request costs one site."""

    device: str
    link: str
    down_s: float
    compute_s: float
    up_s: float
    down_bytes: int
    up_bytes: int
    energy_j: float

    @property
    def seconds(self) -> float:
        """From the request to the reply."""
        return self.down_s + self.compute_s + self.up_s


class Equipment:
    """The devices and links of a population: each site's drawn by its name, so nothing is kept of any site.

    Args:
        devices: The kinds of devices; none: training takes no time.
        links: The kinds of links; none: the network takes no time.
        seed: Of the run.
        named: A site's device and link where it has been said (``device`` and ``link`` in a fleet file).
    """

    def __init__(
        self,
        devices: Sequence[DeviceConfig],
        links: Sequence[LinkConfig],
        seed: int,
        named: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.devices, self.links, self._seed, self._named = devices, links, seed, named or {}
        for kind, known in (("device", devices), ("link", links)):
            names = {entry.name for entry in known}
            for entry in self._named.values():
                if kind in entry and entry[kind] not in names:
                    raise unknown(kind, str(entry[kind]), names)

    def cost(self, site: str, *, samples: int, down_bytes: int, up_bytes: int) -> Cost:
        """What it costs a site to fetch so many bytes, train on so many examples and send so many bytes."""
        device = self._of("device", site, self.devices)
        link = self._of("link", site, self.links)
        compute_s = samples / device.samples_per_s if device else 0.0
        latency_s = link.latency_ms / 1e3 if link else 0.0
        return Cost(
            device=device.name if device else "",
            link=link.name if link else "",
            down_s=latency_s + (8 * down_bytes / (link.down_mbit_s * 1e6) if link else 0.0),
            compute_s=compute_s,
            up_s=latency_s + (8 * up_bytes / (link.up_mbit_s * 1e6) if link else 0.0),
            down_bytes=down_bytes,
            up_bytes=up_bytes,
            energy_j=compute_s * device.watts if device else 0.0,
        )

    @property
    def is_always_there(self) -> bool:
        """Whether every site is there at every hour."""
        return all(min(device.by_hour()) == 1 for device in self.devices)

    def is_there(self, site: str, now_s: float) -> bool:
        """Whether a site is there at a moment; it stays or stays away for a whole hour of the run."""
        device = self._of("device", site, self.devices)
        if device is None:
            return True
        hour = math.floor(now_s / HOUR_S)
        chance = device.by_hour()[math.floor(hour + device.utc_offset_h) % 24]
        return bool(chance == 1 or _uniform(self._seed, "there", site, hour) < chance)

    def _of(self, kind: str, site: str, known: Sequence[Any]) -> Any:
        if not known:
            return None
        if name := self._named.get(site, {}).get(kind):
            return next(entry for entry in known if entry.name == name)
        drawn = _uniform(self._seed, kind, site) * sum(entry.share for entry in known)
        for entry in known:
            drawn -= entry.share
            if drawn < 0:
                return entry
        return known[-1]


def _uniform(seed: int, *purpose: str | int) -> float:
    """A number from [0, 1) that hangs on nothing but its purpose."""
    return seeding.derive(seed, *purpose) / 2.0**63
