"""How commands change users: through the control room that runs, or in the store of a home where none does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from server.audit import Actor
from server.commands.acting import operator
from server.commands.room import choose_home, maybe
from server.home import choose
from server.people import NewToken, People
from server.views.models import UserRow, users

if TYPE_CHECKING:
    from server import client


class Changes(Protocol):
    """What there is to do; see ``server.people.People``."""

    def users(self) -> Sequence[UserRow]:
        """Everybody."""

    def add_user(self, name: str, role: str, projects: Sequence[str]) -> None:
        """Make a user."""

    def set_role(self, name: str, role: str, projects: Sequence[str] | None) -> None:
        """Change what a user may do."""

    def change_user(self, name: str, what: str) -> None:
        """``disable`` or ``enable`` a user."""

    def add_token(self, user: str, name: str, days: float) -> NewToken | client.NewToken:
        """Make an access token."""

    def revoke_token(self, user: str, id: str) -> None:
        """End an access token."""


class InStore:
    """The changes in a store."""

    def __init__(self, people: People) -> None:
        self._people, self._actor = people, Actor(who=operator(), via="cli")

    def users(self) -> Sequence[UserRow]:
        """Everybody."""
        with self._people.store.read() as session:
            return users(session)

    def add_user(self, name: str, role: str, projects: Sequence[str]) -> None:
        """Make a user."""
        self._people.add_user(self._actor, name, role, projects)

    def set_role(self, name: str, role: str, projects: Sequence[str] | None) -> None:
        """Change what a user may do."""
        self._people.set_role(self._actor, name, role, projects)

    def change_user(self, name: str, what: str) -> None:
        """``disable`` or ``enable`` a user."""
        change = self._people.disable_user if what == "disable" else self._people.enable_user
        change(self._actor, name)

    def add_token(self, user: str, name: str, days: float) -> NewToken:
        """Make an access token."""
        return self._people.add_token(self._actor, user, name, days=days)

    def revoke_token(self, user: str, id: str) -> None:
        """End an access token."""
        self._people.revoke_token(self._actor, user, id)


@contextlib.contextmanager
def people(home: Path | None, server: str | None, token_file: Path | None, ca: Path | None) -> Iterator[Changes]:
    """The control room that runs, or the store of a home where none does: somebody has to be the first.

    Raises:
        ConfigError: If neither is there.
    """
    with maybe(choose_home(home), server, token_file, ca) as room:
        if room is not None:
            yield room
            return
    store = choose(home).open_store()
    try:
        yield InStore(People(store))
    finally:
        store.close()
