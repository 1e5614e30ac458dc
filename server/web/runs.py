"""Pages of several runs: the list with its queue, starting one, comparing some."""

from __future__ import annotations

import datetime
import time
from typing import Annotated

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import Response

from fl.errors import FLError, InputError
from fl.report import charts, words
from server.api.context import context_of
from server.api.errors import status_of
from server.api.sites import labels_from
from server.people import check_project
from server.views import queue as queues
from server.views import runs as views
from server.web.page import back_to, changing, draw, number, signed

router = APIRouter()

Field = Annotated[str, Form(max_length=128)]
COLOURS = ("training", "sites", "centre", "folding", "late", "answered", "failed", "spare", "silent", "evaluated")
PLACEHOLDER = """\
[run]
name = "digits"
rounds = 10

[task]
name = "digits"
"""


@router.get("/runs")
def list_runs(request: Request, state: str = "", project: str = "", text: str = "", after: str = "") -> Response:
    """What waits, works and is over."""
    current, context = signed(request), context_of(request)
    with context.store.read() as session:
        now_s, visible = time.time(), current.visible
        found = views.runs(
            session, now_s, state=state, project=project[:63], text=text[:128], after=after, visible=visible
        )
        queue = queues.queue(session, now_s, visible=visible, weights=context.weights)
        counts = views.counts(session, visible=visible)
        projects = views.projects(session, visible=visible)
    asked = {"state": state, "project": project, "text": text}
    return draw(request, "runs.html", current, runs=found, queue=queue, counts=counts, projects=projects, asked=asked)


@router.get("/runs/new")
def ask_for_run(request: Request) -> Response:
    """The form for a run."""
    current = signed(request)
    current.check("operator")
    form = {"file": "", "project": "default", "priority": "0", "sites": "", "start": ""}
    return draw(request, "new.html", current, form=form, error=None, placeholder=PLACEHOLDER)


@router.post("/runs/new")
def start_run(
    request: Request,
    csrf: Field = "",
    file: Annotated[str, Form(max_length=1_000_000)] = "",
    project: Field = "default",
    priority: Field = "0",
    sites: Field = "",
    start: Field = "",
) -> Response:
    """Put a run into the queue; what is wrong with it is said above the form, which keeps what was typed."""
    current = changing(request, csrf)
    current.check("operator")
    try:
        check_project(project)
        current.check_project(project)
        if not file.strip():
            raise InputError("the run file is empty", hint="paste one, or choose a file")
        name = context_of(request).actions.submit_run(
            current.actor,
            file,
            project=project,
            priority=number(priority or "0", "priority", least=-1000, most=1000),
            sites=labels_from(sites.split()),
            start_s=_moment(start),
        )
    except FLError as err:
        form = {"file": file, "project": project, "priority": priority, "sites": sites, "start": start}
        facts = {"form": form, "error": err, "placeholder": PLACEHOLDER}
        return draw(request, "new.html", current, status=status_of(err), **facts)
    return back_to(f"/runs/{name}", "in the queue")


@router.get("/compare")
def compare(request: Request, run: Annotated[list[str] | None, Query()] = None) -> Response:
    """Runs side by side."""
    current, context = signed(request), context_of(request)
    names = [name for name in run or () if name]
    with context.store.read() as session:
        now_s = time.time()
        known = views.runs(session, now_s, limit=50, visible=current.visible).items
        found = None
        if len(set(names)) > 1:
            found = views.compare(session, now_s, names, visible=current.visible, prices=context.prices)
    drawn = [] if found is None else [_chart(key, found) for key in found.curves]
    return draw(request, "compare.html", current, compared=found, known=known, names=names, charts=drawn)


def _chart(key: str, found: views.Compared) -> charts.Chart:
    place, _, name = key.partition("/")
    curves = {run: {int(at or 0): value for at, value in points} for run, points in found.curves[key].items()}
    columns = sorted({at for points in curves.values() for at in points})
    order = {row.name: colour for row, colour in zip(found.runs, COLOURS, strict=False)}
    series = [charts.Series(order[run], run, [points.get(at) for at in columns]) for run, points in curves.items()]
    title = f"{name}, {words.PLACES.get(place, place)}"  # type: ignore[call-overload]
    return charts.lines(title, columns, series, lambda value: words.metric(name, value))


def _moment(text: str) -> float:
    """Seconds since 1970 of what a browser's field for a time says, in UTC; 0 for an empty one."""
    if not text:
        return 0.0
    try:
        return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()
    except ValueError as err:
        raise InputError(f"the start is {text[:40]!r}", hint="like 2026-11-26T20:00, UTC") from err
