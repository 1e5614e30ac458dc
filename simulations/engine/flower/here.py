"""Clients one after the other in this process, when the ServerApp waits for them."""

from __future__ import annotations

import time
from collections import deque

from simulations.engine.flower.client import Answer, Client, Job
from simulations.engine.flower.contexts import Contexts


class Here:
    """Runs jobs in the order in which they were given.

    Args:
        client: What runs them.
        contexts: What nodes remember.
    """

    def __init__(self, client: Client, contexts: Contexts) -> None:
        self._client = client
        self._contexts = contexts
        self._queue: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Put a job at the end of the queue; nothing runs yet."""
        self._queue.append(job)

    def advance(self, timeout_s: float | None) -> list[Answer]:
        """Run the next job, however long it takes.

        Args:
            timeout_s: Isn't looked at: a client can't be interrupted in this process.
        """
        while self._queue:
            job = self._queue.popleft()
            if has_expired(job):
                continue
            answer = self._client.answer(job, self._contexts.of(job.node_id))
            if answer.context is not None:
                self._contexts.keep(answer.context)
            return [answer]
        return []

    def close(self) -> None:
        """Forget the jobs that nobody waited for."""
        self._queue.clear()


def has_expired(job: Job) -> bool:
    """Whether a message is too old to be delivered."""
    metadata = job.message.metadata
    return metadata.created_at + metadata.ttl <= time.time()
