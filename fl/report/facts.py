"""What a report says, as plain facts: a tree of frozen dataclasses, gathered from a journal and nothing else.

The field names are the keys of the JSON file (``fl.report.export``). Times ending in ``_s`` are seconds; an ``at_s``
counts the seconds since the run began **while a server process was up**, so pauses between sessions and jumps of the
wall clock are not in it. Sizes end in ``_bytes``. ``None`` means that the journal does not say.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any, Literal

from fl.report.prices import NO_PRICES, Prices

Format = Literal["html", "json", "csv", "png"]
"""What a report can be written as."""

Place = Literal["training", "sites", "centre"]
"""Where metrics were measured: while training at the sites, in the evaluation at the sites, or at the centre."""

Outcome = Literal["answered", "failed", "late", "silent", "spare", "waiting", "dropped"]
"""What came of one request to one site.

``answered``: it counts. ``failed``: it answered with an error, or with something that cannot be used. ``late``: the
answer came after the round was closed. ``silent``: no answer by the deadline. ``spare``: the round was closed before,
because enough others had answered. ``waiting``: the round is under way. ``dropped``: the answer was damaged on the
server's disk and was asked for again.
"""

SEVERITY: dict[Outcome, int] = {
    "answered": 0,
    "spare": 1,
    "waiting": 2,
    "dropped": 3,
    "late": 4,
    "silent": 5,
    "failed": 6,
}
"""How grave an outcome is; where several share a place, the gravest is shown."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One server process that took the run up.

    Attributes:
        started: Wall clock, UTC.
        at_s: When that was, see the module.
        host: Its computer.
        pid: Its number there.
        updated: Its last event, wall clock, UTC; in a simulation ``active_s`` is simulated time.
        active_s: From its first event to its last.
        ended: ``completed``, ``failed`` or ``stopped`` with the reason; ``None`` while it runs, or if it was killed.
    """

    started: datetime.datetime
    at_s: float
    host: str
    pid: int
    updated: datetime.datetime
    active_s: float
    ended: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The whole run on one line.

    Attributes:
        name: From the run file.
        status: ``created``, ``running``, ``interrupted`` (no process writes the journal, and it did not say that
            it ended), ``completed``, ``failed`` or ``stopped``.
        reason: Why it ended, as the journal says it.
        directory: The journal.
        task: Name of the task.
        strategy: Name of the strategy.
        seed: The one seed of the run.
        rounds_planned: How many rounds were asked for.
        rounds_committed: How many have happened.
        sessions: The server processes, in order.
        started: First event, wall clock, UTC.
        updated: Last event, wall clock, UTC.
        active_s: How long server processes were up, in total.
        parameters: Of the model.
        model_bytes: What travels to a site when it is asked: the model's float32 parameters.
        model_source: Where the initial parameters came from.
        model_path: File of the newest committed model, if it is still there.
        model_digest: Its SHA-256, as the journal has it.
        torn_bytes: What a crash left of a line at the journal's end, and was cut off: over all sessions.
        fedfleet: Version that began the run.
    """

    name: str
    status: str
    reason: str | None
    directory: str
    task: str
    strategy: str
    seed: int
    rounds_planned: int
    rounds_committed: int
    sessions: tuple[Session, ...]
    started: datetime.datetime
    updated: datetime.datetime
    active_s: float
    parameters: int | None
    model_bytes: int
    model_source: str | None
    model_path: str | None
    model_digest: str | None
    torn_bytes: int
    fedfleet: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One request to one site in one round, and what came of it.

    Attributes:
        round: From 1; 0 is the making of the initial parameters.
        phase: ``initialise``, ``train`` or ``evaluate``.
        attempt: From 1; a round below its quorum is tried again.
        site: Who.
        outcome: See ``Outcome``.
        code: One word for programs, of a failure.
        reason: In words, unless it answered.
        asked_s: When the server began to ask, for the last time if a crash made it ask again.
        came_s: When the answer was on disk.
        waited_s: How long the server waited for it; its own work before and after is not in it.
        num_examples: Behind its metrics and update.
        metrics: What it measured.
        device: ``cuda``, ``xpu``, ``mps`` or ``cpu``.
        precision: Of its forward pass.
        samples_per_s: Its speed in training.
        peak_memory_bytes: Of its training.
        energy_j: Joules that its GPU drew, where NVML tells.
        cpu_s: Seconds of cores that its training took.
        wall_s: How long its training took.
        out_of_memory: How often it ran out of memory and went on in smaller pieces.
        sent_bytes: Model size × times asked; what the transport adds is not counted.
        received_bytes: Its update.
        simulated: What a simulation says of a simulated site, see ``fl.report.measured``.
    """

    round: int
    phase: str
    attempt: int
    site: str
    outcome: Outcome
    code: str | None = None
    reason: str | None = None
    asked_s: float
    came_s: float | None = None
    waited_s: float | None = None
    num_examples: int | None = None
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    device: str | None = None
    precision: str | None = None
    samples_per_s: float | None = None
    peak_memory_bytes: int | None = None
    energy_j: float | None = None
    cpu_s: float | None = None
    wall_s: float | None = None
    out_of_memory: int | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    simulated: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt at a round.

    Attributes:
        number: From 1.
        online: Sites that were online.
        cohort: Sites that take part, those whose update was kept from an earlier attempt among them.
        wanted: How many answers close it.
        quorum: With fewer at the deadline it is abandoned.
        deadline_s: How long it may last.
        opened_s: When it began.
        closed_s: When no more replies were taken.
        because: Why then.
        abandoned: Whether it ended without its quorum.
        landed: Updates on disk when it ended.
    """

    number: int
    online: int
    cohort: int
    wanted: int
    quorum: int
    deadline_s: float
    opened_s: float
    closed_s: float | None
    because: str | None
    abandoned: bool
    landed: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Metrics of a round's model at one place.

    Attributes:
        num_examples: Behind them.
        sites: How many sites they come from.
        metrics: Means over all examples.
        lowest: The lowest value of any one site; empty at the centre.
        highest: The highest.
    """

    num_examples: int
    sites: int
    metrics: dict[str, float]
    lowest: dict[str, float]
    highest: dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round, over all its attempts.

    Attributes:
        number: From 1.
        state: ``training``, ``trying again``, ``folding``, ``committed``, ``evaluating`` or ``done``.
        attempts: In order.
        cohort: Sites of the last attempt.
        survivors: Sites whose update is in the model, or on disk so far.
        failed, late, silent, spare, waiting: The other sites, by what came of them in training.
        num_examples: Behind the new model.
        measured: Metrics by place.
        opened_s: When it began.
        ended_s: Its last event, so far.
        training_s: From the first request to the close of the last attempt.
        folding_s: From the updates to the next model on disk.
        evaluation_s: Evaluations at the sites and the centre.
        folded_s: When the model was committed.
        sent_bytes: To all sites, in training and evaluation.
        received_bytes: From all sites.
        answers: Every request; by site, then in order of time.
    """

    number: int
    state: str
    attempts: tuple[Attempt, ...]
    cohort: int
    survivors: int
    failed: int
    late: int
    silent: int
    spare: int
    waiting: int
    num_examples: int | None
    measured: dict[Place, Measured]
    opened_s: float
    ended_s: float
    training_s: float | None
    folding_s: float | None
    evaluation_s: float | None
    folded_s: float | None
    sent_bytes: int
    received_bytes: int
    answers: tuple[Answer, ...]

    def metric(self, place: Place, name: str) -> float | None:
        """The mean of a metric at a place, if it was measured there."""
        measured = self.measured.get(place)
        return measured.metrics.get(name) if measured else None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SiteSummary:
    """One site over the whole run; counts are rounds of training.

    Attributes:
        name: Its id.
        outcomes: What came of each round in which it was asked, by round number.
        asked: Rounds in which it was asked.
        answered, failed, late, silent, spare: Of these.
        failed_evaluations: Evaluations that failed or stayed without an answer.
        num_examples: In its newest answer.
        median_wait_s: Of its answers in training.
        metrics: Its newest, by place (``training`` and ``sites``).
        device: In its newest answer.
        samples_per_s: Median.
        peak_memory_bytes: The highest.
        energy_j, cpu_s: Sums.
        gpu_s: How long its trainings held a GPU.
        sent_bytes: To it.
        received_bytes: From it.
        last_reason: Why its newest answer is missing, if any is.
    """

    name: str
    outcomes: dict[int, Outcome]
    asked: int
    answered: int
    failed: int
    late: int
    silent: int
    spare: int
    failed_evaluations: int
    num_examples: int | None
    median_wait_s: float | None
    metrics: dict[Place, dict[str, float]]
    device: str | None
    samples_per_s: float | None
    peak_memory_bytes: int | None
    energy_j: float | None
    cpu_s: float | None
    gpu_s: float
    sent_bytes: int
    received_bytes: int
    last_reason: str | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why answers are missing: equal reasons together, the most frequent first.

    Attributes:
        phase: ``initialise``, ``train`` or ``evaluate``.
        code: One word; ``silent``, ``late`` or ``dropped`` where the site gave no reason itself.
        reason: In words.
        count: How often.
        sites: Which sites.
        first_round: The first time.
        last_round: The last time.
    """

    phase: str
    code: str
    reason: str
    count: int
    sites: tuple[str, ...]
    first_round: int
    last_round: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that a report says.

    Attributes:
        run: The whole run on one line.
        rounds: In order.
        sites: By name.
        reasons: Why answers are missing.
        initialisation: The requests for initial parameters that failed.
        config: The resolved run file, a table a key.
        environment: Versions and machine of the server that began the run.
        prices: What it is reckoned with.
        cost: What the run cost, in ``prices.currency``; ``None`` without prices.
    """

    run: Run
    rounds: tuple[Round, ...]
    sites: tuple[SiteSummary, ...]
    reasons: tuple[Reason, ...]
    initialisation: tuple[Answer, ...]
    config: dict[str, Any]
    environment: dict[str, Any]
    prices: Prices = NO_PRICES
    cost: float | None = None
