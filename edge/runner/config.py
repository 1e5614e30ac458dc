"""What the runner is told: where the SuperNode is, what a task may use, what is imported beforehand."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from fl.config import check_range
from fl.errors import ConfigError

# Every optimiser of torch imports torch._dynamo when it is made, which takes longer than importing torch.
PRELOAD = ("torch", "torch._dynamo", "fl.flower.client_app")
MESSAGE_LIFE_S = 12 * 3600.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one task may use, with all processes that it starts."""

    memory_mib: int | None = None
    """Resident memory, counting what it shares with the fork server (about 300 MiB with torch); none by default."""

    time_s: float = MESSAGE_LIFE_S
    """Time from its start to its answer; by default as long as Flower keeps a message."""

    cpu_s: int | None = None
    """Processor time of each of its processes; none by default."""

    def __post_init__(self) -> None:
        check_range("memory-mib", self.memory_mib, at_least=64)
        check_range("time-s", self.time_s, above=0)
        check_range("cpu-s", self.cpu_s, at_least=1)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunnerConfig:
    """One site's runner."""

    home: Path
    """The site's home: sockets, the record of the task in hand, unpacked apps."""

    runtime_api: str
    """Where the SuperNode's Runtime API listens, ``host:port`` on loopback."""

    secret_file: Path
    """The secret that the SuperNode wants from who asks for tasks."""

    policy: Path | None = None
    """The site owner's policy file; without it every app is run."""

    limits: Limits = dataclasses.field(default_factory=Limits)
    """What one task may use."""

    threads: int | None = None
    """Compute threads of a task; by default as many as there are cores."""

    warm_apps: int = 3
    """Apps that are kept imported, the least recently used going first; 0 imports the app in each task."""

    preload: tuple[str, ...] = PRELOAD
    """Modules that are imported before any task, if they are installed."""

    pods: Path | None = None
    """File that says how tasks run as Kubernetes pods; without it they run in forked processes."""

    late: bool = False
    """Import them when the first task comes, which spares an idle site their memory."""

    def __post_init__(self) -> None:
        check_range("threads", self.threads, at_least=1)
        check_range("warm-apps", self.warm_apps, at_least=0)
        host, _, port = self.runtime_api.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"runtime-api is {self.runtime_api!r}, must be host:port")
        if not self.secret_file.is_file():
            raise ConfigError(f"no such file: {self.secret_file}")

    @property
    def work(self) -> Path:
        """Directory of what the runner writes."""
        return self.home / "runner"


def command(config: RunnerConfig) -> list[str]:
    """Program and arguments of a runner."""
    argv = [sys.executable, "-m", "edge.runner", "--home", str(config.home), "--runtime-api", config.runtime_api]
    argv += ["--secret-file", str(config.secret_file), "--warm-apps", str(config.warm_apps)]
    argv += ["--preload", ",".join(config.preload), "--time-s", str(config.limits.time_s)]
    for option, value in (
        ("--policy", config.policy),
        ("--pods", config.pods),
        ("--threads", config.threads),
        ("--memory-mib", config.limits.memory_mib),
        ("--cpu-s", config.limits.cpu_s),
    ):
        if value is not None:
            argv += [option, str(value)]
    return [*argv, "--late"] if config.late else argv


def parse(arguments: Sequence[str]) -> RunnerConfig:
    """The runner that arguments ask for.

    Raises:
        ConfigError: If a value cannot be used.
    """
    parser = argparse.ArgumentParser(prog="edge.runner", description="Run a SuperNode's tasks in warm processes.")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--runtime-api", required=True)
    parser.add_argument("--secret-file", type=Path, required=True)
    parser.add_argument("--policy", type=Path)
    parser.add_argument("--pods", type=Path)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--memory-mib", type=int)
    parser.add_argument("--time-s", type=float, default=MESSAGE_LIFE_S)
    parser.add_argument("--cpu-s", type=int)
    parser.add_argument("--warm-apps", type=int, default=3)
    parser.add_argument("--preload", default=",".join(PRELOAD))
    parser.add_argument("--late", action="store_true")
    given = parser.parse_args(arguments)
    return RunnerConfig(
        home=given.home.resolve(),
        runtime_api=given.runtime_api,
        secret_file=given.secret_file,
        policy=given.policy,
        pods=given.pods,
        limits=Limits(memory_mib=given.memory_mib, time_s=given.time_s, cpu_s=given.cpu_s),
        threads=given.threads,
        warm_apps=given.warm_apps,
        preload=tuple(name for name in given.preload.split(",") if name),
        late=given.late,
    )
