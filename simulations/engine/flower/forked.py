"""Clients side by side in forked workers; what comes out is what comes out of one process.

Any worker may answer any node: a node's context travels with its message and back, so nothing is lost with a worker,
and its message is simply given to another. What many nodes get alike, the global model, is sent to a worker once.
"""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections import deque
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, wait
from typing import cast

from flwr.app import Context

from simulations.engine.flower.client import Answer, Client, Job, crashed
from simulations.engine.flower.contexts import Contexts
from simulations.engine.flower.here import has_expired
from simulations.engine.flower.nursery import Nursery

MOST_DEATHS = 3
"""Workers that a message may cost before it is answered with an error."""

SMALL_BYTES = 4096
"""Data below this is cheaper to send again than to remember."""

REMEMBERED = 4
"""Messages after which a worker forgets data that none of them had."""


class Forked:
    """Runs jobs in workers; a node's jobs one after the other, in order.

    Args:
        client: What runs them.
        contexts: What nodes remember.
        workers: How many processes.
    """

    def __init__(self, client: Client, contexts: Contexts, workers: int) -> None:
        self._contexts = contexts
        self._queue: deque[Job] = deque()
        self._done: list[Answer] = []
        self._deaths: dict[int, int] = {}
        self._nursery = Nursery(lambda pipe: _serve(client, pipe))
        try:
            self._workers = [self._new_worker() for _ in range(workers)]
        except BaseException:
            self._nursery.close()
            raise

    @property
    def pids(self) -> list[int]:
        """Process numbers of the workers."""
        return [worker.pid for worker in self._workers]

    def submit(self, job: Job) -> None:
        """Start a job as soon as a worker is free and the node's earlier jobs are done."""
        self._queue.append(job)
        self._dispatch()

    def advance(self, timeout_s: float | None) -> list[Answer]:
        """Wait until a worker is done, and give it its next job.

        Args:
            timeout_s: How long to wait at most.

        Returns:
            Answers, perhaps none, in the order of their jobs.
        """
        self._dispatch()  # messages that have expired are no reason to wait
        pipes = {worker.pipe: worker for worker in self._workers if worker.job}
        if pipes and not self._done:
            for pipe in wait(list(pipes), timeout_s):
                self._take(pipes[cast(Connection, pipe)])
            self._dispatch()
        done, self._done = self._done, []
        return sorted(done, key=lambda answer: answer.serial)

    def close(self) -> None:
        """End all workers, also in the middle of a job."""
        self._queue.clear()
        for worker in self._workers:
            worker.pipe.close()
        self._nursery.close()

    def _new_worker(self) -> _Worker:
        return _Worker(*self._nursery.fork())

    def _dispatch(self) -> None:
        busy = {worker.job.node_id for worker in self._workers if worker.job}
        for worker in self._workers:
            while worker.job is None and (job := self._next(busy)):
                busy.add(job.node_id)
                if worker.pipe.closed:
                    worker.become(self._new_worker())
                try:
                    worker.give(job, self._contexts.of(job.node_id))
                except OSError:  # it has died since its last answer
                    self._bury(worker)

    def _next(self, busy: set[int]) -> Job | None:
        index = 0
        while index < len(self._queue):
            if has_expired(self._queue[index]):
                del self._queue[index]
            elif self._queue[index].node_id in busy:
                index += 1
            else:
                job = self._queue[index]
                del self._queue[index]
                return job
        return None

    def _take(self, worker: _Worker) -> None:
        try:
            answer: Answer = pickle.loads(worker.pipe.recv_bytes())  # noqa: S301 - from our own process
        except (EOFError, OSError):
            self._bury(worker)
            return
        worker.job = None
        self._deaths.pop(answer.serial, None)
        if answer.context is not None:
            self._contexts.keep(answer.context)
        self._done.append(answer)

    def _bury(self, worker: _Worker) -> None:
        """Queue a dead worker's job again; it is answered with an error if it has cost too many."""
        assert worker.job is not None
        job, worker.job = worker.job, None
        worker.pipe.close()
        self._deaths[job.serial] = self._deaths.get(job.serial, 0) + 1
        if self._deaths[job.serial] < MOST_DEATHS:
            self._queue.appendleft(job)
        else:
            self._done.append(crashed(job, f"{MOST_DEATHS} worker processes ended in the middle of this message"))


@dataclasses.dataclass(slots=True)
class _Held:
    """Data that a worker has; it is kept here too, so that its ``id`` stays its own."""

    number: int
    data: bytes
    used: int


class _Worker:
    """Our side of a worker: its pipe, its job, and which data it has."""

    def __init__(self, pid: int, pipe: Connection) -> None:
        self.pid = pid
        self.pipe = pipe
        self.job: Job | None = None
        self._held: dict[int, _Held] = {}
        self._given = 0
        self._numbers = 0

    def become(self, other: _Worker) -> None:
        """Take the place of a dead one."""
        self.__dict__ = other.__dict__

    def give(self, job: Job, context: Context) -> None:
        """Send a job; what the worker has already is named instead."""
        self.job = job
        self._given += 1
        old = [key for key, held in self._held.items() if held.used < self._given - REMEMBERED]
        forgotten = [self._held.pop(key).number for key in old]
        new: dict[int, bytes] = {}
        packed = io.BytesIO()
        _Pickler(packed, lambda data: self._name(data, new)).dump((job, context))
        self.pipe.send((forgotten, list(new)))
        for data in new.values():
            self.pipe.send_bytes(data)
        self.pipe.send_bytes(packed.getbuffer())

    def _name(self, data: bytes, new: dict[int, bytes]) -> int:
        """A number for data; it is put among the new, too, if the worker doesn't have it."""
        held = self._held.get(id(data))
        if held is None:
            self._numbers += 1
            held = self._held[id(data)] = _Held(self._numbers, data, self._given)
            new[held.number] = data
        held.used = self._given
        return held.number


class _Pickler(pickle.Pickler):
    """Lets data be named."""

    def __init__(self, file: io.BytesIO, name: Callable[[bytes], int]) -> None:
        super().__init__(file, protocol=5)
        self._name = name

    def persistent_id(self, obj: object) -> int | None:
        """The name of large data; ``None`` for all else."""
        return self._name(obj) if type(obj) is bytes and len(obj) >= SMALL_BYTES else None


class _Unpickler(pickle.Unpickler):
    """The worker's side of it."""

    def __init__(self, packed: bytes, held: Mapping[int, bytes]) -> None:
        super().__init__(io.BytesIO(packed))
        self._held = held

    def persistent_load(self, number: int) -> bytes:
        """The data of that name."""
        return self._held[number]


def _serve(client: Client, pipe: Connection) -> None:
    """A worker's life."""
    held: dict[int, bytes] = {}
    while True:
        try:
            forgotten, new = pipe.recv()
        except EOFError:
            return
        for number in forgotten:
            del held[number]
        for number in new:
            held[number] = pipe.recv_bytes()
        job, context = _Unpickler(pipe.recv_bytes(), held).load()
        answer = client.answer(job, context)
        del job, context
        pipe.send_bytes(pickle.dumps(answer, protocol=5))
        del answer
