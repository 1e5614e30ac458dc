"""A comparison as one picture for papers and slides: curves above, final figures below, drawn by matplotlib."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl import __version__
from fl.errors import ConfigError
from fl.files import write_atomic
from fl.report import words
from fl.report.charts import MOST_DOTS, ROUNDS
from fl.report.facts import Place
from fl.report.picture import require_matplotlib
from simulations.report.comparison import Comparison, Line
from simulations.report.curves import HOURS, Panel, drawn_of, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#2f6fde", "#c8501a", "#0c8a79", "#8a4fd0", "#b98a00", "#c2327e", "#5f7d1a", "#5a6675")
"""Those of the page on white, by the number of the line's key."""

ENDINGS = ("svg", "png", "html")
"""What a plot can be written as; ``html`` is the page."""


def write(comparison: Comparison, path: Path, *, title: str) -> None:
    """Write the picture, or the page, by the file's ending.

    Raises:
        ConfigError: On another ending, if nothing was measured that could be drawn, or matplotlib is not installed.
        StorageError: If the file cannot be written.
    """
    ending = check(path)
    if ending == "html":
        from simulations.report.page import render

        write_atomic(path, render(comparison, title=title))
        return
    write_atomic(path, draw(comparison, ending))


def check(path: Path) -> str:
    """Refuse a file that cannot be drawn, before anything is done.

    Returns:
        Its ending.

    Raises:
        ConfigError: On an ending that is unknown, or if matplotlib is needed and not installed.
    """
    ending = path.suffix[1:].lower()
    if ending not in ENDINGS:
        raise ConfigError(f"cannot draw {path}", hint=f"let it end with one of: {', '.join('.' + e for e in ENDINGS)}")
    if ending != "html":
        require_matplotlib()
    return ending


def draw(comparison: Comparison, ending: str, *, dpi: int = 150) -> bytes:
    """The picture.

    Args:
        comparison: Of what.
        ending: ``svg`` or ``png``.
        dpi: Dots of a PNG to the inch.

    Returns:
        The content of a file.

    Raises:
        ConfigError: If nothing was measured that could be drawn, or matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib

    if comparison.metric is None or comparison.place is None:
        raise ConfigError("nothing was measured at one place by all of the runs", hint="fl sim report says what was")
    # What a run says is text: a dollar sign in it begins no formula. The same runs give the same file.
    settings: Any = {
        "text.parse_math": False,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 9,
        "svg.hashsalt": "fedfleet",
    }
    content = io.BytesIO()
    metadata = {"Date": None, "Creator": f"fedfleet {__version__}"} if ending == "svg" else {"Software": "fedfleet"}
    with matplotlib.rc_context(settings):
        _figure(comparison, comparison.place, comparison.metric).savefig(
            content, format=ending, dpi=dpi, metadata=metadata
        )
    return content.getvalue()


def _figure(comparison: Comparison, place: Place, metric: str) -> Figure:
    from matplotlib.figure import Figure

    variants = drawn_of(comparison.variants, place, metric)
    drawn = panels(variants, place, metric)
    figure = Figure(figsize=(4.2 * (len(drawn) + 1), 4.0), layout="constrained")
    axes = figure.subplots(1, len(drawn) + 1)
    for one, panel in zip(axes, drawn, strict=False):
        _lines(one, panel)
    _ends(axes[-1], comparison, {variant.label: key for key, variant in variants}, metric)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False)
    return figure


def _lines(axes: Axes, panel: Panel) -> None:
    for one in panel.series:
        colour = COLOURS[int(one.key[1:])]
        there = [(i, value) for i, value in enumerate(one.values) if value is not None]
        columns, values = [panel.columns[i] for i, _ in there], [value for _, value in there]
        marker = "." if len(there) <= MOST_DOTS else ""
        axes.plot(columns, values, color=colour, label=one.name, marker=marker, markersize=4)
        for band in one.bands[-1:]:  # the deviation; the ends as well would hide neighbours
            low, high = [band.lowest[i] for i, _ in there], [band.highest[i] for i, _ in there]
            axes.fill_between(columns, low, high, color=colour, alpha=0.15, linewidth=0)  # type: ignore[arg-type]
    axes.set_title(f"{panel.metric} by {panel.along.name}", loc="left")
    axes.grid(axis="y", alpha=0.3)
    axes.set_xlabel(panel.note, fontsize=7)
    _texts(axes, panel.metric)
    if panel.along is ROUNDS:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    else:
        _ticks(axes, panel)


def _ticks(axes: Axes, panel: Panel) -> None:
    """Those of the page: round numbers in the unit that fits."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    unit = max((unit for unit in panel.along.units if unit <= panel.columns[-1]), default=1.0)
    step = max(1, round(panel.columns[-1] / unit / 4))
    axes.xaxis.set_major_locator(MultipleLocator(step * unit))
    text: Callable[[float | None], str] = words.seconds if panel.along is HOURS else words.size
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value) if value else "0"))


def _ends(axes: Axes, comparison: Comparison, keys: Mapping[str, str], metric: str) -> None:
    """Bars: what the last models reach, and at the tenth of the sites that fares worst."""
    lines = [line for line in comparison.lines if line.variant.label in keys and metric in line.final]
    colours = [COLOURS[int(keys[line.variant.label][1:])] for line in lines]
    _bars(axes, lines, [line.final[metric] for line in lines], colours, offset=0.2)
    if any(line.worst_decile for line in lines):
        _bars(axes, lines, [line.worst_decile for line in lines], colours, offset=-0.2, alpha=0.45)
        axes.set_title(f"last {metric}; paler: worst tenth of sites", loc="left")
    else:
        axes.set_title(f"last {metric}", loc="left")
    axes.set_yticks(range(len(lines)), [line.variant.label for line in lines])
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    _texts(axes, metric, on_x=True)


def _bars(
    axes: Axes,
    lines: Sequence[Line],
    stats: Sequence[Any],
    colours: Sequence[str],
    *,
    offset: float,
    alpha: float = 1.0,
) -> None:
    for i, (_, stat, colour) in enumerate(zip(lines, stats, colours, strict=True)):
        if stat is not None:
            error = stat.std if stat.count > 1 else None
            axes.barh(i - offset, stat.mean, height=0.38, color=colour, alpha=alpha, xerr=error, ecolor="#556273")


def _texts(axes: Axes, metric: str, *, on_x: bool = False) -> None:
    from matplotlib.ticker import FuncFormatter

    if words.is_share(metric):
        text = partial(words.metric, metric)
        axis = axes.xaxis if on_x else axes.yaxis
        axis.set_major_formatter(FuncFormatter(lambda value, _: text(value).replace(".0 ", " ")))
