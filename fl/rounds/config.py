"""The run file: everything that decides a run, one table a dataclass.

``RunConfig`` is the whole file. It is stored with the run, resolved (defaults filled in), as ``config.json``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fl.config import check_range, check_share_or_count, check_site_name, load, read_toml, to_dict, unknown
from fl.errors import ConfigError
from fl.secagg.profiles import AES_SUITE, SUITES, profile_named
from fl.tasks.training import TrainingConfig


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunSection:
    """The ``[run]`` table."""

    name: str = "run"
    """Name of the run, for people; letters, digits, ``-``, ``_`` and ``.``."""

    rounds: int = 10
    """How many rounds to train."""

    seed: int = 1
    """The one seed from which every random choice of the run is derived."""

    initial_model: str | None = None
    """Path of a safetensors file to start from; unset: one site makes the initial parameters from the seed."""

    def __post_init__(self) -> None:
        check_range("run.rounds", self.rounds, at_least=1, at_most=100_000)
        check_range("run.seed", self.seed, at_least=0)
        if not self.name or not all(letter.isalnum() or letter in "-_." for letter in self.name):
            raise ConfigError(f"run.name is {self.name!r}, must be letters, digits, - _ and .")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoundConfig:
    """The ``[round]`` table: who is asked, and when enough have answered."""

    cohort: int | float = 1.0
    """How many sites' updates a round wants: a share of the sites online (``0.5``) or a count (``20``)."""

    min_online: int = 2
    """How many sites must be online before a round opens."""

    over_selection: float = 0.0
    """How many more sites are asked than wanted, as a share of the cohort; the round closes when the wanted
    number has answered, so that it doesn't wait for the slowest."""

    quorum: int | float = 0.5
    """How few updates still make a round: a share of the wanted number or a count. With fewer at the deadline the
    attempt is abandoned."""

    linger_s: float | None = None
    """How long to wait for the others once the quorum has answered; unset: until the deadline."""

    deadline_s: float | Literal["auto"] = "auto"
    """How long an attempt lasts at most; ``"auto"`` derives it from how long earlier rounds took."""

    deadline_min_s: float = 120.0
    """The shortest deadline that ``"auto"`` sets; a site that is started again is back within a minute."""

    deadline_max_s: float = 3600.0
    """The longest deadline that ``"auto"`` sets, and the one before anything is known."""

    deadline_factor: float = 3.0
    """What ``"auto"`` multiplies with the slowest survivor's time, in the median of the last five rounds."""

    attempts: int = 3
    """How often a round is tried before the run ends; updates that landed are kept from one attempt to the next."""

    wait_s: float = 300.0
    """How long to wait for enough sites to be online before the run ends."""

    rejoin_s: float = 60.0
    """How long to wait, when a round opens, for sites that answered in the last one and are offline now."""

    sites: tuple[str, ...] = ()
    """The only sites that are asked, by id; without any, all that are online."""

    def __post_init__(self) -> None:
        check_share_or_count("round.cohort", self.cohort)
        check_share_or_count("round.quorum", self.quorum)
        check_range("round.min_online", self.min_online, at_least=1)
        check_range("round.over_selection", self.over_selection, at_least=0, at_most=10)
        check_range("round.linger_s", self.linger_s, at_least=0)
        if self.deadline_s != "auto":
            check_range("round.deadline_s", self.deadline_s, above=0)
        check_range("round.deadline_min_s", self.deadline_min_s, above=0)
        check_range("round.deadline_max_s", self.deadline_max_s, at_least=self.deadline_min_s)
        check_range("round.deadline_factor", self.deadline_factor, at_least=1)
        check_range("round.attempts", self.attempts, at_least=1, at_most=100)
        check_range("round.wait_s", self.wait_s, at_least=0)
        check_range("round.rejoin_s", self.rejoin_s, at_least=0)
        for site in self.sites:
            check_site_name(site)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """The ``[evaluation]`` table: where and how often the model is evaluated, always after the last round too."""

    sites_every: int = 1
    """Evaluate at the sites every so many rounds; 0 never."""

    cohort: int | float = 1.0
    """How many sites evaluate: a share of the sites online (``0.5``) or a count (``20``), drawn for each time."""

    centre_every: int = 0
    """Evaluate at the centre, on the task's own held-out data, every so many rounds; 0 never. Needs torch there."""

    def __post_init__(self) -> None:
        check_range("evaluation.sites_every", self.sites_every, at_least=0)
        check_share_or_count("evaluation.cohort", self.cohort)
        check_range("evaluation.centre_every", self.centre_every, at_least=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SecAggSection:
    """The ``[secagg]`` table; a run file that has it runs its rounds with secure aggregation."""

    profile: str = "standard"
    """Ring of the masked vectors: ``standard`` (4 bytes a parameter) or ``packed16`` (2 bytes)."""

    suite: str = AES_SUITE
    """Cipher suite; the one with ChaCha20 is for processors without AES instructions."""

    clip: float = 1.0
    """Largest absolute value of an element of one site's update; what is beyond is cut and counted."""

    l2_clip: float = 0.0
    """Bound on the L2 norm of one site's update, applied before ``clip``; 0 sets none."""

    weight_cap: int = 10_000
    """Examples from which on a site has full weight; below it weights are in proportion. 0 gives all the same."""

    metrics: tuple[str, ...] = ("loss", "accuracy")
    """Metrics whose mean over all sites is revealed; a site's own never is."""

    max_dropout_fraction: float = 1.0
    """A cap on sites lost between the exchange of keys and the sum, as a fraction of them."""

    stage_deadline_s: float = 120.0
    """How long the stages without training wait for a site."""

    def __post_init__(self) -> None:
        profile_named(self.profile)
        if self.suite not in SUITES:
            raise unknown("secagg.suite", self.suite, SUITES)
        check_range("secagg.clip", self.clip, above=0, at_most=1e30)
        check_range("secagg.l2_clip", self.l2_clip, at_least=0)
        check_range("secagg.weight_cap", self.weight_cap, at_least=0, at_most=2**31)
        check_range("secagg.max_dropout_fraction", self.max_dropout_fraction, at_least=0, at_most=1)
        check_range("secagg.stage_deadline_s", self.stage_deadline_s, above=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class JournalConfig:
    """The ``[journal]`` table: what is kept on disk beyond what a resume needs."""

    keep_updates: bool = False
    """Keep each site's update after its round was committed."""

    keep_models: int = 2
    """How many of the newest models to keep; the newest alone is enough to resume."""

    def __post_init__(self) -> None:
        check_range("journal.keep_models", self.keep_models, at_least=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """A run file."""

    task: dict[str, Any]
    """What is learned: ``name`` and the task's own options."""

    run: RunSection = dataclasses.field(default_factory=RunSection)
    """Name, length and seed of the run."""

    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    """How sites train."""

    strategy: dict[str, Any] = dataclasses.field(default_factory=lambda: {"name": "fedavg"})
    """How updates become the next model: ``name`` and the strategy's own options."""

    round: RoundConfig = dataclasses.field(default_factory=RoundConfig)
    """Who is asked, and when enough have answered."""

    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)
    """Where and how often the model is evaluated."""

    secagg: SecAggSection | None = None
    """Secure aggregation: the server learns the sum of the updates and nothing else. Without the table it is off."""

    journal: JournalConfig = dataclasses.field(default_factory=JournalConfig)
    """What is kept on disk."""

    simulation: dict[str, Any] | None = None
    """What a simulation adds, written by ``fl sim``: who the sites are, how fast and how reliable."""

    def __post_init__(self) -> None:
        for table in ("task", "strategy"):
            name = getattr(self, table).get("name")
            if not isinstance(name, str) or not name:
                raise ConfigError(f"{table}.name is missing", hint=f'[{table}]\nname = "…"')

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """A run file's tables, checked.

        Raises:
            ConfigError: On an unknown key, a wrong type, or a value out of its range.
        """
        return load(cls, values)

    @classmethod
    def from_file(cls, path: Path) -> RunConfig:
        """A run file.

        Raises:
            ConfigError: Also if the file is missing or no TOML.
        """
        return cls.from_dict(read_toml(path))

    def to_dict(self) -> dict[str, Any]:
        """As plain data; ``from_dict`` gives the same object back."""
        return to_dict(self)


def options(table: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of ``[task]`` or ``[strategy]`` other than its name."""
    return {key: value for key, value in table.items() if key != "name"}
