"""Who the sites of a simulation are and which examples each has: made when a site is looked at, never for all.

The task's common data is divided, each example at one site (``[split]``); or every site draws its own examples from it
(``population.examples``), so that there may be any number of sites and two may have an example in common; or each site
has a directory of its own (``population.data``).
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fl import seeding
from fl.config import check_range
from fl.errors import ConfigError, TaskError
from fl.rounds.names import Numbered
from fl.tasks.base import Site, Task
from fl.tasks.splits import SplitConfig

I64 = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PopulationConfig:
    """The ``[population]`` table: who the sites are."""

    TABLE: ClassVar[str] = "population"

    sites: int = 10
    """How many sites there are, called ``site-01`` and so on."""

    examples: int | None = None
    """How many examples each site draws from the task's common data; unset: ``[split]`` divides it among them."""

    label_alpha: float | None = None
    """With ``examples``: each site's labels are drawn from a Dirichlet distribution of this concentration; unset:
    all labels are as likely as in the common data."""

    fleet: str | None = None
    """A fleet file (YAML) whose ``sites`` are simulated, by their ``id``; it replaces ``sites``. Of an entry,
    ``examples``, ``device`` and ``link`` are read too."""

    data: str | None = None
    """A directory with one directory of data a site, by its name; it replaces ``sites``, unless there is a fleet, and
    the common data."""

    seed: int | None = None
    """Seed of who has which examples, device, link and intent; unset: that of ``[run]``."""

    def __post_init__(self) -> None:
        check_range("population.sites", self.sites, at_least=1, at_most=100_000_000)
        check_range("population.examples", self.examples, at_least=1)
        check_range("population.label_alpha", self.label_alpha, above=0)
        check_range("population.seed", self.seed, at_least=0)
        if self.label_alpha is not None and self.examples is None:
            raise ConfigError(
                "population.label_alpha is for sites that draw their examples",
                hint='set population.examples, or [split] kind = "dirichlet" to divide the data',
            )
        if self.data and self.examples:
            raise ConfigError("population.data and population.examples exclude each other")


class Population:
    """The sites of a simulation.

    Memory is that of the division (8 bytes an example) or, where sites draw, of the data's labels: the same for ten
    sites as for a million. Only a fleet file's sites are kept by name.

    Args:
        config: The ``[population]`` table.
        split: How the common data is divided, unless sites draw from it; ``None``: each takes an equal part, as a
            deployed site without data of its own does.
        task: Whose data. One that cannot be divided (``Task.labels``) gets ``partition_id`` and ``num_partitions``,
            as simulated sites of Flower's get them, and cuts its data itself.
        seed: Of the run.

    Raises:
        ConfigError: If the division leaves a site with too little, there are more sites than examples, or a fleet
            file or directory is not as it should be.
        TaskError: If the task cannot divide its data, and ``[split]`` or ``population.examples`` asks for it.
    """

    def __init__(self, config: PopulationConfig, split: SplitConfig | None, task: Task, seed: int) -> None:
        self.config, self.task = config, task
        self.seed = seed if config.seed is None else config.seed
        self.entries: Mapping[str, Mapping[str, Any]] = {}
        self.names: Sequence[str] = Numbered(config.sites)
        if config.fleet:
            self.entries = read_fleet(Path(config.fleet))
            self.names = sorted(self.entries)
        elif config.data:
            self.names = _directories(Path(config.data))
        self._parts: Sequence[I64] | None = None
        self._draw: _Draw | None = None
        if config.data:
            _check_data(Path(config.data), self.names)
        elif config.examples is not None or any("examples" in entry for entry in self.entries.values()):
            self._draw = _Draw(_labels(task), config.label_alpha)
            for name in ("", *self.entries):
                self._draw.check(self._number_drawn(name), name)
        elif split is not None:
            self._parts = self._divided(split)
        else:
            self._check_parts()

    def __len__(self) -> int:
        return len(self.names)

    def number(self, name: str) -> int:
        """The place of a site among the names, from 0.

        Raises:
            ValueError: If there is no such site.
        """
        if not isinstance(self.names, list):
            return self.names.index(name)
        place = bisect_left(self.names, name)
        if place == len(self.names) or self.names[place] != name:
            raise ValueError(f"{name} is none of the {len(self.names)} sites")
        return place

    def site(self, name: str) -> Site:
        """A site with its examples; always the same, in whatever order sites are looked at.

        Raises:
            ValueError: If there is no such site.
        """
        place = self.number(name)
        examples, data_dir = None, None
        if self._draw is not None:
            examples = self._draw(seeding.generator(self.seed, "examples", name), self._number_drawn(name))
        elif self._parts is not None:
            examples = self._parts[place]
        elif self.config.data:
            data_dir = Path(self.config.data) / name
        return Site(name, data_dir, partition_id=place, num_partitions=len(self), examples=examples)

    def examples_of(self, name: str) -> int:
        """How many examples a site has; its data is read only where nothing else tells."""
        if self._draw is not None:
            return self._number_drawn(name)
        if self._parts is not None:
            return len(self._parts[self.number(name)])
        site = self.site(name)
        sized: Sequence[Callable[[Site], Any]] = (self.task.train_data, self.task.evaluation_data)
        return sum(len(read(site)) for read in sized)

    def _number_drawn(self, name: str) -> int:
        return int(self.entries.get(name, {}).get("examples") or self.config.examples or 1)

    def _divided(self, split: SplitConfig) -> Sequence[I64]:
        """The common data divided as a local federation divides it: for one seed, the same examples at each site."""
        labels, number = _labels(self.task), len(self.names)
        if number * split.minimum > len(labels):
            raise ConfigError(
                f"{len(labels)} examples do not suffice for {number} sites with at least {split.minimum} each",
                hint=f"set population.examples = {max(1, len(labels) // 100)}, so that each site draws its own",
            )
        return split.split(labels, number, self.seed, self.names)

    def _check_parts(self) -> None:
        """Refuse more sites than examples, where the task says how many there are."""
        try:
            number = len(self.task.labels(None))
        except TaskError:
            return  # it cuts its data itself
        if len(self.names) > number:
            raise ConfigError(
                f"{number} examples do not suffice for {len(self.names)} sites: {self.names[number]} would have none",
                hint=f"set population.examples = {max(1, number // 100)}, so that each site draws its own",
            )


class _Draw:
    """Draws a site's examples from the common data.

    Args:
        labels: Of the common data, shape ``(N,)``.
        alpha: Concentration of each site's own mix of labels (Hsu et al. 2019); ``None``: draw from all alike.
    """

    def __init__(self, labels: npt.NDArray[Any], alpha: float | None) -> None:
        self._total, self._alpha = len(labels), alpha
        if alpha is not None:
            if labels.dtype.kind == "f":
                raise ConfigError(
                    "population.label_alpha needs labels, and these are decimal numbers", hint="leave it out"
                )
            _, numbers, sizes = np.unique(labels, return_inverse=True, return_counts=True)
            self._by_label = np.split(np.argsort(numbers, kind="stable"), np.cumsum(sizes)[:-1])
            self._sizes = sizes

    def check(self, number: int, name: str) -> None:
        """Refuse to draw more examples than there are.

        Raises:
            ConfigError: Naming the site, if it is one of a fleet.
        """
        if number > self._total:
            key = f"site {name}: examples" if name else "population.examples"
            raise ConfigError(
                f"{key} is {number}, and the common data has {self._total} examples",
                hint=f"examples = {self._total} gives a site all of them",
            )

    def __call__(self, random: np.random.Generator, number: int) -> I64:
        """So many different examples, ascending."""
        if self._alpha is None:
            return np.sort(random.choice(self._total, number, replace=False, shuffle=False))
        shares = np.nan_to_num(random.dirichlet(self._alpha * self._sizes / self._sizes.mean()))
        if shares.sum() == 0:  # a tiny alpha underflows: one label has it all
            shares[random.integers(len(shares))] = 1
        counts = np.minimum(random.multinomial(number, shares / shares.sum()), self._sizes)
        while (missing := number - counts.sum()) > 0:  # a label has too few: the others make up for it
            room = self._sizes - counts
            counts = np.minimum(counts + random.multinomial(missing, room / room.sum()), self._sizes)
        drawn = [
            examples[random.choice(len(examples), count, replace=False, shuffle=False)]
            for examples, count in zip(self._by_label, counts, strict=True)
        ]
        return np.sort(np.concatenate(drawn))


def read_fleet(path: Path) -> dict[str, dict[str, Any]]:
    """The sites of a fleet file by their id; of an entry, ``examples``, ``device`` and ``link`` matter here.

    Raises:
        ConfigError: If it cannot be read, has no sites, names one twice, or gives it no sensible number of examples.
    """
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise ConfigError(f"no such file: {path}") from err
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as err:
        raise ConfigError(f"cannot read {path}: {' '.join(str(err).split())}") from err
    sites = content.get("sites") if isinstance(content, dict) else None
    if not isinstance(sites, list) or not sites:
        raise ConfigError(f"{path} has no sites", hint="sites:\n  - id: hospital-a")
    entries: dict[str, dict[str, Any]] = {}
    for number, entry in enumerate(sites, start=1):
        name = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{path}: site {number} has no id")
        if name in entries:
            raise ConfigError(f"{path}: {name} is there twice")
        examples = entry.get("examples", 1)
        if type(examples) is not int or examples < 1:
            raise ConfigError(f"{path}: {name} has examples {examples!r}, must be a whole number from 1")
        entries[name] = entry
    return entries


def _labels(task: Task) -> npt.NDArray[Any]:
    labels = task.labels(None)
    if not len(labels):
        raise TaskError(f"the task {type(task).__name__} has no common data")
    return labels


def _directories(path: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except OSError as err:
        raise ConfigError(f"population.data: cannot read {path}: {err.strerror}") from err


def _check_data(path: Path, names: Sequence[str]) -> None:
    missing = next((name for name in names if not (path / name).is_dir()), None)
    if missing or not names:
        what = f"no directory {missing}" if missing else "no directories"
        raise ConfigError(f"population.data: {path} has {what}", hint="one directory a site, by its name")
