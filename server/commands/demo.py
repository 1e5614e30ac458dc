"""``fl demo``: the whole thing in one command: a federation, a run on real data, and what central training reaches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live

from fl import console, report
from fl.config import load
from fl.errors import ConfigError, UnreachableError
from fl.report.gather import gather
from fl.rounds.checkpoint import model_path
from fl.rounds.config import RunConfig
from fl.rounds.state import RunState
from fl.secagg.parameters import MIN_SITES
from fl.tasks.splits import SplitConfig
from server import runs
from server.commands import progress
from server.commands.federation import ending_politely, site_table
from server.local import FederationConfig, LocalFederation, choose_home
from server.shards import ShardsConfig

TASK = "digits"
EPOCHS = 10
# Small steps: sites that are unlike train for long before they are averaged.
TRAINING = {"epochs": EPOCHS, "learning_rate": 0.02, "batch_size": 16}
# Sites differ in their labels, as real ones do, and plain averaging still copes. Over the seeds 1 to 5 it ends 0 to 1.1
# points below central training, 0.7 in the mean; one of the centre's 359 digits is 0.28 points.
SPLIT = SplitConfig(kind="dirichlet", alpha=3.0, minimum=50)
SEED = 2
ROUNDS = 4
SHOWN_EVERY_S = 1.0


def demo(
    sites: Annotated[int, typer.Option(help="Number of sites.")] = 3,
    rounds: Annotated[int, typer.Option(help="Number of rounds.")] = ROUNDS,
    seed: Annotated[int, typer.Option(help="Seed of everything that is random.")] = SEED,
    home: Annotated[Path | None, typer.Option(help="Where all files go. [dim]default: .fedfleet[/]")] = None,
    no_secagg: Annotated[
        bool, typer.Option("--no-secagg", help="Let the server see each site's update. Rounds are quicker.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train one model over several sites on this computer, and compare it with central training.

    A SuperLink and real SuperNodes, each with its own part of 1,797 real handwritten digits.
    """
    began = time.monotonic()
    config = run_config(sites=sites, rounds=rounds, seed=seed, secagg=not no_secagg)
    federation_config = FederationConfig(
        home=choose_home(home), sites=sites, data=ShardsConfig(task=TASK, split=SPLIT, seed=seed)
    )
    with ending_politely():
        console.say(f"starting a SuperLink and {sites} sites in {federation_config.home}")
        with LocalFederation(federation_config, say=console.say) as federation:
            console.say(f"all sites are online after {console.human_seconds(time.monotonic() - began)}")
            journal = runs.create(federation.runs, config)
            submitted = runs.submit(federation.control, journal, secagg=federation.secagg)
            seen = "each site's update" if no_secagg else "the sum of the updates and nothing else"
            console.say(f"run {journal.name}: {rounds} rounds, {EPOCHS} epochs each at every site")
            console.say(f"the server sees {seen}")
            state = _watch(federation, submitted)
        console.say("all processes are ended; training centrally on all data, for comparison")
        reference = centrally(config)
    drawn = report.write(journal)
    result = summary(journal, state, reference, drawn, seconds=time.monotonic() - began)
    if as_json:
        console.print_json(result)
    else:
        _print(result)


def run_config(*, sites: int, rounds: int, seed: int, secagg: bool) -> RunConfig:
    """The demo's run, as a run file would say it.

    Raises:
        ConfigError: If there are too few sites for secure aggregation.
    """
    if secagg and sites < MIN_SITES:
        raise ConfigError(
            f"--sites is {sites}, secure aggregation needs at least {MIN_SITES}: of a sum of two, each site knows both",
            hint="--sites 3, or --no-secagg",
        )
    tables: dict[str, Any] = {
        "task": {"name": TASK},
        "run": {"name": "demo", "rounds": rounds, "seed": seed},
        "training": TRAINING,
        "round": {"min_online": sites},
        # The centre's own digits, which reach no site, are what central training is judged by as well.
        "evaluation": {"sites_every": 0, "centre_every": 1},
    }
    if secagg:
        tables["secagg"] = {}
    return load(RunConfig, tables)


def centrally(config: RunConfig) -> Mapping[str, float]:
    """What the same model reaches on the centre's data when it sees every example as often, all in one place."""
    from fl.tasks import registry
    from fl.tasks.loop import centralised

    task = registry.create(TASK, {})
    epochs = config.run.rounds * config.training.epochs
    return centralised(task, config.training, epochs=epochs, seed=config.run.seed).metrics


def summary(
    journal: Path,
    state: RunState,
    reference: Mapping[str, float],
    drawn: Path,
    *,
    seconds: float,
) -> dict[str, Any]:
    """The outcome in plain data."""
    last = state.committed_rounds
    rounds = gather(journal).rounds
    reached = state.rounds[last].evaluated["centre"].metrics
    return {
        "run": journal.name,
        "status": state.status,
        "rounds": last,
        "accuracy": reached["accuracy"],
        "central_accuracy": reference["accuracy"],
        "points_below_central": 100 * (reference["accuracy"] - reached["accuracy"]),
        "seconds": seconds,
        "sent_bytes": sum(entry.sent_bytes for entry in rounds),
        "received_bytes": sum(entry.received_bytes for entry in rounds),
        "journal": str(journal),
        "model": str(model_path(journal, last)),
        "report": str(drawn),
    }


def _watch(federation: LocalFederation, submitted: runs.Submitted) -> RunState:
    """Follow the run to its end, as a live table for a person and as lines for a log."""
    state = RunState()
    if not console.err.is_terminal:
        for record in runs.follow(federation.control, submitted, tick=federation.poll):
            state.apply(record)
            if (line := progress.line(record)) is not None:
                console.say(line)
        return state
    with Live(console=console.err, auto_refresh=False) as live:
        show = _showing(live, federation, state)
        try:
            for record in runs.follow(federation.control, submitted, tick=show):
                state.apply(record)
        finally:
            live.update(progress.table(state), refresh=True)
    return state


def _showing(live: Live, federation: LocalFederation, state: RunState) -> Callable[[], None]:
    """A tick that looks after the federation, and draws it once a second."""
    drawn = float("-inf")
    sites = federation.status()

    def tick() -> None:
        nonlocal drawn, sites
        federation.poll()
        if time.monotonic() - drawn < SHOWN_EVERY_S:
            return
        with contextlib.suppress(UnreachableError):  # while the SuperLink is started again
            sites = federation.status()
        live.update(Group(site_table(sites), "", progress.table(state)), refresh=True)
        drawn = time.monotonic()

    return tick


def _print(result: dict[str, Any]) -> None:
    accuracy, central = 100 * result["accuracy"], 100 * result["central_accuracy"]
    sent, received = console.human_bytes(result["sent_bytes"]), console.human_bytes(result["received_bytes"])
    rows = [
        ("accuracy", f"{accuracy:.1f} % over the sites, {central:.1f} % with all data in one place"),
        ("took", f"{console.human_seconds(result['seconds'])} for {result['rounds']} rounds"),
        ("traffic", f"{sent} to the sites, {received} back; no example left its site"),
        ("model", result["model"]),
        ("journal", result["journal"]),
        ("report", result["report"]),
    ]
    console.print_table(["", ""], rows)
