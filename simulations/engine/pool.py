"""Forked workers that train sites side by side: data, task and model are shared with them, not sent.

A worker is a fork of this process, so what was loaded before is there without a copy. The global model and the
updates pass through shared memory; only their descriptions pass through a pipe. Groups of jobs go to whichever worker
is free; replies come back in the order of the jobs. A worker that dies is replaced, and what it had begun is done
again: what a site answers depends on the site and the round only, so the result is the same for any number of workers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import mmap
import multiprocessing
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from fl.arrays import F32, Layout, VectorArrays, vector_of
from fl.rounds.port import Failure, Reply
from simulations.engine.work import BLOCK, Executor, Job, Model, groups

log = logging.getLogger(__name__)

SLOTS_BYTES = 16 << 20
"""What updates that wait for their turn may take at a worker; there is always room for two."""

MOST_SLOTS = 64

ATTEMPTS = 3
"""How many workers may die over a group of jobs before its sites are given up."""

AHEAD = 2
"""How many groups a worker is given at most: the one it works on, and the next."""


@dataclasses.dataclass(slots=True, eq=False)
class _Group:
    """Jobs that one worker does in one go.

    Attributes:
        jobs: What is to do.
        received: How many replies are there.
        taken: How many of them were taken.
        deaths: How often a worker died over it.
        worker: Who has it.
        is_wanted: Whether somebody waits for the replies.
    """

    jobs: Sequence[Job]
    received: int = 0
    taken: int = 0
    deaths: int = 0
    worker: _Worker | None = None
    is_wanted: bool = True


class Pool:
    """See ``simulations.engine.work.Executor``.

    Args:
        inner: Makes what does the jobs within a worker; called there, once.
        workers: How many.
        layout: Of the model that they will train.
        alone: Does what is no training or evaluation.
        group: How many jobs a worker is given at once at most.
        name: Of what the workers do, for the log.
    """

    def __init__(
        self,
        inner: Callable[[], Executor],
        workers: int,
        layout: Layout,
        alone: Executor,
        *,
        group: int = 1,
        name: str = "sequential",
    ) -> None:
        self.name = f"{workers} workers ({name})"
        self.chunk = -(-workers * 4 // BLOCK) * BLOCK * group
        self._inner, self._alone, self._group, self._layout = inner, alone, group, layout
        self._slots = min(MOST_SLOTS, max(2, SLOTS_BYTES // max(1, layout.size_bytes)))
        self._model = mmap.mmap(-1, max(1, layout.size_bytes))
        self._workers = [self._hire(number) for number in range(workers)]

    @property
    def pids(self) -> list[int]:
        """The processes."""
        return [worker.pid for worker in self._workers]

    def execute(self, jobs: Sequence[Job], model: Model | None) -> Iterator[Reply]:
        """As ``Executor`` says; closed before its end, it throws away what was begun."""
        if model is None or not jobs or jobs[0].request.phase not in ("train", "evaluate"):
            yield from self._alone.execute(jobs, model)
            return
        _vector(self._model, self._layout)[:] = model.vector_P
        begun = [_Group(some) for some in groups(jobs, self._group)]
        waiting = deque(begun)
        try:
            for group in begun:
                while group.taken < len(group.jobs):
                    reply = self._next(group, waiting)
                    group.taken += 1
                    yield reply
        finally:
            for group in begun:
                group.is_wanted = False
            for worker in self._workers:
                worker.drop_unwanted()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def _hire(self, number: int) -> _Worker:
        return _Worker(number, self._inner, self._model, self._layout, self._slots)

    def _next(self, group: _Group, waiting: deque[_Group]) -> Reply:
        """The next reply of a group; meanwhile workers that are free are given what waits."""
        while True:
            for load in range(AHEAD):
                for worker in self._workers:
                    if waiting and len(worker.pending) == load:
                        worker.begin(waiting.popleft())
            if group.deaths == ATTEMPTS:
                job = group.jobs[group.taken]
                reason = f"its worker died {ATTEMPTS} times: killed, perhaps for its memory"
                return Reply(site=job.site.id, request=job.request, failure=Failure(code="site_lost", reason=reason))
            if group.worker and (reply := group.worker.take(group)):
                return reply
            busy = [worker for worker in self._workers if worker.pending]
            ready = wait([worker.pipe for worker in busy])
            for worker in busy:
                if worker.pipe in ready and not worker.receive():
                    self._replace(worker)

    def _replace(self, worker: _Worker) -> None:
        """A new worker for one that died, which does what that one had begun, and somebody waits for, again.

        It does so in the same order: a worker whose rooms are full of later replies would wait for ever.
        """
        log.warning("worker %d of the simulation died (%s): what it did is done again", worker.number, worker.end())
        successor = self._hire(worker.number)
        self._workers[self._workers.index(worker)] = successor
        for place, group in enumerate(worker.unfinished()):
            group.jobs, group.received, group.taken = group.jobs[group.taken :], 0, 0
            group.deaths += place == 0
            if group.deaths < ATTEMPTS:
                successor.begin(group)


class _Worker:
    """A worker as the simulation sees it: its process, its pipe, and the rooms for its updates."""

    def __init__(
        self, number: int, inner: Callable[[], Executor], model: mmap.mmap, layout: Layout, rooms: int
    ) -> None:
        self.number, self._layout = number, layout
        self.pending: deque[_Group] = deque()
        self._received: deque[tuple[_Group, Reply, int | None]] = deque()
        self._lent: int | None = None
        self._freed: list[int] = []
        self._rooms = [mmap.mmap(-1, max(1, layout.size_bytes)) for _ in range(rooms)]
        context = multiprocessing.get_context("fork")
        self.pipe, theirs = context.Pipe()
        with warnings.catch_warnings():  # about threads of this process, of which the child has none
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process = context.Process(
                target=_work, args=(number, theirs, self.pipe, inner, model, layout, self._rooms), daemon=True
            )
            self._process.start()
        theirs.close()
        assert self._process.pid
        self.pid = self._process.pid

    def begin(self, group: _Group) -> None:
        """Give it a group."""
        group.worker = self
        self.pending.append(group)
        self._send(list(group.jobs))

    def take(self, group: _Group) -> Reply | None:
        """The next reply of a group, if it is there; the arrays of the one taken before are gone then."""
        if not self._received or self._received[0][0] is not group:
            return None
        self._free(self._lent)
        _, reply, self._lent = self._received.popleft()
        if self._lent is None:
            return reply
        arrays = VectorArrays(self._layout, _vector(self._rooms[self._lent], self._layout))
        return dataclasses.replace(reply, arrays=arrays)

    def receive(self) -> bool:
        """Take in one message: a line of the log, or what a group has of replies; ``False`` if the worker is dead."""
        try:
            kind, *what = self.pipe.recv()
        except (EOFError, OSError):
            return False
        if kind == "log":
            name, level, text = what
            logging.getLogger(name).log(level, "%s", text)
            return True
        (replies,) = what
        group = self.pending[0]
        group.received += len(replies)
        if group.received == len(group.jobs):
            self.pending.popleft()
        self._received.extend((group, reply, room) for reply, room in replies)
        self.drop_unwanted()
        return True

    def drop_unwanted(self) -> None:
        """Forget replies that nobody waits for."""
        while self._received and not self._received[0][0].is_wanted:
            _, _, room = self._received.popleft()
            self._free(room)

    def unfinished(self) -> list[_Group]:
        """The groups that it hasn't finished and that somebody waits for, in order; what is there of them is dropped.

        Whole groups can be taken from a dead worker, too: its rooms are shared memory.
        """
        self._received = deque(one for one in self._received if one[0] not in self.pending)
        return [group for group in self.pending if group.is_wanted]

    def end(self) -> str:
        """End its process, and tell how it ended."""
        self._process.kill()
        self._process.join()
        self.pipe.close()
        code = self._process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"status {code}"

    def _free(self, room: int | None) -> None:
        """Give rooms back, several at a time; it is never without one while half of them are kept here."""
        if room is not None:
            self._freed.append(room)
        if 2 * len(self._freed) >= len(self._rooms):
            self._send(tuple(self._freed))
            self._freed.clear()

    def _send(self, message: list[Job] | tuple[int, ...]) -> None:
        with contextlib.suppress(OSError):  # it is dead, and ``receive`` will find out
            self.pipe.send(message)


def _work(
    number: int,
    pipe: Connection,
    theirs: Connection,
    inner: Callable[[], Executor],
    model: mmap.mmap,
    layout: Layout,
    rooms: Sequence[mmap.mmap],
) -> None:
    """What a worker does: groups of jobs come through the pipe, and the numbers of rooms that are free again."""
    theirs.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the simulation, which ends its workers
    logging.getLogger().handlers = [_ThroughPipe(pipe)]
    _take_gpu(number)
    executor = inner()
    todo: deque[list[Job]] = deque()
    free = deque(range(len(rooms)))

    def listen() -> None:
        message = pipe.recv()
        if isinstance(message, tuple):
            free.extend(message)
        else:
            todo.append(message)

    with contextlib.suppress(EOFError, BrokenPipeError):  # the simulation is gone
        while True:
            while not todo:
                listen()
            made: list[tuple[Reply, int | None]] = []
            for reply in executor.execute(todo.popleft(), Model(layout, _vector(model, layout))):
                room = None
                if reply.arrays is not None:
                    if not free and made:
                        pipe.send(("replies", made))
                        made = []
                    while not free:
                        listen()
                    room = free.popleft()
                    vector_of(reply.arrays, out=_vector(rooms[room], layout))
                made.append((dataclasses.replace(reply, arrays=None), room))
            pipe.send(("replies", made))


def _take_gpu(number: int) -> None:
    """One worker a GPU, where there are several; asked only of a torch that is there already."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.device_count() > 1:
        torch.cuda.set_device(number % torch.cuda.device_count())


class _ThroughPipe(logging.Handler):
    """Sends what a worker has to say to the simulation, whose log it is."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Send a line, with its traceback."""
        with contextlib.suppress(OSError):
            self._pipe.send(("log", record.name, record.levelno, self.format(record)))


def _vector(memory: mmap.mmap, layout: Layout) -> F32:
    return np.frombuffer(memory, np.float32, layout.size)
