"""What a rollout asks of the centre, and how: by its ``fl`` command, here or through ssh."""

from __future__ import annotations

import dataclasses
import datetime
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from edge.fleet import smoke
from edge.fleet.config import CentreSection
from fl.errors import UnreachableError

ONLINE_S = 150.0
"""A site that was heard of within this time is connected: links speak at least once a minute."""


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """A site as the centre sees it."""

    is_online: bool
    version: str
    """fedfleet's version there; empty if the site has not said."""
    is_waiting: bool = False
    """Whether it asked to be let in and nobody has said yes yet."""


class Centre(Protocol):
    """What a rollout asks of the centre.

    Each may raise ``UnreachableError``: the centre does not answer, or says no.
    """

    def version(self) -> str:
        """Fedfleet's version there."""

    def open_rounds(self) -> Mapping[str, int]:
        """The round that is open, by run; runs between two rounds are left out."""

    def sites(self) -> Mapping[str, Seen]:
        """All sites that the centre knows."""

    def join_token(self, site: str) -> str:
        """A new token with which that site can join, once."""

    def smoke(self, run_file: Path, sites: Sequence[str], timeout_s: float) -> str:
        """Submit a run that asks these sites and wait; empty if it completed, else why not.

        Raises:
            ConfigError: If the run file cannot be used.
        """


class CentreCommand:
    """A centre behind its ``fl`` command.

    Args:
        config: The fleet file's ``centre``.
    """

    def __init__(self, config: CentreSection) -> None:
        self._config = config

    def version(self) -> str:
        """See ``Centre``."""
        return str(self._ask(["version", "--json"], home=False)["fedfleet"])

    def open_rounds(self) -> Mapping[str, int]:
        """See ``Centre``."""
        found = {}
        for run in self._ask(["run", "list", "--json"]):
            if run["status"] != "running":
                continue
            rounds = self._ask(["run", "show", run["id"], "--json"]).get("rounds") or []
            # A Flower app of its own tells no rounds: as long as it runs, one may be open.
            if not rounds or rounds[-1]["state"] not in ("committed", "done"):
                found[str(run["id"])] = int(rounds[-1]["round"]) if rounds else 0
        return found

    def sites(self) -> Mapping[str, Seen]:
        """See ``Centre``."""
        now = datetime.datetime.now(datetime.UTC)
        return {entry["site"]: _seen(entry, now) for entry in self._ask(["site", "list", "--json"])}

    def join_token(self, site: str) -> str:
        """See ``Centre``."""
        known = self.sites()
        words = ["site", "rejoin" if site in known else "add", site, "--json"]
        return str(self._ask(words)["token"])

    def smoke(self, run_file: Path, sites: Sequence[str], timeout_s: float) -> str:
        """See ``Centre``."""
        text = smoke.text_for(run_file, sites)
        try:
            # Through standard input, because the centre's command may run on another computer.
            ended = self._ask(["run", "start", "/dev/stdin", "--json"], timeout_s=timeout_s, stdin=text)
        except UnreachableError as error:
            return error.message
        return "" if ended["status"] == "completed" else f"run {ended['run']} {ended['status']}"

    def _ask(self, words: Sequence[str], *, home: bool = True, timeout_s: float | None = None, stdin: str = "") -> Any:
        where = ["--home", self._config.home] if home and self._config.home else []
        argv = [*self._config.command, *words, *where]
        shown = " ".join(argv)
        timeout_s = self._config.timeout_s if timeout_s is None else timeout_s
        try:
            # What it prints can be a join token: it goes nowhere but into memory.
            done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, input=stdin, check=False)
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(f"the centre did not answer within {timeout_s:g} s to {shown}") from error
        except OSError as error:
            raise UnreachableError(
                f"cannot run {argv[0]}: {error.strerror}", hint="centre.command of the fleet file names the centre's fl"
            ) from error
        try:
            said = json.loads(done.stdout)
        except ValueError:
            said = None
        if done.returncode != 0 or said is None:
            words_of = (
                said.get("error") if isinstance(said, dict) else (done.stderr.strip().splitlines() or ["nothing"])[-1]
            )
            raise UnreachableError(f"the centre answers {shown} with: {words_of}")
        return said


def _seen(entry: Mapping[str, Any], now: datetime.datetime) -> Seen:
    online = False
    if entry.get("seen") and entry.get("state") == "active":
        seen = datetime.datetime.fromisoformat(str(entry["seen"]).replace("Z", "+00:00"))
        online = (now - seen).total_seconds() < ONLINE_S
    return Seen(online, str(entry.get("release") or ""), bool(entry.get("waiting")))
