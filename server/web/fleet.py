"""Pages of sites: the fleet, and one site, with what may be done to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from fl.errors import InputError
from fl.report import words
from server.api.context import context_of
from server.api.sites import labels_from
from server.views import fleet as views
from server.views.runs import counts as run_counts
from server.views.usage import usage
from server.web.page import back_to, changing, draw, signed

router = APIRouter()

Text = Annotated[str, Form(max_length=500)]
MIB = 1 << 20
LEVELS = {
    "bad": ("needs somebody", "need somebody"),
    "warn": ("should be looked at", "should be looked at"),
    "good": ("works or is ready", "work or are ready"),
    "idle": ("rests", "rest"),
}
"""What is said of one site of a level, and of several."""


@router.get("/")
def show_fleet(request: Request, text: str = "", state: str = "", label: str = "", after: str = "") -> Response:
    """All sites on one screen."""
    current = signed(request)
    labels = labels_from(label.split())
    with context_of(request).store.read() as session:
        now_s = time.time()
        found = views.fleet(
            session, now_s, text=text[:128], state=state[:16], labels=labels, after=after[:63], visible=current.visible
        )
        runs = run_counts(session, visible=current.visible)
    return draw(
        request, "fleet.html", current, fleet=found, runs=runs, text=text, state=state, label=label, levels=LEVELS
    )


@router.get("/sites/{site}")
def show_site(request: Request, site: str) -> Response:
    """One site in full."""
    current, context = signed(request), context_of(request)
    with context.store.read() as session:
        found = views.site(session, time.time(), site, visible=current.visible)
        used = usage(session, by="site", site=site, prices=context.prices, visible=current.visible)
    facts = list(_words_of(found.facts))
    return draw(request, "site.html", current, site=found, facts=facts, used=used[0].amount if used else None)


@router.post("/sites/{site}/{change}")
def change_site(
    request: Request, site: str, change: str, csrf: Text = "", reason: Text = "", fingerprint: Text = ""
) -> Response:
    """Let a site in, keep it out, or let it back."""
    current = changing(request, csrf)
    current.check_sites()
    actions = context_of(request).actions
    with context_of(request).store.read() as session:
        views.site(session, time.time(), site, visible=current.visible)
    match change:
        case "approve":
            actions.approve(current.actor, site, fingerprint)
        case "refuse":
            actions.refuse(current.actor, site, reason)
        case "quarantine":
            actions.quarantine(current.actor, site, reason)
        case "release":
            actions.release(current.actor, site)
        case "revoke":
            actions.revoke(current.actor, site, reason)
        case _:
            raise InputError(f"a site cannot be {change[:40]!r}", hint="approve, refuse, quarantine, release, revoke")
    return back_to(f"/sites/{site}", f"{change}: done")


def _words_of(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What a site's probe found, as a page has it. It may say anything: what is unknown or no fact is left out."""
    for name, value in facts.items():
        if name.endswith("_mib") and isinstance(value, (int, float)) and not isinstance(value, bool):
            yield name.removesuffix("_mib").replace("_", " "), words.size(value * MIB)
        elif isinstance(value, bool):
            yield name.replace("_", " "), "yes" if value else "no"
        elif isinstance(value, (str, int, float)) and value != "":
            yield name.replace("_", " "), str(value)
