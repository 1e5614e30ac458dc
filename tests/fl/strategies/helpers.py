"""What the tests of strategies share: updates from a matrix, and a whole fold as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fl.arrays import F32
from fl.strategies import Strategy, Update, fold


def updates_of(updates_NP: F32, num_examples: Sequence[int] | None = None) -> list[Update]:
    """One update a row, of sites named in the order of the rows; read-only, as a map is."""
    updates = []
    for i, vector_P in enumerate(np.asarray(updates_NP, np.float32)):
        vector_P.flags.writeable = False
        count = num_examples[i] if num_examples is not None else 1
        updates.append(Update(site=f"site-{i:04}", num_examples=count, vector_P=vector_P))
    return updates


def fold_all(
    strategy: Strategy,
    model_P: F32,
    updates: Sequence[Update],
    state: Mapping[str, F32] | None = None,
    *,
    round: int = 1,
    threads: int = 2,
) -> tuple[F32, dict[str, F32]]:
    """The whole next model and state; checks on the way that blocks follow each other."""
    model = np.full(model_P.size, np.nan, np.float32)
    after = {name: np.full(model_P.size, np.nan, np.float32) for name in strategy.state_names}
    position = 0
    for block in fold(strategy, model_P, updates, state or {}, round=round, threads=threads):
        assert block.start == position
        position += block.model.size
        model[block.start : position] = block.model
        assert block.state.keys() == after.keys()
        for name, vector in block.state.items():
            after[name][block.start : position] = vector
    assert position == model_P.size
    return model, after


def folded_update(strategy: Strategy, updates: Sequence[Update]) -> F32:
    """What a stateless strategy makes of the updates: the next model when the model is zero."""
    return fold_all(strategy, np.zeros(updates[0].vector_P.size, np.float32), updates)[0]
