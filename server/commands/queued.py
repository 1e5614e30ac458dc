"""``fl run`` against a control room: what its API says, in the same shapes as a bare federation's."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from fl import console
from fl.errors import ConfigError, RunError
from fl.report import words
from server.controller.states import FINISHED

if TYPE_CHECKING:
    from server.client import Client
    from server.views.rounds import RoundRow
    from server.views.runs import RunRow
    from server.views.usage import Amount

ENDED = FINISHED | {"paused"}
LOG_EVERY_S = 1.0


def start(room: Client, file: Path, *, project: str | None, priority: int, sites: list[str], at: str | None) -> str:
    """Put a run file into the queue. Returns the run's name."""
    from server import runs

    config = runs.read_run_file(file)
    here = room.me().name == "local"
    name = room.start_run(
        config=config.to_dict(),
        project=project or "default",
        priority=priority,
        sites=_labels(sites),
        start_s=_seconds(at) if at else 0.0,
        **({"beside": str(file.resolve().parent)} if here else {}),
    )
    console.say(f"run {name} is in the queue")
    return name


def start_app(
    room: Client, directory: Path, options: list[str], *, project: str | None, priority: int, at: str | None
) -> str:
    """Put a Flower app into the queue of a control room on this machine. Returns the run's name."""
    from server import bundle

    name = room.start_run(
        app=str(directory.resolve()),
        app_config=bundle.parse_overrides(options),
        project=project or "default",
        priority=priority,
        start_s=_seconds(at) if at else 0.0,
    )
    console.say(f"run {name} is in the queue")
    return name


def follow(room: Client, name: str, *, follow: bool, as_json: bool) -> None:
    """Show a run's rounds as they happen, until it ends.

    Raises:
        RunError: If it ends without its model.
    """
    row = room.run(name).row
    if follow:
        for now, line in _lines(room, name):
            row = now
            console.say(line)
    if as_json:
        console.print_json({"run": name, "status": row.state, "reason": row.words, "rounds": row.rounds_done})
    if follow and row.state != "completed":
        raise RunError(f"run {name} {row.words}", hint=f"fl run resume {name}")


def change(room: Client, reference: str, what: str, *, as_json: bool) -> None:
    """Pause or stop a run, and wait until it is."""
    name = room.change_run(reference, what)
    state = room.run(name).row.state
    for _ in room.events(run=name, topic="run") if state not in ENDED else ():
        if (state := room.run(name).row.state) in ENDED:
            break
    if as_json:
        console.print_json({"run": name, "status": state})
    else:
        console.say(f"run {name} is {state}")


def list_runs(room: Client, *, state: str, project: str, limit: int, as_json: bool) -> None:
    """List runs, newest first."""
    wanted = {key: value for key, value in (("state", state), ("project", project)) if value}
    found = room.runs(limit=limit, **wanted)
    if as_json:
        console.print_json([{"id": run.name, "status": run.state, **as_plain(run)} for run in found])
        return
    rows = []
    for run in found:
        rounds = f"{run.rounds_done}/{run.rounds_wanted}" if run.rounds_wanted else "–"  # an app counts its own
        rows.append((run.name, run.project, run.state, rounds, run.words, run.submitted_by))
    console.print_table(["run", "project", "state", "rounds", "", "by"], rows)


def show(room: Client, reference: str, *, as_json: bool) -> None:
    """Show one run and its rounds."""
    run, found = room.run(reference), room.rounds(reference)[::-1]
    if as_json:
        rounds = [{"round": entry.number, **as_plain(entry)} for entry in found]
        console.print_json({"id": run.row.name, "status": run.row.state, **as_plain(run), "rounds": rounds})
        return
    facts = [
        ("run", run.row.name),
        ("project", f"{run.row.project}, priority {run.row.priority}"),
        ("state", run.row.words),
        ("sites", ", ".join(f"{key}={value}" for key, value in run.sites.items()) or "all"),
        ("started by", f"{run.row.submitted_by}, {_time(run.row.submitted_s)}"),
        *_used(run.usage),
    ]
    console.print_table(["", ""], [*facts, *([("next", run.row.advice)] if run.row.advice else [])])
    names = [(place, name) for place in words.PLACES for name in run.places.get(place, ())]
    shown = [key for key in names if key[1] in ("loss", "accuracy")] or names[:2]
    columns = ["round", "sites", "state", "took", "received", *(f"{name}, {place}" for place, name in shown)]
    rows = [
        (
            str(entry.number),
            f"{entry.survivors}/{entry.cohort}",
            entry.state,
            words.seconds(entry.took_s),
            words.size(entry.received_bytes),
            *(words.metric(name, entry.metrics.get(place, {}).get(name)) for place, name in shown),
        )
        for entry in found
    ]
    console.print_table(columns, rows)


def compare(room: Client, references: list[str], *, as_json: bool) -> None:
    """Show runs side by side."""
    found = room.compare(references)
    if as_json:
        console.print_json(as_plain(found))
        return
    columns = ["", *(run.name for run in found.runs)]
    rows: list[tuple[str, ...]] = [("state", *(run.words for run in found.runs))]
    rows += [(key, *values) for key, values in found.settings.items()]
    for key, last in found.newest.items():
        place, _, name = key.partition("/")
        rows.append((f"{name}, {place}", *(words.metric(name, value) for value in last)))
    used = [dict(_used(amount)) for amount in found.usage]
    for key in dict.fromkeys(key for one in used for key in one):
        rows.append((key, *(one.get(key, words.NOTHING) for one in used)))
    console.print_table(columns, rows)


def log(room: Client, reference: str, *, follow: bool) -> None:
    """Print what a run's ServerApp printed."""
    after = 0.0
    while True:
        piece = room.log(reference, after=after)
        sys.stdout.write(piece.text)
        sys.stdout.flush()
        if not follow or (piece.is_finished and not piece.text):
            return
        after = piece.after
        if not piece.text:
            time.sleep(LOG_EVERY_S)


def _lines(room: Client, name: str) -> Iterator[tuple[RunRow, str]]:
    """What to say as a run goes on, each time with the run as it is; ends when it does."""
    said: set[str] = set()
    # The first event comes at once; looking after each means that nothing between two looks is missed.
    with contextlib.closing(room.events(run=name, topic=["run", "round", "metric"])) as events:
        for _ in events:
            row = room.run(name).row
            for entry in reversed(room.rounds(name, limit=50)):
                for line in _round_lines(entry):
                    if line not in said:
                        said.add(line)
                        yield row, line
            if (line := f"run {row.state}: {row.words}") not in said and row.state != "running":
                said.add(line)
                yield row, line
            if row.state in ENDED:
                return


def _round_lines(entry: RoundRow) -> Iterator[str]:
    if entry.state == "abandoned":
        yield f"round {entry.number}, attempt {entry.attempts}: {entry.words}"
    if entry.closed_s is not None:
        without = entry.outcomes.get("missing", 0) + entry.outcomes.get("failed", 0)
        yield f"round {entry.number}: {entry.survivors} sites" + (f", without {without}" if without else "")
    for place in ("sites", "centre"):
        if found := entry.metrics.get(place):
            shown = ", ".join(f"{name} {value:.4f}" for name, value in sorted(found.items()))
            yield f"round {entry.number}: {shown} at the {place}"


def _used(amount: Amount) -> list[tuple[str, str]]:
    rows = [("received", words.size(amount.up_bytes)), ("time at sites", words.seconds(amount.wall_s))]
    if amount.gpu_s:
        rows.append(("GPU time", words.seconds(amount.gpu_s)))
    if amount.cpu_s is not None:
        rows.append(("CPU time", words.seconds(amount.cpu_s)))
    if amount.energy_j is not None:
        part = "" if amount.measured == amount.trainings else f", of {amount.measured} of {amount.trainings} trainings"
        rows.append(("energy", words.energy(amount.energy_j) + part))
    if amount.cost is not None:
        rows.append(("cost", f"{amount.cost:.2f} {amount.currency}"))
    return rows


def _labels(given: list[str]) -> dict[str, str]:
    labels = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigError(f"--sites {text[:80]} is no label", hint="--sites region=north")
        labels[key] = value
    return labels


def _seconds(at: str) -> float:
    """A time of the local clock, as seconds since 1970; an hour that is over today is tomorrow's."""
    now = datetime.datetime.now().astimezone()
    with contextlib.suppress(ValueError):
        clock = datetime.time.fromisoformat(at)
        then = datetime.datetime.combine(now.date(), clock, now.tzinfo)
        return (then if then > now else then + datetime.timedelta(days=1)).timestamp()
    try:
        return datetime.datetime.fromisoformat(at).astimezone().timestamp()
    except ValueError as err:
        raise ConfigError(f"--at {at[:40]} is no time", hint="--at 22:30 or --at 2026-01-31T22:30") from err


def _time(at_s: float) -> str:
    return datetime.datetime.fromtimestamp(at_s, datetime.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def as_plain(value: Any) -> Any:
    """Read models as plain data."""
    found = TypeAdapter(Any).dump_python(value, mode="json")
    return dict(found) if isinstance(found, Mapping) else found
