"""Folding: one pass over the updates of a round that yields the next model block by block.

Updates are folded in site order, so the result does not depend on when they arrived; elements are
independent of each other, so it does not depend on threads; and what a strategy measures over whole updates
is summed in the order of the blocks. Memory is bounded whatever the number of sites and parameters: a few
blocks of the result and their scratch memory, and the pages of one tile of one update for each thread, or of
``KEPT_BYTES`` where updates are few.

Shape letters: P parameters, B elements of a block, T elements of a tile, R rows of scratch memory.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from fl.arrays import F32
from fl.errors import RunError
from fl.strategies.base import F64, Rule, Strategy, Tiles, Update

V = TypeVar("V")

BLOCK_ELEMENTS = 1 << 20
"""B: how much of the model is yielded at a time (4 MiB), and what one thread works on."""

TILE_ELEMENTS = 1 << 19
"""The largest T (2 MiB, what a kernel maps at once): with shorter tiles, mapping costs more than the cache saves."""

TILE_STEP = 1 << 10
"""The smallest T, and what others are multiples of."""

SCRATCH_BYTES = 4 << 20
"""Scratch memory of one thread, which should stay in the processor's cache."""

KEPT_BYTES = 64 << 20
"""Updates that are this small together, a block for each thread, stay mapped until the block's end: that is faster."""

SPARE_SLOTS = 2
"""Pieces of memory besides those of the threads: one for the block that the caller has, one for the next in line."""

MAX_THREADS = 8
"""Memory is the bottleneck long before more threads would help."""


@dataclasses.dataclass(frozen=True, slots=True)
class FoldedBlock:
    """A piece of the next model and of the strategy's next state; valid until the next one is asked for."""

    start: int
    """Where in the vector it begins."""

    model: F32
    """float32, shape ``(B,)``, the last block shorter."""

    state: dict[str, F32]
    """The same piece of each state vector, by name."""


def fold(
    strategy: Strategy,
    model_P: F32,
    updates: Sequence[Update],
    state: Mapping[str, F32],
    *,
    round: int,
    threads: int | None = None,
) -> Iterator[FoldedBlock]:
    """Fold the updates of a round into the next model.

    Args:
        strategy: The rule and the step.
        model_P: The round's model, float32, shape ``(P,)``; left as it is.
        updates: The survivors' updates, in any order.
        state: The strategy's state vectors, each ``(P,)``; empty in the first round.
        round: The round's number, from 1.
        threads: How many work on it; as many as the process may use, up to eight, if left out.

    Returns:
        Consecutive blocks that cover the vector. The next ones are computed while the caller has the last.

    Raises:
        RunError: If there are fewer updates than the strategy needs, or no site has an example.
        ValueError: If a vector has another length or type than the model, or a site is there twice.
            Both are raised by the call, not by the first block.

    Guarantees:
        Equal inputs give equal bits, for any order of ``updates`` and any ``threads``.
    """
    updates = sorted(updates, key=lambda update: update.site)
    _check(strategy, model_P, updates, state)
    threads = threads or usable_threads()
    rule = strategy.rule(updates, _Scan(updates, threads))
    return _fold(strategy, rule, model_P, updates, state, round, threads)


def _fold(
    strategy: Strategy,
    rule: Rule,
    model_P: F32,
    updates: Sequence[Update],
    state: Mapping[str, F32],
    round: int,
    threads: int,
) -> Iterator[FoldedBlock]:
    def work(where: slice, outputs_B: F32, scratch: F32) -> FoldedBlock:
        next_B, *state_B = outputs_B[:, : where.stop - where.start]
        block = FoldedBlock(where.start, next_B, dict(zip(strategy.state_names, state_B, strict=True)))
        for name, vector_B in block.state.items():
            np.copyto(vector_B, state[name][where] if state else np.float32(strategy.initial_state(name)))
        for tiles, scratch_RT in _tiles(updates, where, scratch, threads):
            inside = slice(tiles.where.start - where.start, tiles.where.stop - where.start)
            rule(tiles, next_B[inside], scratch_RT)
            state_T = {name: vector_B[inside] for name, vector_B in block.state.items()}
            strategy.step(next_B[inside], model_P[tiles.where], state_T, scratch_RT, round)
        return block

    slots = threads + SPARE_SLOTS
    outputs = np.empty((slots, 1 + len(strategy.state_names), min(BLOCK_ELEMENTS, model_P.size)), np.float32)
    scratch = _scratch(slots, max(rule.scratch_rows, strategy.STEP_SCRATCH_ROWS))
    yield from _in_order(work, model_P.size, zip(outputs, scratch, strict=True), threads)


@dataclasses.dataclass(frozen=True, slots=True)
class _Scan:
    """See ``fl.strategies.base.Scan``."""

    updates: Sequence[Update]
    threads: int

    def __call__(self, measure: Callable[[Tiles, F32], F64], *, scratch_rows: int) -> F64:
        def work(where: slice, scratch: F32) -> F64:
            # A hostile update may hold numbers as large as a float goes: their distances are inf, and no warning.
            with np.errstate(over="ignore", invalid="ignore"):
                return _sum(measure(*tile) for tile in _tiles(self.updates, where, scratch, self.threads))

        size = self.updates[0].vector_P.size
        scratch = _scratch(self.threads + SPARE_SLOTS, scratch_rows)
        return _sum(_in_order(work, size, ((rows,) for rows in scratch), self.threads))


def _scratch(slots: int, rows: int) -> F32:
    """Scratch memory of so many slots, shape ``(slots, R, T)``, with T as long as the rows stay in the cache."""
    fitting = SCRATCH_BYTES // 4 // max(rows, 1)
    return np.empty((slots, rows, max(TILE_STEP, min(TILE_ELEMENTS, fitting) // TILE_STEP * TILE_STEP)), np.float32)


def _tiles(updates: Sequence[Update], block: slice, scratch_RT: F32, threads: int) -> Iterator[tuple[Tiles, F32]]:
    """Each tile of a block, with as much contiguous scratch memory."""
    rows, length = scratch_RT.shape
    are_few = 4 * len(updates) * (block.stop - block.start) <= KEPT_BYTES // threads
    for where in _spans(block.start, block.stop, length):
        size = where.stop - where.start
        tiles = Tiles(updates, where, gives_back=where.stop == block.stop or not are_few)
        yield tiles, scratch_RT.reshape(-1)[: rows * size].reshape(rows, size)


def _in_order(work: Callable[..., V], size: int, slots: Iterable[tuple[F32, ...]], threads: int) -> Iterator[V]:
    """What ``work(block, *slot)`` returns for every block of the vector, in order.

    A slot is memory that a block has for itself until the result after its own is asked for.
    """
    memory = collections.deque(slots)
    if size <= BLOCK_ELEMENTS:  # a thread would cost more than it does
        yield work(slice(0, size), *memory[0])
        return
    ahead = len(memory) - 1
    with ThreadPoolExecutor(threads, "fold") as pool:
        begun = (
            pool.submit(work, block, *slot)
            for block, slot in zip(_spans(0, size, BLOCK_ELEMENTS), itertools.cycle(memory), strict=False)
        )
        waiting = collections.deque(itertools.islice(begun, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(itertools.islice(begun, 1))
            yield result


def _sum(parts: Iterable[F64]) -> F64:
    """The sum from left to right."""
    return sum(parts, np.zeros(()))


def _spans(start: int, stop: int, length: int) -> Iterator[slice]:
    """Consecutive ranges that cover ``start`` to ``stop``, the last one shorter."""
    return (slice(begin, min(begin + length, stop)) for begin in range(start, stop, length))


def _check(strategy: Strategy, model_P: F32, updates: Sequence[Update], state: Mapping[str, F32]) -> None:
    needed = strategy.minimum_updates()
    if len(updates) < needed:
        raise RunError(
            f"strategy {strategy.name} with these options needs {needed} updates, {len(updates)} arrived",
            hint=f"ask for a quorum of {needed} sites, or change the [strategy] table",
        )
    named = [("model", model_P), *((u.site, u.vector_P) for u in updates), *state.items()]
    for name, vector in named:
        if vector.shape != (model_P.size,) or vector.dtype != np.float32:
            raise ValueError(f"{name} is {vector.dtype} {vector.shape}, expected float32 ({model_P.size},)")
    for first, second in itertools.pairwise(updates):
        if first.site == second.site:
            raise ValueError(f"two updates of site {first.site}")
    if state and set(state) != set(strategy.state_names):
        raise ValueError(f"state is {sorted(state)}, {strategy.name} has {sorted(strategy.state_names)}")


def usable_threads() -> int:
    """How many threads a fold takes by itself: a processor each, up to the number that helps."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MAX_THREADS)
