"""The one way to start a process: in a group that cannot outlive us, with a log, restarted when it dies.

A ``Group`` leads its children through a watchdog (``fl.watchdog``), which holds a pipe to us. However we
end, by Ctrl-C, an error or SIGKILL, the pipe closes, and the watchdog ends the group: our children, and
theirs too, because a process group is inherited. The group is not the terminal's foreground group, so
Ctrl-C reaches only us, and the order in which things end is ours to choose.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from fl import watchdog
from fl.errors import ProcessError

LONGEST_LOG_BYTES = 32 * 1024 * 1024
TAIL_BYTES = 8192


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """When a process that died is started again, and when it is given up."""

    most_deaths: int = 5
    """Deaths within ``within_s`` after which it is given up."""

    within_s: float = 60.0
    """The time over which deaths are counted."""

    first_delay_s: float = 0.5
    """Delay before the first restart; it doubles with each death within ``within_s``."""

    longest_delay_s: float = 10.0
    """Bound on that delay."""

    expected: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Texts in the last lines of the log that make a death an expected one, each with what to say about it.

    Such a death is not counted.
    """

    expected_delay_s: float = 2.0
    """Delay after an expected death."""


@dataclasses.dataclass(slots=True)
class Child:
    """A process of a group, over all its lives."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path
    restart: Restart | None
    process: subprocess.Popen[bytes]
    started_at: float
    """Monotonic time of the start of its present life."""
    again_at: float | None = None
    """Monotonic time of its next start; ``None`` while it runs."""
    deaths: deque[float] = dataclasses.field(default_factory=deque)
    lives: int = 1
    expected: str = ""
    """What was said about its last death, if that was an expected one; it is not said again."""

    @property
    def is_running(self) -> bool:
        """Whether it runs, as far as the last look at it knows."""
        return self.again_at is None and self.process.returncode is None


class Group:
    """Processes that end when this object is closed, and also when this process ends in any way.

    Args:
        grace_s: Time between the request to end and the kill.
        hold: Open files that stay open until the last process is gone, even if we are killed: a lock, say.
    """

    def __init__(self, *, grace_s: float = 5.0, hold: Sequence[int] = ()) -> None:
        self.children: dict[str, Child] = {}
        self._grace_s = grace_s
        self._to_erase: list[Path] = []
        self._watchdog = subprocess.Popen(
            [sys.executable, "-I", "-S", watchdog.__file__, str(grace_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=hold,
            process_group=0,
        )

    @property
    def number(self) -> int:
        """The process group's number, as ``ps -o pgid`` shows it."""
        return self._watchdog.pid

    def erase(self, path: Path) -> None:
        """Have a file or directory removed when the group ends, also after a crash."""
        assert self._watchdog.stdin is not None
        self._to_erase.append(path.resolve())
        self._watchdog.stdin.write(os.fsencode(path.resolve()) + b"\0")
        self._watchdog.stdin.flush()

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        restart: Restart | None = None,
    ) -> Child:
        """Start a process of the group.

        Args:
            name: What messages call it; unique in the group.
            argv: Program and arguments; no secrets, because everybody on the machine can read them.
            env: Its whole environment (see ``environment``).
            log: File that takes what it prints, appended, readable by the owner only.
            restart: When to start it again; without it, a death is an error.

        Raises:
            ProcessError: If the program cannot be started.
        """
        assert name not in self.children, f"two processes called {name}"
        process = self._spawn(name, argv, env, log)
        child = Child(name, argv, env, log, restart, process, time.monotonic())
        self.children[name] = child
        return child

    def poll(self) -> list[str]:
        """Look after the children: notice deaths, start again what is due, keep logs short.

        Call it in every loop.

        Returns:
            A line for each thing that happened.

        Raises:
            ProcessError: If a process died that may not, or too often, quoting its last lines.
        """
        if self._watchdog.poll() is not None:
            raise ProcessError("the watchdog of the process group ended", hint="start again")
        happened = []
        now = time.monotonic()
        for child in self.children.values():
            if child.again_at is None and child.process.poll() is not None:
                happened += self._on_death(child, now)
            elif child.again_at is not None and now >= child.again_at:
                child.process = self._spawn(child.name, child.argv, child.env, child.log)
                child.started_at, child.again_at = now, None
                child.lives += 1
                if not child.expected:
                    happened.append(f"{child.name} was started again")
            _shorten(child.log)
        return happened

    def wait(
        self,
        until: Callable[[], bool],
        *,
        what: str,
        timeout_s: float,
        say: Callable[[str], None],
        tick_s: float = 0.1,
    ) -> None:
        """Look after the children until something is true.

        Args:
            until: Asked again and again.
            what: What is waited for, for the error.
            timeout_s: How long at most.
            say: Called with a line for each thing that happens meanwhile.
            tick_s: Pause between two looks.

        Raises:
            ProcessError: If it does not come true in time, or a child dies meanwhile (see ``poll``).
        """
        deadline = time.monotonic() + timeout_s
        while not until():
            for line in self.poll():
                say(line)
            if time.monotonic() > deadline:
                logs = ", ".join(sorted({str(child.log) for child in self.children.values()}))
                raise ProcessError(f"{what} took longer than {timeout_s:g} s", hint=f"read {logs}")
            time.sleep(tick_s)

    def stop(self, name: str, *, timeout_s: float = 5.0) -> None:
        """End one process for good: ask, wait, kill."""
        child = self.children.pop(name)
        if child.process.poll() is None:
            child.process.terminate()
            try:
                child.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()

    def close(self) -> None:
        """End all processes of the group and erase what was to be erased; both are done on return."""
        assert self._watchdog.stdin is not None
        self._watchdog.stdin.close()
        if self._watchdog.wait() != 0:  # somebody killed it, so its work is ours
            watchdog.end(self.number, self._grace_s)
            for path in self._to_erase:
                watchdog.erase(str(path))
        for child in self.children.values():
            child.process.kill()  # does nothing, unless it left the group
            child.process.wait()
        self.children.clear()

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _spawn(self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            return subprocess.Popen(
                list(argv),
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=fd,
                stderr=subprocess.STDOUT,
                process_group=self.number,
            )
        except OSError as err:
            raise ProcessError(f"cannot start {name}: {err.strerror}: {argv[0]}") from err
        finally:
            os.close(fd)

    def _on_death(self, child: Child, now: float) -> list[str]:
        status = describe_status(child.process.returncode)
        policy = child.restart
        if policy is None:
            raise self._given_up(child, f"{child.name} {status}")
        tail = last_lines(child.log, 20)
        for text, meaning in policy.expected.items():
            if text in tail:
                child.again_at = now + policy.expected_delay_s
                is_new = child.expected != meaning
                child.expected = meaning
                return [f"{child.name}: {meaning}"] if is_new else []
        child.expected = ""
        child.deaths.append(now)
        while child.deaths[0] < now - policy.within_s:
            child.deaths.popleft()
        if len(child.deaths) >= policy.most_deaths:
            times = f"{len(child.deaths)} times within {policy.within_s:g} s"
            raise self._given_up(child, f"{child.name} died {times}, last it {status}")
        delay_s = min(policy.first_delay_s * 2 ** (len(child.deaths) - 1), policy.longest_delay_s)
        child.again_at = now + delay_s
        return [f"{child.name} {status}, starting it again in {delay_s:g} s"]

    def _given_up(self, child: Child, what: str) -> ProcessError:
        lines = " / ".join(last_lines(child.log, 3).splitlines())
        return ProcessError(f"{what}: {lines or 'it printed nothing'}", hint=f"read {child.log}")


def describe_status(returncode: int) -> str:
    """How a process ended, in words.

    Example:
        >>> describe_status(1), describe_status(-9)
        ('ended with status 1', 'was ended by SIGKILL')
    """
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with status {returncode}"


def last_lines(path: Path, count: int) -> str:
    """The last lines of a log that are not empty; an empty text if there is no such file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return "\n".join(lines[-count:])


def environment(*, home: Path, threads: int | None = None, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of Flower's processes: ours, with what makes them quiet, offline and findable.

    Args:
        home: Where Flower keeps what it unpacks (``FLWR_HOME``).
        threads: Compute threads of each process, unless ``OMP_NUM_THREADS`` is set already.
        extra: More variables; no secrets, because children inherit them.
    """
    env = dict(os.environ)
    # Flower starts its task processes by name, so the programs of this install must be found first.
    env["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), env.get("PATH", os.defpath)])
    env["FLWR_HOME"] = str(home.resolve())
    env["FLWR_TELEMETRY_ENABLED"] = "0"
    env["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    env["FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION"] = "1"
    # Half of Flower's default: a message waits a quarter of a second for its process on average. Each look
    # costs the server several milliseconds, so much less would keep a small machine busy doing nothing.
    env["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"] = "0.5"
    env["PYTHONUNBUFFERED"] = "1"
    env["NO_PROXY"] = env["no_proxy"] = without_proxy(env)
    if threads is not None:
        env.setdefault("OMP_NUM_THREADS", str(threads))
    env.update(extra or {})
    return env


def without_proxy(env: Mapping[str, str]) -> str:
    """The hosts to reach directly, as ``NO_PROXY`` lists them: those of ``env``, and this machine.

    Example:
        >>> without_proxy({"no_proxy": "intranet"})
        'intranet,127.0.0.1,localhost,::1'
    """
    hosts = [host for host in (env.get("no_proxy") or env.get("NO_PROXY") or "").split(",") if host]
    return ",".join(dict.fromkeys([*hosts, "127.0.0.1", "localhost", "::1"]))


def program(name: str, *, hint: str = "pip install fedfleet") -> str:
    """The path of a program: one that this install brought, or with a hint of its own one of the system.

    Raises:
        ProcessError: If it is not there.
    """
    path = shutil.which(name, path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
    if path is None:
        raise ProcessError(f"no program {name}", hint=hint)
    return path


def _shorten(log: Path) -> None:
    """Start a log anew when it has grown too long, keeping one earlier part beside it."""
    try:
        if log.stat().st_size > LONGEST_LOG_BYTES:
            earlier = log.with_suffix(log.suffix + ".1")
            shutil.copyfile(log, earlier)
            earlier.chmod(0o600)
            os.truncate(log, 0)
    except FileNotFoundError:
        return
