"""Which versions work together: a centre with sites one minor version behind and one ahead."""

from __future__ import annotations

import re


def problem(centre: str, site: str) -> str:
    """Why two versions do not go together; empty if they do.

    Example:
        >>> problem("0.4.0", "0.3.9"), problem("0.4.0", "0.5.1")
        ('', '')
        >>> problem("0.5.0", "0.3.0")
        'the centre is 0.5.0 and the site 0.3.0: one minor version apart is the most'
    """
    ours, theirs = _parts(centre), _parts(site)
    if ours is None or theirs is None:
        return f"{centre if ours is None else site} is no version"
    if ours[0] != theirs[0]:
        return f"the centre is {centre} and the site {site}: another major version"
    if abs(ours[1] - theirs[1]) > 1:
        return f"the centre is {centre} and the site {site}: one minor version apart is the most"
    return ""


def _parts(version: str) -> tuple[int, int] | None:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None
