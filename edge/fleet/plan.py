"""What an apply would do at a site, in words. Pure: from answers and pyinfra's dry run to differences."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from edge.fleet import gate, skew
from edge.fleet.wanted import Wanted

KINDS = ("host", "cluster", "image", "helm", "identity", "policy")


@dataclasses.dataclass(frozen=True, slots=True)
class SitePlan:
    """What would be done at one site."""

    site: str
    error: str
    """Why nothing can be said about it; empty else."""
    kind: str
    """Of the error: ``unreachable``, ``refused`` or ``failed``."""
    version: str
    """What runs there; empty for nothing."""
    changes: Mapping[str, list[str]]
    """By ``KINDS``."""
    commands: tuple[str, ...]
    """What would be run there."""
    diff: str
    """Of the chart's values, as a unified diff."""
    warnings: tuple[str, ...] = ()
    """What else a person should know."""

    @property
    def is_changing(self) -> bool:
        """Whether anything would be done."""
        return any(self.changes.values())

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return dataclasses.asdict(self)


def failed(site: str, kind: str, error: str) -> SitePlan:
    """The plan of a site that did not answer."""
    return SitePlan(site, error, kind, "", {}, (), "")


def planned(wanted: Wanted, result: Mapping[str, Any], centre: str) -> SitePlan:
    """A site's plan.

    Args:
        wanted: The site as it shall be.
        result: The worker's answer: survey and changes.
        centre: fedfleet's version at the centre; empty if it could not be asked.
    """
    answers = result["answers"]
    changes: dict[str, list[str]] = {kind: [] for kind in KINDS}
    commands = []
    for change in result["changes"]:
        kind, _, words = change["name"].rpartition("| ")[2].partition(": ")
        changes[kind].append(words)
        commands += change["commands"]
    release = gate.release_of(answers, wanted)
    return SitePlan(
        site=wanted.site.id,
        error="",
        kind="",
        version=str(release["app_version"]) if release else "",
        changes={kind: words for kind, words in changes.items() if words},
        commands=tuple(commands),
        diff=_diff(answers, wanted),
        warnings=tuple(_warnings(answers, wanted, release, centre)),
    )


def _diff(answers: Mapping[str, Any], wanted: Wanted) -> str:
    old = gate.answer_of(answers, "TextOf") or ""
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), wanted.values.splitlines(keepends=True), "values, there", "values, wanted"
    )
    return "".join(lines)


def _warnings(answers: Mapping[str, Any], wanted: Wanted, release: Mapping[str, Any] | None, centre: str) -> list[str]:
    found = []
    if release is not None and release["status"].startswith("pending"):
        found.append(f"the release is {release['status']}: somebody's helm was killed; apply brings it back first")
    if centre and (words := skew.problem(centre, wanted.version)):
        found.append(words)
    disk = gate.answer_of(answers, "DiskOf")
    missing = sum(size for name, size in wanted.blobs.items() if name not in (gate.answer_of(answers, "Blobs") or {}))
    # Blobs, and images unpacked from them.
    if disk is not None and disk["free_mib"] < 3 * missing >> 20:
        found.append(f"{disk['free_mib']} MiB are free, about {3 * missing >> 20} are needed")
    return found
