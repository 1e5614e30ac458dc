"""A server that is killed in a session goes on with it: it replays what it had accepted.

The store of a server that dies between two stages holds ``AggregatorSession.dump()`` and ``sum_vector``, written
together. Sites never answer a stage twice, so the sites that had answered the open stage before the crash, but whose
replies were not stored, count as dropped.
"""

from __future__ import annotations

from fl.secagg.aggregator import AggregatorSession
from fl.secagg.encoding import dec, dec_text
from fl.secagg.errors import MessageError
from fl.secagg.masked_sum import IN_SUM
from fl.secagg.profiles import Vector


def replay(session: AggregatorSession, events: bytes, vector: Vector | None) -> None:
    """Bring a new session, made with the same arguments, to where another one stood.

    Args:
        session: The new one.
        events: ``dump`` of the other.
        vector: Its ``sum_vector`` at that moment.

    Raises:
        SecAggError: If the events are not those of such a session.
    """
    session.sum_vector = vector
    for event in dec(events):
        kind, *rest = dec(event) or [b""]
        if kind == b"close":
            session.close_stage()
        elif kind == b"reply" and len(rest) == 2:
            session.receive(dec_text(rest[0]), rest[1], IN_SUM)
        else:
            raise MessageError("not the events of a session")
