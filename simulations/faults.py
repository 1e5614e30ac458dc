"""How reliable simulated sites are: what becomes of a site's work is drawn from the seed, the site and the round."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from fl import seeding
from fl.config import check_range


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FaultConfig:
    """The ``[faults]`` table: what goes wrong while sites train."""

    TABLE: ClassVar[str] = "faults"

    dropout: float = 0.0
    """Probability that a site that was asked falls silent."""

    crash: float = 0.0
    """Probability that its training fails; the site says so."""

    straggler_share: float = 0.0
    """Share of the sites that are slow in every round."""

    straggler_factor: float = 5.0
    """How many times longer their training takes."""

    jitter: float = 0.0
    """How much the time of training varies from round to round: 0.2 is up to a fifth shorter or longer."""

    def __post_init__(self) -> None:
        check_range("faults.dropout", self.dropout, at_least=0, at_most=1)
        check_range("faults.crash", self.crash, at_least=0, at_most=1)
        check_range("faults.straggler_share", self.straggler_share, at_least=0, at_most=1)
        check_range("faults.straggler_factor", self.straggler_factor, at_least=1)
        check_range("faults.jitter", self.jitter, at_least=0, at_most=1)


@dataclasses.dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one site's work in one attempt at a round."""

    silent: bool = False
    crashes: bool = False
    slowdown: float = 1.0


def fate(config: FaultConfig, seed: int, site: str, round: int, attempt: int) -> Fate:
    """Draw it; the same arguments give the same."""
    if config == FaultConfig():
        return Fate()

    def happens(chance: float, *purpose: str | int) -> bool:
        return chance > 0 and seeding.derive(seed, *purpose) / 2.0**63 < chance

    slowdown = config.straggler_factor if happens(config.straggler_share, "straggler", site) else 1.0
    if config.jitter:
        slowdown *= 1 + config.jitter * (2 * seeding.derive(seed, "jitter", site, round, attempt) / 2.0**63 - 1)
    return Fate(
        silent=happens(config.dropout, "dropout", site, round, attempt),
        crashes=happens(config.crash, "crash", site, round, attempt),
        slowdown=slowdown,
    )
