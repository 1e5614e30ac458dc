"""A scenario: one experiment in one TOML file.

It has the tables of a run file (``fl.rounds.config``) and those that only a simulation needs: who the sites are, how
fast, how reliable and how honest, which engine trains them, what is swept, and what is expected to come out. A run
file is a scenario too. The tables that a simulation adds stand in its journal's ``config.json`` under ``simulation``.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fl.config import load, read_toml, to_dict, unknown
from fl.errors import ConfigError
from fl.rounds.config import RunConfig, options
from fl.rounds.journal import EVENTS, load_config
from fl.tasks.splits import SplitConfig
from simulations import axes
from simulations.axes import Sweep
from simulations.devices import DeviceConfig, LinkConfig
from simulations.engine.choose import recorded
from simulations.engine.config import EngineConfig
from simulations.faults import FaultConfig
from simulations.hostile import HostileConfig
from simulations.population import PopulationConfig

RUN_TABLES = tuple(field.name for field in dataclasses.fields(RunConfig) if field.name != "simulation")
SIMULATION = "simulation"
SHIPPED = Path(__file__).with_name("scenarios")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """What a figure is expected to be."""

    at_least: float | None = None
    """The least that is expected."""

    at_most: float | None = None
    """The most that is expected."""

    def holds(self, value: float) -> bool:
        """Whether a value, which may be NaN, is as expected."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        words = [
            f"{word} {bound:g}"
            for word, bound in (("at least", self.at_least), ("at most", self.at_most))
            if bound is not None
        ]
        return " and ".join(words)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AboutSection:
    """The ``[scenario]`` table: what the experiment is for."""

    title: str = ""
    """The experiment in one line."""

    teaches: str = ""
    """What is to be learned from it."""

    expect: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What is expected to come out, by figure: ``accuracy = { at_least = 0.9 }``. A run that misses it says so and
    ends with status 1."""

    def __post_init__(self) -> None:
        bounds = {}
        for figure, bound in self.expect.items():
            where = f"scenario.expect.{figure}"
            if not isinstance(bound, (Mapping, Bound)):
                raise ConfigError(f"{where} is {bound!r}, must be a table", hint=f"{figure} = {{ at_least = 0.9 }}")
            bounds[figure] = bound if isinstance(bound, Bound) else load(Bound, bound, table=where)
            if not str(bounds[figure]):
                raise ConfigError(f"{where} expects nothing", hint=f"{figure} = {{ at_least = 0.9 }}")
        object.__setattr__(self, "expect", bounds)


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """One run of a sweep.

    Attributes:
        name: Of its own within the sweep, and the same whenever the sweep is read again.
        label: The same without the seed: what runs with other seeds have in common.
        settings: What the axes are set to.
        seed: Of the run.
        scenario: What is run.
    """

    name: str
    label: str
    settings: Mapping[str, Any]
    seed: int
    scenario: Scenario


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A whole experiment."""

    config: RunConfig
    """The tables of the run file."""

    population: PopulationConfig = dataclasses.field(default_factory=PopulationConfig)
    """Who the sites are."""

    split: SplitConfig | None = None
    """How the common data is divided among the sites; without the table each takes an equal part, as a deployed site
    without data of its own does."""

    devices: tuple[DeviceConfig, ...] = ()
    """Kinds of devices, and how many of the sites have them; none: training takes no simulated time."""

    links: tuple[LinkConfig, ...] = ()
    """Kinds of network links, and how many of the sites have them; none: the network takes no simulated time."""

    faults: FaultConfig = dataclasses.field(default_factory=FaultConfig)
    """What goes wrong while sites train."""

    hostile: tuple[HostileConfig, ...] = ()
    """Kinds of attacks, and how many of the sites make them."""

    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    """How sites are trained on this computer."""

    scenario: AboutSection = dataclasses.field(default_factory=AboutSection)
    """What the experiment is for, and what is expected to come out."""

    sweep: Sweep = dataclasses.field(default_factory=Sweep)
    """What varies from run to run of ``fl sim sweep``; ``fl sim run`` leaves it out."""

    def __post_init__(self) -> None:
        if not (self.population.fleet or self.population.data):  # else that is known once the fleet has been read
            self.check_counts(self.population.sites)

    def check_counts(self, sites: int) -> None:
        """Refuse to ask more sites than there are.

        Raises:
            ConfigError: Naming the key.
        """
        for key, count in (
            ("round.cohort", self.config.round.cohort),
            ("round.min_online", self.config.round.min_online),
            ("evaluation.cohort", self.config.evaluation.cohort),
        ):
            if isinstance(count, int) and count > sites:
                raise ConfigError(
                    f"{key} is {count}, and there are {sites} sites",
                    hint=f"{key} = {sites}, or population.sites = {count}",
                )

    @property
    def is_timed(self) -> bool:
        """Whether anything takes simulated time, so that the run's clock is simulated."""
        return bool(self.devices or self.links) or self.faults != FaultConfig()

    # ---- reading ----

    @classmethod
    def from_dict(cls, tables: Mapping[str, Any]) -> Scenario:
        """A scenario's tables, checked; those of a journal's ``config.json`` too.

        Raises:
            ConfigError: On an unknown key (with the nearest), a wrong type, or a value out of its range.
        """
        tables = dict(tables)
        tables |= tables.pop(SIMULATION, None) or {}
        added = [field.name for field in dataclasses.fields(cls) if field.name != "config"]
        for key in tables:
            if key not in RUN_TABLES and key not in added:
                raise unknown("key", key, [*RUN_TABLES, *added])
        config = RunConfig.from_dict({key: tables.pop(key) for key in RUN_TABLES if key in tables})
        sweep = tables.pop("sweep", {})
        if not isinstance(sweep, Mapping):
            raise ConfigError(f"sweep is {sweep!r}, must be a table")
        for key, kind in (("devices", DeviceConfig), ("links", LinkConfig), ("hostile", HostileConfig)):
            if key in tables:
                tables[key] = _entries(key, kind, tables[key])
        scenario = load(cls, {"config": config, **tables, "sweep": Sweep.from_dict(sweep)})
        if scenario.sweep:
            scenario.variants()  # so that a wrong key is found before the first of them has run
        return scenario

    @classmethod
    def from_file(cls, path: Path) -> Scenario:
        """A scenario's file, or the ``config.json`` of a journal; paths in a file start where the file is.

        Raises:
            ConfigError: Also if the file is missing or cannot be read.
            TaskError: If the task is one of somebody's own and cannot be imported.
        """
        if path.suffix == ".json":
            return cls.from_journal(path.parent) if (path.parent / EVENTS).exists() else cls.from_dict(_read_json(path))
        return cls.from_dict(read_toml(path)).anchored(path.resolve().parent)

    @classmethod
    def from_journal(cls, directory: Path) -> Scenario:
        """What a journal's run was made from, its sites trained in the way that was chosen then.

        Raises:
            JournalError: If it is not a journal, or its configuration was changed.
        """
        found = cls.from_dict(load_config(directory))
        return dataclasses.replace(found, engine=recorded(directory, found.engine))

    def anchored(self, directory: Path) -> Scenario:
        """The scenario with relative paths made absolute, and a task and a strategy that take their options.

        Raises:
            ConfigError, TaskError: If they do not.
        """
        from fl.flower.folding import folding_for
        from fl.rounds.secure import check_folding
        from fl.tasks import registry

        config = self.config
        task = registry.create(config.task["name"], options(config.task), search_path=directory)
        table = {
            key: str(value) if isinstance(value := getattr(task, key, given), Path) else given
            for key, given in config.task.items()
        }
        folding = folding_for(config.strategy)
        if config.secagg:
            check_folding(folding, config.strategy["name"])
        run, population = config.run, self.population
        if run.initial_model:
            run = dataclasses.replace(run, initial_model=str(_anchored(directory, run.initial_model)))
        if population.fleet:
            population = dataclasses.replace(population, fleet=str(_anchored(directory, population.fleet)))
        if population.data:
            population = dataclasses.replace(population, data=str(_anchored(directory, population.data)))
        return dataclasses.replace(self, config=dataclasses.replace(config, task=table, run=run), population=population)

    # ---- writing ----

    def to_dict(self) -> dict[str, Any]:
        """All tables as plain data, defaults filled in; ``from_dict`` gives the same object back."""
        return {**self.config.to_dict(), **self.added(), **({"sweep": self.sweep.to_dict()} if self.sweep else {})}

    def added(self) -> dict[str, Any]:
        """The tables that a simulation adds, as plain data; the sweep, of which a run is one point, is left out."""
        tables = to_dict(self)
        return {key: table for key, table in tables.items() if key not in ("config", "sweep")}

    def run_config(self) -> RunConfig:
        """What the journal of a simulation holds: the run file, and the tables that a simulation adds."""
        return dataclasses.replace(self.config, simulation=self.added())

    # ---- variations ----

    def unswept(self) -> Scenario:
        """The scenario as one run: without its sweep."""
        return dataclasses.replace(self, sweep=Sweep())

    def changed(self, settings: Mapping[str, Any]) -> Scenario:
        """The scenario with other values for dotted keys, e.g. ``{"training.learning_rate": 0.1}``.

        Raises:
            ConfigError: If there is no such key (with the nearest), or the value does not fit.
        """
        tables = copy.deepcopy(self.to_dict())
        for key, value in settings.items():
            axes.put(tables, key, copy.deepcopy(value))
        return self.from_dict(tables)

    def variants(self) -> list[Variant]:
        """The runs of the sweep, each a scenario of its own; one alone if nothing is swept.

        What is expected holds for the scenario as it stands, whatever its seed: a run with another value for anything
        else expects nothing.

        Raises:
            ConfigError: If an axis is no key of a scenario, or a value does not fit it.
        """
        base = self.unswept()
        found = []
        for point in self.sweep.points():
            seed = self.config.run.seed if point.seed is None else point.seed
            name = f"{self.config.run.name}-{point.label}" if point.label else self.config.run.name
            try:
                changed = base.changed({**point.settings, axes.SEED_KEY: seed, "run.name": name})
            except ConfigError as err:
                raise ConfigError(f"sweep: {err.message}", hint=err.hint) from err
            if not changed._is_seed_of(base):
                changed = dataclasses.replace(changed, scenario=dataclasses.replace(changed.scenario, expect={}))
            found.append(Variant(point.name or name, point.label, point.settings, seed, changed))
        return found

    def _is_seed_of(self, other: Scenario) -> bool:
        """Whether it differs from another scenario in the run's seed and name at most."""
        named = dataclasses.replace(self.config.run, seed=other.config.run.seed, name=other.config.run.name)
        return dataclasses.replace(self, config=dataclasses.replace(self.config, run=named)) == other


def shipped() -> dict[str, Path]:
    """The scenarios that come with this package, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def shipped_file(name: str) -> Path:
    """The file of a scenario that comes with this package.

    Raises:
        ConfigError: If there is none of that name, with the nearest.
    """
    known = shipped()
    if name not in known:
        raise unknown("scenario", name, known)
    return known[name]


def is_simulation(directory: Path) -> bool:
    """Whether a journal is that of a simulation, and not of a deployed run.

    Raises:
        JournalError: If it is not a journal, or its configuration was changed.
    """
    return load_config(directory).get(SIMULATION) is not None


def _entries(key: str, kind: Any, entries: Any) -> list[Any]:
    """The tables of ``[[devices]]`` and the like, each with what its preset says."""
    if not isinstance(entries, (list, tuple)) or not all(isinstance(entry, Mapping) for entry in entries):
        raise ConfigError(f"{key} is {entries!r}, must be a list of tables", hint=f'[[{key}]]\nname = "…"')
    return [kind.from_dict(entry) for entry in entries]


def _anchored(directory: Path, place: str) -> Path:
    """A path that starts in a directory, absolute; refused if nothing is there."""
    path = (directory / place).resolve()
    if not path.exists():
        raise ConfigError(f"no such file: {path}")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        tables = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise ConfigError(f"no such file: {path}") from err
    except (OSError, ValueError) as err:
        raise ConfigError(f"cannot read {path}: {err}") from err
    if not isinstance(tables, dict):
        raise ConfigError(f"{path} holds no tables")
    return tables
