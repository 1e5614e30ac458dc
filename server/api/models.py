"""Models: look, download, give a name to, move a name back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from server.api.auth import Current, Operator, Viewer
from server.api.context import context_of
from server.views import models as views
from server.views.page import MOST, NotFoundError, Page

router = APIRouter(tags=["models"])

Reference = Annotated[str, InPath(max_length=63, description="A model's number, or a name that points at it.")]
AliasName = Annotated[str, InPath(max_length=63, pattern=r"^[A-Za-z][A-Za-z0-9._-]{0,62}$")]


class Target(BaseModel):
    """The model that a name shall point at."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[int, Field(ge=1, le=2**31 - 1)]


class ModelFile(FileResponse):
    """A safetensors file."""

    media_type = "application/octet-stream"


@router.get("/models")
def list_models(
    request: Request,
    current: Viewer,
    run: Annotated[str, Query(max_length=128)] = "",
    limit: Annotated[int, Query(ge=1, le=MOST)] = 50,
    after: Annotated[str, Query(max_length=64, description="`next` of the page before.")] = "",
) -> Page[views.ModelRow]:
    """The models that are kept, the newest first, each with its lineage."""
    with context_of(request).store.read() as session:
        return views.models(session, run=run, limit=limit, after=after, visible=current.visible)


@router.get("/models/{reference}")
def show_model(request: Request, current: Viewer, reference: Reference) -> views.ModelRow:
    """One model."""
    return _model(request, current, reference)


@router.get("/models/{reference}/file", response_class=ModelFile)
def download_model(request: Request, current: Viewer, reference: Reference) -> ModelFile:
    """A model's file, safetensors; its `ETag` is its digest."""
    found = _model(request, current, reference)
    path = Path(found.path)
    if not path.is_file():
        raise NotFoundError(
            f"the file of model {found.number} is gone: {path.name}", hint="a named model is kept: fl model promote"
        )
    return ModelFile(path, filename=f"{found.run}-round-{found.round}.safetensors", headers={"ETag": found.digest})


@router.get("/aliases")
def list_aliases(request: Request, current: Viewer) -> tuple[views.AliasRow, ...]:
    """The names of models, each with the one that it points at now."""
    with context_of(request).store.read() as session:
        return views.aliases(session, visible=current.visible)


@router.get("/aliases/{name}")
def show_alias(request: Request, current: Viewer, name: AliasName) -> tuple[views.AliasRow, ...]:
    """All moves of a name, the newest first."""
    with context_of(request).store.read() as session:
        return views.alias_history(session, name, visible=current.visible)


@router.put("/aliases/{name}", status_code=204)
def set_alias(request: Request, current: Operator, name: AliasName, target: Target) -> None:
    """Have a name point at a model."""
    found = _model(request, current, str(target.model))
    check_alias(request, current, name)
    context_of(request).actions.set_alias(current.actor, name, found.number)


@router.post("/aliases/{name}/rollback", status_code=204)
def roll_back_alias(request: Request, current: Operator, name: AliasName) -> None:
    """Have a name point at the model before."""
    check_alias(request, current, name, must_exist=True)
    context_of(request).actions.roll_back_alias(current.actor, name)


def _model(request: Request, current: Current, reference: str) -> views.ModelRow:
    with context_of(request).store.read() as session:
        return views.model(session, reference, visible=current.visible)


def check_alias(request: Request, current: Current, name: str, *, must_exist: bool = False) -> None:
    """Refuse to move a name away from a model of a project that who asks cannot see."""
    with context_of(request).store.read() as session:
        exists = any(alias.name == name for alias in views.aliases(session))
        is_visible = any(alias.name == name for alias in views.aliases(session, visible=current.visible))
    if (exists and not is_visible) or (must_exist and not exists):
        raise NotFoundError(f"no alias {name}", hint="fl model list")
