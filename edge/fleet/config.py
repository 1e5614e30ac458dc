"""The fleet file, ``fleet.yaml``: gateway, release, how a rollout goes, and the sites.

What stands under ``defaults`` holds for every site that does not say otherwise. Secrets never stand in this file.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from edge.fleet.site_config import Site, check_name, split_address
from fl.config import check_range, check_share_or_count, load, unknown
from fl.errors import ConfigError


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FleetSection:
    """The ``fleet`` key."""

    name: str
    """Name of the fleet: small letters, digits and ``-``; its state lies in a directory of that name."""

    def __post_init__(self) -> None:
        check_name("fleet.name", self.name)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySection:
    """The ``gateway`` key."""

    addresses: tuple[str, ...]
    """Where sites reach the gateway, ``host:port``; the first that answers is used."""

    proxy: str | None = None
    """Proxy through which sites reach it, ``http://host:port``; unset: directly."""

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ConfigError("gateway.addresses is empty", hint='addresses: ["fl.example.org:443"]')
        for address in self.addresses:
            split_address("gateway.addresses", address)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CentreSection:
    """The ``centre`` key."""

    command: tuple[str, ...] = ("fl",)
    """The ``fl`` command of the centre; with ``[ssh, centre, fl]`` the one on another computer."""

    home: str | None = None
    """The centre's directory, given to that command as ``--home``; unset: its own default."""

    timeout_s: float = 60.0
    """How long one question to the centre may take."""

    room: str | None = None
    """URL of the control room, ``https://host:8444``, whose audit then has each rollout; unset: it is told nothing."""

    token_file: Path | None = None
    """File (0600) with an access token for ``room``, of an operator of all projects (``fl user token``)."""

    ca_file: Path | None = None
    """Certificate authority of ``room``, PEM; unset: those of the system."""

    def __post_init__(self) -> None:
        if not self.command:
            raise ConfigError("centre.command is empty", hint="command: [fl]")
        if self.room is not None and not self.room.startswith("https://"):
            raise ConfigError(f"centre.room is {self.room!r}, must be https://host:port", hint="tokens travel in it")
        if (self.room is None) != (self.token_file is None):
            raise ConfigError("centre.room and centre.token_file go together", hint="fl user token NAME > centre.token")
        check_range("centre.timeout_s", self.timeout_s, above=0, at_most=3600)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSection:
    """The ``release`` key."""

    version: str
    """Version that sites get, the one of the bundle."""

    bundle: Path
    """Directory that ``fl fleet bundle build`` made; relative paths start where the fleet file is."""

    signers: Path | None = None
    """Who may sign a bundle: a file of ``ssh-keygen``'s allowed signers; unset: an unsigned bundle is taken."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+\.\d+\.\d+([-+.][0-9A-Za-z.+-]+)?", self.version):
            raise ConfigError(f"release.version is {self.version!r}, must be like 0.3.1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WaveConfig:
    """One entry of ``rollout.waves``; a site belongs to the first wave that takes it."""

    name: str
    """Name of the wave."""

    select: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Labels that a site must have; without any, every site is one."""

    share: float = 1.0
    """Share of the fleet that the wave takes at most, from those selected, in the file's order."""

    parallel: int = 20
    """How many sites are worked on at once."""

    def __post_init__(self) -> None:
        check_name("rollout.waves.name", self.name)
        check_range("rollout.waves.share", self.share, above=0, at_most=1)
        check_range("rollout.waves.parallel", self.parallel, at_least=1, at_most=200)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AbortConfig:
    """The ``rollout.abort`` key: when a rollout stops by itself."""

    failed: int | float = 0.1
    """Sites that failed from which on it stops: a share of the wave (``0.1``) or a count (``3``)."""

    unhealthy: int | float = 1
    """Sites that do not pass their gate from which on it stops: a share of the wave or a count."""

    def __post_init__(self) -> None:
        check_share_or_count("rollout.abort.failed", self.failed)
        check_share_or_count("rollout.abort.unhealthy", self.unhealthy)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSection:
    """The ``rollout`` key."""

    waves: tuple[WaveConfig, ...] = (WaveConfig(name="canary", share=0.05), WaveConfig(name="rest"))
    """The waves, in order; sites that no wave takes come last, in a wave of their own."""

    soak_s: float = 300.0
    """How long a wave must be healthy, without a restart of a pod, before the next begins."""

    gate_s: float = 600.0
    """How long a site may take to become healthy after its upgrade."""

    max_unreachable: float = 0.05
    """Share of the fleet that may be out of reach, at least one site; with more the rollout pauses."""

    abort: AbortConfig = dataclasses.field(default_factory=AbortConfig)
    """When a rollout stops by itself."""

    freeze_rounds: bool = True
    """Upgrade only while no round is open at the centre."""

    round_wait_s: float = 3600.0
    """How long to wait for an open round to close before the rollout pauses."""

    rollback: Literal["none", "site", "wave", "all"] = "wave"
    """What goes back to its last good release when a rollout stops: nothing, the sites at fault, their wave, or all
    sites that this rollout changed."""

    smoke: Path | None = None
    """Run file of a round with real training, asked of the first wave's sites alone; unset: none is made."""

    smoke_s: float = 900.0
    """How long that run may take."""

    def __post_init__(self) -> None:
        check_range("rollout.soak_s", self.soak_s, at_least=0)
        check_range("rollout.gate_s", self.gate_s, above=0)
        check_range("rollout.max_unreachable", self.max_unreachable, at_least=0, at_most=1)
        check_range("rollout.round_wait_s", self.round_wait_s, at_least=0)
        check_range("rollout.smoke_s", self.smoke_s, above=0)
        names = [wave.name for wave in self.waves]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"two waves of rollout.waves are called {name}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The whole fleet file."""

    fleet: FleetSection
    """What the fleet is called."""

    gateway: GatewaySection
    """Where sites reach the centre."""

    release: ReleaseSection
    """What sites get."""

    sites: tuple[Site, ...]
    """The sites, with ``defaults`` filled in."""

    centre: CentreSection = dataclasses.field(default_factory=CentreSection)
    """How the rollout asks the centre for rounds, versions and join tokens."""

    rollout: RolloutSection = dataclasses.field(default_factory=RolloutSection)
    """How a rollout goes."""

    def __post_init__(self) -> None:
        if not self.sites:
            raise ConfigError("sites is empty", hint="a site has at least an id and a host")
        seen: set[str] = set()
        for site in self.sites:
            if site.id in seen:
                raise ConfigError(f"two sites are called {site.id}")
            seen.add(site.id)

    def site(self, name: str) -> Site:
        """The site of that id.

        Raises:
            ConfigError: If there is none, naming the nearest.
        """
        for site in self.sites:
            if site.id == name:
                return site
        raise unknown("site", name, [site.id for site in self.sites])

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, beside: Path = Path()) -> Fleet:
        """A fleet from the keys of its file.

        Args:
            values: The file's content.
            beside: Directory at which relative paths start.

        Raises:
            ConfigError: Naming the key at fault.
        """
        values = dict(values)
        defaults = values.pop("defaults", {})
        if not isinstance(defaults, Mapping):
            raise ConfigError(f"defaults is {defaults!r}, must be a table")
        for key in ("id", "host"):
            if key in defaults:
                raise ConfigError(f"defaults.{key} cannot hold for every site", hint=f"give each site its {key}")
        load(Site, {**defaults, "id": "x", "host": "x"}, table="defaults")
        sites = values.get("sites", ())
        if isinstance(sites, (list, tuple)):
            values["sites"] = [merged(defaults, site) if isinstance(site, Mapping) else site for site in sites]
        return _with_paths(load(cls, values), beside.resolve())


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Two tables in one; tables within are merged, anything else of ``above`` wins.

    Example:
        >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
        {'a': {'b': 3, 'c': 2}}
    """
    both = dict(below)
    for key, value in above.items():
        old = both.get(key)
        both[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def _with_paths(fleet: Fleet, beside: Path) -> Fleet:
    """The fleet with its relative paths made absolute."""

    def absolute(path: Path) -> Path:
        return beside / path.expanduser()

    def located(site: Site) -> Site:
        key_file = absolute(site.ssh.key_file) if site.ssh.key_file else None
        ssh = dataclasses.replace(site.ssh, key_file=key_file, known_hosts=absolute(site.ssh.known_hosts))
        return dataclasses.replace(site, ssh=ssh, policy=absolute(site.policy) if site.policy else None)

    release = dataclasses.replace(
        fleet.release,
        bundle=absolute(fleet.release.bundle),
        signers=absolute(fleet.release.signers) if fleet.release.signers else None,
    )
    centre = dataclasses.replace(
        fleet.centre,
        token_file=absolute(fleet.centre.token_file) if fleet.centre.token_file else None,
        ca_file=absolute(fleet.centre.ca_file) if fleet.centre.ca_file else None,
    )
    rollout = dataclasses.replace(fleet.rollout, smoke=absolute(fleet.rollout.smoke) if fleet.rollout.smoke else None)
    return dataclasses.replace(
        fleet, centre=centre, release=release, rollout=rollout, sites=tuple(located(site) for site in fleet.sites)
    )
