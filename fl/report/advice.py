"""What needs attention in a run: what happened, why, and what to do about it."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Iterator
from typing import Literal

from fl.report.facts import Facts, Round
from fl.report.words import PLACES, metric, names, plural, size

WORSE_BY = 0.05
"""How much higher than its lowest the last loss must be, as a share, to be worth a note."""

ADVICE = {
    "app_invalid": "give the site the same version of fedfleet and of the app as the server",
    "app_not_loaded": "install what the task imports in the site's environment; its log names the module",
    "dropped": "check the server's disk; the site was asked again and nothing is lost",
    "flower_error": "read the log of SuperLink and of the site's SuperNode",
    "late": "raise round.deadline_s or round.deadline_factor, or give the site less to do: training.epochs",
    "malformed": "give the site the same version of fedfleet as the server",
    "message_lost": "look at the site's SuperNode: it took too long to fetch its message, or was restarted",
    "no_examples": "give the site training data, or take it out of the federation",
    "no_parameters": "look at the task: its model has no parameters",
    "not_finite": "lower training.learning_rate, and look for missing or infinite values in the site's data",
    "not_on_roster": "fl roster add and fl roster sign, where the roster authority's key is; then restart the run",
    "refused": "ask the site's owner: the site's policy refused the request",
    "reply_lost": "look at the site's SuperNode: it was restarted, or its connection broke, before it had answered",
    "silent": "look whether the site is up, and how long its training takes; then raise round.deadline_s",
    "site_lost": "look at the site's SuperNode and its connection; it was offline when it was asked",
    "task_crashed": "read the site's log: its process ended, often because the machine ran out of memory",
    "task_failed": "mend the task or the data at the site; the reason is its own error message",
    "wrong_shape": "give every site the same version of the task with the same options",
}
"""What to do about a code of failure."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """Something that a reader should know first.

    Attributes:
        level: ``error``, ``warning`` or ``note``.
        what: What happened.
        why: As far as the journal knows.
        do: What to do.
        command: To type, if there is one.
    """

    level: Literal["error", "warning", "note"]
    what: str
    why: str
    do: str = ""
    command: str | None = None


def advice(code: str) -> str:
    """What to do about a code of failure; codes come from sites too, so there may be unknown ones."""
    return ADVICE.get(code, "read the site's log")


def concerns(facts: Facts) -> list[Concern]:
    """All that needs attention, the gravest first."""
    found = [
        *_about_the_end(facts),
        *_about_the_sites(facts),
        *_about_the_rounds(facts),
        *_about_the_model(facts),
        *_about_the_server(facts),
    ]
    return sorted(found, key=lambda concern: ("error", "warning", "note").index(concern.level))


def _about_the_end(facts: Facts) -> Iterator[Concern]:
    run = facts.run
    resume = f"fl run resume {shlex.quote(run.directory)}"
    done = (
        f"{run.rounds_committed} of {plural(run.rounds_planned, 'round')} happened"
        if run.rounds_committed
        else "No round happened"
    )
    if run.status == "failed":
        yield Concern(
            level="error",
            what="The run failed",
            why=run.reason or "",
            do=f"{done}, and every update that had landed is kept. Mend the cause, then continue at the exact point",
            command=resume,
        )
    elif run.status == "interrupted":
        yield Concern(
            level="error",
            what="The run was interrupted",
            why="no process writes the journal, and it does not say that it ended: the server was killed or restarted",
            do=f"{done}, and every update that had landed is kept. Continue at the exact point",
            command=resume,
        )
    elif run.status == "stopped":
        yield Concern(
            level="note",
            what="The run was stopped",
            why=run.reason or "",
            do=f"{done}. Continue at the exact point",
            command=resume,
        )


def _about_the_sites(facts: Facts) -> Iterator[Concern]:
    never = [site for site in facts.sites if site.asked and site.asked == site.failed + site.late + site.silent]
    if never:
        reasons = sorted({site.last_reason for site in never if site.last_reason})
        theirs = "its" if len(never) == 1 else "their"
        yield Concern(
            level="error",
            what=f"{plural(len(never), 'site')} never took part in a model: {names([site.name for site in never])}",
            why="; ".join(reasons[:3]) + (" …" if len(reasons) > 3 else ""),
            do=f"The model has learned nothing from {theirs} data. What to do is with the reasons below",
        )
    often = [
        site
        for site in facts.sites
        if site not in never and 2 * (site.failed + site.late + site.silent) >= site.asked > 1
    ]
    if often:
        yield Concern(
            level="warning",
            what=f"{plural(len(often), 'site')} missed half of their rounds or more: {names([s.name for s in often])}",
            why="; ".join(sorted({site.last_reason for site in often if site.last_reason})[:3]),
            do="The model leans towards the other sites. What to do is with the reasons below",
        )
    if facts.initialisation:
        failed = facts.initialisation
        yield Concern(
            level="warning",
            what=f"No initial parameters from {names(sorted({answer.site for answer in failed}))}",
            why=failed[-1].reason or "",
            do="The next site was asked" if facts.run.model_source else advice(failed[-1].code or ""),
        )


def _about_the_rounds(facts: Facts) -> Iterator[Concern]:
    abandoned = [(entry.number, attempt) for entry in facts.rounds for attempt in entry.attempts if attempt.abandoned]
    if abandoned:
        number, attempt = abandoned[-1]
        yield Concern(
            level="warning",
            what=f"{plural(len(abandoned), 'attempt')} at a round ended below the quorum",
            why=f"the last in round {number}: {attempt.landed} of {attempt.quorum} needed sites had answered "
            f"when {attempt.because}",
            do="Updates that had landed were kept. To need fewer sites, lower round.quorum in the next run",
        )
    dropped = [answer for entry in facts.rounds for answer in entry.answers if answer.outcome == "dropped"]
    if dropped:
        yield Concern(
            level="warning",
            what=f"{plural(len(dropped), 'update')} changed on the server's disk after landing",
            why=dropped[-1].reason or "",
            do=f"{names(sorted({answer.site for answer in dropped}))} was asked again and nothing is lost; "
            "check the disk",
        )


def _about_the_model(facts: Facts) -> Iterator[Concern]:
    run = facts.run
    if run.rounds_committed and run.model_path is None:
        yield Concern(
            level="warning",
            what="The newest model is not in the journal's directory",
            why=f"its file of round {run.rounds_committed} was moved or removed",
            do=f"Its SHA-256 is {run.model_digest}; a copy with this digest is the model",
        )
    losses = [(entry.number, loss) for entry in facts.rounds if (loss := _loss(entry)) is not None]
    if not losses:
        return
    finite = [(loss, number) for number, loss in losses if math.isfinite(loss)]
    number, last = losses[-1]
    if not math.isfinite(last):
        yield Concern(
            level="error",
            what=f"The loss of round {number} is not finite",
            why="training diverged",
            do="Lower training.learning_rate in the next run, and look at the sites' data",
        )
    elif finite and last > (1 + WORSE_BY) * min(finite)[0] > 0:
        best, best_round = min(finite)
        yield Concern(
            level="note",
            what=f"The loss was lowest in round {best_round}",
            why=f"it was {metric('loss', best)} then and is {metric('loss', last)} after round {number}",
            do="More rounds made it worse: fewer rounds or a lower training.learning_rate may serve better",
        )


def _about_the_server(facts: Facts) -> Iterator[Concern]:
    killed = [session for session in facts.run.sessions[:-1] if session.ended is None]
    if killed:
        torn = f"; {size(facts.run.torn_bytes)} of a torn line were cut off" if facts.run.torn_bytes else ""
        times = "once" if len(killed) == 1 else f"{len(killed)} times"
        yield Concern(
            level="note",
            what=f"The server was killed {times} and continued",
            why=f"its journal does not say that it ended{torn}",
            do="Nothing is lost: what had landed was kept, and only the missing answers were asked for again",
        )


def _loss(entry: Round) -> float | None:
    values = [entry.metric(place, "loss") for place in reversed(PLACES)]
    return next((value for value in values if value is not None), None)
