"""What travels of a model: the floating-point tensors of its ``state_dict()``, as float32, in that order.

Integers (a count of batches seen) stay at their site: a mean of them means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from fl.arrays import F32, Arrays, Layout
from fl.errors import TaskError

if TYPE_CHECKING:
    from torch import Tensor, nn


def get(model: nn.Module) -> dict[str, F32]:
    """The parameters and floating-point buffers of a model, as copies.

    Raises:
        TaskError: If one is complex, which no strategy can average as float32.
    """
    return {
        name: np.array(tensor.detach().float().cpu().numpy(), dtype=np.float32) for name, tensor in _travelling(model)
    }


def set(model: nn.Module, arrays: Arrays) -> None:  # noqa: A001  (parameters.set mirrors parameters.get)
    """Put arrays into a model, each in the type and on the device of the tensor that it replaces.

    Raises:
        TaskError: If a name is missing or too many, or a shape is wrong; the model is then as it was.
    """
    import torch

    mine = Layout(tuple((name, tuple(tensor.shape)) for name, tensor in _travelling(model)))
    theirs = Layout.of(arrays)
    problem = mine.difference(theirs) if dict(mine.entries) != dict(theirs.entries) else None
    if problem:
        raise TaskError(
            f"these parameters are not of this model: {problem}",
            hint="the centre and the sites must use the same task with the same options",
        )
    with torch.no_grad():
        for name, tensor in _travelling(model):
            tensor.copy_(torch.tensor(arrays[name]))


def _travelling(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in model.state_dict().items():
        if tensor.is_complex():
            raise TaskError(f"the parameter {name} is complex, only real ones can be averaged")
        if tensor.is_floating_point():
            yield name, tensor
