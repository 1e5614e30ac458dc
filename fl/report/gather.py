"""The facts of a journal, for the page and the files."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import socket
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fl.errors import JournalError
from fl.report.facts import Answer, Facts, Outcome, Place, Reason, Round, Run, Session, SiteSummary
from fl.report.prices import GPUS, NO_PRICES, Prices
from fl.report.story import Story, final_outcomes, on_one_clock
from fl.rounds import events
from fl.rounds.checkpoint import model_path
from fl.rounds.journal import read
from fl.rounds.state import Record, RunState


def gather(directory: Path, records: Sequence[Record] | None = None, *, prices: Prices = NO_PRICES) -> Facts:
    """What the journal in a directory says; nothing is changed there, and it may be written meanwhile.

    Args:
        directory: The journal.
        records: Its lines, if they were read already.
        prices: What energy, time and traffic cost.

    Raises:
        JournalError: If it is not a journal, damaged, of a newer format, or nothing was written yet.
    """
    records = read(directory) if records is None else records
    created = records[0].event if records else None
    if not isinstance(created, events.RunCreated):
        raise JournalError(
            f"{directory} has no run in it yet: its journal is empty", hint="wait until the run has begun"
        )
    config = _config(directory, created)
    state, story, timed = RunState(), Story(), list(on_one_clock(records))
    for at_s, record in timed:
        state.apply(record)
        story.take(at_s, record)
    rounds = tuple(story.round(state.rounds[number]) for number in sorted(state.rounds) if state.rounds[number].opened)
    answers = [answer for entry in rounds for answer in entry.answers]
    sites = _sites(rounds)
    return Facts(
        run=_run(directory, created, config, state, story, timed),
        rounds=rounds,
        sites=sites,
        reasons=_reasons([*story.initialisation, *answers]),
        initialisation=tuple(story.initialisation),
        config=config,
        environment=_environment(directory),
        prices=prices,
        cost=prices.cost(
            energy_j=sum(site.energy_j or 0.0 for site in sites),
            gpu_s=sum(site.gpu_s for site in sites),
            cpu_s=sum(site.cpu_s or 0.0 for site in sites),
            size_bytes=sum(site.sent_bytes + site.received_bytes for site in sites),
        ),
    )


def _run(
    directory: Path,
    created: events.RunCreated,
    config: dict[str, Any],
    state: RunState,
    story: Story,
    timed: Sequence[tuple[float, Record]],
) -> Run:
    sessions = _sessions(timed)
    model = model_path(directory, state.committed_rounds)
    status = state.status
    if status == "running" and not _is_written(directory, sessions[-1]):
        status = "interrupted"
    return Run(
        name=created.run,
        status=status,
        reason=state.ended.reason if state.ended else None,
        directory=str(directory.absolute()),
        task=_name(config, "task"),
        strategy=_name(config, "strategy"),
        seed=created.seed,
        rounds_planned=created.rounds,
        rounds_committed=state.committed_rounds,
        sessions=sessions,
        started=timed[0][1].time,
        updated=timed[-1][1].time,
        active_s=timed[-1][0],
        parameters=state.initialised.parameters if state.initialised else None,
        model_bytes=story.model_bytes,
        model_source=state.initialised.source if state.initialised else None,
        model_path=str(model.absolute()) if model.is_file() else None,
        model_digest=state.model_digest,
        torn_bytes=sum(record.event.size_bytes for _, record in timed if isinstance(record.event, events.TailDropped)),
        fedfleet=created.fedfleet,
    )


def _sessions(timed: Iterable[tuple[float, Record]]) -> tuple[Session, ...]:
    begun: list[tuple[float, datetime.datetime, events.RunStarted]] = []
    last: list[tuple[float, datetime.datetime]] = []
    ended: list[str | None] = []
    for at_s, record in timed:
        if isinstance(record.event, events.RunStarted):
            begun.append((at_s, record.time, record.event))
            last.append((at_s, record.time))
            ended.append(None)
        elif begun:
            last[-1] = at_s, record.time
            if isinstance(record.event, events.RunEnded):
                ended[-1] = f"{record.event.status}: {record.event.reason}"
    return tuple(
        Session(
            started=time,
            at_s=at_s,
            host=event.host,
            pid=event.pid,
            updated=updated,
            active_s=round(until_s - at_s, 3),
            ended=end,
        )
        for (at_s, time, event), (until_s, updated), end in zip(begun, last, ended, strict=True)
    )


def _is_written(directory: Path, session: Session) -> bool:
    """Whether a process still holds the journal: its lock is removed when it lets go, and stays when it is killed."""
    if not (directory / "lock").exists():
        return False
    if session.host != socket.gethostname():
        return True  # cannot be told from here
    try:
        os.kill(session.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it is there, but not ours
    return True


def _sites(rounds: Sequence[Round]) -> tuple[SiteSummary, ...]:
    answers: dict[str, list[Answer]] = {}
    outcomes: dict[str, dict[int, Outcome]] = {}
    for entry in rounds:
        for answer in entry.answers:
            answers.setdefault(answer.site, []).append(answer)
        for site, outcome in final_outcomes(entry.answers).items():
            outcomes.setdefault(site, {})[entry.number] = outcome
    return tuple(_site(name, answers[name], outcomes.get(name, {})) for name in sorted(answers))


def _site(name: str, answers: Sequence[Answer], outcomes: dict[int, Outcome]) -> SiteSummary:
    counts = Counter(outcomes.values())
    good = [answer for answer in answers if answer.outcome == "answered"]
    trained = [answer for answer in good if answer.phase == "train"]
    evaluated = [answer for answer in good if answer.phase == "evaluate"]
    newest: dict[Place, dict[str, float]] = {}
    if trained:
        newest["training"] = trained[-1].metrics
    if evaluated:
        newest["sites"] = evaluated[-1].metrics
    waits = [answer.waited_s for answer in trained if answer.waited_s is not None]
    speeds = [answer.samples_per_s for answer in trained if answer.samples_per_s is not None]
    memory = [answer.peak_memory_bytes for answer in trained if answer.peak_memory_bytes is not None]
    cores = [answer.cpu_s for answer in trained if answer.cpu_s is not None]
    energy = [answer.energy_j for answer in trained if answer.energy_j is not None]
    troubled = [answer.reason for answer in answers if is_trouble(answer)]
    return SiteSummary(
        name=name,
        outcomes=outcomes,
        asked=len(outcomes),
        answered=counts["answered"],
        failed=counts["failed"],
        late=counts["late"],
        silent=counts["silent"],
        spare=counts["spare"],
        failed_evaluations=sum(answer.phase == "evaluate" for answer in answers if is_trouble(answer)),
        num_examples=trained[-1].num_examples if trained else None,
        median_wait_s=statistics.median(waits) if waits else None,
        metrics=newest,
        device=trained[-1].device if trained else None,
        samples_per_s=statistics.median(speeds) if speeds else None,
        peak_memory_bytes=max(memory) if memory else None,
        energy_j=sum(energy) if energy else None,
        cpu_s=sum(cores) if cores else None,
        gpu_s=sum(answer.wall_s or 0.0 for answer in trained if answer.device in GPUS),
        sent_bytes=sum(answer.sent_bytes for answer in answers),
        received_bytes=sum(answer.received_bytes for answer in answers),
        last_reason=troubled[-1] if troubled else None,
    )


def is_trouble(answer: Answer) -> bool:
    """Whether an answer is missing that was wanted."""
    return answer.outcome in ("failed", "late", "silent", "dropped")


def _reasons(answers: Iterable[Answer]) -> tuple[Reason, ...]:
    groups: dict[tuple[str, str, str], list[Answer]] = {}
    for answer in answers:
        if is_trouble(answer):
            groups.setdefault((answer.phase, answer.code or answer.outcome, answer.reason or ""), []).append(answer)
    reasons = [
        Reason(
            phase=phase,
            code=code,
            reason=reason,
            count=len(group),
            sites=tuple(sorted({answer.site for answer in group})),
            first_round=min(answer.round for answer in group),
            last_round=max(answer.round for answer in group),
        )
        for (phase, code, reason), group in groups.items()
    ]
    return tuple(sorted(reasons, key=lambda reason: (-reason.count, reason.first_round, reason.code, reason.reason)))


def _config(directory: Path, created: events.RunCreated) -> dict[str, Any]:
    """As ``fl.rounds.journal.load_config``, without reading the events once more."""
    path = directory / "config.json"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as err:
        raise JournalError(f"cannot read {path}: {err}") from err
    if hashlib.sha256(text.encode()).hexdigest() != created.config_digest:
        raise JournalError(f"{path} was changed after the run began", hint="restore it from a backup")
    config: dict[str, Any] = json.loads(text)
    return config


def _environment(directory: Path) -> dict[str, Any]:
    """For information only, so a journal without it is reported all the same."""
    try:
        found = json.loads((directory / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _name(config: dict[str, Any], table: str) -> str:
    return str(config.get(table, {}).get("name", ""))
