"""Folding: one pass over the updates of a round that yields the next model block by block.

Updates are folded in site order, so the result does not depend on when they arrived; elements are
independent of each other, so it does not depend on threads; and what a strategy measures over whole updates
is summed in the order of the blocks. Memory is bounded whatever the number of sites and parameters: a few
blocks of the result and their scratch memory, and about ``RELEASE_BYTES`` of mapped updates.

Shape letters: P parameters, B elements of a block, T elements of a tile, R rows of scratch memory.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from fl.arrays import F32
from fl.errors import RunError
from fl.strategies.base import F64, Rule, Strategy, Update

V = TypeVar("V")

BLOCK_ELEMENTS = 1 << 20
"""B: how much of the model is yielded at a time (4 MiB), and what one thread works on."""

TILE_ELEMENTS = 1 << 17
"""The largest T: longer tiles would spend less on calls, but fall out of the processor's cache."""

TILE_STEP = 1 << 10
"""The smallest T, and what others are multiples of."""

SCRATCH_BYTES = 4 << 20
"""Scratch memory of one thread, which should stay in the processor's cache."""

RELEASE_BYTES = 64 << 20
"""After so many bytes of updates were read, their pages are given back."""

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
    reader = _Reader(sorted(updates, key=lambda update: update.site))
    threads = threads or _processors()
    _check(strategy, model_P, reader.updates, state)

    def scan(measure: Callable[[Sequence[F32], F32], F64], *, scratch_rows: int) -> F64:
        return _scan(reader, measure, scratch_rows, threads)

    rule = strategy.rule(reader.updates, scan)
    return _fold(strategy, rule, model_P, reader, state, round, threads)


def _fold(
    strategy: Strategy,
    rule: Rule,
    model_P: F32,
    reader: _Reader,
    state: Mapping[str, F32],
    round: int,
    threads: int,
) -> Iterator[FoldedBlock]:
    def work(span: slice, outputs_B: F32, scratch: F32) -> FoldedBlock:
        next_B, *state_B = outputs_B[:, : span.stop - span.start]
        block = FoldedBlock(span.start, next_B, dict(zip(strategy.state_names, state_B, strict=True)))
        for name, vector_B in block.state.items():
            np.copyto(vector_B, state[name][span] if state else np.float32(strategy.initial_state(name)))
        for tile, tiles, scratch_RT in reader.tiles(span, scratch):
            inside = slice(tile.start - span.start, tile.stop - span.start)
            rule(tiles, next_B[inside], scratch_RT)
            state_T = {name: vector_B[inside] for name, vector_B in block.state.items()}
            strategy.step(next_B[inside], model_P[tile], state_T, scratch_RT, round)
        return block

    slots = threads + SPARE_SLOTS
    outputs = np.empty((slots, 1 + len(strategy.state_names), min(BLOCK_ELEMENTS, model_P.size)), np.float32)
    scratch = reader.scratch(slots, max(rule.scratch_rows, strategy.STEP_SCRATCH_ROWS))
    memory = itertools.cycle(zip(outputs, scratch, strict=True))
    with ThreadPoolExecutor(threads, "fold") as pool:
        begun = (pool.submit(work, span, *next(memory)) for span in _spans(0, model_P.size, BLOCK_ELEMENTS))
        yield from _in_order(begun, slots - 1)
    reader.release()


def _scan(reader: _Reader, measure: Callable[[Sequence[F32], F32], F64], scratch_rows: int, threads: int) -> F64:
    """See ``fl.strategies.base.Scan``."""

    def work(span: slice, scratch: F32) -> F64:
        return _sum(measure(tiles, scratch_RT) for _, tiles, scratch_RT in reader.tiles(span, scratch))

    slots = threads + SPARE_SLOTS
    memory = itertools.cycle(reader.scratch(slots, scratch_rows))
    with ThreadPoolExecutor(threads, "scan") as pool:
        begun = (pool.submit(work, span, next(memory)) for span in _spans(0, reader.size, BLOCK_ELEMENTS))
        return _sum(_in_order(begun, slots - 1))


class _Reader:
    """Cuts all updates into tiles, and gives mapped pages back as they are read."""

    def __init__(self, updates: Sequence[Update]) -> None:
        self.updates = updates
        self._unreleased_bytes = 0

    @property
    def size(self) -> int:
        """P."""
        return self.updates[0].vector_P.size

    def scratch(self, count: int, rows: int) -> F32:
        """Scratch memory for ``count`` threads, shape ``(count, R, T)``.

        T is as long as the rows stay in the cache and the pages of all updates' tiles within their bound.
        """
        fitting = min(SCRATCH_BYTES // max(rows, 1), RELEASE_BYTES // 4 // len(self.updates)) // 4
        length = max(TILE_STEP, min(TILE_ELEMENTS, fitting) // TILE_STEP * TILE_STEP)
        return np.empty((count, rows, length), np.float32)

    def tiles(self, span: slice, scratch_RT: F32) -> Iterator[tuple[slice, list[F32], F32]]:
        """Each tile of a range: where it is, the updates there, and as much contiguous scratch memory."""
        rows, length = scratch_RT.shape
        # A hostile update may hold numbers as large as a float goes: their squares are inf, and no warning.
        with np.errstate(over="ignore", invalid="ignore"):
            for tile in _spans(span.start, span.stop, length):
                size = tile.stop - tile.start
                scratch = scratch_RT.reshape(-1)[: rows * size].reshape(rows, size)
                yield tile, [update.vector_P[tile] for update in self.updates], scratch
                # Threads may lose each other's count: pages are then given back a little later.
                self._unreleased_bytes += 4 * size * len(self.updates)
                if self._unreleased_bytes >= RELEASE_BYTES:
                    self.release()

    def release(self) -> None:
        """Give back the pages of all updates; what another thread still reads is mapped again."""
        self._unreleased_bytes = 0
        for update in self.updates:
            update.release()


def _in_order(begun: Iterator[Future[V]], ahead: int) -> Iterator[V]:
    """The results of jobs that an iterator begins, in order; ``ahead`` more have begun when one is handed out."""
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


def _processors() -> int:
    """How many processors this process may use, up to the number that helps."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, MAX_THREADS)
