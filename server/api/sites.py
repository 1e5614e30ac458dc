"""Sites: look, invite, let in, quarantine, revoke."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field

from fl.errors import InputError
from fl.link.token import JoinToken
from server.api.auth import SiteKeeper, Viewer
from server.api.context import context_of
from server.views import fleet as views
from server.views.page import MOST

router = APIRouter(tags=["sites"])

Id = Annotated[str, InPath(max_length=63, description="A site's id.")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewSite(_Strict):
    """A site to invite."""

    id: Annotated[str, Field(min_length=1, max_length=63)]
    hours: Annotated[float | None, Field(gt=0, le=720, description="How long its join token can be used.")] = None


class Invitation(BaseModel):
    """A join token: shown once, works once. Send it as you would a password."""

    site: str
    token: str
    expires_s: float


class Approval(_Strict):
    """Let a site in: with the fingerprint that its owner sees."""

    fingerprint: Annotated[str, Field(min_length=1, max_length=64)]


class Again(_Strict):
    """Another join token."""

    hours: Annotated[float | None, Field(gt=0, le=720, description="How long its join token can be used.")] = None


class NewId(_Strict):
    """A site's new id."""

    id: Annotated[str, Field(min_length=1, max_length=63)]


class Labels(_Strict):
    """Labels to give a site, and to take away."""

    labels: Annotated[
        dict[str, Annotated[str, Field(max_length=63)] | None],
        Field(max_length=50, description="New values; null takes a label away; others stay."),
    ]


class Because(_Strict):
    """Why; the site's owner gets to read it."""

    reason: Annotated[str, Field(max_length=500)] = ""


@router.get("/sites")
def list_sites(
    request: Request,
    current: Viewer,
    text: Annotated[str, Query(max_length=128, description="Part of an id, of the words or of a label.")] = "",
    state: Annotated[str, Query(max_length=16, description="A condition, a level or a state.")] = "",
    label: Annotated[list[str] | None, Query(max_length=20, description="`key=value`, all of them.")] = None,
    limit: Annotated[int, Query(ge=1, le=MOST)] = MOST,
    after: Annotated[str, Query(max_length=63, description="`next` of the page before.")] = "",
) -> views.Fleet:
    """The sites by id, each with its condition in words and what to type."""
    labels = labels_from(label or ())
    with context_of(request).store.read() as session:
        return views.fleet(
            session,
            time.time(),
            text=text,
            state=state,
            labels=labels,
            limit=limit,
            after=after,
            visible=current.visible,
        )


@router.get("/sites/{id}")
def show_site(request: Request, current: Viewer, id: Id) -> views.SiteDetail:
    """One site in full."""
    with context_of(request).store.read() as session:
        return views.site(session, time.time(), id, visible=current.visible)


@router.post("/sites", status_code=201)
def add_site(request: Request, current: SiteKeeper, wanted: NewSite) -> Invitation:
    """Invite a site: the answer has its join token, which is shown this once."""
    return _invitation(context_of(request).actions.add_site(current.actor, wanted.id, hours=wanted.hours))


@router.post("/sites/{id}/approve", status_code=204)
def approve_site(request: Request, current: SiteKeeper, id: Id, given: Approval) -> None:
    """Let a site in that waits."""
    _check(request, current, id)
    context_of(request).actions.approve(current.actor, id, given.fingerprint)


@router.post("/sites/{id}/refuse", status_code=204)
def refuse_site(request: Request, current: SiteKeeper, id: Id, given: Because) -> None:
    """Say no to a site that waits; its token is used up."""
    _check(request, current, id)
    context_of(request).actions.refuse(current.actor, id, given.reason)


@router.post("/sites/{id}/quarantine", status_code=204)
def quarantine_site(request: Request, current: SiteKeeper, id: Id, given: Because) -> None:
    """Give a site no more work; it stays connected."""
    _check(request, current, id)
    context_of(request).actions.quarantine(current.actor, id, given.reason)


@router.post("/sites/{id}/release", status_code=204)
def release_site(request: Request, current: SiteKeeper, id: Id) -> None:
    """End a quarantine."""
    _check(request, current, id)
    context_of(request).actions.release(current.actor, id)


@router.post("/sites/{id}/revoke", status_code=204)
def revoke_site(request: Request, current: SiteKeeper, id: Id, given: Because) -> None:
    """Let a site in no longer, from its next message on; its keys never come back."""
    _check(request, current, id)
    context_of(request).actions.revoke(current.actor, id, given.reason)


@router.post("/sites/{id}/rejoin")
def rejoin_site(request: Request, current: SiteKeeper, id: Id, given: Again) -> Invitation:
    """Another join token for a site that lost its keys, slept too long, or was revoked; shown this once."""
    _check(request, current, id)
    return _invitation(context_of(request).actions.rejoin_site(current.actor, id, hours=given.hours))


@router.post("/sites/{id}/rename")
def rename_site(request: Request, current: SiteKeeper, id: Id, given: NewId) -> Invitation:
    """Give a site another id; it is out until it joins again, with the token of the answer."""
    _check(request, current, id)
    token, _ = context_of(request).actions.rename_site(current.actor, id, given.id)
    return _invitation(token)


@router.patch("/sites/{id}/labels", status_code=204)
def label_site(request: Request, current: SiteKeeper, id: Id, given: Labels) -> None:
    """Give a site labels, by which runs choose sites."""
    _check(request, current, id)
    context_of(request).actions.label(current.actor, id, given.labels)


def _invitation(token: JoinToken) -> Invitation:
    return Invitation(site=token.site, token=token.encode(), expires_s=float(token.expires_s))


def labels_from(given: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Labels written as ``key=value``.

    Raises:
        InputError: If one has no ``=``.
    """
    labels = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"label {text[:80]!r} is none", hint="key=value")
        labels[key] = value
    return labels


def _check(request: Request, current: SiteKeeper, id: str) -> None:
    """Refuse a site that is not there, as such."""
    with context_of(request).store.read() as session:
        views.site(session, time.time(), id, visible=current.visible)
