"""Processes that carry out the runs of a sweep side by side, each one run after the other.

A process is started afresh (``spawn``), so it shares nothing with this one; what is said about a run while it goes on
comes through a pipe. What a run prints goes to a file beside its journal, because several would speak at once. Ctrl-C
is this process's own business: it ends the others, whose journals can be gone on with at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType

from fl.errors import FLError
from simulations.commands import sources
from simulations.outcome import Outcome
from simulations.run import Progress, simulate
from simulations.scenario import Scenario

TOLD_EVERY_S = 0.2
"""How often a process says how far its run is."""

LEAVES_WITHIN_S = 5.0
"""How long a process that was asked to end may take."""


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One run to carry out.

    Attributes:
        scenario: What is run.
        directory: Its journal's; gone on with if it is there.
        beside: Where the module of a task of one's own is looked for.
    """

    scenario: Scenario
    directory: Path
    beside: Path

    @property
    def log(self) -> Path:
        """Where what it prints goes; not there if it prints nothing."""
        return self.directory.with_name(f"{self.directory.name}.log")


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """A run that ended without its last model.

    Attributes:
        message: Why, in one line.
        hint: What to do about it.
    """

    message: str
    hint: str | None = None


News = Progress | Outcome | Failed


@dataclasses.dataclass(slots=True, eq=False)
class _Member:
    process: SpawnProcess
    pipe: Connection
    cores: frozenset[int]
    place: int | None = None
    """The run that it is at."""


def carry_out(runs: Sequence[Run], processes: int) -> Generator[tuple[int, News]]:
    """Carry out runs, so many at once, each process on its share of the CPU cores.

    Yields:
        The place of a run, and what is new about it; an ``Outcome`` or ``Failed`` is the last of a run. They come in
        the order in which they happen.

    Guarantees:
        A run that fails, or whose process dies, leaves the others alone. No process outlives the iterator; if this
        process is killed, the others end by themselves after their round.
    """
    waiting = deque(range(len(runs)))
    crew: list[_Member] = []
    processes = min(processes, max(1, len(runs)))
    shares = core_shares(processes)
    try:
        while waiting or any(member.place is not None for member in crew):
            while waiting and sum(member.place is not None for member in crew) < processes:
                member = next((member for member in crew if member.place is None), None)
                if member is None:
                    crew.append(member := _start(shares.pop()))
                member.place = waiting.popleft()
                member.pipe.send(runs[member.place])
            for pipe in wait([member.pipe for member in crew if member.place is not None]):
                member = next(member for member in crew if member.pipe is pipe)
                place = member.place
                assert place is not None
                try:
                    news = member.pipe.recv()
                except (EOFError, OSError):
                    crew.remove(member)
                    shares.append(member.cores)
                    member.process.join()
                    yield place, Failed(_death(member.process.exitcode), _look_into(runs[place].log))
                    continue
                if not isinstance(news, Progress):
                    member.place = None
                yield place, news
    finally:
        _end(crew)


def core_shares(processes: int) -> list[frozenset[int]]:
    """The cores of each process: what a run finds there decides how many threads and workers of its own it has.

    Nothing where a system does not let processes choose.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [frozenset()] * processes
    cores = sorted(os.sched_getaffinity(0))
    each = max(1, len(cores) // processes)
    return [
        frozenset(cores[place % len(cores)] for place in range(number * each, (number + 1) * each))
        for number in range(processes)
    ]


def _start(cores: frozenset[int]) -> _Member:
    """A new process; Ctrl-C that comes meanwhile waits, so that it doesn't meet one that cannot ignore it yet."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(there, cores), name="fl sim sweep")
    with _holding_back(signal.SIGINT):
        process.start()
    there.close()
    return _Member(process, here, cores)


def _end(crew: Sequence[_Member]) -> None:
    for member in crew:
        member.pipe.close()  # who has no run ends by that
        if member.place is not None:
            member.process.terminate()
    for member in crew:
        member.process.join(LEAVES_WITHIN_S)
        if member.process.is_alive():
            member.process.kill()
            member.process.join()


def _death(status: int | None) -> str:
    if status is not None and status < 0:
        return f"its process was killed by {signal.Signals(-status).name}"
    return f"its process ended with status {status}"


def _look_into(log: Path) -> str | None:
    return f"{log} has what it said" if log.exists() else None


@contextlib.contextmanager
def _holding_back(number: signal.Signals) -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---- in the other process ----


def _work(pipe: Connection, cores: frozenset[int]) -> None:
    """Carry out what comes, until nothing comes any more."""
    if cores:
        os.sched_setaffinity(0, cores)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, _leave)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            run: Run = pipe.recv()
            with _printing_to(run.log):
                news = _carry_out(run, pipe)
            pipe.send(news)


def _leave(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)  # as an exception, so that a pool of this process's own is closed


def _carry_out(run: Run, pipe: Connection) -> Outcome | Failed:
    told_s = -TOLD_EVERY_S

    def tell(progress: Progress) -> None:
        nonlocal told_s
        if time.monotonic() - told_s >= TOLD_EVERY_S:
            told_s = time.monotonic()
            pipe.send(progress)

    try:
        with sources.begun(run.scenario, run.directory, beside=run.beside):
            state = simulate(run.scenario, run.directory, progress=tell, search_path=run.beside)
        return Outcome.of(run.directory, state, run.scenario)
    except FLError as err:
        return Failed(err.message, err.hint)
    except BrokenPipeError:
        raise
    except Exception as err:
        traceback.print_exc()
        return Failed(f"{type(err).__name__}: {err}", f"{run.log} has the traceback")


@contextlib.contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Send all that this process prints to a file, which is removed if that is nothing."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        kept = os.dup(1), os.dup(2)
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in enumerate(kept, start=1):
                os.dup2(copy, number)
                os.close(copy)
    if not log.stat().st_size:
        log.unlink()
