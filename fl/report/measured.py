"""What was measured: the metrics of a round by place, and what sites say of their machines."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Sequence
from typing import Any

from fl.report.facts import Answer, Measured, Place
from fl.rounds.state import RoundState


def measured(state: RoundState, answers: Sequence[Answer]) -> dict[Place, Measured]:
    """The metrics of a round by place, with their spread over the sites."""
    found: dict[Place, Measured] = {}
    if state.committed and state.closed:
        kept = [state.landed[site].metrics for site in state.closed.survivors if site in state.landed]
        lowest, highest = _spread(kept)
        found["training"] = Measured(
            num_examples=state.committed.num_examples,
            sites=len(state.closed.survivors),
            metrics=dict(state.committed.metrics),
            lowest=lowest,
            highest=highest,
        )
    for place in ("sites", "centre"):
        if (evaluated := state.evaluated.get(place)) is None:
            continue
        at_sites = [answer.metrics for answer in answers if answer.phase == "evaluate" and answer.outcome == "answered"]
        lowest, highest = _spread(at_sites if place == "sites" else [])
        found[place] = Measured(
            num_examples=evaluated.num_examples,
            sites=evaluated.sites if place == "sites" else 0,
            metrics=dict(evaluated.metrics),
            lowest=lowest,
            highest=highest,
        )
    return found


def _spread(metrics: Iterable[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    lowest: dict[str, float] = {}
    highest: dict[str, float] = {}
    for values in metrics:
        for name, value in values.items():
            if not math.isfinite(value):
                continue
            lowest[name] = min(value, lowest.get(name, value))
            highest[name] = max(value, highest.get(name, value))
    return lowest, highest


def machine(report: dict[str, Any]) -> dict[str, Any]:
    """What a site says of its machine; a site may say anything, so only what has the right type is taken."""
    facts: dict[str, Any] = {}
    for name in ("device", "precision"):
        if isinstance(value := report.get(name), str):
            facts[name] = value
    for name in ("samples_per_s", "peak_memory_bytes", "energy_j", "cpu_s", "wall_s", "out_of_memory"):
        value = report.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            facts[name] = value
    return facts


SIMULATED: dict[str, type | types.UnionType] = {
    "simulated_s": int | float,
    "down_s": int | float,
    "compute_s": int | float,
    "up_s": int | float,
    "down_bytes": int | float,
    "up_bytes": int | float,
    "link": str,
    "hostile": str,
}
"""What a simulation says of a site's part in a round: seconds for the whole, for the model to come, for training and
for the update to go; bytes both ways; names of its link and of what it does to harm."""


def simulated(report: dict[str, Any]) -> dict[str, Any]:
    """What a simulation says of a simulated site; empty for a real one."""
    if "simulated_s" not in report and "hostile" not in report:
        return {}
    return {
        name: report[name]
        for name, kind in SIMULATED.items()
        if isinstance(report.get(name), kind) and not isinstance(report[name], bool)
    }
