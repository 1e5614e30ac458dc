"""The axes of a sweep: which keys of a scenario take which values, and the points of their product.

::

    [sweep]
    seeds = [1, 2, 3]
    "training.learning_rate" = [0.01, 0.1]
    "devices.0.speed" = [1.0, 4.0]
    strategy = [{ name = "fedavg" }, { name = "fedadam", server_learning_rate = 0.03 }]

A key is dotted, with the number of an entry where a table is a list. The value of a whole table replaces it.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fl.config import check_range
from fl.errors import ConfigError

SEEDS = "seeds"
SEED_KEY = "run.seed"


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """One point of a sweep.

    Attributes:
        label: The settings in letters that a file name may have; empty without axes.
        settings: The value of each axis, by its key.
        seed: The run's seed; ``None`` leaves the scenario's own.
    """

    label: str
    settings: Mapping[str, Any]
    seed: int | None

    @property
    def name(self) -> str:
        """The label and the seed: a name of its own within the sweep."""
        return "_".join(filter(None, [self.label, "" if self.seed is None else f"seed-{self.seed}"]))


@dataclasses.dataclass(frozen=True, slots=True)
class Sweep:
    """The ``[sweep]`` table."""

    seeds: tuple[int, ...] = ()
    """Seeds that each combination is run with; without them the one of ``[run]``."""

    axes: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    """For each key that is varied, by its dotted name, the values that it takes."""

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Sweep:
        """The table of a file; ``training.learning_rate = […]`` may be written with quotes or without.

        Raises:
            ConfigError: If an axis is no list, is empty, or has a value twice.
        """
        axes = dict(_flat(table))
        seeds = axes.pop(SEEDS, ())
        if SEED_KEY in axes:
            raise ConfigError(f"sweep.{SEED_KEY} is the same as sweep.{SEEDS}", hint=f"{SEEDS} = {axes[SEED_KEY]}")
        for key, values in {**axes, **({SEEDS: seeds} if SEEDS in table else {})}.items():
            _check_axis(key, values)
        for seed in seeds:
            if not isinstance(seed, int) or isinstance(seed, bool):
                raise ConfigError(f"sweep.{SEEDS} has {seed!r}, must be whole numbers")
            check_range(f"sweep.{SEEDS}", seed, at_least=0)
        return cls(tuple(seeds), {key: tuple(values) for key, values in axes.items()})

    def to_dict(self) -> dict[str, Any]:
        """As plain data; ``from_dict`` gives the same object back."""
        seeds = {SEEDS: list(self.seeds)} if self.seeds else {}
        return {**seeds, **{key: list(values) for key, values in self.axes.items()}}

    def __bool__(self) -> bool:
        return bool(self.seeds or self.axes)

    def points(self) -> Iterator[Point]:
        """The product of the axes, the last one fastest, each with every seed; always in this order."""
        names = _short_names(list(self.axes))
        for chosen in itertools.product(*(enumerate(values) for values in self.axes.values())):
            settings = {key: value for key, (_, value) in zip(self.axes, chosen, strict=True)}
            label = "_".join(
                f"{names[key]}-{_slug(value, place, values)}"
                for (key, values), (place, value) in zip(self.axes.items(), chosen, strict=True)
            )
            for seed in self.seeds or (None,):
                yield Point(label, settings, seed)


def put(tables: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in tables of plain data; tables on the way are made if they are not there.

    Raises:
        ConfigError: If something on the way is no table, or a list has no such entry.
    """
    *way, last = key.split(".")
    place: Any = tables
    for number, word in enumerate(way):
        if isinstance(place, list):
            place = place[_entry(place, word, ".".join(way[:number]))]
        else:
            place = place.setdefault(word, {})
        if not isinstance(place, (dict, list)):
            raise ConfigError(f"unknown key {key}: {'.'.join(way[: number + 1])} is {place!r}, no table")
    if isinstance(place, list):
        place[_entry(place, last, ".".join(way))] = value
    else:
        place[last] = value


def _entry(entries: Sequence[Any], word: str, where: str) -> int:
    if not word.isdecimal() or int(word) >= len(entries):
        known = f"{where}.0 to {where}.{len(entries) - 1}" if entries else f"no entry of [[{where}]]"
        raise ConfigError(f"unknown key {where}.{word}", hint=f"there is {known}")
    return int(word)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_axis(key: str, values: Any) -> None:
    if not isinstance(values, (list, tuple)):
        raise ConfigError(f"sweep.{key} is {values!r}, must be a list of values", hint=f'"{key}" = [{values!r}]')
    if not values:
        raise ConfigError(f"sweep.{key} is empty", hint="give it at least one value, or remove it")
    for value in values:
        if sum(value == other and type(value) is type(other) for other in values) > 1:
            raise ConfigError(f"sweep.{key} has {value!r} twice")


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last word of each key, the whole key where two end alike."""
    ends = Counter(key.rpartition(".")[2] for key in keys)
    return {key: end if ends[end := key.rpartition(".")[2]] == 1 else key for key in keys}


def _slug(value: Any, place: int, values: Sequence[Any]) -> str:
    """A value in letters that a file name may have; its place in the axis where those do not tell it from others."""
    slugs = [_letters(other) for other in values]
    return slugs[place] if slugs[place] and slugs.count(slugs[place]) == 1 else f"{slugs[place] or 'value'}-{place}"


def _letters(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("name", value.get("kind", ""))
    if isinstance(value, bool):
        value = str(value).lower()
    if isinstance(value, (list, tuple)):
        value = "-".join(map(_letters, value))
    return re.sub(r"[^A-Za-z0-9.]+", "-", str(value)).strip("-.")
