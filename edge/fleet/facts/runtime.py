"""Container runtimes that stand on a host beside those of K3s and MicroK8s."""

from __future__ import annotations

import re

from pyinfra.api.facts import FactBase

PROGRAMS = ("containerd", "dockerd", "crio", "podman")


class ContainerRuntimes(FactBase[dict[str, str]]):
    """Versions by program; one that does not say has an empty version."""

    def command(self) -> str:
        """A line a program that is there."""
        programs = " ".join(PROGRAMS)
        return (
            f'for p in {programs}; do command -v $p >/dev/null && echo "$p $($p --version 2>&1 | head -1)"; done; true'
        )

    @staticmethod
    def default() -> dict[str, str]:
        """None."""
        return {}

    def process(self, output: list[str]) -> dict[str, str]:
        """The first thing that looks like a version."""
        found = {}
        for line in output:
            program, _, rest = line.partition(" ")
            if program in PROGRAMS:
                version = re.search(r"\d+\.\d+(\.\d+)?", rest)
                found[program] = version[0] if version else ""
        return found
