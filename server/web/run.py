"""The page of one run: curves, rounds, who did what when, its log, and what may be done to it."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from fl.errors import FLError, InputError
from fl.report import charts, words
from server.api.context import context_of
from server.views import runs as views
from server.views.page import find_run
from server.views.rounds import RoundRow, Span, Timeline, rounds, timeline
from server.views.usage import of_run
from server.web.page import back_to, changing, draw, number, signed

router = APIRouter()

ROUNDS = 50
"""Rows of the table of rounds."""

LANES = 100
"""Sites of a round that are drawn."""

SCALE = 1000
"""Units of a lane's axis."""

NARROWEST = 4.0
"""What is shorter than this is still seen."""

KEYS = {"asked": "waiting", "landed": "answered", "late": "late", "missing": "silent", "failed": "failed"}
"""An outcome's colour, as the report has it."""

GRAVITY = ("failed", "missing", "late", "asked", "landed")


@dataclasses.dataclass(frozen=True, slots=True)
class Lane:
    """A site in a round: bars of ``key``, place and width on the axis, and the same in words."""

    site: str
    worst: str
    bars: tuple[tuple[str, float, float], ...]
    words: str
    size_bytes: int


@router.get("/runs/{name}")
def show_run(request: Request, name: str, before: str = "", round: str = "") -> Response:
    """One run in full."""
    current, context = signed(request), context_of(request)
    wanted = number(round, "round", least=1, most=2**31 - 1) if round else None
    with context.store.read() as session:
        now_s, visible = time.time(), current.visible
        found = views.run(session, now_s, name, visible=visible, prices=context.prices, with_usage=False)
        curves = views.curves(session, name, visible=visible)
        table = rounds(session, name, limit=ROUNDS, after=before, visible=visible)
        shown = timeline(session, name, first=wanted, last=wanted, now_s=now_s, visible=visible) if wanted else None
        if shown is None:
            last = table.items[0].number if table.items else None
            shown = timeline(session, name, first=last, last=last, now_s=now_s, visible=visible)
    return draw(
        request,
        "run.html",
        current,
        run=found,
        charts=curve_charts(curves),
        rounds=table,
        durations=_durations(table.items),
        timeline=shown,
        lanes=lanes(shown, now_s),
        before=before,
    )


@router.get("/runs/{name}/usage")
def show_usage(request: Request, name: str) -> Response:
    """What a run used, as a page of its own, and a part of the run's page."""
    current, context = signed(request), context_of(request)
    with context.store.read() as session:
        run = find_run(session, name, current.visible)
        row, amount = views.run_row(run, time.time()), of_run(session, run, context.prices)
    return draw(request, "usage.html", current, row=row, used=amount)


@router.get("/runs/{name}/log")
def show_log(request: Request, name: str) -> Response:
    """What a run's ServerApp printed."""
    current, context = signed(request), context_of(request)
    with context.store.read() as session:
        run = find_run(session, name, current.visible)
        row, flower_run = views.run_row(run, time.time()), run.flower_run
    text, error = "", None
    try:
        text, _, _ = context.log(row.name, flower_run)
    except FLError as err:
        error = err
    return draw(request, "log.html", current, row=row, text=text, error=error)


@router.post("/runs/{name}/{change}")
def change_run(request: Request, name: str, change: str, csrf: Annotated[str, Form(max_length=128)] = "") -> Response:
    """Pause, stop or resume a run."""
    current, context = changing(request, csrf), context_of(request)
    current.check("operator")
    with context.store.read() as session:
        found = find_run(session, name, current.visible).name
    match change:
        case "pause":
            context.actions.pause_run(current.actor, found)
        case "stop":
            context.actions.stop_run(current.actor, found)
        case "resume":
            context.actions.resume_run(current.actor, found)
        case _:
            raise InputError(f"a run cannot be {change[:40]!r}", hint="pause, stop or resume")
    return back_to(f"/runs/{found}", f"{change}: asked for")


def curve_charts(curves: Mapping[str, Sequence[tuple[float | None, ...]]]) -> list[charts.Chart]:
    """A chart a metric, a line a place where it was measured."""
    names = sorted({key.partition("/")[2] for key in curves})
    drawn = []
    for name in names:
        lines = {
            place: {int(at or 0): value for at, value in curves[f"{place}/{name}"]}
            for place in words.PLACES
            if f"{place}/{name}" in curves
        }
        columns = sorted({at for points in lines.values() for at in points})
        series = [
            charts.Series(place, words.PLACES[place], [points.get(at) for at in columns])
            for place, points in lines.items()
        ]
        if series:
            drawn.append(charts.lines(name, columns, series, functools.partial(words.metric, name)))
    return drawn


def lanes(shown: Timeline, now_s: float) -> list[Lane]:
    """The sites of the rounds shown, those with trouble first."""
    length = max(shown.to_s - shown.from_s, 1e-9)
    found = []
    for site in shown.sites:
        bars = []
        for one in site.spans:
            at = SCALE * (one.from_s - shown.from_s) / length
            width = SCALE * ((one.to_s or now_s) - one.from_s) / length
            key = "evaluated" if one.phase == "evaluate" and one.outcome == "landed" else KEYS.get(one.outcome, "spare")
            bars.append((key, round(min(at, SCALE - NARROWEST), 1), round(max(width, NARROWEST), 1)))
        worst = min((one.outcome for one in site.spans), key=GRAVITY.index, default="landed")
        found.append(
            Lane(site.site, worst, tuple(bars), _said(site.spans, now_s), sum(s.size_bytes for s in site.spans))
        )
    found.sort(key=lambda lane: (GRAVITY.index(lane.worst), lane.site))
    return found[:LANES]


def _said(spans: Sequence[Span], now_s: float) -> str:
    verbs = {"train": "training", "evaluate": "evaluation", "secagg": "secure aggregation"}
    said = []
    for one in spans:
        phase, outcome = verbs.get(one.phase, one.phase), one.outcome
        took = words.seconds((one.to_s or now_s) - one.from_s)
        why = f": {one.reason}" if one.reason else ""
        text = {
            "landed": f"answered after {took}",
            "asked": f"no answer yet, since {took}",
            "late": f"answered too late, after {took}",
            "missing": f"no answer within {took}",
        }.get(outcome, f"failed after {took}")
        said.append(f"{phase} {text}{why}")
    return "; ".join(said)


def _durations(rows: Sequence[RoundRow]) -> charts.Chart | None:
    """How long the rounds of the table took."""
    done = [row for row in reversed(rows) if row.took_s is not None]
    if not done:
        return None
    series = charts.Series("training", "from opening to commit", [row.took_s for row in done])
    return charts.bars("duration of a round", [row.number for row in done], [series], _whole)


def _whole(value: float | None) -> str:
    return words.NOTHING if value is None else f"{words.count(value) if value >= 10 else f'{value:.2g}'} s"
