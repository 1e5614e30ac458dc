"""What a site's machine is, seen from inside: cores, memory, disk, GPUs, versions. Read only, never uses the GPU.

Whatever cannot be found out says why, instead of being left out.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
GPU_FIELDS = ("index", "name", "memory.total", "memory.used", "utilization.gpu", "driver_version")
GPU_S = 10.0


def facts(home: Path) -> dict[str, Any]:
    """What was found, as plain data.

    Args:
        home: The site's home, whose disk counts.

    Returns:
        ``cores``, ``memory_mib``, ``memory_limit_mib`` (of this container; ``None`` without one), ``disk_free_mib``,
        ``kernel``, ``system``, ``python``, ``fedfleet``, ``flower``, ``kubernetes`` (whether this is a pod), ``gpus``
        and ``gpu_problem``.
    """
    gpus, problem = nvidia_gpus()
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": _memory_mib(Path("/proc/meminfo")),
        "memory_limit_mib": _limit_mib(Path("/sys/fs/cgroup/memory.max")),
        "disk_free_mib": shutil.disk_usage(home).free // MIB,
        "kernel": platform.release(),
        "system": _system(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "fedfleet": importlib.metadata.version("fedfleet"),
        "flower": importlib.metadata.version("flwr"),
        "kubernetes": "KUBERNETES_SERVICE_HOST" in os.environ,
        "gpus": gpus,
        "gpu_problem": problem,
    }


def nvidia_gpus() -> tuple[list[dict[str, Any]], str]:
    """NVIDIA GPUs as the driver sees them, or why there are none; ``nvidia-smi`` starts nothing on them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return [], "no nvidia-smi: no NVIDIA driver, or this container was not given one"
    argv = [program, f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=GPU_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        return [], f"nvidia-smi: {type(err).__name__}"
    return read_gpus(ran.stdout + ran.stderr)


def read_gpus(output: str) -> tuple[list[dict[str, Any]], str]:
    """The GPUs that ``nvidia-smi`` lists.

    Example:
        >>> read_gpus("0, NVIDIA H100 80GB HBM3, 81559, 4, 0, 570.1")[0][0]["memory_mib"]
        81559
        >>> read_gpus("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
        ([], "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.")
    """
    gpus = []
    for line in output.splitlines():
        columns = [column.strip() for column in line.split(",")]
        if len(columns) == len(GPU_FIELDS) and columns[0].isdigit():
            index, name, total, used, busy, driver = columns
            gpus.append(
                {
                    "index": int(index),
                    "name": name,
                    "memory_mib": _number(total),
                    "memory_used_mib": _number(used),
                    "busy_percent": _number(busy),
                    "driver": driver,
                }
            )
    problem = "" if gpus else next((line.strip() for line in output.splitlines() if line.strip()), "no answer")
    return gpus, problem[:200]


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None  # "[N/A]" on some devices


def _memory_mib(path: Path) -> int | None:
    try:
        for line in path.read_text().splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) // 1024
    except (OSError, ValueError):
        return None
    return None


def _limit_mib(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) // MIB if text.isdigit() else None


def _system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return platform.system()
