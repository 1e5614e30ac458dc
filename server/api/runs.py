"""Runs: look, start, pause, stop, resume, compare."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field

from fl.errors import InputError
from server.api.auth import Current, Operator, Viewer
from server.api.context import context_of
from server.api.errors import ForbiddenError
from server.people import LOCAL, check_project
from server.views import queue as queues
from server.views import runs as views
from server.views import usage as usages
from server.views.page import MOST, Page, find_run
from server.views.rounds import RoundRow, Timeline, rounds, timeline

router = APIRouter(tags=["runs"])

Name = Annotated[str, InPath(max_length=128, description="A run's name or number.")]
Limit = Annotated[int, Query(ge=1, le=MOST, description="Rows of the page.")]
After = Annotated[str, Query(max_length=64, description="`next` of the page before.")]
Number = Annotated[int | None, Query(ge=0, le=2**31 - 1)]


class RunRequest(BaseModel):
    """A run to start: a run file's text, or its tables."""

    model_config = ConfigDict(extra="forbid")

    file: Annotated[str, Field(max_length=1_000_000, description="The run file, TOML.")] = ""
    config: Annotated[dict[str, Any] | None, Field(description="The same as tables, instead of `file`.")] = None
    project: Annotated[str, Field(max_length=63)] = "default"
    priority: Annotated[int, Field(ge=-1000, le=1000, description="Higher starts first, within a project.")] = 0
    sites: Annotated[
        dict[str, str], Field(max_length=50, description="Labels that a site must have to take part.")
    ] = {}
    start_s: Annotated[float, Field(ge=0, le=1e11, description="Not before then, seconds since 1970; 0 at once.")] = 0
    beside: Annotated[
        str | None,
        Field(max_length=4096, description="Directory with a task of one's own; from the server's machine only."),
    ] = None
    app: Annotated[
        str | None,
        Field(max_length=4096, description="Directory of a Flower app, instead; from the server's machine only."),
    ] = None
    app_config: Annotated[
        dict[str, bool | int | float | str], Field(max_length=200, description="Changes to the app's run config.")
    ] = {}


class RunName(BaseModel):
    """A run that was made or changed."""

    name: str


class Log(BaseModel):
    """What a run's ServerApp printed."""

    text: str
    after: float
    """Hand it back for what is printed from here on."""
    is_finished: bool


@router.get("/runs")
def list_runs(
    request: Request,
    current: Viewer,
    state: Annotated[str, Query(max_length=40, description="A state, or active, waiting or finished.")] = "",
    project: Annotated[str, Query(max_length=63)] = "",
    text: Annotated[str, Query(max_length=128, description="Part of a name or title.")] = "",
    limit: Limit = 50,
    after: After = "",
) -> Page[views.RunRow]:
    """The runs, the newest first."""
    with context_of(request).store.read() as session:
        return views.runs(
            session,
            time.time(),
            state=state,
            project=project,
            text=text,
            limit=limit,
            after=after,
            visible=current.visible,
        )


@router.post("/runs", status_code=201)
def start_run(request: Request, current: Operator, wanted: RunRequest) -> RunName:
    """Start a run: it waits in the queue for its place and time."""
    check_project(wanted.project)
    current.check_project(wanted.project)
    if (bool(wanted.file), wanted.config is not None, wanted.app is not None).count(True) != 1:
        raise InputError("a run needs one of file, config and app", hint="file is the text of a run file")
    if (wanted.beside is not None or wanted.app is not None) and current.name != LOCAL:
        raise ForbiddenError(
            "a directory of the server can be named from the server's machine only",
            hint="fl run start there, or install the task at the server and the sites",
        )
    actions = context_of(request).actions
    if wanted.app is not None:
        if wanted.sites:
            raise InputError("a Flower app decides itself which sites it asks", hint="leave sites out")
        name = actions.submit_app(
            current.actor,
            Path(wanted.app),
            wanted.app_config,
            project=wanted.project,
            priority=wanted.priority,
            start_s=wanted.start_s,
        )
        return RunName(name=name)
    name = actions.submit_run(
        current.actor,
        wanted.file or wanted.config or {},
        beside=Path(wanted.beside) if wanted.beside else None,
        project=wanted.project,
        priority=wanted.priority,
        sites=wanted.sites,
        start_s=wanted.start_s,
    )
    return RunName(name=name)


@router.get("/runs/{name}")
def show_run(request: Request, current: Viewer, name: Name) -> views.RunDetail:
    """One run in full; its rounds and curves are asked for by themselves."""
    context = context_of(request)
    with context.store.read() as session:
        return views.run(session, time.time(), name, visible=current.visible, prices=context.prices)


@router.get("/runs/{name}/rounds")
def list_rounds(request: Request, current: Viewer, name: Name, limit: Limit = 100, after: After = "") -> Page[RoundRow]:
    """The rounds of a run, the newest first."""
    with context_of(request).store.read() as session:
        return rounds(session, name, limit=limit, after=after, visible=current.visible)


@router.get("/runs/{name}/timeline")
def show_timeline(request: Request, current: Viewer, name: Name, first: Number = None, last: Number = None) -> Timeline:
    """Who did what when, in some rounds; the last ten without `first`."""
    with context_of(request).store.read() as session:
        return timeline(session, name, first=first, last=last, now_s=time.time(), visible=current.visible)


@router.get("/runs/{name}/curves")
def show_curves(
    request: Request,
    current: Viewer,
    name: Name,
    place: Annotated[Literal["", "training", "sites", "centre"], Query()] = "",
    metric: Annotated[str, Query(max_length=64)] = "",
) -> dict[str, views.Curve]:
    """Metrics over the rounds, by `place/metric`: round and value; a value that is not finite is null."""
    with context_of(request).store.read() as session:
        return views.curves(session, name, place=place, metric=metric, visible=current.visible)


@router.get("/runs/{name}/log")
def show_log(request: Request, current: Viewer, name: Name, after: Annotated[float, Query(ge=0, le=1e11)] = 0.0) -> Log:
    """What the run's ServerApp printed in its present or last life, since `after`."""
    context = context_of(request)
    with context.store.read() as session:
        run = find_run(session, name, current.visible)
    text, after, is_finished = context.log(run.name, run.flower_run, after=after)
    return Log(text=text, after=after, is_finished=is_finished)


@router.post("/runs/{name}/pause", status_code=202)
def pause_run(request: Request, current: Operator, name: Name) -> RunName:
    """End a run at the end of what it does, to be resumed by hand."""
    found = _found(request, current, name)
    context_of(request).actions.pause_run(current.actor, found)
    return RunName(name=found)


@router.post("/runs/{name}/stop", status_code=202)
def stop_run(request: Request, current: Operator, name: Name) -> RunName:
    """End a run; one with a journal can be resumed."""
    found = _found(request, current, name)
    context_of(request).actions.stop_run(current.actor, found)
    return RunName(name=found)


@router.post("/runs/{name}/resume", status_code=202)
def resume_run(request: Request, current: Operator, name: Name) -> RunName:
    """Put a run that is paused, stopped or failed back into the queue, to go on where it ended."""
    found = _found(request, current, name)
    context_of(request).actions.resume_run(current.actor, found)
    return RunName(name=found)


@router.get("/queue")
def show_queue(request: Request, current: Viewer) -> tuple[queues.Queued, ...]:
    """The runs that wait, in the order in which they start."""
    context = context_of(request)
    with context.store.read() as session:
        return queues.queue(session, time.time(), visible=current.visible, weights=context.weights)


@router.get("/compare")
def compare_runs(
    request: Request,
    current: Viewer,
    run: Annotated[list[str], Query(min_length=2, max_length=10, description="Names of two to ten runs.")],
) -> views.Compared:
    """Runs side by side: the settings in which they differ, their curves, what they used."""
    context = context_of(request)
    with context.store.read() as session:
        return views.compare(session, time.time(), run, visible=current.visible, prices=context.prices)


@router.get("/usage")
def show_usage(
    request: Request,
    current: Viewer,
    by: Annotated[Literal["run", "site", "project"], Query()] = "run",
    run: Annotated[str, Query(max_length=128)] = "",
    site: Annotated[str, Query(max_length=63)] = "",
    limit: Limit = 100,
) -> tuple[usages.UsageRow, ...]:
    """Energy where it was measured, time, bytes and cost; those that used most first."""
    context = context_of(request)
    with context.store.read() as session:
        return usages.usage(
            session, by=by, run=run, site=site, prices=context.prices, limit=limit, visible=current.visible
        )


def _found(request: Request, current: Current, name: str) -> str:
    """A run's own name, if who asks may see it."""
    with context_of(request).store.read() as session:
        return find_run(session, name, current.visible).name
