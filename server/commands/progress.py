"""How a run's rounds look in the terminal: a line each as they end, or a table that grows."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from fl import console
from fl.rounds import events
from fl.rounds.state import Record, RoundState, RunState

AFTER_STAGE = {
    "advertise": "dealing shares",
    "share": "training, masked",
    "mask": "agreeing on the survivors",
    "agree": "unmasking the sum",
    "unmask": "folding",
}
"""What goes on once a stage of secure aggregation is over."""


def line(record: Record) -> str | None:
    """What to say about a line of the journal; ``None`` if it is not worth a line."""
    match record.event:
        case events.ModelInitialised() as event:
            return f"initial model of {event.parameters:,} parameters from {event.source}"
        case events.RoundAbandoned() as event:
            return f"round {event.round}: {event.landed} sites answered, {event.quorum} needed; trying again"
        case events.ReplyFailed() as event:
            return f"round {event.round}: {event.site} failed: {event.reason}"
        case events.RoundClosed() as event:
            late = f", without {', '.join(event.missing)}" if event.missing else ""
            return f"round {event.round}: {len(event.survivors)} sites{late}"
        case events.Evaluated() as event:
            return f"round {event.round}: {_words(event.metrics)} at {_place(event)}"
        case events.RunEnded() as event:
            return f"run {event.status}: {event.reason}"
        case _:
            return None


def table(state: RunState, *, title: str | None = None) -> Table:
    """The rounds so far, one a line."""
    grown = Table(box=None, header_style="bold", pad_edge=False, title=title, title_justify="left")
    for column in ("round", "sites", "state", "loss", "accuracy", "received"):
        grown.add_column(column, justify="left" if column == "state" else "right")
    for number in sorted(state.rounds):
        facts = round_facts(state.rounds[number])
        grown.add_row(
            str(number),
            f"{facts['survivors']}/{facts['cohort']}",
            facts["state"],
            _number(facts["loss"], 4),
            _percent(facts["accuracy"]),
            console.human_bytes(facts["received_bytes"]),
        )
    return grown


def round_facts(entry: RoundState) -> dict[str, Any]:
    """A round in plain data: number, state, cohort, survivors, received_bytes, loss, accuracy, metrics by place."""
    metrics = {place: dict(evaluated.metrics) for place, evaluated in entry.evaluated.items()}
    shown = metrics.get("centre") or metrics.get("sites") or {}
    trained = dict(entry.committed.metrics) if entry.committed else {}
    survivors = entry.closed.survivors if entry.closed else tuple(entry.landed)
    return {
        "round": entry.number,
        "state": _state(entry),
        "cohort": len(entry.opened[-1].cohort) if entry.opened else 0,
        "survivors": len(survivors),
        "received_bytes": entry.received_bytes,
        "loss": shown.get("loss", trained.get("loss")),
        "accuracy": shown.get("accuracy", trained.get("accuracy")),
        "training": trained,
        "evaluation": metrics,
    }


def _state(entry: RoundState) -> str:
    if entry.evaluated:
        return "done"
    if entry.evaluation:
        return "evaluating"
    if entry.committed:
        return "committed"
    if entry.closed:
        return "folding"
    if entry.abandoned:
        return "trying again"
    return AFTER_STAGE[entry.stages[-1].stage] if entry.stages else "training"


def _place(event: events.Evaluated) -> str:
    return "the centre" if event.at == "centre" else f"{event.sites} sites"


def _words(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in sorted(metrics.items()))


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"
