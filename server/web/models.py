"""Pages of models and of the audit."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from fl.errors import FLError
from server import audit
from server.api.context import context_of
from server.api.models import check_alias
from server.views import models as views
from server.web.page import back_to, changing, draw, number, signed

router = APIRouter()

Field = Annotated[str, Form(max_length=128)]


@router.get("/models")
def list_models(request: Request, run: str = "", after: str = "") -> Response:
    """The models that are kept, and their names."""
    current = signed(request)
    with context_of(request).store.read() as session:
        found = views.models(session, run=run, after=after, visible=current.visible)
        aliases = views.aliases(session, visible=current.visible)
        moves = {alias.name: views.alias_history(session, alias.name, visible=current.visible) for alias in aliases}
    return draw(request, "models.html", current, models=found, aliases=aliases, moves=moves, run=run)


@router.post("/models/promote")
def promote(request: Request, csrf: Field = "", model: Field = "", name: Field = "") -> Response:
    """Have a name point at a model."""
    current, context = changing(request, csrf), context_of(request)
    current.check("operator")
    with context.store.read() as session:
        found = views.model(session, str(number(model, "model", least=1, most=2**31 - 1)), visible=current.visible)
    check_alias(request, current, name)
    context.actions.set_alias(current.actor, name, found.number)
    return back_to("/models", f"{name} is model {found.number}")


@router.post("/models/roll-back")
def roll_back(request: Request, csrf: Field = "", name: Field = "") -> Response:
    """Have a name point at the model before."""
    current = changing(request, csrf)
    current.check("operator")
    check_alias(request, current, name, must_exist=True)
    context_of(request).actions.roll_back_alias(current.actor, name)
    return back_to("/models", f"{name} was moved back")


@router.get("/audit")
def show_audit(
    request: Request, who: str = "", action: str = "", subject: str = "", after: str = "", verify: str = ""
) -> Response:
    """Every change of anything; with ``verify`` also whether the chain holds."""
    current = signed(request)
    current.check("admin")
    holds: tuple[int, str] | None = None
    problem: FLError | None = None
    with context_of(request).store.read() as session:
        found = views.audit(session, who=who[:64], action=action[:64], subject=subject[:128], after=after)
        if verify:
            try:
                holds = audit.verify(audit.rows(session))
            except FLError as err:
                problem = err
    asked = {"who": who, "action": action, "subject": subject}
    return draw(request, "audit.html", current, audit=found, holds=holds, problem=problem, asked=asked)
