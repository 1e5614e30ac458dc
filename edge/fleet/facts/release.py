"""The site's Helm release, its images, and what the fleet wrote down on the host."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from typing import Any

from pyinfra.api.facts import FactBase

from edge.fleet import tools

PENDING = ("pending-install", "pending-upgrade", "pending-rollback")


@dataclasses.dataclass(frozen=True, slots=True)
class Revision:
    """One revision of a release."""

    revision: int
    status: str
    chart: str
    app_version: str
    digest: str
    """Of chart, values and images together, as the fleet wrote it into the description; empty if somebody else did."""


@dataclasses.dataclass(frozen=True, slots=True)
class Release:
    """A release with its history, oldest first."""

    revisions: tuple[Revision, ...]

    @property
    def now(self) -> Revision:
        """The latest revision."""
        return self.revisions[-1]

    @property
    def is_pending(self) -> bool:
        """Whether an operation was begun and never ended: helm was killed, or still works."""
        return self.now.status in PENDING

    @property
    def last_good(self) -> Revision | None:
        """The revision that runs, or ran last."""
        for revision in reversed(self.revisions):
            if revision.status == "deployed":
                return revision
        good = [revision for revision in self.revisions if revision.status == "superseded"]
        return good[-1] if good else None


class HelmRelease(FactBase[Release | None]):
    """History of a release; ``None`` if there is none, or no Helm."""

    def command(self, helm: str, release: str, namespace: str) -> str:
        """``history`` has status, versions and description in one answer."""
        names = f"{shlex.quote(release)} -n {shlex.quote(namespace)}"
        return f"timeout 30 {helm} history {names} --max 10 -o json 2>/dev/null || true"

    def process(self, output: list[str]) -> Release | None:
        """A rollback's revision has the digest of the one it went back to."""
        try:
            entries: list[dict[str, Any]] = json.loads("\n".join(output) or "[]")
        except ValueError:
            return None
        digests: dict[int, str] = {}
        revisions = []
        for entry in sorted(entries, key=lambda entry: int(entry["revision"])):
            number, said = int(entry["revision"]), entry.get("description", "")
            ours = re.search(r"fedfleet ([0-9a-f]{16})", said)
            back = re.search(r"Rollback to (\d+)", said)
            digests[number] = ours[1] if ours else digests.get(int(back[1]), "") if back else ""
            revisions.append(
                Revision(number, entry["status"], entry.get("chart", ""), entry.get("app_version", ""), digests[number])
            )
        return Release(tuple(revisions)) if revisions else None


class HelmVersion(FactBase[str | None]):
    """Version of Helm on the host; ``None`` without one."""

    def command(self) -> str:
        """The short form has no commit."""
        return "helm version --template '{{.Version}}' 2>/dev/null || true"

    def process(self, output: list[str]) -> str | None:
        """``v4.1.4``."""
        return output[0].strip() or None


class Images(FactBase[dict[str, str]]):
    """Images that containerd has: digest by reference."""

    def command(self, ctr: str) -> str:
        """The table; ``ls -q`` would leave the digests out."""
        return f"{ctr} images ls 2>/dev/null || true"

    @staticmethod
    def default() -> dict[str, str]:
        """None."""
        return {}

    def process(self, output: list[str]) -> dict[str, str]:
        """``REF TYPE DIGEST SIZE …``."""
        rows = [line.split() for line in output]
        return {row[0]: row[2] for row in rows if len(row) > 3 and row[2].startswith("sha256:")}


class Blobs(FactBase[dict[str, int]]):
    """Bundle files that lie on the host, whole or in part: size by name."""

    def command(self) -> str:
        """Those in part end in ``.part``."""
        return f"cd {tools.BLOBS} 2>/dev/null && stat -c '%n %s' -- * 2>/dev/null; true"

    @staticmethod
    def default() -> dict[str, int]:
        """None."""
        return {}

    def process(self, output: list[str]) -> dict[str, int]:
        """Name and size."""
        rows = [line.rsplit(" ", 1) for line in output]
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}


class InstalledParts(FactBase[frozenset[str]]):
    """What the fleet installed on this host, as it wrote down before it did; nothing else may be removed."""

    def command(self) -> str:
        """A file a part."""
        return f"ls {tools.INSTALLED} 2>/dev/null || true"

    @staticmethod
    def default() -> frozenset[str]:
        """Nothing."""
        return frozenset()

    def process(self, output: list[str]) -> frozenset[str]:
        """By name."""
        return frozenset(line.strip() for line in output if line.strip())
