"""What all operations share: a command with its timeout, and facts that were already asked."""

from __future__ import annotations

import shlex
from collections.abc import Generator
from typing import Any, TypeVar

from pyinfra.api.command import PyinfraCommand, StringCommand
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.facts import FactBase
from pyinfra.context import host

from edge.fleet import tools
from edge.fleet.facts.survey import name_of

T = TypeVar("T")

Commands = Generator[PyinfraCommand, None, None]
"""What an operation yields."""

ASKED = "fedfleet_facts"
"""Under this key a host remembers the answers of its last survey, until a command changes something."""

FACT_TIMEOUT_S = 60


class FactError(PyinfraError):
    """A host did not answer a question, so nothing can be concluded about it."""


def look(fact: type[FactBase[T]], **arguments: Any) -> T:
    """A fact about the host at work: from its survey while nothing was changed since, else asked now.

    Raises:
        FactError: If the host does not answer: a default value would make an operation install what is there.
    """
    known = host.connector_data.get(ASKED) or {}
    name = name_of(fact, arguments)
    if name in known:
        return known[name]  # type: ignore[no-any-return]
    answer: T = host.get_fact(fact, **arguments, _timeout=FACT_TIMEOUT_S)
    if host.state is not None and any(failed == host for failed in host.state.failed_hosts):
        raise FactError(f"no answer to {name}")
    return answer


def command(*words: str, timeout_s: int, stdin: str | None = None) -> StringCommand:
    """A shell command that ends within its time, at the host too.

    Args:
        words: Shell text; what comes from outside must be quoted.
        timeout_s: How long it may take. The host itself ends it then: a command whose connection broke would go on.
        stdin: What it reads; not in its arguments, so not in a log and not in a list of processes.
    """
    if host.state is not None and host.state.is_executing:
        host.connector_data[ASKED] = {}
    line = f"timeout -k 10 {timeout_s} sh -c {shlex.quote(' '.join(words))}"
    if stdin is None:
        return StringCommand(line, _timeout=timeout_s + 30)
    return StringCommand(line, _timeout=timeout_s + 30, _stdin=stdin)


def note(part: str) -> str:
    """Shell text that writes down, durably, that a part is about to be installed by us."""
    return f"mkdir -p {tools.INSTALLED} && touch {tools.INSTALLED}/{part} && sync {tools.INSTALLED} &&"


def blob(sha256: str) -> str:
    """Where a file of the bundle lies on the host."""
    return f"{tools.BLOBS}/{sha256}"
