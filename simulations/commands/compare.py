"""``fl sim compare``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl import console
from fl.errors import ConfigError

if TYPE_CHECKING:
    from simulations.report.comparison import Comparison

MOST_TOLD = 10
"""Lines about what needs attention."""


def compare(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Journals, and directories of sweeps; also unfinished ones.")
    ],
    metric: Annotated[str | None, typer.Option(help="What to compare by. [dim]default: accuracy, else loss[/]")] = None,
    to: Annotated[
        float | None,
        typer.Option(help="A value whose price is told, e.g. 0.9. [dim]default: the best that all runs reached[/]"),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw it too: a file that ends with .svg, .png or .html.")
    ] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Set variants side by side: what each reached over its seeds, how fair, and what it cost to get there.

    Runs that differ in their seed alone are one variant.
    """
    from fl.report.export import table_csv
    from simulations import report
    from simulations.report.comparison import as_dict, rows
    from simulations.report.concerns import concerns

    if as_csv and as_json:
        raise ConfigError("--csv and --json both go to the standard output", hint="choose one")
    if plot is not None:
        from simulations.report.plot import check

        check(plot)
    comparison = report.compare(directories, metric=metric, target=to)
    if as_json:
        console.print_json(as_dict(comparison))
    elif as_csv:
        sys.stdout.write(table_csv(*rows(comparison)))
    else:
        _print(comparison)
    told = [one for one in concerns(comparison) if one.level != "note" or not (as_csv or as_json)]
    for concern in told[:MOST_TOLD]:
        console.say(f"{concern.level}: {concern.what}: {concern.why}")
    if len(told) > MOST_TOLD:
        console.say(f"and {len(told) - MOST_TOLD} more, which fl sim report tells")
    if plot is not None:
        from simulations.report.page import title_of
        from simulations.report.plot import write

        write(comparison, plot, title=title_of(directories))
        if not (as_csv or as_json):
            console.say(f"drawn: {plot}")


def _print(comparison: Comparison) -> None:
    from simulations.report.phrases import target
    from simulations.report.tables import comparison_table

    table = comparison_table(comparison)
    console.print_table(table.columns, table.rows)
    if comparison.target is not None:
        console.say(f"to reach: {target(comparison, comparison.target)}; ± is the standard deviation over the seeds")
