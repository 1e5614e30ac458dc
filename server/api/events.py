"""``/api/v1/events``: what changes, as server-sent events, within a second of the change."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from fl.errors import InputError
from server.api.auth import Current, current_user, signed_in
from server.api.context import Context, context_of
from server.api.errors import TooOftenError
from server.live import Batch, Change, as_event
from server.views.page import find_run

router = APIRouter(tags=["events"])

TOPICS = ("run", "round", "reply", "metric", "site", "model", "queue", "audit", "user")
OF_RUNS = frozenset({"run", "round", "reply", "metric", "model"})
OF_ADMINS = frozenset({"audit", "user"})
CHECK_EVERY_S = 60.0
"""Between two looks at whether the watcher may still watch."""


class EventStream(StreamingResponse):
    """Said as its own type, so that the OpenAPI document names it."""

    media_type = "text/event-stream"


@router.get("/events", response_class=EventStream)
async def events(
    request: Request,
    run: Annotated[str, Query(max_length=128, description="Only of this run.")] = "",
    topic: Annotated[list[str] | None, Query(description=f"Only these topics: {', '.join(TOPICS)}.")] = None,
    last_event_id: Annotated[str, Header(max_length=64)] = "",
) -> EventStream:
    """Tell what changes, from now on, or from `Last-Event-ID` on.

    An event's name is its topic, its data JSON: `topic`, `name`, `at_s` and what is new. An event `again` says that
    changes were missed: load everything again. A comment comes every 15 s.
    """
    context = context_of(request)
    current = await run_in_threadpool(current_user, request)
    if unknown := set(topic or ()) - set(TOPICS):
        raise InputError(f"no topic {sorted(unknown)[0][:40]}", hint=f"one of {', '.join(TOPICS)}")
    name = await run_in_threadpool(_name, context, current, run) if run else ""
    if context.live.watching >= context.access.viewers:
        raise TooOftenError(f"{context.live.watching} live views are open, as many as may be", again_after_s=30)
    topics = frozenset(topic or TOPICS)

    def wants(change: Change) -> bool:
        if change.topic not in topics or (name and (change.topic not in OF_RUNS or change.name != name)):
            return False
        return may_see(current, change)

    return EventStream(
        _stream(request, context.live.watch(wants, since=last_event_id)), headers={"X-Accel-Buffering": "no"}
    )


def may_see(current: Current, change: Change) -> bool:
    """Whether somebody may be told of a change."""
    if change.topic in OF_ADMINS:
        return current.may("admin")
    return current.visible is None or change.topic not in OF_RUNS or change.project in current.visible


async def _stream(request: Request, batches: AsyncIterator[Batch]) -> AsyncIterator[bytes]:
    """The batches as text. Whoever may no longer watch is cut off within a minute or so."""
    checked = time.monotonic()
    async for batch in batches:
        if time.monotonic() - checked > CHECK_EVERY_S:
            checked = time.monotonic()
            if await run_in_threadpool(signed_in, request) is None:
                return
        yield as_event(batch)


def _name(context: Context, current: Current, run: str) -> str:
    with context.store.read() as session:
        return find_run(session, run, current.visible).name
