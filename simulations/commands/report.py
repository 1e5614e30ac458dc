"""``fl sim report``."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from fl import console


def report(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Journals, and directories of sweeps; also unfinished ones.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="Where to write. [dim]default: DIR/simulation.html[/]")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="What to compare by. [dim]default: accuracy, else loss[/]")] = None,
    to: Annotated[float | None, typer.Option(help="A value of it whose price is told, e.g. 0.9.")] = None,
    exports: Annotated[
        list[Path] | None,
        typer.Option(
            "--export",
            metavar="FILE|DIR",
            help="Every measurement too: .parquet, .csv, or a directory for TensorBoard.",
        ),
    ] = None,
    mlflow: Annotated[
        str | None, typer.Option(metavar="EXPERIMENT", help="Make runs of an MLflow experiment too.")
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Draw simulations from their journals: one page that needs no network, with the seeds of a sweep together.

    Runs that differ in their seed alone are one variant. For what single sites did in one run there is fl report.
    """
    from fl.report import boards
    from fl.report.words import plural
    from simulations.report import NAME, export, write

    for path in exports or []:
        export.check(path)
    if mlflow is not None:
        boards.require("mlflow")
    target = out / NAME if out is not None and out.is_dir() else out
    page = write(directories, out=target, metric=metric, target=to)
    written = [page, *(export.write(directories, path) for path in exports or [])]
    runs = [] if mlflow is None else export.to_mlflow(directories, mlflow)
    if as_json:
        told = {"page": str(page), "exports": [str(path) for path in written[1:]]}
        console.print_json(told | ({} if mlflow is None else {"mlflow_runs": runs}))
    else:
        for path in written:
            console.out.print(str(path), markup=False, soft_wrap=True)
        if mlflow is not None:
            console.say(f"the MLflow experiment {mlflow} has {plural(len(runs), 'run')} of it")
    if open_it and not webbrowser.open(page.absolute().as_uri()):
        console.say(f"no browser was found; open {page} yourself")
