"""The examples of several sites lined up for training side by side: which ones each takes in each step.

The order of a site's examples is that of ``fl.tasks.loop``: drawn from the site's own seed, epoch after epoch. Lanes
are sorted by how many steps they have, so that those which still train are always the first ones.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from fl import seeding
from fl.errors import TaskError
from fl.tasks import batches
from fl.tasks.base import Site, Task
from fl.tasks.training import TrainingConfig
from simulations.engine.vectorised.batch import Batch
from simulations.engine.vectorised.pictures import channels_last

AT_ONCE_BYTES = 16 << 20
"""Batches that are smaller than this together are gathered once for all steps."""

I64 = npt.NDArray[np.int64]

Draw = Callable[[Sequence[int], int, int], I64]
"""See ``drawn_by_torch``."""


@dataclasses.dataclass(frozen=True, slots=True)
class Examples:
    """What a site trains on.

    Attributes:
        inputs: ``(N, …)``; of pictures, the channels may be last in memory.
        targets: ``(N, …)``.
        kind: Shapes and types of one of them: sites side by side have the same.
        number: How many they are, N.
    """

    inputs: Tensor
    targets: Tensor
    kind: tuple[object, ...] = dataclasses.field(init=False)
    number: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        kind = tuple((it.shape[1:], it.dtype) for it in (self.inputs, self.targets))
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "number", len(self.targets))

    @property
    def size_bytes(self) -> int:
        """Memory that they take."""
        return self.inputs.nbytes + self.targets.nbytes


class Shelf:
    """The examples of the sites that trained last, on the device, as long as there is room.

    Args:
        task: Gives them.
        device: Where they are kept.
        is_channels_last: Whether pictures are kept with their channels last in memory.
        limit_bytes: Room.
    """

    def __init__(self, task: Task, device: torch.device, *, is_channels_last: bool, limit_bytes: int) -> None:
        self._task, self._device = task, device
        self._is_channels_last, self._limit_bytes = is_channels_last, limit_bytes
        self._kept: OrderedDict[str, Examples] = OrderedDict()
        self._size_bytes = 0

    def get(self, site: Site) -> Examples:
        """The examples of a site.

        Raises:
            TaskError: If there are none, or they are of a kind that cannot be lined up.
        """
        found = self._kept.get(site.id)
        if found is not None:
            self._kept.move_to_end(site.id)
            return found
        found = self._read(site)
        self._kept[site.id] = found
        self._size_bytes += found.size_bytes
        while self._size_bytes > self._limit_bytes and len(self._kept) > 1:
            self._size_bytes -= self._kept.popitem(last=False)[1].size_bytes
        return found

    def clear(self) -> None:
        """Keep none."""
        self._kept.clear()
        self._size_bytes = 0

    def _read(self, site: Site) -> Examples:
        dataset = self._task.train_data(site)
        batches.count(dataset, f"site {site.id}", "training")
        if why := unsupported(dataset):
            raise TaskError(f"the examples of site {site.id} cannot be lined up: {why}")
        inputs, targets = (tensor.to(self._device) for tensor in dataset.tensors)  # type: ignore[attr-defined]
        if self._is_channels_last and inputs.dim() == 4:
            inputs = channels_last(inputs)
        return Examples(inputs, targets)


def unsupported(dataset: object) -> str | None:
    """Why a dataset cannot be lined up with others; ``None`` if it can."""
    if type(dataset) is not TensorDataset:
        return f"they are a {type(dataset).__name__}, and no TensorDataset"
    if len(dataset.tensors) != 2:
        return "they are no (input, target) pairs"
    return None


class Lanes:
    """Sites side by side.

    Args:
        examples: Of each site.
        seeds: Of each site's training.
        training: Epochs, batch size and limit.
        device: Where the batches are wanted.
        draw: Gives the orders of the examples.

    Attributes:
        order: Which site is in which lane, shape ``(K,)``; those that have more steps come first.
        steps: How many there are.
        samples: How many examples are trained on altogether.
        inputs: All examples' inputs, shape ``(N, …)``.
        targets: Their targets, ``(N, …)``.
        at_SKB: Which examples are in the batch of a step in a lane: the first ``counts_SK``; the rest is padding.
        counts_SK: How many those are; 0 in lanes that have no such step.
        last_K: How many steps a lane has.
        per_epoch_K: How many of them in an epoch.
        measured_K: How many examples in an epoch.
    """

    def __init__(
        self,
        examples: Sequence[Examples],
        seeds: Sequence[int],
        training: TrainingConfig,
        device: torch.device,
        draw: Draw | None = None,
    ) -> None:
        shape = _shape(tuple(it.number for it in examples), training.batch_size, training.max_batches, training.epochs)
        self.order, self.counts_SK, self.last_K = shape.order, shape.counts_SK, shape.last_K
        self.per_epoch_K, self.measured_K = shape.per_epoch_K, shape.measured_K
        self.steps, self.samples = len(self.counts_SK), shape.samples
        self._device = device
        self._join([examples[i] for i in self.order])
        self.at_SKB = np.zeros((self.steps, len(examples), shape.width), np.int64)
        for alike in shape.alike:
            own = [seeding.derive(seeds[i], "order") for i in self.order[alike.lanes]]
            orders_KEN = (draw or drawn_by_torch)(own, training.epochs, alike.size)
            places_KSB = _places(orders_KEN, alike.per_epoch, shape.width)
            self.at_SKB[: places_KSB.shape[1], alike.lanes] = (places_KSB + shape.starts_K[alike.lanes]).swapaxes(0, 1)

    def _join(self, examples: Sequence[Examples]) -> None:
        """Put all examples into one tensor; rows are gathered, so channels that are last in memory are last in it."""
        inputs = [it.inputs for it in examples]
        self._is_channels_last = inputs[0].dim() == 4 and inputs[0].stride(1) == 1
        self.inputs = torch.cat([it.movedim(1, -1) for it in inputs] if self._is_channels_last else inputs)
        self.targets = torch.cat([it.targets for it in examples])

    def batches(self) -> Iterator[tuple[Batch, npt.NDArray[np.bool_] | None]]:
        """The batches of each step for the lanes that still train, and which lanes are in their last epoch, if any."""
        at = torch.from_numpy(self.at_SKB).to(self._device)
        is_small = at.numel() * self.inputs[0].nbytes <= AT_ONCE_BYTES
        gathered = self._gathered(at) if is_small else None
        yield from self._whole(at, gathered) if self.samples == at.numel() else self._ragged(at, gathered)

    def _whole(
        self, at: Tensor, gathered: tuple[Tensor, Tensor] | None
    ) -> Iterator[tuple[Batch, npt.NDArray[np.bool_] | None]]:
        """Where every batch of every lane has as many examples: whole steps are cut faster."""
        _, lanes, width = at.shape
        every_K, counts = np.ones(lanes, bool), [width] * lanes
        cut = zip(*(part.unbind() for part in gathered), strict=True) if gathered else map(self._gathered, at)
        for step, (inputs, targets) in enumerate(cut):
            is_last_K = every_K if step >= self.steps - self.per_epoch_K[0] else None
            yield Batch(self._seen(inputs), targets, 1 / width, counts), is_last_K

    def _ragged(
        self, at: Tensor, gathered: tuple[Tensor, Tensor] | None
    ) -> Iterator[tuple[Batch, npt.NDArray[np.bool_] | None]]:
        numbers = np.searchsorted(-self.last_K, -np.arange(self.steps)).tolist()  # lanes with more steps come first
        widths = self.counts_SK.max(1).tolist()
        first_measured = int((self.last_K - self.per_epoch_K).min())
        all_counts = self.counts_SK.tolist()
        there_SKB = np.arange(at.size(2)) < self.counts_SK[..., None]
        weights_SKB = np.where(there_SKB, 1 / np.maximum(self.counts_SK, 1)[..., None], 0).astype(np.float32)
        weights = torch.from_numpy(weights_SKB).to(self._device)
        for step, (number, width) in enumerate(zip(numbers, widths, strict=True)):
            if gathered:
                inputs, targets = gathered[0][step, :number, :width], gathered[1][step, :number, :width]
            else:
                inputs, targets = self._gathered(at[step, :number, :width])
            is_last_K = None
            if step >= first_measured:
                is_last_K = step >= self.last_K[:number] - self.per_epoch_K[:number]
            weights_KB = weights[step, :number, :width]
            yield Batch(self._seen(inputs), targets, weights_KB, all_counts[step][:number]), is_last_K

    def _seen(self, inputs: Tensor) -> Tensor:
        """As the model sees them."""
        return inputs.movedim(-1, 2) if self._is_channels_last else inputs

    def _gathered(self, at: Tensor) -> tuple[Tensor, Tensor]:
        flat = at.flatten()
        inputs, targets = self.inputs.index_select(0, flat), self.targets.index_select(0, flat)
        return inputs.view(*at.shape, *inputs.shape[1:]), targets.view(*at.shape, *targets.shape[1:])


def drawn_by_torch(seeds: Sequence[int], epochs: int, size: int) -> I64:
    """The order of as many examples for each of these seeds in each epoch, shape ``(K, E, size)``."""
    drawn, generator = [], torch.Generator()
    for seed in seeds:
        generator.manual_seed(seed)
        drawn += [torch.randperm(size, generator=generator) for _ in range(epochs)]
    orders: I64 = torch.stack(drawn).view(len(seeds), epochs, size).numpy()
    return orders


@dataclasses.dataclass(frozen=True, slots=True)
class _Alike:
    """Lanes next to each other that have as many examples."""

    lanes: slice
    size: int
    per_epoch: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    """What the numbers of examples say of lanes; see ``Lanes``.

    Attributes:
        width: Of a batch.
        starts_K: Where a lane's examples begin among all of them, shape ``(K, 1, 1)``.
        alike: The lanes by their numbers of examples.
    """

    order: I64
    per_epoch_K: I64
    measured_K: I64
    last_K: I64
    counts_SK: I64
    samples: int
    width: int
    starts_K: I64
    alike: Sequence[_Alike]


@functools.lru_cache(maxsize=64)
def _shape(numbers: tuple[int, ...], batch_size: int, max_batches: int | None, epochs: int) -> _Shape:
    sizes = np.array(numbers)
    per_epoch = -(-sizes // batch_size)
    if max_batches is not None:
        per_epoch = np.minimum(per_epoch, max_batches)
    order = np.argsort(-per_epoch, kind="stable")
    sizes, per_epoch_K = sizes[order], per_epoch[order]
    last_K, measured_K = per_epoch_K * epochs, np.minimum(sizes, per_epoch_K * batch_size)
    width = min(batch_size, int(sizes.max()))
    # The last batch of an epoch is smaller, unless the epoch is cut short before it.
    batch_K, steps_S = np.minimum(width, sizes), np.arange(int(last_K[0]))[:, None]
    rest_K = measured_K - (per_epoch_K - 1) * batch_size
    counts_SK = np.where((steps_S + 1) % per_epoch_K == 0, rest_K, batch_K) * (steps_S < last_K)
    alike, lane = [], 0
    for (size, in_epoch), those in itertools.groupby(zip(sizes.tolist(), per_epoch_K.tolist(), strict=True)):
        alike.append(_Alike(slice(lane, lane := lane + len(list(those))), size, in_epoch))
    return _Shape(
        order=order,
        per_epoch_K=per_epoch_K,
        measured_K=measured_K,
        last_K=last_K,
        counts_SK=np.ascontiguousarray(counts_SK),
        samples=int(counts_SK.sum()),
        width=width,
        starts_K=(np.cumsum(sizes) - sizes)[:, None, None],
        alike=alike,
    )


def _places(orders_KEN: I64, in_epoch: int, width: int) -> I64:
    """Which of its examples each site takes in each step, ``(K, S, width)``, padded with the first."""
    lanes, epochs, size = orders_KEN.shape
    number = min(size, in_epoch * width)
    if number == in_epoch * width:
        places = orders_KEN[..., :number]
    else:
        places = np.zeros((lanes, epochs, in_epoch * width), np.int64)
        places[..., :number] = orders_KEN[..., :number]
    return places.reshape(lanes, -1, width)
