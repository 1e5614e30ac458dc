"""``fl sim``: run and sweep scenarios, read what came out, and prove that a deployed run equals its simulation."""

from __future__ import annotations

import typer

from simulations.commands import compare, parity, report, run, sweep

app = typer.Typer(help="Simulate federations: run, sweep, compare, report, prove.", no_args_is_help=True)
app.command()(run.run)
app.command("list")(run.list_scenarios)
app.command()(sweep.sweep)
app.command()(compare.compare)
app.command()(report.report)
app.command()(parity.parity)
