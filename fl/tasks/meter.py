"""What a training cost: time, memory, energy."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Meter:
    """Measures from entering the context until leaving it; the values are there afterwards.

    Attributes:
        wall_s: Seconds that passed.
        peak_memory_bytes: On a GPU the most that torch held there meanwhile; on a CPU (and an Apple GPU,
            which keeps no peak) the most that this process ever had resident.
        energy_j: Joules that the whole GPU drew, its other users included; ``None`` where NVML does not tell.
        cpu_s: Seconds of cores, all threads of this process together.
    """

    wall_s = 0.0
    peak_memory_bytes = 0
    energy_j: float | None = None
    cpu_s = 0.0

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def __enter__(self) -> Meter:
        import torch

        if self._device.type in ("cuda", "xpu"):
            getattr(torch, self._device.type).reset_peak_memory_stats()
        self._read_energy_j = energy_counter(self._device)
        self._energy_before_j = self._read_energy_j()
        self._cpu_before_s = time.process_time()
        self._started_s = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        wait_for(self._device)
        self.wall_s = time.perf_counter() - self._started_s
        self.cpu_s = time.process_time() - self._cpu_before_s
        self.peak_memory_bytes = peak_memory_bytes(self._device)
        energy_after_j = self._read_energy_j()
        if self._energy_before_j is not None and energy_after_j is not None:
            self.energy_j = energy_after_j - self._energy_before_j


def wait_for(device: torch.device) -> None:
    """Let a device finish what was asked of it, so that a clock read next tells the truth."""
    import torch

    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def energy_counter(device: torch.device) -> Callable[[], float | None]:
    """A function that reads how many joules a GPU has drawn since its driver was loaded.

    It gives ``None`` for anything but an NVIDIA GPU that counts (Volta and newer, not a MIG slice), or
    without NVML.
    """
    if device.type != "cuda":
        return lambda: None
    import torch

    try:
        import pynvml
    except ModuleNotFoundError:
        return lambda: None
    uuid = f"GPU-{torch.cuda.get_device_properties(torch.cuda.current_device()).uuid}"

    def read() -> float | None:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            handle: Any = pynvml.nvmlDeviceGetHandleByUUID(uuid)
            return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000  # millijoules
        return None

    return read


def peak_memory_bytes(device: torch.device) -> int:
    """See ``Meter.peak_memory_bytes``."""
    import torch

    if device.type in ("cuda", "xpu"):
        return int(getattr(torch, device.type).max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts in bytes, Linux in KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
