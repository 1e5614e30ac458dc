"""Whether a host reaches the gateway: name, route, proxy."""

from __future__ import annotations

import dataclasses
import re
import shlex

from pyinfra.api.facts import FactBase

REASONS = {
    5: "the proxy's name is not known",
    6: "the name is not known",
    7: "the connection was refused",
    28: "no answer within 10 s",
    56: "the proxy refused",
    97: "the proxy refused",
}
"""Exit statuses of curl that mean: not reached. Any other got as far as the gateway, which wants a site's key."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reach:
    """How far a host got."""

    is_reached: bool | None
    """``None`` when the host cannot tell: it has no curl."""
    reason: str


class Resolves(FactBase[tuple[str, ...]]):
    """Addresses of a name, as the host sees them."""

    def command(self, host: str) -> str:
        """Through the system's resolver, ``/etc/hosts`` included."""
        return f"timeout 10 getent ahosts {shlex.quote(host)} || true"

    @staticmethod
    def default() -> tuple[str, ...]:
        """None."""
        return ()

    def process(self, output: list[str]) -> tuple[str, ...]:
        """Each once, in order."""
        return tuple(dict.fromkeys(line.split()[0] for line in output if line.strip()))


class Reaches(FactBase[Reach]):
    """Whether a connection to the gateway comes about."""

    def command(self, address: str, proxy: str = "") -> str:
        """Curl's exit status is the answer."""
        through = f"--proxy {shlex.quote(proxy)}" if proxy else "--noproxy '*'"
        ask = f"curl -sk -o /dev/null --connect-timeout 10 --max-time 15 {through} {shlex.quote(f'https://{address}/')}"
        return f"if command -v curl >/dev/null; then {ask}; echo curl $?; else echo none; fi"

    @staticmethod
    def default() -> Reach:
        """Nothing known."""
        return Reach(None, "no answer")

    def process(self, output: list[str]) -> Reach:
        """See ``REASONS``."""
        found = re.fullmatch(r"curl (\d+)", output[-1].strip())
        if not found:
            return Reach(None, "the host has no curl")
        status = int(found[1])
        return Reach(False, REASONS[status]) if status in REASONS else Reach(True, "")
