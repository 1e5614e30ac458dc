"""Rollouts to the sites' hosts, as ``fl fleet`` tells of them: kept in the audit."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Request
from fastapi import Path as InPath
from pydantic import BaseModel, ConfigDict, Field

from server.api.auth import SiteKeeper
from server.api.context import context_of

router = APIRouter(tags=["sites"])

Fleet = Annotated[str, InPath(max_length=63, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="A fleet's name.")]


class RolloutNote(BaseModel):
    """What a rollout came to."""

    model_config = ConfigDict(extra="forbid")

    rollout: Annotated[str, Field(min_length=1, max_length=60, description="Its id.")]
    what: Literal["begin", "resume", "wave", "end", "rollback"]
    version: Annotated[str, Field(max_length=64, description="The release that sites get.")]
    status: Annotated[str, Field(max_length=32, description="Of the rollout now.")]
    wave: Annotated[str, Field(max_length=64, description="Which wave is done.")] = ""
    reason: Annotated[str, Field(max_length=500)] = ""
    sites: Annotated[
        dict[str, Annotated[int, Field(ge=0)]], Field(max_length=20, description="How many sites have each status.")
    ] = {}


@router.post("/fleets/{fleet}/rollouts", status_code=204)
def note_rollout(request: Request, current: SiteKeeper, fleet: Fleet, note: RolloutNote) -> None:
    """Write down that a rollout began, finished a wave, or ended."""
    facts = note.model_dump(exclude={"rollout", "what"}, exclude_defaults=True)
    context_of(request).actions.note_rollout(current.actor, f"{fleet}/{note.rollout}", note.what, facts)
