"""Many facts in one question: over a bad link a round trip costs more than all commands together."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from pyinfra.api.facts import FactBase

Part = tuple[type[FactBase[Any]], Mapping[str, Any]]
"""A fact and its arguments."""


def name_of(fact: type[FactBase[Any]], arguments: Mapping[str, Any]) -> str:
    """How a fact with its arguments is remembered."""
    return f"{fact.__name__}({', '.join(f'{key}={arguments[key]}' for key in sorted(arguments))})"


class Survey:
    """A question of several parts.

    Args:
        parts: What to ask.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = tuple(parts)
        # A mark that no output can contain by accident or on purpose.
        self._mark = f"--{secrets.token_hex(8)}--"

    @property
    def command(self) -> str:
        """All parts as one shell script; a part that fails leaves the others alone."""
        asked = [fact().command(**arguments) for fact, arguments in self.parts]
        # A line of its own, also after an output that does not end one.
        mark = f"printf '\\n%s\\n' '{self._mark}'"
        return "\n".join(f"{mark}; ( {command}\n) 2>/dev/null </dev/null" for command in asked) + "\necho"

    def read(self, output: Sequence[str]) -> dict[str, Any]:
        """The answers by ``name_of``.

        Raises:
            ValueError: If the answer was cut off.
        """
        pieces: list[list[str]] = []
        for line in output:
            if line == self._mark:
                pieces.append([])
            elif pieces:
                pieces[-1].append(line)
        if len(pieces) != len(self.parts):
            raise ValueError(f"{len(pieces)} of {len(self.parts)} answers came back")
        answers = {}
        pieces = [piece[:-1] if piece[-1:] == [""] else piece for piece in pieces]
        for (fact, arguments), lines in zip(self.parts, pieces, strict=True):
            answers[name_of(fact, arguments)] = fact().process(lines) if lines else fact().default()
        return answers
