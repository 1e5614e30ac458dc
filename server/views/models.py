"""Models and their names, people, and the audit."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from server.store.runs import AccessToken, Alias, Audit, Metric, Model, Run, User
from server.views.page import NotFoundError, Page, Visible, check_limit, find_run, number_of, restrict


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """A model and where it comes from."""

    number: int
    run: str
    title: str
    project: str
    round: int
    digest: str
    """Of its file: SHA-256, or ``crc32:`` and a checksum, as the journal has it."""
    path: str
    """Where its file lies at the server."""
    size_bytes: int
    parameters: int
    schema_digest: str
    """SHA-256 over the task's options, which say what its data looks like."""
    app_digest: str
    """SHA-256 of the app that sites ran."""
    created_s: float
    aliases: tuple[str, ...]
    """Names that point at it now."""
    metrics: Mapping[str, Mapping[str, float | None]]
    """Of its round, by place and name."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AliasRow:
    """A name for a model."""

    name: str
    model: int
    run: str
    project: str
    by: str
    at_s: float
    before: int | None
    """The model that it pointed at before, which rolling back goes to; ``None`` if there was none."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AuditRow:
    """One change of anything."""

    number: int
    at_s: float
    who: str
    via: str
    address: str
    action: str
    subject: str
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    chain: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UserRow:
    """Somebody who may sign in."""

    name: str
    role: str
    projects: tuple[str, ...]
    """``*`` for all."""
    has_provider: bool
    """Whether they sign in at the identity provider."""
    created_s: float
    disabled_s: float | None
    tokens: tuple[TokenRow, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TokenRow:
    """An access token; its secret is nowhere."""

    id: str
    """First 12 characters of its hash, to name it by."""
    name: str
    created_s: float
    expires_s: float
    used_s: float | None
    revoked_s: float | None


def models(
    session: Session, *, run: str = "", limit: int = 50, after: str = "", visible: Visible = None
) -> Page[ModelRow]:
    """The models that are kept, the newest first.

    Raises:
        NotFoundError: If there is no such run, or it is not visible.
    """
    check_limit(limit)
    query = restrict(select(Model, Run).join(Run, Run.number == Model.run), visible)
    if run:
        query = query.where(Model.run == find_run(session, run, visible).number)
    if (last := number_of(after)) is not None:
        query = query.where(Model.number < last)
    found = session.execute(query.order_by(Model.number.desc()).limit(limit + 1)).all()
    names = _names(session)
    rows = tuple(_row(session, model, of, names) for model, of in found[:limit])
    return Page(rows, str(rows[-1].number) if len(found) > limit else None)


def model(session: Session, reference: str, *, visible: Visible = None) -> ModelRow:
    """A model by its number, or by a name that points at it.

    Raises:
        NotFoundError: If there is none, or its run is not visible.
    """
    number = int(reference) if reference.isascii() and reference.isdigit() and len(reference) < 10 else None
    names = _names(session)
    if number is None:
        number = next((of for of, given in names.items() if reference in given), None)
    query = select(Model, Run).join(Run, Run.number == Model.run).where(Model.number == number)
    found = session.execute(restrict(query, visible)).first() if number is not None else None
    if found is None:
        raise NotFoundError(f"no model {reference[:63]}", hint="fl model list")
    return _row(session, found[0], found[1], names)


def aliases(session: Session, *, visible: Visible = None) -> tuple[AliasRow, ...]:
    """The names, each with the model that it points at now."""
    newest = select(func.max(Alias.number)).group_by(Alias.name)
    query = (
        select(Alias, Run.name, Run.project)
        .join(Model, Model.number == Alias.model)
        .join(Run, Run.number == Model.run)
        .where(Alias.number.in_(newest))
        .order_by(Alias.name)
    )
    return tuple(
        AliasRow(
            name=alias.name,
            model=alias.model,
            run=run,
            project=project,
            by=alias.by,
            at_s=alias.at_s,
            before=model_before(session, alias.name),
        )
        for alias, run, project in session.execute(restrict(query, visible))
    )


def alias_history(session: Session, name: str, *, visible: Visible = None) -> tuple[AliasRow, ...]:
    """All moves of a name, the newest first."""
    query = (
        select(Alias, Run.name, Run.project)
        .join(Model, Model.number == Alias.model)
        .join(Run, Run.number == Model.run)
        .where(Alias.name == name)
        .order_by(Alias.number.desc())
    )
    found = session.execute(restrict(query, visible)).all()
    earlier = [alias.model for alias, _, _ in found[1:]]
    return tuple(
        AliasRow(
            name=alias.name, model=alias.model, run=run, project=project, by=alias.by, at_s=alias.at_s, before=before
        )
        for (alias, run, project), before in zip(found, [*earlier, None], strict=False)
    )


def audit(
    session: Session,
    *,
    who: str = "",
    action: str = "",
    subject: str = "",
    limit: int = 100,
    after: str = "",
) -> Page[AuditRow]:
    """Changes, the newest first.

    Args:
        session: A transaction that reads.
        who: Only by this user.
        action: Only this action, or those that begin with it and a dot: ``run`` for ``run.stop``.
        subject: Only to this.
        limit: Rows of the page.
        after: The number before which to go on.
    """
    check_limit(limit)
    query = select(Audit).order_by(Audit.number.desc()).limit(limit + 1)
    if who:
        query = query.where(Audit.who == who)
    if action:
        query = query.where((Audit.action == action) | Audit.action.startswith(f"{action}.", autoescape=True))
    if subject:
        query = query.where(Audit.subject == subject)
    if (last := number_of(after)) is not None:
        query = query.where(Audit.number < last)
    found = list(session.scalars(query))
    rows = tuple(audit_row(row) for row in found[:limit])
    return Page(rows, str(rows[-1].number) if len(found) > limit else None)


def audit_row(row: Audit) -> AuditRow:
    """A row of the audit."""
    return AuditRow(
        number=row.number,
        at_s=row.at_s,
        who=row.who,
        via=row.via,
        address=row.address,
        action=row.action,
        subject=row.subject,
        before=json.loads(row.before) if row.before else {},
        after=json.loads(row.after) if row.after else {},
        chain=row.chain,
    )


def users(session: Session) -> tuple[UserRow, ...]:
    """Everybody who may sign in, by name."""
    tokens: dict[int, list[TokenRow]] = defaultdict(list)
    for token in session.scalars(select(AccessToken).order_by(AccessToken.created_s)):
        tokens[token.user].append(
            TokenRow(
                id=token.sha256[:12],
                name=token.name,
                created_s=token.created_s,
                expires_s=token.expires_s,
                used_s=token.used_s,
                revoked_s=token.revoked_s,
            )
        )
    return tuple(
        UserRow(
            name=user.name,
            role=user.role,
            projects=tuple(json.loads(user.projects)),
            has_provider=user.subject is not None,
            created_s=user.created_s,
            disabled_s=user.disabled_s,
            tokens=tuple(tokens[user.number]),
        )
        for user in session.scalars(select(User).order_by(User.name))
    )


def model_before(session: Session, name: str) -> int | None:
    """Where a name pointed before, as if earlier steps back had not been taken: each step goes further back."""
    trail: list[int] = []
    for model in session.scalars(select(Alias.model).where(Alias.name == name).order_by(Alias.number)):
        if len(trail) > 1 and trail[-2] == model:
            trail.pop()
        elif not trail or trail[-1] != model:
            trail.append(model)
    return trail[-2] if len(trail) > 1 else None


def _names(session: Session) -> dict[int, tuple[str, ...]]:
    """By model: the names that point at it now."""
    newest = select(func.max(Alias.number)).group_by(Alias.name)
    names: dict[int, tuple[str, ...]] = {}
    for alias in session.scalars(select(Alias).where(Alias.number.in_(newest)).order_by(Alias.name)):
        names[alias.model] = (*names.get(alias.model, ()), alias.name)
    return names


def _row(session: Session, model: Model, run: Run, names: Mapping[int, tuple[str, ...]]) -> ModelRow:
    metrics: dict[str, dict[str, float]] = defaultdict(dict)
    for row in session.scalars(select(Metric).where(Metric.run == model.run, Metric.round == model.round)):
        metrics[row.place][row.name] = row.value
    return ModelRow(
        number=model.number,
        run=run.name,
        title=run.title,
        project=run.project,
        round=model.round,
        digest=model.digest,
        path=model.path,
        size_bytes=model.size_bytes,
        parameters=model.parameters,
        schema_digest=model.schema_digest,
        app_digest=model.app_digest,
        created_s=model.created_s,
        aliases=names.get(model.number, ()),
        metrics=metrics,
    )
