"""What a run was made with: versions, machine, and the commit of the directory that it was started in."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = ("fedfleet", "flwr", "numpy", "torch", "cryptography")
GIT_LIMIT_S = 5.0
"""A work tree on a slow disk is not worth more."""


def environment(directory: Path | None = None) -> dict[str, Any]:
    """Versions and machine of this process, stored with the run.

    Args:
        directory: Whose state in git is told, if it has one; the working directory without it.
    """
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "packages": {name: _installed(name) for name in PACKAGES},
    }
    if git := git_state(directory or Path.cwd()):
        found["git"] = git
    return found


def git_state(directory: Path) -> dict[str, Any] | None:
    """The ``commit`` that a directory is at, and whether tracked files are ``dirty``: changed since.

    ``None`` where there is no repository, no commit or no git; nothing is printed, and git writes nothing.
    """
    try:
        told = subprocess.run(
            [
                "git",
                "-C",
                str(directory),
                "-c",
                "core.fsmonitor=false",
                "status",
                "--porcelain=v2",
                "--branch",
                "--untracked-files=no",
            ],
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_LIMIT_S,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    lines = told.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid ")), "")
    if not commit or commit.startswith("("):  # ``(initial)``: nothing was committed yet
        return None
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}


@functools.cache
def _installed(package: str) -> str | None:
    """The version in this process, read once: a sweep makes many journals."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
