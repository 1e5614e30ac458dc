"""Packages that an install may lack: torch and its company come with an extra, as a server needs none."""

from __future__ import annotations

import importlib.util

from fl.errors import TaskError


def require(*modules: str) -> None:
    """Refuse to go on without these modules.

    Raises:
        TaskError: Naming the first that is not installed, with the line that installs it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise TaskError(f"{module} is not installed here", hint="pip install 'fedfleet[torch]'")
