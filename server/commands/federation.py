"""``fl up``: a federation on this computer, in the foreground, until Ctrl-C."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table

from fl import console
from fl.errors import UnreachableError
from fl.rounds.config import RunConfig, options
from fl.tasks.splits import SplitConfig
from server.local import FederationConfig, LocalFederation, SiteStatus, choose_home
from server.shards import ShardsConfig

LOOK_EVERY_S = 2.0
TICK_S = 0.2
SHOWN_RUNS = 5

Home = Annotated[Path | None, typer.Option(help="Directory of the federation. [dim]default: .fedfleet[/]")]


def up(
    sites: Annotated[int, typer.Option(help="Number of sites.")] = 3,
    task: Annotated[
        str | None, typer.Option(help="Task whose data the sites get: a name (fl task list), or a run file (.toml).")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The data set to divide; the task's own without it.")] = None,
    split: Annotated[str, typer.Option(help="How it is divided: iid, dirichlet, label or quantity.")] = "iid",
    alpha: Annotated[float, typer.Option(help="Concentration of dirichlet; small makes sites unlike.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed of the division.")] = 1,
    port: Annotated[int | None, typer.Option(help="Port of the SuperLink; a free one without it.")] = None,
    home: Home = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print how to reach it, once it is ready.")] = False,
) -> None:
    """Run a federation on this computer until Ctrl-C: a SuperLink and N sites, each with data of its own.

    Use it from another terminal: fl run start FILE.toml, fl run start --app DIR.
    """
    shards = None
    if task is not None:
        name, task_options, search_path = _read_task(task)
        shards = ShardsConfig(
            task=name,
            options=task_options,
            source=data,
            split=SplitConfig(kind=split, alpha=alpha),  # type: ignore[arg-type]  # checked by SplitConfig
            seed=seed,
            search_path=search_path,
        )
    config = FederationConfig(home=choose_home(home), sites=sites, port=port, data=shards)
    with ending_politely():
        console.say(f"starting a SuperLink and {sites} sites in {config.home}")
        with LocalFederation(config, say=console.say) as federation:
            if as_json:
                console.print_json(federation.as_dict())
            console.say(f"ready at {federation.control.address}; Ctrl-C ends it")
            try:
                _watch(federation)
            except KeyboardInterrupt:
                console.say("ending all processes")


def _read_task(task: str) -> tuple[str, Mapping[str, Any], Path | None]:
    """Name and options of a task, or of a run file's, and where to look for the module of one's own."""
    if not task.endswith(".toml"):
        return task, {}, Path.cwd() if ":" in task else None
    path = Path(task)
    table = RunConfig.from_file(path).task
    return table["name"], options(table), path.resolve().parent


@contextmanager
def ending_politely() -> Iterator[None]:
    """Be ended by SIGTERM and by a closed terminal as by Ctrl-C, so that everything is cleared away."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _watch(federation: LocalFederation) -> None:
    """Keep the federation running, and show it if somebody looks."""
    if not console.err.is_terminal:
        while True:
            federation.poll()
            time.sleep(TICK_S)
    with Live(console=console.err, auto_refresh=False, transient=True) as live:
        looked = float("-inf")
        while True:
            federation.poll()
            if time.monotonic() - looked > LOOK_EVERY_S:
                live.update(_picture(federation), refresh=True)
                looked = time.monotonic()
            time.sleep(TICK_S)


def _picture(federation: LocalFederation) -> RenderableType:
    try:
        sites, runs = federation.status(), federation.control.runs(at_most=SHOWN_RUNS)
    except UnreachableError as error:
        return error.message
    tables = [site_table(sites)]
    if runs:
        table = Table("run", "app", "state", box=None, header_style="bold", pad_edge=False)
        for run in runs:
            table.add_row(str(run.run_id), run.app, run.state)
        tables.append(table)
    return Group(*tables)


def site_table(sites: list[SiteStatus]) -> Table:
    """The sites, one a line."""
    table = Table("site", "node", "status", "examples", "starts", box=None, header_style="bold", pad_edge=False)
    colours = {"online": "green", "registered": "yellow"}
    for site in sites:
        status = f"[{colours.get(site.status, 'red')}]{site.status}[/]"
        examples = "" if site.examples is None else str(site.examples)
        table.add_row(site.name, str(site.node_id), status, examples, str(site.lives))
    return table
