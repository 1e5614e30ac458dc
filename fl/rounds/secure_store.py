"""What a server that is killed in an attempt with secure aggregation finds again: see ``fl.secagg.replay``.

Two files in the round's directory, from the moment when the sum of the masked updates is complete: the sum, and every
message that was accepted, each durable before the next one is waited for. Neither says anything about one site.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from fl.files import storage_error, write_atomic
from fl.secagg.aggregator import AggregatorSession
from fl.secagg.encoding import whole
from fl.secagg.replay import replay


class SessionStore:
    """The stored session of one attempt."""

    def __init__(self, directory: Path, attempt: int) -> None:
        self._events = directory / f"secagg-{attempt}.events"
        self._sum = directory / f"secagg-{attempt}.sum"
        self._kept = 0

    @property
    def is_there(self) -> bool:
        """Whether a session was stored."""
        return self._events.exists()

    def begin(self, session: AggregatorSession) -> None:
        """Store a session whose sum has just become complete.

        Raises:
            StorageError: If the disk is full or refuses.
        """
        assert session.sum_vector is not None
        write_atomic(self._sum, session.sum_vector.tobytes())
        write_atomic(self._events, session.dump())
        self._kept = session.events

    def keep(self, session: AggregatorSession) -> None:
        """Store what was accepted since the last call; nothing happens before ``begin``.

        Raises:
            StorageError: If the disk is full or refuses.
        """
        if not self._kept:
            return
        try:
            descriptor = os.open(self._events, os.O_WRONLY | os.O_APPEND)
            try:
                view = memoryview(session.dump(since=self._kept))
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as err:
            raise storage_error(self._events, err) from err
        self._kept = session.events

    def restore(self, session: AggregatorSession) -> None:
        """Bring a new session to where the stored one stood; a message that a crash tore is cut off.

        Raises:
            SecAggError: If the stored session is another one, e.g. because the roster was replaced since.
        """
        events = self._events.read_bytes()
        kept = whole(events)
        if kept < len(events):
            os.truncate(self._events, kept)
        vector = np.frombuffer(self._sum.read_bytes(), session.config.ring.dtype).copy()
        replay(session, events[:kept], vector)
        self._kept = session.events
