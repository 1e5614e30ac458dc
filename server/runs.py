"""Runs of a federation: submit, follow, resume, stop, list. Two kinds, told apart by their run config.

A run of ours has a journal, made here before it is submitted, under ``runs/`` of the federation's home;
Flower runs a tiny generated app whose ServerApp takes the journal up (``fl.flower.server_app``). The Flower
run's config names the journal, so nothing else has to remember what belongs together. Any other Flower app
has no journal, only Flower's log.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl.config import unknown
from fl.errors import BusyError, ConfigError, FLError, JournalError, RunError, StorageError, UnreachableError
from fl.files import Lock, dated
from fl.rounds import events
from fl.rounds.config import RunConfig, options
from fl.rounds.journal import Journal, Reader, load_config, load_state, read
from fl.rounds.state import Record, RunState
from fl.tasks import own, registry
from server import bundle

if TYPE_CHECKING:
    from server.control import Control, FlowerRun

# The SuperLink is started again after a crash; a run outlives a minute without it.
PATIENCE_S = 90.0
LOOK_EVERY_S = 1.0
TICK_S = 0.2
STOP_WITHIN_S = 60.0

PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "fedfleet-run"
version = "1.0.0"
description = "A run of fedfleet"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedfleet"

[tool.flwr.app.components]
serverapp = "fl.flower.server_app:app"
clientapp = "fl.flower.client_app:app"

[tool.flwr.app.config]
journal = ""
secagg = ""
"""
JOURNAL_KEY = "journal"


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """One run, in a list."""

    id: str
    """Name of its journal's directory, or Flower's number if it has no journal."""
    app: str
    """Name of the run, or publisher and name of the Flower app."""
    status: str
    """``created``, ``running``, ``completed``, ``failed``, ``stopped``, or ``interrupted``: resume it."""
    rounds: str
    """Rounds done of rounds wanted; empty without a journal."""
    started: str
    """When it was submitted, ISO 8601."""
    flower_run: int | None
    """Flower's number of its latest life, if the federation that runs now knows it."""
    journal: Path | None


@dataclasses.dataclass(frozen=True, slots=True)
class Submitted:
    """A run with a journal that a federation was asked to take up."""

    run_id: int
    """Flower's number of it."""
    journal: Path
    lines: int
    """Lines that the journal had before."""


def submit_app(control: Control, directory: Path, options: list[str], *, secagg: Path | None = None) -> int:
    """Submit any Flower app, unchanged.

    Args:
        control: The federation.
        directory: The app, with its ``pyproject.toml``.
        options: Changes to its run config, ``key=value``.
        secagg: Directory of the server's part in secure aggregation; an app whose run config has an empty ``secagg``
            is told of it.

    Returns:
        Flower's number of the run.

    Raises:
        ConfigError: If it is no Flower app, or an option cannot be read or has a key that the app does not have.
    """
    content, _, config = bundle.prepared(directory, bundle.parse_overrides(options), secagg=secagg)
    return control.start_run(content, config)


def create(runs: Path, config: RunConfig) -> Path:
    """Make the journal of a new run and return its directory.

    Raises:
        StorageError: If it cannot be written; nothing is left of it then.
    """
    directory = dated(runs, config.run.name)
    try:
        Journal.create(directory, config.to_dict()).close()
    except StorageError:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    return directory


def read_run_file(path: Path) -> RunConfig:
    """A run file, with its paths made absolute, and with a task and a strategy that take their options.

    Raises:
        ConfigError: If it cannot be used, naming the key.
    """
    return checked(RunConfig.from_file(path), path.resolve().parent)


def checked(config: RunConfig, beside: Path) -> RunConfig:
    """A run's configuration, with its paths made absolute, and with a task and a strategy that take their options.

    Args:
        config: What was asked for.
        beside: Where its relative paths begin.

    Raises:
        ConfigError: If it cannot be used, naming the key.
    """
    from fl.flower.folding import folding_for
    from fl.rounds.secure import check_folding

    config = dataclasses.replace(config, task=_checked_task(config.task, beside))
    folding = folding_for(config.strategy)
    if config.secagg:
        check_folding(folding, config.strategy["name"])
    if config.run.initial_model:
        model = (beside / config.run.initial_model).resolve()
        if not model.is_file():
            raise ConfigError(f"run.initial_model: no such file: {model}")
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, initial_model=str(model)))
    return config


def submit(control: Control, journal: Path, *, secagg: Path | None = None, beside: Path | None = None) -> Submitted:
    """Have the federation take up a journal, from the start or from where it stands.

    Args:
        control: The federation.
        journal: Its directory.
        secagg: Directory of the server's part in secure aggregation.
        beside: Directory with the module of a task of one's own; it travels with the run.

    Raises:
        JournalError: If it is no journal.
        ConfigError: If the task's module is not there.
    """
    app = app_of(journal, beside)
    lines = len(read(journal))
    return Submitted(hand_over(control, journal, app, secagg=secagg), journal, lines)


def app_of(journal: Path, beside: Path | None = None) -> bytes:
    """The Flower app of a run, bundled; a task of one's own is kept in the journal, for the next life.

    Raises:
        ConfigError: If the task's module is not there.
    """
    name = str(load_config(journal)["task"]["name"])
    files = {"pyproject.toml": PYPROJECT.encode()}
    if ":" in name:
        files |= own.module_files(name, journal / "app" if (journal / "app").is_dir() else beside)
        own.keep(files, journal / "app")
    return bundle.from_files(files)


def hand_over(control: Control, journal: Path, app: bytes, *, secagg: Path | None = None) -> int:
    """Have SuperLink run a journal's app. Returns Flower's number of this life."""
    places = {JOURNAL_KEY: str(journal.resolve()), bundle.SECAGG_KEY: str(secagg.resolve()) if secagg else ""}
    return control.start_run(app, places)


def resume(control: Control, journal: Path, *, secagg: Path | None = None) -> Submitted:
    """Continue a run at the point where it ended.

    Raises:
        JournalError: If it is no journal, or its run is complete.
        BusyError: If it is running.
    """
    if load_state(journal).status == "completed":
        raise JournalError(f"the run of {journal} is complete", hint=f"fl report {journal}")
    for run in control.runs():
        if run.config.get(JOURNAL_KEY) == str(journal.resolve()) and not run.is_finished:
            # Flower needs a minute to notice that a server process is gone; the journal's lock knows at once.
            with _unless_running(journal):
                control.stop(run.run_id)
    return submit(control, journal, secagg=secagg)


@contextlib.contextmanager
def _unless_running(journal: Path) -> Iterator[None]:
    """Hold the journal's lock, so that no server process has it.

    Raises:
        BusyError: If one has.
    """
    try:
        with Lock(journal / "lock"):
            yield
    except BusyError as err:
        raise BusyError(f"{journal} is running", hint=f"fl run stop {journal.name}") from err


def follow(control: Control, submitted: Submitted, *, tick: Callable[[], None]) -> Iterator[Record]:
    """Yield every line of a run's journal, from the first, as it is written, until the run ends.

    Args:
        control: The federation.
        submitted: The run.
        tick: Called several times a second, to look after other things.

    Raises:
        RunError: If it ended without its model.
        UnreachableError: If the SuperLink stays away for too long.
    """
    reader, watch = Reader(submitted.journal), _Watch(control, submitted.run_id)
    ended: events.RunEnded | None = None
    while True:
        # Looked at before the journal is read, so that the last lines are not missed.
        run = watch.look()
        for record in reader.more():
            yield record
            if isinstance(record.event, events.RunEnded) and record.seq >= submitted.lines:
                ended = record.event
        if ended or (run and run.is_finished):
            break
        tick()
        time.sleep(TICK_S)
    if ended is None or ended.status != "completed":
        why = ended.reason if ended else (run.details if run else "") or "its ServerApp ended"
        status = ended.status if ended else run.state if run else "failed"
        raise RunError(f"run {submitted.journal.name} {status}: {why}", hint=f"fl run resume {submitted.journal}")


def follow_log(control: Control, run_id: int, write: Callable[[str], object]) -> FlowerRun:
    """Write what a run's ServerApp prints until the run ends, also over a restart of the SuperLink.

    Raises:
        UnreachableError: If the SuperLink stays away for too long.
    """
    after = 0.0
    watch = _Watch(control, run_id)
    while True:
        try:
            for text, time_of_last_line in control.log(run_id, after=after):
                write(text)
                after = time_of_last_line
        except UnreachableError:
            time.sleep(LOOK_EVERY_S)
        run = watch.look()
        if run and run.is_finished:
            return run


def stop(control: Control, run_id: int, journal: Path | None) -> None:
    """End a run, and say so in its journal.

    Raises:
        InputError: If there is no such run, or it is finished.
        BusyError: If its ServerApp does not end in time.
    """
    control.stop(run_id)
    if journal is None:
        return
    deadline = time.monotonic() + STOP_WITHIN_S
    while True:
        try:
            with Journal(journal) as opened:
                if opened.state.ended is None:
                    opened.append(events.RunEnded(status="stopped", reason="fl run stop"))
            return
        except BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(TICK_S)


def listed(runs: Path, control: Control | None) -> list[Listed]:
    """All runs of a home, newest first: those with a journal, and with a federation running, Flower's too."""
    flower = control.runs() if control else []
    by_journal: dict[str, FlowerRun] = {}
    others: list[Listed] = []
    for run in reversed(flower):
        if journal := run.config.get(JOURNAL_KEY):
            by_journal[str(journal)] = run
        else:
            others.append(Listed(str(run.run_id), run.app, run.state, "", run.pending_at, run.run_id, None))
    for directory in runs.iterdir() if runs.is_dir() else []:
        try:
            state = load_state(directory)
        except JournalError:
            continue  # something else lies there, or it is just being made
        if state.created:
            others.append(_journal_listed(directory, state, by_journal.get(str(directory.resolve()))))
    return sorted(others, key=lambda run: run.started, reverse=True)


def as_dict(run: Listed) -> dict[str, Any]:
    """A listed run as plain data."""
    return dataclasses.asdict(run) | {"journal": str(run.journal) if run.journal else None}


def find(reference: str, runs: Path, control: Control | None) -> Listed:
    """A run by its name, its directory, or Flower's number.

    Raises:
        ConfigError: If there is none, with the nearest name.
    """
    known = listed(runs, control)
    for run in known:
        if reference in (run.id, str(run.flower_run)):
            return run
        if run.journal and Path(reference).exists() and run.journal.resolve() == Path(reference).resolve():
            return run
    raise unknown("run", reference, [run.id for run in known])


class _Watch:
    """Looks at a run through the Control API, not too often, and bears with a SuperLink that is started again."""

    def __init__(self, control: Control, run_id: int) -> None:
        self._control, self._run_id = control, run_id
        self._looked = float("-inf")
        self._answered = time.monotonic()
        self._run: FlowerRun | None = None

    def look(self) -> FlowerRun | None:
        """The run as last seen; ``None`` if it was never."""
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY_S:
            try:
                self._run = self._control.run(self._run_id)
                self._answered = now
            except UnreachableError:
                if now - self._answered > PATIENCE_S:
                    raise
            except FLError:  # it answers with errors while its database is locked
                if now - self._answered > PATIENCE_S:
                    raise
            self._looked = time.monotonic()
        return self._run


def _journal_listed(directory: Path, state: RunState, run: FlowerRun | None) -> Listed:
    assert state.created
    assert state.created_at
    status = state.status
    if status in ("created", "running") and (run is None or run.is_finished):
        status = "interrupted"
    return Listed(
        id=directory.name,
        app=state.created.run,
        status=status,
        rounds=f"{state.committed_rounds}/{state.created.rounds}",
        started=state.created_at.isoformat(),
        flower_run=run.run_id if run else None,
        journal=directory,
    )


def _checked_task(table: Mapping[str, Any], beside: Path) -> dict[str, Any]:
    """The ``[task]`` table with its paths made absolute; a task of one's own is checked where its module runs."""
    if ":" in table["name"]:
        return dict(table)
    task = registry.create(table["name"], options(table), search_path=beside)
    return {
        key: str(value) if isinstance(value := getattr(task, key, given), Path) else given
        for key, given in table.items()
    }
