"""A rollout in the terminal: the sites by wave, as they go; elsewhere a line for each thing that happens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.live import Live
from rich.table import Table

from edge.fleet.state import RolloutState
from fl import console

COLOURS = {
    "done": "green",
    "unchanged": "green",
    "failed": "red",
    "unhealthy": "red",
    "deferred": "yellow",
    "rolled back": "yellow",
}
MOST_ROWS = 30
"""A terminal shows no more; sites that are at work or in trouble come first."""


def table(state: RolloutState, *, most: int | None = None) -> Table:
    """The sites by wave."""
    grown = Table(box=None, header_style="bold", pad_edge=False, title_justify="left", title=title(state))
    for column in ("wave", "site", "status", "what"):
        grown.add_column(column, overflow="fold" if column == "what" else "ellipsis")
    rows = [(wave.name, name) for wave in state.waves for name in wave.sites]
    if most is not None and len(rows) > most:
        rows.sort(key=lambda row: state.sites[row[1]].status in ("waiting", "done", "unchanged"))
        rows = rows[:most]
    for wave, name in rows:
        site = state.sites[name]
        colour = COLOURS.get(site.status, "")
        grown.add_row(
            wave,
            name,
            f"[{colour}]{site.status}[/]" if colour else site.status,
            (site.step or site.reason).replace("[", r"\["),
        )
    return grown


def title(state: RolloutState) -> str:
    """One line: which rollout, where it stands, how many sites have which status."""
    counts = ", ".join(f"{count} {status}" for status, count in state.counts().items())
    return f"{state.fleet} {state.version}: {state.status}; {counts}"


@contextlib.contextmanager
def shown(state: RolloutState) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """Show a rollout while it goes on.

    Yields:
        What to call with a line, and what to call when something changed.
    """
    if not console.err.is_terminal:
        yield console.say, lambda: None
        return
    last = 0.0
    with Live(table(state, most=MOST_ROWS), console=console.err, auto_refresh=False) as live:

        def changed() -> None:
            nonlocal last
            if time.monotonic() - last > 0.1:
                last = time.monotonic()
                live.update(table(state, most=MOST_ROWS), refresh=True)

        yield console.say, changed
        live.update(table(state, most=MOST_ROWS), refresh=True)
