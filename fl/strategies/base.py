"""What a strategy is: a rule that makes one update of many, and a step from the old model to the next.

Both work on *tiles*: pieces of the vector that lie at the same place in every update, in the model and in
the strategy's state. A tile's result depends on nothing outside it, so it does not matter how a vector is
cut or which thread takes which piece. What a rule must know about whole updates (distances, say) it
measures with a ``Scan`` before the first tile is folded. ``fl.strategies.fold`` drives both.

Shape letters: N updates, P parameters, T elements of a tile, R rows of scratch memory, K numbers that a scan sums.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from fl.arrays import F32

F64 = npt.NDArray[np.float64]


def keep_pages() -> None:
    """The ``release`` of an update that lies in ordinary memory."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One survivor's update in a round."""

    site: str
    """Its site; updates are folded in the order of these names."""

    num_examples: int
    """How many examples it was trained on, as the site says."""

    vector_P: F32
    """Local minus global parameters, float32, shape ``(P,)``, finite; usually memory-mapped, never written to."""

    release: Callable[[], None] = keep_pages
    """Gives mapped pages back after they were read: ``ArrayFile.release``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tiles:
    """One tile of every update of a round, N in all."""

    updates: Sequence[Update]
    """In site order."""

    where: slice
    """Which elements of the vectors."""

    gives_back: bool = True
    """Whether pages are given back at once; of few updates they may stay until a larger piece is read."""

    def read(self, chosen: Iterable[int] | None = None) -> Iterator[F32]:
        """The tile of each update (or of the chosen ones, by number), ``(T,)``, valid until the next is asked for.

        An update's pages are given back before the next one is touched, so that few are mapped at a time whatever the
        number of sites: newer kernels map up to 2 MiB around the first byte that is read.
        """
        for i in range(len(self.updates)) if chosen is None else chosen:
            yield self.updates[i].vector_P[self.where]
            if self.gives_back:
                self.updates[i].release()

    def copy_to(self, rows_NT: F32) -> None:
        """All tiles at once, for rules that have to compare them."""
        for tile_T, row_T in zip(self.read(), rows_NT, strict=True):
            np.copyto(row_T, tile_T)


class Rule(Protocol):
    """Makes one update of many, tile by tile; called from several threads at once, so it keeps no state."""

    @property
    def scratch_rows(self) -> int:
        """R: how many rows of scratch memory a call needs."""

    def __call__(self, tiles: Tiles, out_T: F32, scratch_RT: F32) -> None:
        """Fold a tile of all updates into ``out_T``.

        Scratch memory is contiguous and has at least ``scratch_rows`` rows.
        """


class Scan(Protocol):
    """Reads all updates once and sums what a function measures on their tiles."""

    def __call__(self, measure: Callable[[Tiles, F32], F64], *, scratch_rows: int) -> F64:
        """The sum over all tiles of ``measure(tiles, scratch_RT)``, float64, shape ``(K,)``.

        Guarantees:
            Tiles are cut and summed in the same order whatever the number of threads.
        """


class Strategy(ABC):
    """How the updates of a round become the next model.

    A strategy is a frozen dataclass: its fields are the options of ``[strategy]``, checked in
    ``__post_init__``. What it carries from round to round lies outside it, in the vectors named in
    ``state_names``, which start from ``initial_state``.
    """

    __slots__ = ()

    name: ClassVar[str]
    """What a run file calls it."""

    state_names: ClassVar[tuple[str, ...]] = ()
    """Names of the vectors that it carries from round to round, each as long as the model."""

    STEP_SCRATCH_ROWS: ClassVar[int] = 0
    """How many rows of scratch memory ``step`` needs."""

    def site_options(self) -> Mapping[str, float]:
        """What the sites' training has to know, by name; nothing for most strategies."""
        return {}

    def minimum_updates(self) -> int:
        """The fewest updates of a round for which the rule means what it says."""
        return 1

    def initial_state(self, name: str) -> float:
        """The value that every element of a state vector starts from."""
        return 0.0

    @abstractmethod
    def rule(self, updates: Sequence[Update], scan: Scan) -> Rule:
        """The rule for a round.

        Args:
            updates: At least ``minimum_updates()`` of them, in site order.
            scan: Reads them all; each call costs one pass over their bytes.

        Raises:
            RunError: If these updates cannot be folded.
        """

    def step(self, update_T: F32, model_T: F32, state: Mapping[str, F32], scratch_RT: F32, round: int) -> None:
        """Turn a tile of the update into one of the next model; here by adding it to the model.

        Args:
            update_T: What the rule made of the updates; becomes the next model, in place.
            model_T: The round's model, read-only.
            state: The tile of each state vector, by name; become those of the next round, in place.
            scratch_RT: At least ``STEP_SCRATCH_ROWS`` rows.
            round: The round's number, from 1.
        """
        np.add(model_T, update_T, out=update_T)
