"""Any strategy of ``flwr.serverapp.strategy`` for the round engine.

In a run file: ``name = "flwr.serverapp.strategy:FedTrimmedAvg"`` and the strategy's own arguments. It is given what
it knows from Flower's own loop, local parameters and ``num-examples`` of each survivor, so it holds all replies in
memory at once: about one model a site, on top of what it makes itself. The strategies of ``fl.strategies`` don't.

What such a strategy carries from round to round stands in its attributes. Arrays among them (and dicts and lists of
arrays, as in FedOpt's moments) are kept in the journal, so that a resumed run continues with them; a strategy that
keeps something else between rounds starts with it anew after a resume.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy as FlowerStrategy

from fl.arrays import F32, Layout
from fl.config import unknown
from fl.errors import ConfigError, RunError
from fl.flower import records
from fl.flower.private import ensure_identity
from fl.strategies.base import Update
from fl.strategies.fold import FoldedBlock


class FlowerFolding:
    """A strategy of Flower's as the engine uses one; holds all updates of a round in memory.

    Args:
        strategy: Any ``flwr.serverapp.strategy.Strategy``.
    """

    def __init__(self, strategy: FlowerStrategy) -> None:
        ensure_identity()
        self.strategy = strategy

    def minimum_updates(self) -> int:
        """As many as the strategy waits for; with fewer, Flower's would wait for ever."""
        names = ("min_train_nodes", "min_available_nodes")
        return max([1, *(int(getattr(self.strategy, name, 1)) for name in names)])

    def site_options(self) -> Mapping[str, float]:
        """FedProx is the one strategy of Flower's that sites must know of."""
        mu = getattr(self.strategy, "proximal_mu", None)
        return {} if mu is None else {"proximal_mu": float(mu)}

    def fold(
        self, layout: Layout, model_P: F32, updates: Sequence[Update], state: Mapping[str, F32], *, round: int
    ) -> Iterator[FoldedBlock]:
        """Let the strategy aggregate the round's replies.

        Raises:
            RunError: If it makes no model of them, or one of another shape.
        """
        for key, vector in state.items():
            _restore(self.strategy, key, layout, vector)
        replies = [self._reply(i, layout, model_P, update) for i, update in enumerate(updates, start=1)]
        try:
            self._configure(layout, model_P, len(updates), round)
            arrays, _ = self.strategy.aggregate_train(round, replies)
        except Exception as err:  # a strategy may raise anything
            raise RunError(f"round {round}: {type(self.strategy).__name__}: {err}") from err
        if arrays is None:
            raise RunError(f"round {round}: {type(self.strategy).__name__} made no model of {len(replies)} replies")
        model = {name: np.asarray(array.numpy(), np.float32) for name, array in arrays.items()}
        if difference := layout.difference(Layout.of(model)):
            raise RunError(f"round {round}: the model of {type(self.strategy).__name__}: {difference}")
        yield FoldedBlock(0, _flat(model.values()), _captured(self.strategy, layout))

    def _configure(self, layout: Layout, model_P: F32, nodes: int, round: int) -> None:
        """Let the strategy see the round's model, as Flower's loop does before it sends it; nothing is sent."""
        record = records.encode_arrays(layout.split(model_P))
        list(self.strategy.configure_train(round, record, ConfigRecord(), cast(Grid, _Counted(nodes))))

    @staticmethod
    def _reply(number: int, layout: Layout, model_P: F32, update: Update) -> Message:
        local = {
            name: part + change
            for (name, part), change in zip(
                layout.split(model_P).items(), layout.split(update.vector_P).values(), strict=True
            )
        }
        content = RecordDict(
            {
                "arrays": records.encode_arrays(local),
                "metrics": MetricRecord({records.NUM_EXAMPLES: update.num_examples}),
            }
        )
        return Message(content, reply_to=Message(RecordDict(), number, "train"))


class _Counted:
    """As much of a Grid as a strategy needs to sample nodes: their numbers."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes

    def get_node_ids(self) -> list[int]:
        """1 to the number of nodes."""
        return list(range(1, self._nodes + 1))


def create(name: str, arguments: Mapping[str, Any]) -> FlowerStrategy:
    """A strategy by ``package.module:Class``, made with the given arguments.

    Raises:
        ConfigError: If there is none, or it refuses them.
    """
    module_name, _, class_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as err:
        raise ConfigError(f"strategy.name: cannot import {module_name}: {err}") from err
    cls = getattr(module, class_name, None)
    if not (isinstance(cls, type) and issubclass(cls, FlowerStrategy)):
        known = [
            key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, FlowerStrategy)
        ]
        raise unknown(f"strategy in {module_name}:", class_name, known)
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as err:
        raise ConfigError(f"strategy {class_name}: {err}") from err


def _captured(strategy: FlowerStrategy, layout: Layout) -> dict[str, F32]:
    """The arrays that a strategy keeps in its attributes, by ``<attribute>.<dict or list>``."""
    found: dict[str, F32] = {}
    for name, value in vars(strategy).items():
        parts = list(value.values()) if isinstance(value, dict) else value
        if not (isinstance(parts, list) and parts and all(isinstance(part, np.ndarray) for part in parts)):
            continue
        vector = _flat(parts)
        if name != "current_arrays" and vector.size == layout.size:
            found[f"{name}.{type(value).__name__}"] = vector
    return found


def _restore(strategy: FlowerStrategy, key: str, layout: Layout, vector_P: F32) -> None:
    name, _, kind = key.partition(".")
    arrays = {part: array.copy() for part, array in layout.split(vector_P).items()}
    setattr(strategy, name, arrays if kind == "dict" else list(arrays.values()))


def _flat(parts: Any) -> F32:
    return np.concatenate([np.asarray(part, np.float32).reshape(-1) for part in parts])
