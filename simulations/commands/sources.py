"""What ``fl sim`` is given to run: a scenario's file or name, the journal of an earlier run, or a Flower app."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import shutil
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fl.errors import ConfigError, InputError, JournalError
from fl.files import dated
from fl.rounds.journal import EVENTS, Journal, load_config, load_state
from fl.tasks import own
from simulations import scenario as scenarios
from simulations.scenario import Scenario

RUNS = Path("runs")
"""Where journals go, below the working directory, unless ``--out`` says otherwise."""

MODULES = "app"
"""Where a journal keeps the module of a task of one's own."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """What to run, and where it was read from.

    Attributes:
        scenario: What to run.
        directory: Where the module of a task of one's own is looked for.
        journal: The run's journal, if it was read from one.
    """

    scenario: Scenario
    directory: Path
    journal: Path | None = None

    @property
    def is_complete(self) -> bool:
        """Whether it is the journal of a run that has its last model."""
        return self.journal is not None and load_state(self.journal).status == "completed"

    @property
    def is_deployed(self) -> bool:
        """Whether it is the journal of a deployed run."""
        return self.journal is not None and not scenarios.is_simulation(self.journal)

    @property
    def is_unfinished(self) -> bool:
        """Whether it is a simulation that can be resumed."""
        return self.journal is not None and not self.is_deployed and not self.is_complete


def is_app(what: str) -> bool:
    """Whether a word of the command line is the directory of a Flower app."""
    path = Path(what)
    return (path / "pyproject.toml").is_file() and not (path / EVENTS).exists()


def find(what: str) -> Source:
    """What a word of the command line means.

    Raises:
        ConfigError: If it is no file, no journal, and no shipped scenario (with the nearest).
        JournalError: If it is a journal that cannot be read.
    """
    path = Path(what)
    if path.suffix == ".json" and (path.parent / EVENTS).exists():
        path = path.parent
    if path.is_dir():
        if not (path / EVENTS).exists():
            raise JournalError(
                f"{path} is neither a journal nor a Flower app: it has no {EVENTS} and no pyproject.toml",
                hint="fl sim list shows what can be run",
            )
        modules = path / MODULES
        return Source(_of_journal(path), modules if modules.is_dir() else Path.cwd(), path)
    if path.suffix not in (".toml", ".json") and len(path.parts) == 1:
        path = scenarios.shipped_file(what)
    return Source(Scenario.from_file(path), path.resolve().parent)


def _of_journal(directory: Path) -> Scenario:
    """What a run was made from; a deployed one is simulated on as many sites as it had."""
    if scenarios.is_simulation(directory):
        return Scenario.from_journal(directory)
    attempts = [opened for entry in load_state(directory).rounds.values() for opened in entry.opened]
    if not attempts:
        raise JournalError(f"no round of {directory} was opened", hint="run its run file")
    sites = max(opened.online for opened in attempts)
    return Scenario.from_dict({**load_config(directory), "population": {"sites": sites}})


def settings(options: Sequence[str]) -> dict[str, Any]:
    """The values of ``--set``; a value is TOML (``5``, ``0.1``, ``true``), what is not is a text as it stands.

    Raises:
        ConfigError: If one is not ``key=value``.

    Example:
        >>> settings(["training.epochs=5", "strategy.name=fedadam"])
        {'training.epochs': 5, 'strategy.name': 'fedadam'}
    """
    found = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not key or not equals:
            raise ConfigError(f"cannot read {option!r} as key=value", hint="--set training.learning_rate=0.1")
        try:
            found[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = text
    return found


def destination(source: Source, scenario: Scenario, out: Path | None, *, resume: bool) -> Path:
    """Where the run's journal is, or will be.

    Args:
        source: What was asked for.
        scenario: What is run.
        out: Where to, if that was said.
        resume: Whether to go on with a journal that is there.

    Raises:
        JournalError: If something is there that cannot be gone on with.
    """
    if out is None:
        if resume and source.is_unfinished and scenario == source.scenario:
            assert source.journal is not None
            return source.journal
        return dated(RUNS, scenario.config.run.name)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return out
    if not (out / EVENTS).exists():
        raise JournalError(f"{out} is not empty, and no journal", hint="give --out a directory that is not there yet")
    if load_state(out).status == "completed":
        raise JournalError(f"the run of {out} is complete", hint=f"fl sim report {shlex.quote(str(out))}")
    if not resume:
        raise JournalError(f"{out} holds a run that is not complete", hint="--resume, or another --out")
    if different := differences(Scenario.from_journal(out), scenario):
        raise JournalError(
            f"the run of {out} was begun with another {different[0]}",
            hint=f"fl sim run {shlex.quote(str(out))} goes on with it as it was begun",
        )
    return out


@contextlib.contextmanager
def begun(scenario: Scenario, directory: Path, *, beside: Path) -> Iterator[None]:
    """A run's journal, made if it is not there yet, with the module of a task of one's own.

    A new one is removed again if the scenario turns out not to fit before anything has run: nobody can go on with it.

    Raises:
        ConfigError: If there is no such module.
        StorageError: If the disk refuses.
    """
    is_new = not (directory / EVENTS).exists()
    if is_new:
        name = scenario.config.task["name"]
        modules = own.module_files(name, beside) if ":" in name else {}
        Journal.create(directory, scenario.run_config().to_dict()).close()
        own.keep(modules, directory / MODULES)
    try:
        yield
    except InputError:
        if is_new and not load_state(directory).sessions:
            shutil.rmtree(directory)
        raise


def differences(begun: Scenario, scenario: Scenario) -> list[str]:
    """Tables that are not the same, by name; those that don't decide what comes out are left aside."""
    aside = ("sweep", "engine", "journal", "scenario")
    one, other = begun.to_dict(), scenario.to_dict()
    return sorted(key for key in one.keys() | other.keys() if key not in aside and one.get(key) != other.get(key))
