"""The data of a local federation's sites: one real data set, divided by a split and written to each site's directory.

Only demos and trials do this. In a real federation the data is at the sites already, and nobody divides it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fl.config import check_range
from fl.errors import TaskError
from fl.tasks.splits import SplitConfig


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ShardsConfig:
    """Which data, and how it is divided."""

    task: str
    """Name of a built-in task, or ``package.module:Class``; it knows how its data is read and written."""

    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The task's own options."""

    search_path: Path | None = None
    """Directory that a task of one's own is looked for in first."""

    source: Path | None = None
    """The data set; the task's own without it."""

    split: SplitConfig = dataclasses.field(default_factory=SplitConfig)
    """How it is divided."""

    seed: int = 1
    """The same seed gives the same division."""

    def __post_init__(self) -> None:
        check_range("seed", self.seed, at_least=0)


def write(config: ShardsConfig, directories: Sequence[Path]) -> list[int]:
    """Divide the data set and write each part to one directory.

    Args:
        config: What to divide, and how.
        directories: One a site, existing.

    Returns:
        How many examples each site got.

    Raises:
        TaskError: If the data cannot be read, or the task cannot divide it.
        ConfigError: If the task does not exist, or the split does not fit the data.
    """
    from fl.tasks import registry

    task = registry.create(config.task, config.options, search_path=config.search_path)
    labels = task.labels(config.source)
    if len(labels) < len(directories):
        raise TaskError(f"{len(labels)} examples cannot be divided among {len(directories)} sites")
    parts = config.split.split(labels, len(directories), config.seed)
    for part, directory in zip(parts, directories, strict=True):
        task.write_shard(config.source, part, directory)
    return [len(part) for part in parts]
