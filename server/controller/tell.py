"""What a journal's new lines tell those who watch (``server.live``)."""

from __future__ import annotations

from collections.abc import Sequence

from fl.rounds import events
from fl.rounds.state import Record
from server.live import Live

RECENT_S = 60.0
"""Lines that are older are history: a controller that catches up does not tell it."""


def tell(live: Live, name: str, project: str, records: Sequence[Record], *, now_s: float) -> None:
    """Publish what happened, line by line: ``round``, ``reply`` and ``metric``."""
    for record in records:
        if record.time.timestamp() < now_s - RECENT_S:
            continue
        match record.event:
            case events.RoundOpened() as event:
                live.publish("round", name, project=project, round=event.round, state="open", cohort=len(event.cohort))
            case events.StageClosed() as event:
                live.publish("round", name, project=project, round=event.round, state="open", stage=event.stage)
            case events.RoundClosed() as event:
                survivors = len(event.survivors)
                live.publish("round", name, project=project, round=event.round, state="closed", survivors=survivors)
            case events.RoundAbandoned() as event:
                live.publish("round", name, project=project, round=event.round, state="abandoned")
            case events.RoundCommitted() as event:
                live.publish("round", name, project=project, round=event.round, state="committed")
                live.publish("metric", name, project=project, round=event.round, place="training", values=event.metrics)
            case events.Evaluated() as event:
                live.publish("metric", name, project=project, round=event.round, place=event.at, values=event.metrics)
            case events.UpdateLanded() | events.EvaluationLanded() as event:
                live.publish("reply", name, project=project, round=event.round, site=event.site, outcome="landed")
            case events.ReplyFailed() as event:
                live.publish("reply", name, project=project, round=event.round, site=event.site, outcome="failed")
            case events.ReplyLate() as event:
                live.publish("reply", name, project=project, round=event.round, site=event.site, outcome="late")
