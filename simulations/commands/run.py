"""``fl sim run`` and ``fl sim list``."""

from __future__ import annotations

import dataclasses
import enum
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl import console
from fl.config import to_dict
from fl.errors import ConfigError, FLError

if TYPE_CHECKING:
    from simulations.outcome import Outcome
    from simulations.scenario import Scenario

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Mode(enum.StrEnum):
    """What ``--mode`` takes."""

    AUTO = "auto"
    SEQUENTIAL = "sequential"
    POOL = "pool"
    VECTORISED = "vectorised"


class Backend(enum.StrEnum):
    """What ``--backend`` takes."""

    IN_PROCESS = "in-process"
    RAY = "ray"


def run(
    what: Annotated[
        str,
        typer.Argument(
            metavar="FILE|NAME|JOURNAL|APP",
            help="A scenario or run file, a shipped scenario's name, a run's journal, or a Flower app's directory.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The journal. [dim]default: runs/<time>-<name>[/]")
    ] = None,
    sites: Annotated[
        int | None, typer.Option(min=1, help="How many sites: population.sites. [dim]default for an app: 10[/]")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Another seed: run.seed.")] = None,
    options: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Another value for a dotted key, or of an app's run config; repeatable."
        ),
    ] = None,
    mode: Annotated[Mode | None, typer.Option(help="How sites are trained: engine.mode.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that train: engine.workers. [dim]default for an app: one a core[/]"),
    ] = None,
    backend: Annotated[
        Backend | None, typer.Option(help="What runs an app: this process and its workers, or Flower's own with Ray.")
    ] = None,
    exact: Annotated[bool, typer.Option("--exact", help="To the bit what deployed sites would compute.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume/--fresh", help="Go on with an unfinished run, or begin anew.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Run a scenario or any Flower app on simulated sites; or run a journal's configuration again.

    What was interrupted goes on where it stood. A complete run is run again, in a new directory, and compared with the
    first to the bit. A Flower app has rounds of its own, so there is no journal: it prints and saves what it does.
    """
    from simulations.commands import sources

    if sources.is_app(what):
        from simulations.commands.flower_app import run_app

        others = {"--out": out, "--mode": mode, "--exact": exact or None, "--fresh": None if resume else True}
        if wrong := [name for name, value in others.items() if value is not None]:
            raise ConfigError(f"{wrong[0]} is for scenarios, and {what} is a Flower app", hint=f"leave out {wrong[0]}")
        changes = sources.settings(options or [])
        run_app(Path(what), changes, sites=sites, workers=workers, seed=seed, backend=backend, as_json=as_json)
        return
    if backend is not None:
        raise ConfigError("--backend is for Flower apps", hint="--mode chooses how the sites of a scenario are trained")
    source = sources.find(what)
    source = dataclasses.replace(source, scenario=source.scenario.unswept())
    changes = sources.settings(options or [])
    engine = {"engine.mode": mode.value if mode else None, "engine.workers": workers}
    given = {"run.seed": seed, "population.sites": sites, **engine}
    changes |= {key: value for key, value in given.items() if value is not None}
    scenario = source.scenario.changed(changes).anchored(source.directory) if changes else source.scenario
    directory = sources.destination(source, scenario, out, resume=resume)
    repeats = source.journal if directory != source.journal and not changes and source.is_complete else None
    exact = exact or (source.is_deployed and not changes)
    outcome = execute(scenario, directory, beside=source.directory, exact=exact, quiet=as_json)
    _tell(outcome, repeats, as_json=as_json)


def list_scenarios(as_json: AsJson = False) -> None:
    """List the scenarios that come with fedfleet: what each teaches, and what is expected of it."""
    from simulations import scenario as scenarios

    found = {name: scenarios.Scenario.from_file(path) for name, path in scenarios.shipped().items()}
    if as_json:
        console.print_json([{"name": name, **to_dict(it.scenario)} for name, it in found.items()])
        return
    rows = [(name, it.scenario.teaches or it.scenario.title, _bounds(it)) for name, it in found.items()]
    console.print_table(["scenario", "what it teaches", "expected"], rows)


def execute(scenario: Scenario, directory: Path, *, beside: Path, exact: bool = False, quiet: bool = False) -> Outcome:
    """Run a scenario, or go on with its journal, and show how it goes.

    Args:
        scenario: What to run.
        directory: The journal's.
        beside: Where the module of a task of one's own is looked for; it is kept with the journal.
        exact: As for ``simulate``.
        quiet: Show nothing.

    Raises:
        FLError: As ``simulate`` does, after the way to go on was said.
        KeyboardInterrupt: Likewise.
    """
    from fl.rounds.journal import EVENTS
    from simulations.commands import sources
    from simulations.commands.progress import showing
    from simulations.outcome import Outcome
    from simulations.run import simulate

    try:
        with (
            sources.begun(scenario, directory, beside=beside),
            showing(scenario.config.run.name, quiet=quiet) as progress,
        ):
            state = simulate(scenario, directory, progress=progress, search_path=beside, exact=exact)
    except (KeyboardInterrupt, FLError):
        if not quiet and (directory / EVENTS).exists():
            console.say(f"fl sim run {shlex.quote(str(directory))} goes on where it stands")
        raise
    return Outcome.of(directory, state, scenario)


def _tell(outcome: Outcome, repeats: Path | None, *, as_json: bool) -> None:
    """Print what came out; then end with a status if that is not what was expected.

    Args:
        outcome: Of the run.
        repeats: The journal of the complete run that this one repeats.
        as_json: For a program.

    Raises:
        ExpectationError: If the scenario expects something else, or the run that was repeated ended otherwise.
    """
    from fl.rounds.journal import load_state
    from simulations.outcome import ExpectationError
    from simulations.scenario import is_simulation

    is_same = repeats is None or load_state(repeats).model_digest == outcome.model_digest
    if as_json:
        repeated = {} if repeats is None else {"repeats": str(repeats), "same_model": is_same}
        console.print_json({**outcome.as_dict(), **repeated})
        is_as_it_should_be = is_same or (repeats is not None and not is_simulation(repeats))
        if not is_as_it_should_be or not all(expected.is_met for expected in outcome.expected):
            raise typer.Exit(ExpectationError.exit_status)
        return
    figures = [(name, f"{value:.6g}") for name, value in outcome.figures.items()]
    console.print_table(["", ""], [*figures, ("journal", str(outcome.directory))])
    for expected in outcome.expected:
        if expected.is_met:
            console.say(f"as expected: {expected.figure} {expected.bound}")
    if repeats is not None and is_same:
        console.say(f"the model is that of {repeats}, to the bit")
    outcome.check()
    if repeats is not None and not is_same and not is_simulation(repeats):
        console.say(f"the model is not that of the deployed run: fl sim parity {shlex.quote(str(repeats))} says why")
    elif not is_same:
        raise ExpectationError(
            f"the model is not that of {repeats}",
            hint=f"compare environment.json in {outcome.directory} and there: another version, CPU or engine",
        )


def _bounds(scenario: Scenario) -> str:
    return ", ".join(f"{figure} {bound}" for figure, bound in scenario.scenario.expect.items())
