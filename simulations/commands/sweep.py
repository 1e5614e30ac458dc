"""``fl sim sweep``."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fl import console
from fl.errors import ConfigError, FLError, JournalError

if TYPE_CHECKING:
    from simulations.commands.crew import Failed, Run
    from simulations.outcome import Outcome
    from simulations.scenario import Variant


class SweepError(FLError):
    """Some runs of a sweep failed; the others are there."""


def sweep(
    what: Annotated[
        str, typer.Argument(metavar="FILE|NAME", help="A scenario, or the name of one that comes with fedfleet.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="One journal a run goes below it. [dim]default: runs/<time>-<name>-sweep[/]"),
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="How many runs at once. [dim]default: one a CPU core[/]")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="SEEDS", help="Other seeds than those of the file: 1,2,3 or 1-10.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value for a dotted key; can be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Run every variant of a scenario's sweep, with every seed, and set them side by side.

    Runs that are complete below --out are left as they are, others go on where they stand. A run that fails is told,
    and the others go on; the status is then 1.
    """
    from fl.files import dated
    from simulations.commands import sources

    source = sources.find(what)
    changes = sources.settings(options or [])
    if seeds is not None:
        changes["sweep.seeds"] = seeds_of(seeds)
    scenario = source.scenario.changed(changes).anchored(source.directory) if changes else source.scenario
    if not scenario.sweep:
        raise ConfigError(
            f"{what} has nothing to sweep", hint='--seeds 1,2,3, or a table [sweep] with "key" = [values]'
        )
    directory = out or dated(sources.RUNS, f"{scenario.config.run.name}-sweep")
    again = ["fl", "sim", "sweep", what, "--out", str(directory), *(["--seeds", seeds] if seeds is not None else [])]
    again += [word for option in options or [] for word in ("--set", option)]
    variants = scenario.variants()
    ended = _complete(variants, directory)
    runs = {
        variant.name: _run(variant, directory, source.directory) for variant in variants if variant.name not in ended
    }
    if ended and not as_json:
        console.say(f"{len(ended)} of {len(variants)} runs are complete already")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        ended |= _carry_out(runs, jobs or _cores(), quiet=as_json)
    except KeyboardInterrupt:
        console.say(f"{shlex.join(again)} goes on where it stands")
        raise
    _tell(variants, ended, directory, shlex.join(again), as_json=as_json)


def seeds_of(text: str) -> list[int]:
    """Seeds from the command line.

    Raises:
        ConfigError: If they are no whole numbers.

    Example:
        >>> seeds_of("1-3,7")
        [1, 2, 3, 7]
    """
    found: list[int] = []
    for piece in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", piece)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise ConfigError(f"cannot read the seeds {text!r}", hint="--seeds 1,2,3 or --seeds 1-10")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return found


def _complete(variants: Sequence[Variant], directory: Path) -> dict[str, Outcome | Failed]:
    """What came out of the runs that need not be run any more.

    Raises:
        JournalError: If what is in the directory is something else than this sweep.
    """
    from fl.rounds.journal import EVENTS, load_state
    from simulations.commands import sources
    from simulations.outcome import Outcome
    from simulations.scenario import Scenario

    if directory.exists() and not directory.is_dir():
        raise JournalError(f"{directory} is no directory", hint="give --out a directory that is not there yet")
    found: dict[str, Outcome | Failed] = {}
    for variant in variants:
        place = directory / variant.name
        if not (place / EVENTS).exists():
            if place.exists() and any(place.iterdir()):
                raise JournalError(
                    f"{place} is not empty, and no journal", hint="give --out a directory that is not there yet"
                )
            continue
        if different := sources.differences(Scenario.from_journal(place), variant.scenario):
            raise JournalError(
                f"the run of {place} was begun with another {different[0]}",
                hint="give --out a directory that is not there yet",
            )
        state = load_state(place)
        if state.status == "completed":
            found[variant.name] = Outcome.of(place, state, variant.scenario)
    return found


def _run(variant: Variant, directory: Path, beside: Path) -> Run:
    """A run to carry out; one that has begun goes on as it was begun."""
    from fl.rounds.journal import EVENTS
    from simulations.commands.crew import Run
    from simulations.scenario import Scenario

    place = directory / variant.name
    scenario = Scenario.from_journal(place) if (place / EVENTS).exists() else variant.scenario
    return Run(scenario, place, beside)


def _carry_out(runs: Mapping[str, Run], jobs: int, *, quiet: bool) -> dict[str, Outcome | Failed]:
    """Carry all runs out, and show how it goes; what became of each, by name."""
    from simulations.commands.crew import carry_out
    from simulations.commands.sweep_progress import showing
    from simulations.run import Progress

    names, ended = list(runs), {}
    rounds = {name: run.scenario.config.run.rounds for name, run in runs.items()}
    with showing(rounds, quiet=quiet) as show, contextlib.closing(carry_out([*runs.values()], jobs)) as told:
        for place, news in told:
            if not isinstance(news, Progress):
                ended[names[place]] = news
            show(names[place], news)
    return ended


def _tell(
    variants: Sequence[Variant], ended: Mapping[str, Outcome | Failed], directory: Path, again: str, *, as_json: bool
) -> None:
    """Print what came of the sweep; then end with a status if not all is as it should be.

    Raises:
        SweepError: If some runs failed.
        ExpectationError: If some runs miss what the scenario expects.
    """
    from fl.report.words import plural
    from simulations.commands.crew import Failed
    from simulations.outcome import ExpectationError

    failed = [variant.name for variant in variants if isinstance(ended[variant.name], Failed)]
    missed = [
        f"{name}: {expected}"
        for name, outcome in ended.items()
        if not isinstance(outcome, Failed)
        for expected in outcome.expected
        if not expected.is_met
    ]
    if as_json:
        console.print_json(
            {"directory": str(directory), "runs": [_as_dict(variant, ended[variant.name]) for variant in variants]}
        )
        if failed or missed:
            raise typer.Exit(SweepError.exit_status)
        return
    if len(failed) < len(variants):
        from simulations.report import compare
        from simulations.report.tables import comparison_table

        journals = [outcome.directory for outcome in ended.values() if not isinstance(outcome, Failed)]
        table = comparison_table(compare(journals))
        console.print_table(table.columns, table.rows)
        quoted = shlex.quote(str(directory))
        console.say(f"fl sim compare {quoted} and fl sim report {quoted} tell more")
    for line in missed:
        console.say(f"missed: {line}")
    if failed:
        raise SweepError(
            f"{len(failed)} of {len(variants)} runs failed: {', '.join(failed)}", hint=f"{again} tries again"
        )
    if missed:
        raise ExpectationError(f"{plural(len(missed), 'figure is', 'figures are')} not as the scenario expects")


def _as_dict(variant: Variant, ended: Outcome | Failed) -> dict[str, Any]:
    from simulations.outcome import Outcome

    about = {"name": variant.name, "label": variant.label, "settings": dict(variant.settings), "seed": variant.seed}
    if isinstance(ended, Outcome):
        return {**about, **ended.as_dict()}
    return {**about, "status": "failed", **{f"error_{key}": value for key, value in dataclasses.asdict(ended).items()}}


def _cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
