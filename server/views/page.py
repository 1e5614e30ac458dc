"""Lists in pages: the page knows the cursor of the next one, which is the last row's own key."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, Generic, TypeVar

from sqlalchemy import Select, false, select
from sqlalchemy.orm import Session

from fl.errors import FLError, InputError
from server.store.runs import Run

T = TypeVar("T")
Query = TypeVar("Query", bound="Select[*tuple[Any, ...]]")

Visible = Collection[str] | None
"""Projects whose runs may be seen; ``None`` for all."""

MOST = 1000
"""Rows of a page."""


class NotFoundError(FLError):
    """Something that is not there, or not for whom asked."""

    exit_status = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some rows of a list."""

    items: tuple[T, ...]
    next: str | None
    """Hand it back as ``after`` for the rows that follow; ``None`` at the end."""


def check_limit(limit: int) -> int:
    """A number of rows, if it is one.

    Raises:
        InputError: If it is below 1 or above ``MOST``.
    """
    if not 1 <= limit <= MOST:
        raise InputError(f"limit is {limit}, must be 1 to {MOST}", hint=f"limit={min(max(limit, 1), MOST)}")
    return limit


def number_of(after: str, *, what: str = "after") -> int | None:
    """A cursor that is a number; ``None`` for the beginning.

    Raises:
        InputError: If it is something else.
    """
    if not after:
        return None
    if not after.isascii() or not after.isdigit() or len(after) > 18:
        raise InputError(f"{what} is {after[:40]!r}, which no list has given out", hint=f"leave {what} out to begin")
    return int(after)


def restrict(query: Query, visible: Visible) -> Query:
    """A query over runs without those of projects that are not visible."""
    if visible is None:
        return query
    return query.where(Run.project.in_(sorted(visible))) if visible else query.where(false())


def find_run(session: Session, name: str, visible: Visible) -> Run:
    """A run by its name or number.

    Raises:
        NotFoundError: If there is none, or it is of a project that is not visible: both look the same.
    """
    row = session.scalar(select(Run).where(Run.name == name))
    if row is None and name.isascii() and name.isdigit() and len(name) < 10:
        row = session.get(Run, int(name))
    if row is None or (visible is not None and row.project not in visible):
        raise NotFoundError(f"no run {name[:128]}", hint="fl run list")
    return row
