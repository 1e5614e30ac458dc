"""Changes that a command makes in a server's home, control room or none: in the audit, as the API's are."""

from __future__ import annotations

import contextlib
import getpass
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from server.centre import Centre
from server.home import choose

if TYPE_CHECKING:
    from server.audit import Actor
    from server.site_actions import SiteActions


@contextlib.contextmanager
def acting(home: Path | None) -> Iterator[tuple[SiteActions, Actor]]:
    """What the API and the dashboard use too, on this home's store, and who sits here."""
    from server.audit import Actor
    from server.site_actions import SiteActions

    centre = Centre(choose(home))
    try:
        yield SiteActions(centre), Actor(who=operator(), via="cli")
    finally:
        centre.close()


def operator() -> str:
    """The name of whoever runs this command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user has no name
        return f"uid {os.getuid()}"
