"""Charts as geometry: where lines, bars and ticks go in a box of ``WIDTH`` × ``HEIGHT``; the template draws them.

Nothing here knows HTML. Texts come along unescaped, and the template escapes them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TypeGuard

from fl.report import words

WIDTH, HEIGHT = 400, 220
LEFT, RIGHT, TOP, BOTTOM = 62, 20, 10, 26
"""Margins for the labels of the axes."""

MOST_POINTS = 1000
"""A line with more points than this shows every second, third, … one."""

MOST_BARS = 160
"""More rounds than this share a bar, which shows their mean."""

MOST_DOTS = 40
"""A line with more points than this has no dots."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tick:
    """A label on an axis."""

    at: float
    label: str


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """A line, band or group of bars.

    Attributes:
        kind: ``line``, ``band`` or ``bars``.
        key: What it stands for, in one word; its colour hangs on it.
        path: For SVG.
        dots: Points of a line, if they are few.
    """

    kind: str
    key: str
    path: str
    dots: tuple[tuple[float, float], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Band:
    """What lies around a line.

    Attributes:
        lowest: Its lower end, one a column.
        highest: Its upper end.
        words: What it goes over, for people.
    """

    lowest: Sequence[float | None]
    highest: Sequence[float | None]
    words: str = "at single sites"


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """Values by column, ``None`` where there is none.

    Attributes:
        key: What it stands for, in one word.
        name: The same for people.
        values: One a column.
        bands: Around it, the widest first.
    """

    key: str
    name: str
    values: Sequence[float | None]
    bands: Sequence[Band] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Along:
    """What the horizontal axis of lines counts.

    Attributes:
        name: In a word.
        head: A place on it for people: ``round 5``.
        after: The same in a sentence: ``in round 5``.
        tick: The same at the axis.
        units: As for ``bars``; empty for rounds, whose axis begins with the first of them, others at nothing.
    """

    name: str
    head: Callable[[float], str]
    after: Callable[[float], str]
    tick: Callable[[float], str]
    units: Sequence[float] = ()


ROUNDS = Along("round", lambda number: f"round {number:g}", lambda number: f"in round {number:g}", words.count)


@dataclasses.dataclass(frozen=True, slots=True)
class Chart:
    """A chart, ready to draw.

    Attributes:
        title: What it shows, with the unit.
        summary: The same in a sentence, for those who cannot see it.
        x_ticks: Rounds.
        y_ticks: Values.
        shapes: From back to front.
        legend: Key and name of each series.
        hover: For the script: ``x`` of each column, its ``head``, and ``rows`` of ``[key, name, texts]``.
        note: What is left out.
    """

    title: str
    summary: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    shapes: tuple[Shape, ...]
    legend: tuple[tuple[str, str], ...]
    hover: dict[str, object]
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class _Axis:
    """From values to places; ``low`` and ``high`` are its ends."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.stop - self.start), 1)


def lines(
    title: str,
    columns: Sequence[float],
    series: Sequence[Series],
    text: Callable[[float | None], str],
    *,
    along: Along = ROUNDS,
) -> Chart:
    """Lines over the rounds, or along something else, with the bands around them.

    Args:
        title: What it shows.
        columns: Where each column is, rising: the number of a round.
        series: One line each; values that are not finite leave a gap.
        text: A value for people.
        along: What the columns count.
    """
    stride = -(-len(columns) // MOST_POINTS)
    kept = sorted({*range(0, len(columns), stride), len(columns) - 1}) if stride > 1 else list(range(len(columns)))
    columns = [columns[i] for i in kept]
    series = [_kept(one, kept) for one in series]
    low, high = _range(series)
    step = _step(high - low)
    y = _Axis(math.floor(low / step) * step, math.ceil(high / step) * step, HEIGHT - BOTTOM, TOP)
    x = _Axis(0.0 if along.units else columns[0], columns[-1], LEFT + 6, WIDTH - RIGHT - 6)
    xs = [x(number) for number in columns]
    shapes = [Shape("band", one.key, _band(xs, band, y)) for one in series for band in one.bands]
    for one in series:
        dots = tuple((at, y(v)) for at, v in zip(xs, one.values, strict=True) if _is_number(v))
        shapes.append(Shape("line", one.key, _line(xs, one.values, y), dots if len(dots) <= MOST_DOTS else ()))
    return Chart(
        title=title,
        summary=f"{title} by {along.name}. " + " ".join(_trend(one, columns, text, along) for one in series),
        x_ticks=_ticks(columns[-1], x, along) if along.units else _round_ticks(int(columns[0]), int(columns[-1]), x),
        y_ticks=tuple(Tick(y(v), _short(text(v))) for v in _steps(y.low, y.high, step)),
        shapes=tuple(shapes),
        legend=tuple((one.key, one.name) for one in series),
        hover=_hover(xs, [along.head(number) for number in columns], series, text),
        note=f"every {stride}th round is drawn" if stride > 1 else "",
    )


def bars(
    title: str,
    rounds: Sequence[int],
    series: Sequence[Series],
    text: Callable[[float | None], str],
    *,
    units: Sequence[float] = (1.0,),
    whole: bool = False,
) -> Chart:
    """Bars over the rounds, the series stacked in the order given.

    Args:
        title: What it shows.
        rounds: Number of each column, rising.
        series: ``None`` counts as nothing.
        text: A value for people.
        units: Sizes of the units that ``text`` changes between, so that ticks are round numbers in each.
        whole: Ticks are whole numbers.
    """
    width = -(-len(rounds) // MOST_BARS)
    groups = [range(i, min(i + width, len(rounds))) for i in range(0, len(rounds), width)]
    heads = [
        f"round {rounds[group[0]]}" if width == 1 else f"rounds {rounds[group[0]]}–{rounds[group[-1]]}, mean"
        for group in groups
    ]
    means = [[sum(one.values[i] or 0.0 for i in group) / len(group) for group in groups] for one in series]
    top = max((sum(column) for column in zip(*means, strict=True)), default=0.0) or 1.0
    unit = max((unit for unit in units if unit <= top), default=min(units))
    step = unit * _step(top / unit, at_least=1.0 if whole else 0.0)
    y = _Axis(0.0, math.ceil(top / step - 1e-9) * step, HEIGHT - BOTTOM, TOP)
    slot = (WIDTH - LEFT - RIGHT) / len(groups)
    bar = min(0.8 * slot, 26.0) if slot > 4 else slot
    xs = [round(LEFT + (i + 0.5) * slot, 1) for i in range(len(groups))]
    shapes, floors = [], [0.0] * len(groups)
    for one, values in zip(series, means, strict=True):
        path = []
        for i, value in enumerate(values):
            if value > 0:
                foot, head = y(floors[i]), y(floors[i] + value)
                path.append(f"M{xs[i] - bar / 2:.1f} {foot:g}V{head:g}h{bar:.1f}V{foot:g}z")
                floors[i] += value
        shapes.append(Shape("bars", one.key, "".join(path)))
    first, last = rounds[0], rounds[-1]
    x = _Axis(first, last, xs[0], xs[-1])
    averaged = [dataclasses.replace(one, values=values) for one, values in zip(series, means, strict=True)]
    return Chart(
        title=title,
        summary=f"{title} by round. " + " ".join(_trend(one, rounds, text, ROUNDS) for one in series),
        x_ticks=_round_ticks(first, last, x),
        y_ticks=tuple(Tick(y(v), _short(text(v)) if v else "0") for v in _steps(0.0, y.high, step)),
        shapes=tuple(shape for shape in shapes if shape.path),
        legend=tuple(
            (one.key, one.name) for one, shape in zip(series, shapes, strict=True) if shape.path or len(series) == 1
        ),
        hover=_hover(xs, heads, [one for one, shape in zip(averaged, shapes, strict=True) if shape.path], text),
        note=f"a bar is the mean of {width} rounds" if width > 1 else "",
    )


def _kept(series: Series, columns: Sequence[int]) -> Series:
    def pick(values: Sequence[float | None]) -> list[float | None]:
        return [values[i] for i in columns]

    bands = [Band(pick(band.lowest), pick(band.highest), band.words) for band in series.bands]
    return dataclasses.replace(series, values=pick(series.values), bands=bands)


def _is_number(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _range(series: Sequence[Series]) -> tuple[float, float]:
    """What an axis must show: all lines, and of the bands what does not squash the lines."""
    seen = [value for one in series for value in one.values if _is_number(value)] or [0.0, 1.0]
    low, high = min(seen), max(seen)
    room = (high - low) or abs(low)
    bands = [band for one in series for band in one.bands]
    ends = [value for band in bands for value in (*band.lowest, *band.highest) if _is_number(value)]
    low, high = (
        min([low, *(max(value, low - room) for value in ends)]),
        max([high, *(min(value, high + room) for value in ends)]),
    )
    if high - low > 1e-12:
        return low, high
    margin = 0.05 * abs(low) or 0.5
    return low - margin, high + margin


def _step(span: float, *, at_least: float = 0.0) -> float:
    """The distance of about four ticks: 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return max(at_least, next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= 4.5))


def _steps(low: float, high: float, step: float) -> list[float]:
    return [round(low + i * step, 12) for i in range(round((high - low) / step) + 1)]


def _short(text: str) -> str:
    """``20.0 s`` → ``20 s``: ticks are round numbers."""
    return text.replace(".0 ", " ")


def _round_ticks(first: int, last: int, x: _Axis) -> tuple[Tick, ...]:
    if first == last:
        return (Tick(x(first), str(first)),)
    step = max(1, round(_step(last - first)))
    inner = [n for n in range(-(-first // step) * step, last + 1, step) if 0.4 * step <= min(n - first, last - n)]
    return tuple(Tick(x(n), words.count(n)) for n in [first, *inner, last])


def _ticks(last: float, x: _Axis, along: Along) -> tuple[Tick, ...]:
    """Round numbers in the unit that fits, from nothing."""
    unit = max((unit for unit in along.units if unit <= last), default=min(along.units))
    step = unit * _step(last / unit if last > 0 else 1.0)
    return tuple(Tick(x(n), _short(along.tick(n)) if n else "0") for n in _steps(0.0, last // step * step, step))


def _line(xs: Sequence[float], values: Sequence[float | None], y: _Axis) -> str:
    """Rounds without a value are bridged, because metrics may be measured every few rounds only."""
    path, is_down = [], False
    for at, value in zip(xs, values, strict=True):
        if _is_number(value):
            path.append(f"{'L' if is_down else 'M'}{at:g} {y(value):g}")
            is_down = True
        elif value is not None:
            is_down = False  # it was measured and is not finite
    return "".join(path)


def _band(xs: Sequence[float], band: Band, y: _Axis) -> str:
    ends = [
        (at, y(min(max(a, y.low), y.high)), y(max(min(b, y.high), y.low)))
        for at, a, b in zip(xs, band.lowest, band.highest, strict=True)
        if _is_number(a) and _is_number(b)
    ]
    there = "L".join(f"{at:g} {top:g}" for at, _, top in ends)
    back = "L".join(f"{at:g} {bottom:g}" for at, bottom, _ in reversed(ends))
    return f"M{there}L{back}z" if len(ends) > 1 else ""


def _trend(series: Series, columns: Sequence[float], text: Callable[[float | None], str], along: Along) -> str:
    there = [(number, v) for number, v in zip(columns, series.values, strict=True) if v is not None]
    if not there:
        return f"{series.name}: nothing."
    (first, start), (last, end) = there[0], there[-1]
    if first == last:
        return f"{series.name}: {text(start)} {along.after(first)}."
    return f"{series.name}: from {text(start)} {along.after(first)} to {text(end)} {along.after(last)}."


def _hover(
    xs: Sequence[float], heads: Sequence[str], series: Sequence[Series], text: Callable[[float | None], str]
) -> dict[str, object]:
    rows: list[tuple[str, str, list[str]]] = []
    for one in series:
        texts = ["" if v is None else text(v) for v in one.values]
        for band in one.bands:
            texts = [
                f"{value} ({text(low)} to {text(high)} {band.words})" if low is not None and low != high else value
                for value, low, high in zip(texts, band.lowest, band.highest, strict=True)
            ]
        rows.append((one.key, one.name, texts))
    return {"x": list(xs), "head": list(heads), "rows": rows}
