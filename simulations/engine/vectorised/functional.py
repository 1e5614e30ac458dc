"""One training step of several copies of any model and loss, through ``torch.func``: slower than the kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from fl.arrays import Arrays, Layout
from fl.errors import TaskError
from fl.tasks import parameters as values
from fl.tasks.base import Task
from simulations.engine.vectorised.batch import Batch
from simulations.engine.vectorised.chain import Chain
from simulations.engine.vectorised.parameters import Parameters


class Functional:
    """See ``program.Program``.

    Args:
        task: Its model and loss may be anything that ``torch.func`` can follow.
        device: Where it runs.
        precision: ``bfloat16`` for automatic mixed precision.
    """

    is_channels_last = False
    draws = False
    can_compile = True
    pays_s = 180.0
    fits_any_width = False
    chain: Chain | None = None
    descends: frozenset[str] = frozenset()

    def __init__(self, task: Task, device: torch.device, precision: str) -> None:
        model = task.model()
        self._whole = _Loss(task, model).to(device).train()
        trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.layout = Layout(tuple((name, tuple(parameter.shape)) for name, parameter in trained))
        self._device_type, self._is_bfloat16 = device.type, precision == "bfloat16"
        self._step: Callable[..., Any] = vmap(grad_and_value(self._loss, has_aux=True))
        self.name = "torch.func"

    def compile(self) -> None:
        """As ``Program`` says."""
        if not self.name.endswith("compiled"):
            mode = "reduce-overhead" if self._device_type == "cuda" else None  # CUDA graphs
            self._step = torch.compile(self._step, dynamic=False, mode=mode)
            self.name += ", compiled"

    def load(self, arrays: Arrays) -> None:
        """As ``Program`` says: what is not trained is in the model."""
        values.set(self._whole.model, arrays)

    def gradients(self, parameters: Parameters, batch: Batch) -> tuple[Tensor, Tensor]:
        """As ``Program`` says; copies whose batches are smaller take their steps apart."""
        number = len(batch.inputs)
        values = {name: parameters.value(name, number) for name, _ in self.layout.entries}
        places = [(parameters.gradient(name, number), name) for name, _ in self.layout.entries]
        if min(batch.counts) == max(batch.counts):
            gradients, (losses_K, outputs) = self._step(values, batch.inputs, batch.targets)
            for place, name in places:
                place.copy_(gradients[name])
            return outputs.float(), losses_K.float()
        losses_K, whole = torch.empty(number, device=batch.inputs.device), None
        for count in sorted(set(batch.counts)):
            some = torch.tensor([k for k in range(number) if batch.counts[k] == count], device=batch.inputs.device)
            mine = {name: value[some] for name, value in values.items()}
            gradients, (losses, outputs) = self._step(mine, batch.inputs[some, :count], batch.targets[some, :count])
            for place, name in places:
                place[some] = gradients[name]
            losses_K[some] = losses.float()
            if whole is None:
                whole = torch.zeros((*batch.targets.shape[:2], *outputs.shape[2:]), device=losses_K.device)
            whole[some, :count] = outputs.float()
        assert whole is not None
        return whole, losses_K

    def _loss(self, values: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        prefixed = {f"model.{name}": value for name, value in values.items()}
        with torch.autocast(self._device_type, torch.bfloat16, enabled=self._is_bfloat16):
            loss = functional_call(self._whole, prefixed, (inputs, targets))
        outputs, self._whole.outputs = self._whole.outputs, None  # traced code must leave none of its tensors behind
        if not isinstance(outputs, Tensor):
            raise TaskError("the loss does not call the model as a whole, or it gives more than one tensor")
        return loss, outputs.detach()


class _Loss(nn.Module):
    """A task's loss as a module, which remembers what the model gave."""

    outputs: Any = None

    def __init__(self, task: Task, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._task = task
        model.register_forward_hook(self._remember)

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        self.outputs = None
        return self._task.loss(self.model, inputs, targets)

    def _remember(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        self.outputs = outputs
