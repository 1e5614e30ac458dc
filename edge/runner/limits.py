"""What a task may use: set by the kernel where it can, watched from outside where it cannot, and told in words."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

from edge.runner.config import Limits
from fl.processes import describe_status

MIB = 1024 * 1024
# One large allocation above the limit fails in the app at once, with its own traceback. It is counted in mapped
# memory, of which stacks of threads and the driver of a GPU take more than they use.
SLACK_MIB = 4096
GPU_DEVICES = ("/dev/nvidia-uvm", "/dev/kfd", "/dev/dri/render")
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that forked it ends, in whatever way."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the parent of what our children leave behind, so that it can be found and ended."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def apply(limits: Limits) -> None:
    """Limit this process and those that it will start, as far as the kernel does it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the memory of an app is the site's data
    if limits.cpu_s is not None:
        resource.setrlimit(resource.RLIMIT_CPU, (limits.cpu_s, limits.cpu_s + 5))
    if limits.memory_mib is not None:
        mapped = _status(os.getpid()).get("VmData", 0) + (limits.memory_mib + SLACK_MIB) * MIB
        resource.setrlimit(resource.RLIMIT_DATA, (mapped, mapped))
    # When the machine's memory runs out, a task is a better victim than the SuperNode.
    Path("/proc/self/oom_score_adj").write_text("700")


class Watch:
    """Looks at a task from outside.

    Args:
        limits: What it may use.
        gpu_left_s: What is left of the site's GPU time today; ``None`` without a budget.
    """

    def __init__(self, limits: Limits, gpu_left_s: float | None = None) -> None:
        self._limits = limits
        self._gpu_left_s = gpu_left_s
        self._kills = _oom_kills()
        self.used_gpu = False
        self.peak_mib = 0

    def look(self, pid: int, passed_s: float) -> str:
        """Which limit the task is over, in words; empty if none."""
        family = [pid, *descendants(pid)]
        self.used_gpu = self.used_gpu or any(holds_gpu(member) for member in family)
        used_mib = sum(_resident(member) for member in family) // MIB
        self.peak_mib = max(self.peak_mib, used_mib)
        limits = self._limits
        if limits.memory_mib is not None and used_mib > limits.memory_mib:
            return f"the app used {used_mib} MiB of memory, and the site allows {limits.memory_mib} MiB"
        if passed_s > limits.time_s:
            return f"the app ran longer than the {limits.time_s:g} s that the site allows"
        if self.used_gpu and self._gpu_left_s is not None and passed_s > self._gpu_left_s:
            return "the GPU time that the site allows today is spent"
        return ""

    def describe(self, status: int) -> str:
        """How a task ended that gave no answer.

        Args:
            status: As ``os.waitpid`` gives it.
        """
        code = os.waitstatus_to_exitcode(status)
        how = f"the app's process {describe_status(code)}"
        if code == -signal.SIGXCPU:
            return f"the app used the {self._limits.cpu_s} s of processor time that the site allows"
        if code == -signal.SIGKILL and _oom_kills() > self._kills:
            return f"{how}: the machine's memory ran out"
        if code == -signal.SIGKILL:
            return f"{how}, by somebody at the site or for want of memory"
        if code < 0:
            return f"{how}, in native code; the site's log has the traceback"
        return f"{how} before it answered"


def descendants(pid: int) -> Iterator[int]:
    """Processes that a process has started, and theirs."""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for thread in threads:
        try:
            children = Path(f"/proc/{pid}/task/{thread}/children").read_text().split()
        except OSError:
            continue
        for child in map(int, children):
            yield child
            yield from descendants(child)


def holds_gpu(pid: int) -> bool:
    """Whether a process has a context on a GPU: it has a device open that only computing needs."""
    try:
        for name in os.listdir(f"/proc/{pid}/fd"):
            try:
                if os.readlink(f"/proc/{pid}/fd/{name}").startswith(GPU_DEVICES):
                    return True
            except OSError:
                continue
    except OSError:
        return False
    return False


def _resident(pid: int) -> int:
    """Bytes of anonymous and shared memory that are in RAM; files of programs are not counted."""
    status = _status(pid)
    return status.get("RssAnon", 0) + status.get("RssShmem", 0)


def _status(pid: int) -> dict[str, int]:
    """The sizes in ``/proc/PID/status``, in bytes; nothing if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(size) * 1024 for name, size, _ in fields}


def _oom_kills() -> int:
    """How many processes of our control group the kernel has killed for want of memory."""
    try:
        (group,) = (line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        for place in (f"/sys/fs/cgroup{group}/memory.events", "/sys/fs/cgroup/memory.events"):
            if os.path.exists(place):
                events = dict(line.split() for line in Path(place).read_text().splitlines())
                return int(events.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0
    return 0


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")
