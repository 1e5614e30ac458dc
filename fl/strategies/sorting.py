"""Order statistics of many updates, element by element: the middle of what the sites sent.

A sorting network compares fixed pairs, so every comparison is one vectorised ``np.minimum`` or
``np.maximum`` over a whole tile. The network is Batcher's odd-even merge sort (Knuth, The Art of Computer
Programming 3, 5.3.4, and Algorithm 5.2.2M), pruned to what the wanted ranks depend on. It grows with
``N log² N`` comparisons, so beyond ``NETWORK_LIMIT`` updates NumPy's own sort is faster; both give the same bits.

Shape letters: N updates, T elements of a tile, R rows of scratch memory.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fl.arrays import F32

NETWORK_LIMIT = 64
"""Most updates that go through the network; measured, see ``docs/reference/strategies.md``."""


class Comparison(NamedTuple):
    """One step of a pruned network; registers below N are the inputs, the others rows of scratch memory."""

    left: int
    right: int

    low: int | None
    """Where the smaller goes; ``None`` if nobody asks."""

    high: int | None
    """Where the larger goes; may be ``left`` or ``right``, so it is written after ``low``."""


class Network(NamedTuple):
    """A straight-line program that sorts N registers as far as some ranks need it."""

    comparisons: tuple[Comparison, ...]

    results: tuple[int, ...]
    """The registers with the wanted ranks, smallest first."""

    scratch_rows: int
    """How many registers there are besides the inputs."""


class MiddleMean:
    """At each element, the mean of the values left when the ``cut`` smallest and the ``cut`` largest are gone.

    ``cut = (N − 1) // 2`` is the median, exactly that of ``np.median``. Values are added from the smallest to the
    largest in float32, so the result does not depend on the order of the updates at all; a zero is always +0.
    """

    def __init__(self, num_updates: int, cut: int) -> None:
        self._ranks = range(cut, num_updates - cut)
        self._network = network(num_updates, self._ranks) if num_updates <= NETWORK_LIMIT else None
        self.scratch_rows = self._network.scratch_rows if self._network else num_updates

    def __call__(self, tiles: Sequence[F32], out_T: F32, scratch_RT: F32) -> None:
        """See ``Rule``."""
        middle = self._by_network(tiles, scratch_RT) if self._network else self._by_sort(tiles, scratch_RT)
        # Which of -0 and +0 a minimum returns is left open; a sum that starts from +0 is +0 either way.
        np.add(middle[0], np.float32(0), out=out_T)
        for value_T in middle[1:]:
            np.add(out_T, value_T, out=out_T)
        np.divide(out_T, np.float32(len(self._ranks)), out=out_T)

    def _by_network(self, tiles: Sequence[F32], scratch_RT: F32) -> list[F32]:
        assert self._network
        registers = [*tiles, *scratch_RT]
        for left, right, low, high in self._network.comparisons:
            if low is not None:
                np.minimum(registers[left], registers[right], out=registers[low])
            if high is not None:
                np.maximum(registers[left], registers[right], out=registers[high])
        return [registers[result] for result in self._network.results]

    def _by_sort(self, tiles: Sequence[F32], scratch_RT: F32) -> list[F32]:
        rows_TN = scratch_RT[: len(tiles)].reshape(-1, len(tiles))  # the same memory, an element's values together
        for i, tile in enumerate(tiles):
            rows_TN[:, i] = tile
        rows_TN.sort(axis=1)
        return [rows_TN[:, rank] for rank in self._ranks]


@functools.lru_cache(maxsize=32)
def network(num_inputs: int, ranks: range) -> Network:
    """The pruned network that puts the wanted ranks in order, with its registers assigned."""
    wanted = set(ranks)
    kept: list[tuple[int, int, bool, bool]] = []
    for left, right in reversed(list(_batcher(num_inputs))):
        if left in wanted or right in wanted:
            kept.append((left, right, left in wanted, right in wanted))
            wanted |= {left, right}

    place = list(range(num_inputs))  # the register in which each wire's value lies
    free: list[int] = []
    registers = itertools.count(num_inputs)
    comparisons = []
    for left, right, wants_low, wants_high in reversed(kept):
        inputs = place[left], place[right]
        reusable = [register for register in inputs if register >= num_inputs]
        low = high = None
        if wants_high:  # the second to read the inputs, so it may overwrite one
            high = (reusable or free or [next(registers)]).pop()
        if wants_low:
            low = ((not wants_high and reusable) or free or [next(registers)]).pop()
        free += reusable
        comparisons.append(Comparison(*inputs, low, high))
        place[left], place[right] = low or -1, high or -1  # the value of an unwanted wire is nowhere
    return Network(tuple(comparisons), tuple(place[rank] for rank in ranks), next(registers) - num_inputs)


def _batcher(num_inputs: int) -> Iterator[tuple[int, int]]:
    """The pairs of Batcher's odd-even merge sort for any number of inputs; the smaller value goes to the left."""
    run = 1
    while run < num_inputs:
        gap = run
        while gap >= 1:
            for start in range(gap % run, num_inputs - gap, 2 * gap):
                for left in range(start, min(start + gap, num_inputs - gap)):
                    if left // (2 * run) == (left + gap) // (2 * run):
                        yield left, left + gap
            gap //= 2
        run *= 2
