"""Runs: the list, one run in full, several side by side."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, cast

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fl.errors import InputError
from fl.report.prices import NO_PRICES, Prices
from server.controller.states import ACTIVE, FINISHED, State, can_be
from server.store.runs import Metric, Model, Round, Run
from server.views.condition import Level, ago, span
from server.views.page import Page, Visible, check_limit, find_run, number_of, restrict
from server.views.usage import NOT_SUMMED, Amount, of_run

GROUPS: dict[str, frozenset[State]] = {
    "active": ACTIVE,
    "finished": FINISHED,
    "waiting": frozenset({"queued", "paused"}),
}
"""Words for several states at once."""

Curve = tuple[tuple[float | None, ...], ...]
"""Pairs of round and value; in JSON a value that is not finite is null."""

LEVELS: dict[str, Level] = {
    "queued": "idle",
    "starting": "good",
    "running": "good",
    "interrupted": "warn",
    "pausing": "idle",
    "paused": "idle",
    "stopping": "idle",
    "stopped": "idle",
    "failed": "bad",
    "completed": "good",
}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """A run in a list."""

    number: int
    name: str
    title: str
    project: str
    priority: int
    kind: str
    """``run`` or ``app``."""
    state: str
    level: Level
    words: str
    """Its state in words, e.g. ``round 7 of 20, since 3 minutes``."""
    advice: str
    """What to type; empty where there is nothing to do."""
    can: tuple[str, ...]
    """What may be asked of it now: some of ``pause``, ``stop``, ``resume``."""
    rounds_done: int
    rounds_wanted: int
    submitted_by: str
    submitted_s: float
    """All times are seconds since 1970."""
    start_s: float
    """Not to start before then; 0 at once."""
    changed_s: float
    finished_s: float | None
    lives: int
    """How often it was handed to SuperLink."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunDetail:
    """One run in full; its rounds and curves are asked for by themselves."""

    row: RunRow
    reason: str
    config: Mapping[str, Any]
    """The resolved run file."""
    sites: Mapping[str, str]
    """Labels that a site must have to take part."""
    app_digest: str
    flower_run: str
    journal_lines: int
    is_secure: bool
    """Whether it uses secure aggregation."""
    stage: str
    """The stage of secure aggregation that closed last, in the last round."""
    places: Mapping[str, tuple[str, ...]]
    """Names of its metrics by place: ``training``, ``sites``, ``centre``."""
    newest: Mapping[str, Mapping[str, float | None]]
    """The last value of each metric, by place and name."""
    models: tuple[int, ...]
    """Numbers of its models that are kept."""
    usage: Amount


@dataclasses.dataclass(frozen=True, slots=True)
class Compared:
    """Runs side by side."""

    runs: tuple[RunRow, ...]
    settings: Mapping[str, tuple[str, ...]]
    """Settings in which they differ, by dotted key: a value a run, as JSON; empty where a run has none."""
    curves: Mapping[str, Mapping[str, Curve]]
    """By ``place/metric``, then by run: round and value."""
    newest: Mapping[str, tuple[float | None, ...]]
    """By ``place/metric``: the last value of each run."""
    usage: tuple[Amount, ...]


def runs(
    session: Session,
    now_s: float,
    *,
    state: str = "",
    project: str = "",
    text: str = "",
    limit: int = 50,
    after: str = "",
    visible: Visible = None,
) -> Page[RunRow]:
    """The runs, the newest first.

    Args:
        session: A transaction that reads.
        now_s: Seconds since 1970.
        state: A state, or ``active``, ``waiting`` or ``finished``.
        project: Only of this project.
        text: Part of a name or title.
        limit: Rows of the page.
        after: The number behind which to go on.
        visible: Projects whose runs may be seen.

    Raises:
        InputError: If a value is none.
    """
    check_limit(limit)
    query = restrict(select(Run), visible).order_by(Run.number.desc()).limit(limit + 1)
    if state:
        query = query.where(Run.state.in_(sorted(_states(state))))
    if project:
        query = query.where(Run.project == project)
    if text:
        query = query.where(Run.name.icontains(text, autoescape=True) | Run.title.icontains(text, autoescape=True))
    if (last := number_of(after)) is not None:
        query = query.where(Run.number < last)
    found = list(session.scalars(query))
    rows = tuple(run_row(run, now_s) for run in found[:limit])
    return Page(rows, str(rows[-1].number) if len(found) > limit else None)


def run(
    session: Session,
    now_s: float,
    name: str,
    *,
    visible: Visible = None,
    prices: Prices = NO_PRICES,
    with_usage: bool = True,
) -> RunDetail:
    """One run in full; without its usage if somebody waits for it: that goes through all its replies.

    Raises:
        NotFoundError: If there is none of that name, or it is not visible.
    """
    found = find_run(session, name, visible)
    newest: dict[str, dict[str, float]] = defaultdict(dict)
    for place, metric, value in session.execute(_newest(found.number)):
        newest[place][metric] = value
    config = json.loads(found.config or "{}")
    stage = session.scalar(select(Round.stage).where(Round.run == found.number).order_by(Round.number.desc()).limit(1))
    models = session.scalars(select(Model.number).where(Model.run == found.number).order_by(Model.number))
    return RunDetail(
        row=run_row(found, now_s),
        reason=found.reason,
        config=config,
        sites=json.loads(found.sites or "{}"),
        app_digest=found.app_digest,
        flower_run=found.flower_run or "",
        journal_lines=found.lines,
        is_secure=bool(config.get("secagg")),
        stage=stage or "",
        places={place: tuple(sorted(values)) for place, values in newest.items()},
        newest=newest,
        models=tuple(models),
        usage=of_run(session, found, prices) if with_usage else NOT_SUMMED,
    )


def curves(
    session: Session, name: str, *, place: str = "", metric: str = "", visible: Visible = None
) -> dict[str, Curve]:
    """Metrics over the rounds, by ``place/metric``: round and value.

    Raises:
        NotFoundError: If there is no such run, or it is not visible.
    """
    return _curves(session, find_run(session, name, visible).number, place, metric)


def compare(
    session: Session, now_s: float, names: Sequence[str], *, visible: Visible = None, prices: Prices = NO_PRICES
) -> Compared:
    """Runs side by side.

    Raises:
        InputError: If there are fewer than two names or more than ten.
        NotFoundError: If one is not there, or not visible.
    """
    if not 2 <= len(set(names)) <= 10:
        raise InputError(f"{len(set(names))} runs to compare, must be 2 to 10", hint="fl run compare RUN RUN")
    found = [find_run(session, name, visible) for name in dict.fromkeys(names)]
    flat = [dict(flatten(json.loads(run.config or "{}"))) for run in found]
    keys = sorted({key for one in flat for key in one})
    settings = {key: tuple(one.get(key, "") for one in flat) for key in keys}
    by_run = {run.name: _curves(session, run.number, "", "") for run in found}
    names_of_curves = sorted({key for one in by_run.values() for key in one})
    return Compared(
        runs=tuple(run_row(run, now_s) for run in found),
        settings={key: values for key, values in settings.items() if len(set(values)) > 1},
        curves={key: {run: by_run[run][key] for run in by_run if key in by_run[run]} for key in names_of_curves},
        newest={
            key: tuple(by_run[run.name][key][-1][1] if key in by_run[run.name] else None for run in found)
            for key in names_of_curves
        },
        usage=tuple(of_run(session, run, prices) for run in found),
    )


def projects(session: Session, *, visible: Visible = None) -> tuple[str, ...]:
    """The projects that have runs."""
    return tuple(session.scalars(restrict(select(Run.project).distinct(), visible).order_by(Run.project)))


def counts(session: Session, *, visible: Visible = None) -> dict[str, int]:
    """How many runs there are in each state."""
    found = session.execute(restrict(select(Run.state, func.count()), visible).group_by(Run.state))
    return dict(found.all())


def run_row(run: Run, now_s: float) -> RunRow:
    """A run as a row."""
    words, advice = _words(run, now_s)
    return RunRow(
        number=run.number,
        name=run.name,
        title=run.title,
        project=run.project,
        priority=run.priority,
        kind=run.kind,
        state=run.state,
        level=LEVELS.get(run.state, "warn"),
        words=words,
        advice=advice,
        can=tuple(can_be(cast(State, run.state), kind=run.kind)),
        rounds_done=run.rounds_done,
        rounds_wanted=run.rounds_wanted,
        submitted_by=run.submitted_by,
        submitted_s=run.submitted_s,
        start_s=run.start_s,
        changed_s=run.changed_s,
        finished_s=run.finished_s,
        lives=run.lives,
    )


def _words(run: Run, now_s: float) -> tuple[str, str]:
    """A run's state in words, and what to type."""
    since = span(now_s - run.changed_s)
    rounds = f"{run.rounds_done} of {run.rounds_wanted} rounds" if run.rounds_wanted else "no rounds"
    why = f": {run.reason}" if run.reason else ""
    match run.state:
        case "queued" if run.start_s > now_s:
            return f"starts in {span(run.start_s - now_s)}", ""
        case "queued":
            return f"waits for a place since {since}{why}", ""
        case "starting":
            return f"starting since {since}{why}", ""
        case "running" if run.rounds_wanted:
            return f"round {min(run.rounds_done + 1, run.rounds_wanted)} of {run.rounds_wanted}", ""
        case "running":
            return f"running since {since}", ""
        case "interrupted":
            return f"interrupted {ago(now_s - run.changed_s)}, resumes by itself{why}", ""
        case "failed":
            return f"failed after {rounds}{why}", f"fl run resume {run.name}"
        case "paused" | "stopped":
            return f"{run.state} after {rounds}{why}", f"fl run resume {run.name}"
        case "completed":
            took = f" in {span(run.finished_s - run.submitted_s)}" if run.finished_s else ""
            return f"{rounds}{took}", ""
        case _:
            return f"{run.state} since {since}{why}", ""


def _states(state: str) -> frozenset[str]:
    if state in GROUPS:
        return frozenset(map(str, GROUPS[state]))
    if state not in LEVELS:
        raise InputError(f"no run is ever {state[:40]!r}", hint=f"one of {', '.join((*GROUPS, *LEVELS))}")
    return frozenset({state})


def _newest(number: int) -> Any:
    """The last value of each metric of a run, each found at the end of its stretch of the primary key."""
    last = (
        select(Metric.place, Metric.name, func.max(Metric.round).label("round"))
        .where(Metric.run == number)
        .group_by(Metric.place, Metric.name)
        .subquery()
    )
    return select(Metric.place, Metric.name, Metric.value).join(
        last,
        (Metric.place == last.c.place)
        & (Metric.name == last.c.name)
        & (Metric.round == last.c.round)
        & (Metric.run == number),
    )


def _curves(session: Session, run: int, place: str, metric: str) -> dict[str, Curve]:
    query = select(Metric.place, Metric.name, Metric.round, Metric.value).where(Metric.run == run)
    if place:
        query = query.where(Metric.place == place)
    if metric:
        query = query.where(Metric.name == metric)
    found: dict[str, list[tuple[float | None, ...]]] = defaultdict(list)
    for where, name, number, value in session.execute(query.order_by(Metric.place, Metric.name, Metric.round)):
        found[f"{where}/{name}"].append((number, value))
    return {key: tuple(points) for key, points in found.items()}


def flatten(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A run file's settings by dotted key, each as JSON."""
    flat: list[tuple[str, str]] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat += flatten(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", json.dumps(value)))
    return flat
