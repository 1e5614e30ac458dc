"""GPUs of a host, and what containers need to use them."""

from __future__ import annotations

import dataclasses

from pyinfra.api.facts import FactBase

FIELDS = "index,name,uuid,memory.total,driver_version,mig.mode.current"


@dataclasses.dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU."""

    index: int
    name: str
    uuid: str
    memory_mib: int
    driver: str
    is_mig: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs, or why there are none."""

    devices: tuple[Gpu, ...]
    problem: str | None


class NvidiaGpus(FactBase[Gpus]):
    """NVIDIA GPUs as the driver sees them."""

    def command(self) -> str:
        """Errors come as lines, too: a driver that was upgraded under a running kernel module says so."""
        query = f"nvidia-smi --query-gpu={FIELDS} --format=csv,noheader,nounits 2>&1"
        return f"if command -v nvidia-smi >/dev/null; then {query}; else echo 'no nvidia-smi'; fi; true"

    @staticmethod
    def default() -> Gpus:
        """Nothing known."""
        return Gpus((), "no answer")

    def process(self, output: list[str]) -> Gpus:
        """One line a GPU."""
        devices = []
        for line in output:
            columns = [column.strip() for column in line.split(",")]
            if len(columns) == 6 and columns[0].isdigit():
                memory = int(columns[3]) if columns[3].isdigit() else 0
                mig = columns[5] == "Enabled"
                devices.append(Gpu(int(columns[0]), columns[1], columns[2], memory, columns[4], mig))
        if devices:
            return Gpus(tuple(devices), None)
        return Gpus((), next((line.strip() for line in output if line.strip()), "no answer"))


class ContainerToolkit(FactBase[str | None]):
    """Version of the NVIDIA container toolkit; ``None`` if it is not installed."""

    def command(self) -> str:
        """Its own tool."""
        return "nvidia-ctk --version 2>/dev/null || true"

    def process(self, output: list[str]) -> str | None:
        """From ``NVIDIA Container Toolkit CLI version 1.17.8``."""
        return next((line.split()[-1] for line in output if "version" in line), None)
