"""Which processor trains, and in which precision."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fl.config import unknown
from fl.errors import ConfigError
from fl.tasks.extras import require

if TYPE_CHECKING:
    import torch

PREFERENCE = ("cuda", "xpu", "mps", "cpu")
"""What ``auto`` takes: the first of these that is there."""


def choose(name: str) -> torch.device:
    """The device that a name asks for.

    Args:
        name: ``auto``, or one of ``PREFERENCE``.

    Raises:
        ConfigError: If there is no such name, or that device is not in this machine; the hint names what is.
        TaskError: If torch is not installed.
    """
    require("torch")
    import torch

    if name not in ("auto", *PREFERENCE):
        raise unknown("device", name, ("auto", *PREFERENCE))
    there = available()
    if name == "auto":
        return torch.device(there[0])
    if name not in there:
        raise ConfigError(
            f"training.device is {name}, and this machine has none",
            hint=f"there is {', '.join(there)}; auto takes {there[0]}",
        )
    return torch.device(name)


def available() -> list[str]:
    """The devices of this machine that torch can use, best first; ``cpu`` is always the last."""
    import torch

    is_there = {
        "cuda": torch.cuda.is_available(),
        "xpu": torch.xpu.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    return [name for name in PREFERENCE if is_there[name]]


def choose_precision(name: str, device: torch.device) -> Literal["float32", "bfloat16"]:
    """The precision of the forward pass; parameters, gradients and updates are float32 either way.

    Args:
        name: ``float32``, ``bfloat16``, or ``auto``: bfloat16 on a GPU that computes in it natively, else
            float32 (a CPU emulates it on most machines, slowly).
        device: Where the training runs.
    """
    import torch

    if name == "auto":
        native = (device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)) or (
            device.type == "xpu" and torch.xpu.is_bf16_supported()
        )
        return "bfloat16" if native else "float32"
    return "bfloat16" if name == "bfloat16" else "float32"
