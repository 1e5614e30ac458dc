"""A rollout's state on disk: what is wanted, which site is where; written before and after what changes a site."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from edge.fleet.config import Fleet
from edge.fleet.wanted import Wanted
from edge.fleet.waves import waves_of
from fl.config import load, to_dict
from fl.errors import ConfigError, InputError
from fl.files import Lock, write_atomic

FORMAT = 1

SiteStatus = Literal[
    "waiting",
    "staging",
    "staged",
    "releasing",
    "released",
    "done",
    "unchanged",
    "deferred",
    "failed",
    "unhealthy",
    "rolled back",
]
Status = Literal["running", "paused", "stopped", "completed", "rolled back"]

UNTOUCHED = ("waiting", "staging", "staged", "unchanged", "rolled back")
"""Statuses of sites whose release is the one from before the rollout."""


@dataclasses.dataclass(slots=True, kw_only=True)
class SiteState:
    """Where a site is."""

    status: SiteStatus = "waiting"
    reason: str = ""
    """Why, in words."""
    before: int | None = None
    """Revision that ran before this rollout; ``None``: none did."""
    is_known: bool = False
    """Whether ``before`` was looked up: without that nothing is rolled back."""
    is_enrolling: bool = False
    """Whether it got a join token in this rollout."""
    changed: bool = False
    """Whether anything was changed at it."""
    seconds: float = 0.0
    """How long was worked on it."""
    step: str = ""
    """What it is at."""


@dataclasses.dataclass(slots=True, kw_only=True)
class WaveState:
    """A wave."""

    name: str
    parallel: int
    sites: tuple[str, ...]
    is_done: bool = False


@dataclasses.dataclass(slots=True, kw_only=True)
class RolloutState:
    """A rollout."""

    format: int = FORMAT
    id: str
    fleet: str
    version: str
    digests: dict[str, str]
    """What each site gets; a rollout goes on only with the same."""
    force: bool = False
    """Whether rounds are not waited for."""
    status: Status = "running"
    reason: str = ""
    started: str
    ended: str = ""
    smoke: str = ""
    """How the smoke run went; empty until there was one."""
    waves: tuple[WaveState, ...]
    sites: dict[str, SiteState]

    def of(self, *statuses: str) -> list[str]:
        """Sites with one of these statuses, in the file's order."""
        return [name for name, site in self.sites.items() if site.status in statuses]

    def counts(self) -> dict[str, int]:
        """How many sites have each status."""
        counts: dict[str, int] = {}
        for site in self.sites.values():
            counts[site.status] = counts.get(site.status, 0) + 1
        return counts


def begin(fleet: Fleet, wanted: Mapping[str, Wanted], *, force: bool) -> RolloutState:
    """A new rollout, of the sites that are wanted."""
    sites = [site for site in fleet.sites if site.id in wanted]
    waves = tuple(
        WaveState(name=wave.name, parallel=wave.parallel, sites=tuple(names))
        for wave, names in waves_of(fleet.rollout.waves, sites)
    )
    started = datetime.datetime.now(datetime.UTC)
    return RolloutState(
        id=started.strftime("%Y%m%d-%H%M%S"),
        fleet=fleet.fleet.name,
        version=fleet.release.version,
        digests={name: one.digest for name, one in wanted.items()},
        force=force,
        started=now(),
        waves=waves,
        sites={site.id: SiteState() for site in sites},
    )


def now() -> str:
    """This moment, UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


class Store:
    """The directory of one fleet: its lock, the present rollout, the history.

    Args:
        home: Directory of all fleets.
        fleet: Name of this one.
    """

    def __init__(self, home: Path, fleet: str) -> None:
        self.directory = home / fleet
        self.lock = Lock(self.directory / "lock", hint="fl fleet status shows what is going on; fl fleet pause ends it")

    @property
    def log(self) -> Path:
        """What pyinfra says."""
        return self.directory / "worker.log"

    def create(self) -> None:
        """Make the directory."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)

    def load(self) -> RolloutState | None:
        """The latest rollout, if there was one.

        Raises:
            InputError: If the file is damaged or from a newer version.
        """
        path = self.directory / "rollout.json"
        try:
            values: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error}") from error
        if values.get("format") != FORMAT:
            raise InputError(f"{path} has format {values.get('format')}, this fl reads {FORMAT}")
        try:
            sites = {name: load(SiteState, site) for name, site in values.pop("sites").items()}
            return load(RolloutState, {**values, "sites": sites})
        except (ConfigError, KeyError) as error:
            raise InputError(f"{path} is damaged: {error}") from error

    def save(self, rollout: RolloutState) -> None:
        """Write the rollout down; a crash leaves the old or the new one."""
        values = to_dict(rollout)
        write_atomic(self.directory / "rollout.json", json.dumps(values, indent=1) + "\n", mode=0o600)

    def conclude(self, rollout: RolloutState) -> None:
        """Add a rollout that has ended to the history."""
        entry = {
            "id": rollout.id,
            "version": rollout.version,
            "status": rollout.status,
            "reason": rollout.reason,
            "started": rollout.started,
            "ended": rollout.ended,
            "smoke": rollout.smoke,
            "sites": rollout.counts(),
            "trouble": {name: site.reason for name, site in rollout.sites.items() if site.reason},
        }
        with (self.directory / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def history(self) -> Iterator[dict[str, Any]]:
        """Rollouts that have ended, oldest first; a line that was cut off by a crash is passed over."""
        try:
            lines = (self.directory / "history.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        for line in lines:
            try:
                yield json.loads(line)
            except ValueError:
                continue

    # A file, because who pauses is another process than who rolls out.

    @property
    def is_pausing(self) -> bool:
        """Whether somebody asked for a pause."""
        return (self.directory / "pause").exists()

    def pause(self) -> None:
        """Ask for one."""
        write_atomic(self.directory / "pause", now() + "\n")

    def unpause(self) -> None:
        """Take that back."""
        (self.directory / "pause").unlink(missing_ok=True)
