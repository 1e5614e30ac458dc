"""The charts of the page as a PNG file, drawn by matplotlib."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from fl import __version__
from fl.errors import ConfigError
from fl.report import view, words
from fl.report.facts import Facts, Round

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_METRICS = 3
"""Curves in the picture."""

COLOURS = {
    "training": "#2f6fde",
    "sites": "#0f9d8a",
    "centre": "#b4501e",
    "folding": "#8a63d2",
    "answered": "#2b9d74",
    "spare": "#b3bfcc",
    "late": "#dba514",
    "silent": "#c26a17",
    "failed": "#d03a3a",
}
"""Those of the page on white."""

Part = tuple[str, str, Callable[[Round], float | None]]
"""A colour, a label, and the value of a round."""


def require_matplotlib() -> None:
    """Refuse what needs matplotlib where it is not installed.

    Raises:
        ConfigError: With what to install.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError("a PNG needs matplotlib, which is not installed", hint="pip install 'fedfleet[plot]'")


def draw(facts: Facts) -> bytes:
    """Curves above; who answered, how long it took and what travelled below.

    Returns:
        The content of a PNG file.

    Raises:
        ConfigError: If matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

    run, rounds = facts.run, facts.rounds
    names = view.metric_names(rounds)[:MOST_METRICS]
    num_rows = 2 if names else 1
    # What a run says is text: a dollar sign in it begins no formula.
    settings: Any = {"text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False, "font.size": 9}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(12, 3.4 * num_rows), dpi=150, layout="constrained")
        done = f"{words.count(run.rounds_committed)} of {words.plural(run.rounds_planned, 'round')}"
        figure.suptitle(f"{run.name}: {run.status}, {done}", fontweight="bold")
        grid = figure.add_gridspec(num_rows, 6)
        for i, name in enumerate(names):
            width = 6 // len(names)
            axes = figure.add_subplot(grid[0, i * width : (i + 1) * width])
            _lines(axes, rounds, name)
            if words.is_share(name):
                axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        below = [figure.add_subplot(grid[-1, i : i + 2]) for i in (0, 2, 4)]
        for axes, (title, parts) in zip(below, _parts().items(), strict=True):
            _bars(axes, rounds, parts)
            axes.set_title(title, loc="left", pad=18)
        below[2].yaxis.set_major_formatter(FuncFormatter(lambda value, _: words.size(value)))
        for axes in figure.axes:
            axes.set_xlabel("round")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if axes.get_legend_handles_labels()[0]:
                axes.legend(
                    loc="lower left", bbox_to_anchor=(0, 1.01), ncols=4, fontsize=7, frameon=False,
                    borderaxespad=0, handlelength=1, columnspacing=1,
                )  # fmt: skip
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata={"Software": f"fedfleet {__version__}"})
    return content.getvalue()


def _parts() -> dict[str, list[Part]]:
    others = ("spare", "late", "silent", "failed")
    return {
        "sites asked": [
            ("answered", "answered", attrgetter("survivors")),
            *((key, key, attrgetter(key)) for key in others),
        ],
        "time (s)": [
            ("training", "waiting for updates", attrgetter("training_s")),
            ("folding", "folding", attrgetter("folding_s")),
            ("sites", "evaluation", attrgetter("evaluation_s")),
        ],
        "traffic": [
            ("training", "sent to sites", attrgetter("sent_bytes")),
            ("sites", "received", attrgetter("received_bytes")),
        ],
    }


def _lines(axes: Axes, rounds: Sequence[Round], name: str) -> None:
    for place, label in words.PLACES.items():
        points = [(entry.number, value) for entry in rounds if (value := entry.metric(place, name)) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, color=COLOURS[place], marker=".", markersize=4)
    axes.set_title(name, loc="left", pad=18)
    axes.grid(axis="y", alpha=0.3)


def _bars(axes: Axes, rounds: Sequence[Round], parts: Sequence[Part]) -> None:
    numbers, floor = [entry.number for entry in rounds], [0.0] * len(rounds)
    for key, label, value in parts:
        values = [value(entry) or 0.0 for entry in rounds]
        if any(values):
            axes.bar(numbers, values, bottom=floor, width=0.8, color=COLOURS[key], label=label)
            floor = [a + b for a, b in zip(floor, values, strict=True)]
