"""Order statistics of many updates, element by element: the middle of what the sites sent.

A sorting network compares fixed pairs, so every comparison is one vectorised ``np.minimum`` or
``np.maximum`` over a whole tile. The network is Batcher's odd-even merge sort (Knuth, The Art of Computer
Programming 3, 5.3.4, and Algorithm 5.2.2M), pruned to what the wanted ranks depend on. It grows with
``N log² N`` comparisons, so beyond ``NETWORK_LIMIT`` updates NumPy's own sort is faster; both give the same bits.

Shape letters: N updates, T elements of a tile, R rows of scratch memory.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from fl.arrays import F32
from fl.strategies.base import Tiles

NETWORK_LIMIT = 64
"""Most updates that go through the network; measured, see ``docs/reference/strategies.md``."""


class Comparison(NamedTuple):
    """One step of a pruned network: the smaller of two wires' values goes to the left, the larger to the right."""

    left: int
    right: int
    wants_low: bool
    wants_high: bool


class MiddleMean:
    """At each element, the mean of the values left when the ``cut`` smallest and the ``cut`` largest are gone.

    ``cut = (N − 1) // 2`` is the median, exactly that of ``np.median``. Values are added from the smallest to the
    largest in float32, so the result does not depend on the order of the updates at all; a zero is always +0.
    """

    def __init__(self, num_updates: int, cut: int) -> None:
        self._ranks = range(cut, num_updates - cut)
        self._network = network(num_updates, self._ranks) if num_updates <= NETWORK_LIMIT else None
        self.scratch_rows = num_updates + 1

    def __call__(self, tiles: Tiles, out_T: F32, scratch_RT: F32) -> None:
        """See ``Rule``."""
        num_updates = len(tiles.updates)
        if self._network is None:
            rows_TN = scratch_RT[:num_updates].reshape(-1, num_updates)  # one element's values side by side
            for i, tile_T in enumerate(tiles.read()):
                rows_TN[:, i] = tile_T
            rows_TN.sort(axis=1)
            sorted_NT: F32 | Sequence[F32] = rows_TN.T
        else:
            tiles.copy_to(scratch_RT[:num_updates])
            sorted_NT = run_network(self._network, scratch_RT[:num_updates], scratch_RT[num_updates])
        middle = [sorted_NT[rank] for rank in self._ranks]
        # Which of -0 and +0 a minimum returns is left open; a sum that starts from +0 is +0 either way.
        np.add(middle[0], np.float32(0), out=out_T)
        for value_T in middle[1:]:
            np.add(out_T, value_T, out=out_T)
        np.divide(out_T, np.float32(len(self._ranks)), out=out_T)


@functools.lru_cache(maxsize=32)
def network(num_inputs: int, ranks: range) -> tuple[Comparison, ...]:
    """The comparisons that put the wanted ranks in their places; the other places are left as they come."""
    wanted = set(ranks)
    kept = []
    for left, right in reversed(list(_batcher(num_inputs))):
        if left in wanted or right in wanted:
            kept.append(Comparison(left, right, left in wanted, right in wanted))
            wanted |= {left, right}
    return tuple(reversed(kept))


def run_network(comparisons: Iterable[Comparison], values_NT: F32, spare_T: F32) -> list[F32]:
    """Sort in place; the rows come back in order, some of them in the place of others or of ``spare_T``."""
    wires = list(values_NT)
    for left, right, wants_low, wants_high in comparisons:
        a, b = wires[left], wires[right]
        if wants_low and wants_high:
            np.minimum(a, b, out=spare_T)
            np.maximum(a, b, out=b)
            wires[left], spare_T = spare_T, a
        elif wants_low:
            np.minimum(a, b, out=a)
        else:
            np.maximum(a, b, out=b)
    return wires


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
