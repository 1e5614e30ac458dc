"""Batches: made from a dataset in a seeded order, moved to a device, cut into pieces.

A batch is whatever torch's default collation makes of examples: a tensor, or dicts, tuples and lists of
tensors whose first dimension counts the examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from fl.errors import TaskError

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from torch.utils.data import Dataset


def count(dataset: Dataset[Any], whose: str, purpose: str) -> int:
    """How many examples a dataset has.

    Raises:
        TaskError: Naming whose dataset it is, if it has none or does not know.
    """
    try:
        number = len(dataset)  # type: ignore[arg-type]  # Dataset itself promises no length
    except TypeError as err:
        raise TaskError(f"the {purpose} data of {whose} has no length", hint="give the dataset a __len__") from err
    if number == 0:
        raise TaskError(f"{whose} has no examples for {purpose}")
    return number


def num_batches(num_examples: int, batch_size: int, at_most: int | None = None) -> int:
    """How many batches one pass makes; the last may be smaller."""
    whole = math.ceil(num_examples / batch_size)
    return whole if at_most is None else min(whole, at_most)


def batches(
    dataset: Dataset[Any],
    batch_size: int,
    *,
    shuffle: torch.Generator | None = None,
    at_most: int | None = None,
) -> Iterator[tuple[Any, Any]]:
    """The batches of one pass, on the CPU, as ``(inputs, targets)``.

    Args:
        dataset: Gives ``(input, target)`` pairs.
        batch_size: Examples in a batch; the last may have fewer.
        shuffle: Where the order is drawn from; without it the order is the dataset's.
        at_most: End after so many batches.
    """
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    sized: Any = dataset  # ``count`` has made sure of its length
    places = torch.split(order(len(sized), shuffle), batch_size)[:at_most]
    if isinstance(dataset, TensorDataset):  # takes the places of a whole batch at once: many times faster
        yield from (_pair(dataset[some]) for some in places)
        return
    for batch in DataLoader(dataset, batch_sampler=[some.tolist() for some in places]):
        yield _pair(batch)


def order(num_examples: int, shuffle: torch.Generator | None) -> Tensor:
    """The order of the examples in one pass, shape ``(num_examples,)``; the next pass draws on where this one ended."""
    import torch

    return torch.randperm(num_examples, generator=shuffle) if shuffle else torch.arange(num_examples)


def _pair(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise TaskError("the dataset gives something else than (input, target) pairs")
    return batch[0], batch[1]


def size(batch: Any) -> int:
    """How many examples are in a batch."""
    while not hasattr(batch, "shape"):
        batch = next(iter(batch.values() if isinstance(batch, Mapping) else batch))
    return int(batch.shape[0])


def piece(batch: Any, start: int, stop: int) -> Any:
    """Some examples of a batch, sharing its memory."""
    return _each(batch, lambda tensor: tensor[start:stop])


def to(batch: Any, device: torch.device) -> Any:
    """A batch on a device."""
    return _each(batch, lambda tensor: tensor.to(device))


def detached(batch: Any) -> Any:
    """Outputs without their graph, in float32 where they are floating-point numbers."""
    return _each(batch, lambda tensor: tensor.detach().float() if tensor.is_floating_point() else tensor.detach())


def _each(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, Mapping):
        return {key: _each(value, change) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):  # a named tuple takes its fields one by one
        return type(batch)(*(_each(value, change) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(_each(value, change) for value in batch)
    return change(batch)
