"""Which journals a directory stands for: itself, or those of a sweep's runs below it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

from fl.errors import FLError, JournalError
from fl.report.words import names, plural
from fl.rounds.journal import EVENTS
from simulations.report.trial import Trial, read_trial


@dataclasses.dataclass(frozen=True, slots=True)
class Unread:
    """A run of a sweep without a journal that can be read.

    Attributes:
        directory: Where it would be.
        why: In words.
    """

    directory: Path
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """The runs below some directories.

    Attributes:
        trials: Those that have begun, in the order given, within a sweep by name.
        unread: Runs of sweeps that never began, or left a journal that cannot be read.
    """

    trials: tuple[Trial, ...]
    unread: tuple[Unread, ...]


def find(directories: Path | Sequence[Path]) -> Found:
    """Read the journals that some directories are or hold; one that is given twice counts once.

    A broken journal within a sweep is told and left out; one that was asked for by name is an error.

    Raises:
        JournalError: If a directory is no journal and holds none, or is one that cannot be read.
    """
    trials: dict[Path, Trial] = {}
    unread: dict[Path, Unread] = {}
    for directory in [directories] if isinstance(directories, Path) else directories:
        if (directory / EVENTS).exists():
            trials.setdefault(directory.resolve(), read_trial(directory))
            continue
        for below in _below(directory):
            if below.resolve() in trials:
                continue
            if not (below / EVENTS).exists():
                unread[below.resolve()] = Unread(below, "it has no journal: the run failed before its first round")
                continue
            try:
                trials[below.resolve()] = read_trial(below)
            except FLError as err:
                unread[below.resolve()] = Unread(below, err.message)
    if not trials:
        whys = [f"{run.directory.name}: {run.why}" for run in unread.values()]
        raise JournalError(f"no run can be read: {names(whys, 2)}", hint="run the sweep again")
    return Found(tuple(trials.values()), tuple(unread.values()))


def _below(directory: Path) -> Iterable[Path]:
    """The directories of a sweep's runs; those in which a run left nothing, or no journal, among them.

    Directories of other things, e.g. of an export, are passed over.

    Raises:
        JournalError: If none of them is a journal.
    """
    if not directory.is_dir():
        raise JournalError(
            f"{directory} is not a journal: no such directory", hint="fl sim run prints where a run's journal is"
        )
    inside = sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not any((path / EVENTS).exists() for path in inside):
        found = plural(len(inside), "directory", "directories")
        raise JournalError(
            f"{directory} is not a journal: it has no {EVENTS}, nor has any of its {found}",
            hint="name the directory of a run, or of a sweep, whose runs have a directory each",
        )
    return [path for path in inside if (path / EVENTS).exists() or _was_meant_for_a_run(path)]


def _was_meant_for_a_run(directory: Path) -> bool:
    return (directory / "config.json").exists() or not any(directory.iterdir())
