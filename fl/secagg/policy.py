"""The site's own floors: a file at the site that the server's proposal is checked against.

The server chooses cohort, profile and clips; the site owner says what is acceptable. What is below a floor is
refused with a signed reply that says which key forbids it, and nothing is trained.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

from fl.config import check_range, load, read_toml, unknown
from fl.secagg.config import RoundConfig
from fl.secagg.errors import PolicyError
from fl.secagg.parameters import MIN_SITES, Thresholds
from fl.secagg.profiles import AES_SUITE, CHACHA_SUITE

TABLES = ("secagg", "apps", "hours", "limits")
"""Tables of a site's policy file; all but the first are the link's and the runner's (``edge.policy``)."""

TABLES = ("secagg", "apps", "hours", "limits")
"""Tables of a site owner's policy file; those other than ``secagg`` are the link's and the runner's."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SitePolicy:
    """The ``[secagg]`` table of a site's policy file."""

    required: bool = False
    """Whether the site refuses to train or evaluate without secure aggregation."""

    min_cohort: int = 1
    """Fewest sites that are asked in a round in clear. The server says how many, and could lie; with secure aggregation
    ``min_sites`` holds instead, which it cannot get around."""

    min_sites: int = MIN_SITES
    """Fewest sites whose keys are in a session."""

    min_aggregate: int = MIN_SITES
    """Fewest updates in a sum that may be unmasked."""

    max_dropout_fraction: float = 1.0
    """Most sites that may drop during a session, as a fraction."""

    profiles: tuple[str, ...] = ("standard", "packed16")
    """Acceptable profiles."""

    suites: tuple[str, ...] = (AES_SUITE, CHACHA_SUITE)
    """Acceptable cipher suites."""

    max_clip: float = 1e30
    """Largest acceptable bound on an element of the update."""

    max_parameters: int = 2**33
    """Largest acceptable model."""

    max_attempts: int = 8
    """Attempts at one round that the site takes part in."""

    min_difference: int = 0
    """Refuse survivors that differ from the last round's in fewer sites than this, unless they are the same; 0 allows
    any. Two sums over nearly the same sites differ by nearly one site's update."""

    privacy_required: bool = False
    """Whether a round without noise at the sites is refused."""

    aggregator: str = ""
    """Public key of the only acceptable aggregator, in hexadecimal; any if empty."""

    def __post_init__(self) -> None:
        check_range("min_cohort", self.min_cohort, at_least=1)
        check_range("min_sites", self.min_sites, at_least=MIN_SITES)
        check_range("min_aggregate", self.min_aggregate, at_least=MIN_SITES)
        check_range("max_dropout_fraction", self.max_dropout_fraction, at_least=0, at_most=1)
        check_range("max_clip", self.max_clip, above=0)
        check_range("max_parameters", self.max_parameters, at_least=1)
        check_range("max_attempts", self.max_attempts, at_least=1)
        check_range("min_difference", self.min_difference, at_least=0)

    @classmethod
    def from_file(cls, path: Path) -> SitePolicy:
        """The policy of a TOML file; its ``[secagg]`` table.

        Raises:
            ConfigError: On a missing file, an unknown table or key, or a value out of its range.
        """
        tables = read_toml(path)
        for table in tables:
            if table not in TABLES:  # a misspelt table would otherwise be a site without floors
                raise unknown("table", table, TABLES)
        return load(cls, tables.get("secagg", {}), table="secagg")

    def check_clear(self, phase: str) -> None:
        """Refuse to ``train`` or ``evaluate`` in clear, if secure aggregation is required here.

        Raises:
            PolicyError: As below.
        """
        self._need(not self.required, "required", f"to {phase} in clear")

    def check_cohort(self, cohort: int) -> None:
        """Refuse to train in clear with too few others.

        Raises:
            PolicyError: As below.
        """
        if cohort < self.min_cohort:
            asks = f"asks {cohort} sites" if cohort else "does not say how many sites it asks"
            raise PolicyError(
                f"the site's policy has secagg.min_cohort = {self.min_cohort}, the server {asks}",
                hint="ask more sites in round.cohort and round.min_online, or the site owner about secagg.min_cohort",
            )

    def check_proposal(self, config: RoundConfig) -> None:
        """Refuse a configuration below a floor.

        Raises:
            PolicyError: Naming the key, its value here, and what was proposed.
        """
        self._need(config.profile in self.profiles, "profiles", config.profile)
        self._need(config.suite in self.suites, "suites", config.suite)
        self._need(max(config.clips) <= self.max_clip, "max_clip", max(config.clips))
        self._need(config.parameters <= self.max_parameters, "max_parameters", config.parameters)
        self._need(config.n_max >= self.min_sites, "min_sites", config.n_max)
        self._need(config.attempt <= self.max_attempts, "max_attempts", config.attempt)
        self._need(not self.privacy_required or config.privacy != "none", "privacy_required", config.privacy)
        self._need(self.aggregator in ("", config.aggregator), "aggregator", config.aggregator)

    def check_session(self, actual: Thresholds) -> None:
        """Refuse a session whose actual size is below a floor.

        Raises:
            PolicyError: As above.
        """
        self._need(actual.n >= self.min_sites, "min_sites", actual.n)
        allowed = math.floor(self.max_dropout_fraction * actual.n)
        self._need(actual.max_dropouts <= allowed, "max_dropout_fraction", f"{actual.max_dropouts} of {actual.n}")

    def check_survivors(self, survivors: frozenset[str], before: frozenset[str]) -> None:
        """Refuse survivors that are too few, or too like the last round's.

        Raises:
            PolicyError: As above.
        """
        self._need(len(survivors) >= self.min_aggregate, "min_aggregate", len(survivors))
        difference = len(survivors ^ before)
        alike = bool(before) and 0 < difference < self.min_difference
        self._need(not alike, "min_difference", difference)

    def _need(self, holds: bool, key: str, proposed: object) -> None:
        if not holds:
            raise PolicyError(
                f"the site's policy has secagg.{key} = {getattr(self, key)!r}, the server proposes {proposed}",
                hint=f"change the run's [secagg] table, or ask the site owner about secagg.{key}",
            )
