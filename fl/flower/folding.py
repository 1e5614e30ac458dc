"""The strategy of a run file's ``[strategy]`` table; Flower is imported only where it is Flower's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fl.rounds.checkpoint import Folding, Streaming
from fl.rounds.config import options
from fl.strategies import registry


def folding_for(table: Mapping[str, Any]) -> Folding:
    """The strategy: one of ``fl.strategies`` by its name, any of Flower's as ``package.module:Class``.

    Raises:
        ConfigError: If there is no such strategy, or it refuses its options.
    """
    name = str(table["name"])
    if ":" not in name:
        return Streaming(registry.create(name, options(table)))
    from fl.flower.strategy import FlowerFolding, create

    return FlowerFolding(create(name, options(table)))
