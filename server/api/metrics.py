"""``/metrics`` for Prometheus: drawn from the store at each scrape, so that it says what the dashboard says.

Label sets are bounded: sites are counted by condition, and only those with a problem are named (``MOST_NAMED``); only
active runs have series of their own. What grows with history (rounds, replies, durations) is summed once: a round that
is over is read once in the life of the process.
"""

from __future__ import annotations

import bisect
import dataclasses
import hmac
import math
import threading
import time
from collections import Counter as Count
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, get_args

from cryptography import x509
from fastapi import FastAPI, Request, Response
from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, PROCESS_COLLECTOR, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.core import (
    Metric as Family,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from fl import __version__
from fl.files import read_secret
from server.api.auth import address_of, bearer_of, current_user
from server.api.context import Context, context_of
from server.api.errors import ForbiddenError
from server.controller.states import ACTIVE, FINISHED, MOVES
from server.store.models import Certificate, Counter, Site
from server.store.runs import Metric, Reply, Round, Run
from server.views.condition import Condition
from server.views.fleet import site_rows

LOOPBACK = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
MOST_NAMED = 50
"""Sites with a problem, active runs, projects and error codes that have series of their own."""
MOST_METRICS = 20
"""Metrics of one run."""
SOON_S = 2 * 86_400.0
BUCKETS_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
STEPS = ("wait", "fold", "round")
"""``wait``: from the opening of a round until enough sites answered; ``fold``: their updates into the next model;
``round``: from the opening to the commit."""


def install(app: FastAPI) -> None:
    """Add ``/metrics`` to an application whose context is set.

    Raises:
        ConfigError: If the token's file cannot be used.
    """
    context: Context = app.state.context
    registry = CollectorRegistry()
    for collector in (PROCESS_COLLECTOR, PLATFORM_COLLECTOR, GC_COLLECTOR):
        registry.register(collector)
    registry.register(_Collector(context))
    file = context.access.metrics_token_file
    secret = read_secret(file) if file else ""

    def metrics(request: Request) -> Response:
        _check(request, secret)
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    app.add_api_route("/metrics", metrics, include_in_schema=False)


def _check(request: Request, secret: str) -> None:
    """Refuse who may not read metrics."""
    who = context_of(request).access.metrics
    if who == "anonymous" or (who == "loopback" and address_of(request) in LOOPBACK):
        return
    if secret and hmac.compare_digest((bearer_of(request) or "").encode(), secret.encode()):
        return
    current = current_user(request)
    if current.visible is not None:
        raise ForbiddenError(f"{current.name} sees some projects only, and metrics are of all")


@dataclasses.dataclass(slots=True)
class _History:
    """Sums over rounds that are over."""

    until: int = 0
    """The last round that is in them."""
    is_whole: bool = False
    """Whether the run was over when they were made."""
    rounds: int = 0
    received_bytes: int = 0
    replies: Count[tuple[str, str]] = dataclasses.field(default_factory=Count)
    codes: Count[str] = dataclasses.field(default_factory=Count)
    buckets: dict[str, list[int]] = dataclasses.field(
        default_factory=lambda: {step: [0] * (len(BUCKETS_S) + 1) for step in STEPS}
    )
    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))


class _Collector:
    """Reads the store when Prometheus asks."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._history: dict[int, _History] = {}
        self._lock = threading.Lock()

    def describe(self) -> list[Family]:
        """Nothing: registering must not read the store."""
        return []

    def collect(self) -> Iterator[Family]:
        """All families."""
        begun, now_s = time.perf_counter(), time.time()
        yield InfoMetricFamily("fedfleet", "The release that runs.", value={"version": __version__})
        with self._context.store.read() as session:
            yield from _sites(session, now_s)
            yield from _runs(session, now_s)
            with self._lock:
                yield from self._totals(session)
        yield from self._certificates(now_s)
        yield _gauge("live_viewers", "Live views that are open.", self._context.live.watching)
        took = time.perf_counter() - begun
        yield _gauge("scrape_seconds", "What it took to read the store for this scrape.", took)

    def _certificates(self, now_s: float) -> Iterator[Family]:
        family = GaugeMetricFamily(
            "fedfleet_centre_certificate_left_seconds", "Life left of the centre's own certificates.", labels=["of"]
        )
        chain = self._context.home.gateway / "server.crt"
        if chain.exists():
            ends = x509.load_pem_x509_certificate(chain.read_bytes()).not_valid_after_utc.timestamp()
            family.add_metric(["gateway"], ends - now_s)
        yield family

    def _totals(self, session: Session) -> Iterator[Family]:
        rows = session.execute(select(Run.number, Run.state, Run.rounds_done)).all()
        for number, state, done in rows:
            known = self._history.get(number, _History())
            if known.is_whole and state in FINISHED:
                continue
            # Late replies change rounds that are over: a run is summed anew when it ends, and when it goes on.
            fresh = _History() if state in FINISHED or known.is_whole else known
            _add(session, fresh, number, done if state not in FINISHED else 2**31)
            fresh.is_whole = state in FINISHED
            self._history[number] = fresh
        yield from _families(list(self._history.values()))


def _add(session: Session, to: _History, run: int, until: int) -> None:
    """Add the rounds of a run behind those that are in already."""
    if until <= to.until:
        return
    span = (to.until + 1, until)
    for round_ in session.execute(
        select(
            Round.number, Round.opened_s, Round.closed_s, Round.committed_s, Round.fold_s, Round.received_bytes
        ).where(Round.run == run, Round.number.between(*span), Round.committed_s.is_not(None))
    ):
        to.rounds += 1
        to.received_bytes += round_.received_bytes
        wait_s = None if round_.closed_s is None else round_.closed_s - round_.opened_s
        for step, value in zip(STEPS, (wait_s, round_.fold_s, round_.committed_s - round_.opened_s), strict=True):
            if value is not None:
                to.buckets[step][bisect.bisect_left(BUCKETS_S, value)] += 1
                to.seconds[step] += value
    for phase, outcome, code, count in session.execute(
        select(Reply.phase, Reply.outcome, Reply.code, func.count())
        .where(Reply.run == run, Reply.round.between(*span))
        .group_by(Reply.phase, Reply.outcome, Reply.code)
    ):
        to.replies[phase, outcome] += count
        if code:
            to.codes[code] += count
    to.until = until


def _families(histories: list[_History]) -> Iterator[Family]:
    yield _counter("rounds", "Rounds that were committed.", sum(one.rounds for one in histories))
    yield _counter(
        "received_bytes", "Bytes of updates that were taken in.", sum(one.received_bytes for one in histories)
    )
    replies: Count[tuple[str, str]] = Count()
    codes: Count[str] = Count()
    for one in histories:
        replies += one.replies
        codes += one.codes
    family = CounterMetricFamily(
        "fedfleet_replies", "Sites' parts in phases of rounds, by what became of them.", labels=["phase", "outcome"]
    )
    for (phase, outcome), count in sorted(replies.items()):
        family.add_metric([phase, outcome], count)
    yield family
    family = CounterMetricFamily("fedfleet_reply_errors", "Replies that could not be used.", labels=["code"])
    for code, count in codes.most_common(MOST_NAMED):
        family.add_metric([code], count)
    if len(codes) > MOST_NAMED:
        family.add_metric(["other"], sum(codes.values()) - sum(n for _, n in codes.most_common(MOST_NAMED)))
    yield family
    steps = HistogramMetricFamily("fedfleet_step_seconds", "How long steps of rounds took.", labels=["step"])
    for step in STEPS:
        total, buckets = 0, []
        for place, bound in enumerate((*BUCKETS_S, math.inf)):
            total += sum(one.buckets[step][place] for one in histories)
            buckets.append(("+Inf" if bound == math.inf else f"{bound:g}", float(total)))
        steps.add_metric([step], buckets, sum(one.seconds[step] for one in histories))
    yield steps


def _sites(session: Session, now_s: float) -> Iterator[Family]:
    rows = site_rows(session, now_s)
    conditions = Count(row.condition for row in rows)
    family = GaugeMetricFamily("fedfleet_sites", "Sites by what they do now.", labels=["condition"])
    for condition in get_args(Condition):
        family.add_metric([condition], conditions[condition])
    yield family
    family = GaugeMetricFamily(
        "fedfleet_site_problem",
        f"1 for each of up to {MOST_NAMED} sites that need somebody.",
        labels=["site", "condition"],
    )
    bad = sorted((row for row in rows if row.level in ("bad", "warn")), key=lambda row: (row.level, row.id))
    for row in bad[:MOST_NAMED]:
        family.add_metric([row.id, row.condition], 1)
    yield family
    ends = session.scalars(
        select(func.max(Certificate.expires_s))
        .join(Site, Site.number == Certificate.site)
        .where(Certificate.ended_s.is_(None), Site.state == "active")
        .group_by(Certificate.site)
    ).all()
    yield _gauge(
        "certificates_ending_sites",
        "Active sites whose certificate ends within two days, or has.",
        sum(1 for end in ends if end - now_s < SOON_S),
    )
    if ends:
        yield _gauge("certificate_soonest_left_seconds", "Life left of the one that ends first.", min(ends) - now_s)
    up, down, calls = session.execute(
        select(func.sum(Counter.up_bytes), func.sum(Counter.down_bytes), func.sum(Counter.calls))
    ).one()
    traffic = CounterMetricFamily("fedfleet_link_bytes", "Bytes through the gateway, as sites see it.", labels=["way"])
    traffic.add_metric(["up"], int(up or 0))
    traffic.add_metric(["down"], int(down or 0))
    yield traffic
    yield _counter("link_calls", "Calls of sites to the gateway.", int(calls or 0))


def _runs(session: Session, now_s: float) -> Iterator[Family]:
    states = dict(session.execute(select(Run.state, func.count()).group_by(Run.state)).all())
    family = GaugeMetricFamily("fedfleet_runs", "Runs by state.", labels=["state"])
    for state in MOVES:
        family.add_metric([state], states.get(state, 0))
    yield family
    due = (Run.state == "queued") & (Run.start_s <= now_s)
    queued = session.execute(
        select(Run.project, func.count(), func.min(Run.changed_s)).where(due).group_by(Run.project)
    ).all()
    family = GaugeMetricFamily("fedfleet_queue_runs", "Runs that wait for a place.", labels=["project"])
    for project, count, _ in sorted(queued, key=lambda row: -row[1])[:MOST_NAMED]:
        family.add_metric([project], count)
    yield family
    oldest = min((row[2] for row in queued), default=now_s)
    yield _gauge("queue_oldest_seconds", "How long the first of them has waited.", now_s - oldest)
    active = session.scalars(
        select(Run).where(Run.state.in_(sorted(ACTIVE))).order_by(Run.number.desc()).limit(MOST_NAMED)
    ).all()
    yield from _active(session, now_s, active)


def _active(session: Session, now_s: float, active: Any) -> Iterator[Family]:
    labels = ["run", "project"]
    families = {
        name: GaugeMetricFamily(f"fedfleet_run_{name}", words, labels=labels)
        for name, words in (
            ("rounds_done", "Rounds that an active run has committed."),
            ("rounds_wanted", "Rounds that it is to do."),
            ("lives", "How often it was handed to SuperLink: more than once after a crash or a pause."),
            ("cohort_sites", "Sites asked in its present round."),
            ("survivor_sites", "Sites in the round that closed last."),
            ("quorum_sites", "Sites needed in its present round."),
            ("attempts", "Attempts at its present round."),
            ("idle_seconds", "Since its last round was opened, closed or committed."),
            ("fold_bytes_per_second", "Speed at which the updates of its last round were folded."),
        )
    }
    values = GaugeMetricFamily(
        "fedfleet_run_metric", "The last value of a metric of its model.", labels=[*labels, "place", "metric"]
    )
    for run in active:
        names = [run.name, run.project]
        families["rounds_done"].add_metric(names, run.rounds_done)
        families["rounds_wanted"].add_metric(names, run.rounds_wanted)
        families["lives"].add_metric(names, run.lives)
        last = session.scalars(
            select(Round).where(Round.run == run.number).order_by(Round.number.desc()).limit(2)
        ).all()
        if last:
            newest = last[0]
            families["cohort_sites"].add_metric(names, newest.cohort)
            families["quorum_sites"].add_metric(names, newest.quorum)
            families["attempts"].add_metric(names, newest.attempts)
            since = max(newest.opened_s, newest.closed_s or 0, newest.committed_s or 0, run.changed_s)
            families["idle_seconds"].add_metric(names, now_s - since)
        closed = next((entry for entry in last if entry.closed_s is not None), None)
        if closed is not None:
            families["survivor_sites"].add_metric(names, closed.survivors)
            if closed.fold_s:
                families["fold_bytes_per_second"].add_metric(names, closed.received_bytes / closed.fold_s)
        found: dict[tuple[str, str], float] = defaultdict(float)
        for metric in session.scalars(
            select(Metric).where(Metric.run == run.number, Metric.round >= run.rounds_done - 1).order_by(Metric.round)
        ):
            found[metric.place, metric.name] = metric.value
        for (place, name), value in sorted(found.items())[:MOST_METRICS]:
            values.add_metric([*names, place, name], value)
    yield from families.values()
    yield values


def _gauge(name: str, words: str, value: float) -> Family:
    return GaugeMetricFamily(f"fedfleet_{name}", words, value=value)


def _counter(name: str, words: str, value: float) -> Family:
    return CounterMetricFamily(f"fedfleet_{name}", words, value=value)
