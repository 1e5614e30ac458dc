"""Journals in tables: what the tables say is what the journal says, however the ingest was cut into pieces."""

import dataclasses
import math
import random
import time

import pytest
from sqlalchemy import select

from fl.rounds import events
from fl.rounds.journal import Journal, read
from fl.rounds.state import RunState
from server.controller.ingest import Ingest
from server.store import Store
from server.store.runs import Metric, Reply, Round, Run

CONFIG = {"run": {"name": "digits", "rounds": 6, "seed": 1}}
SITES = tuple(f"site-{number}" for number in range(7))


def a_journal(folder, *, rounds=6, sites=SITES, seed=7):
    """A journal with updates that land, fail, are late, and do not come; some rounds need two attempts."""
    chance = random.Random(seed)
    journal = Journal.create(folder / "20261126-digits", CONFIG, durable=False)
    journal.append(events.RunStarted(pid=1, host="h"))
    for number in range(1, rounds + 1):
        journal_round(journal, number, sites, chance)
    journal.append(events.RunEnded(status="completed", reason=f"{rounds} rounds"))
    journal.close()
    return journal.directory


def journal_round(journal, number, sites, chance):
    landed = set()
    for attempt in (1, 2):
        opened = {
            "round": number,
            "attempt": attempt,
            "seed": 1,
            "online": len(sites),
            "cohort": sites,
            "wanted": 5,
            "quorum": 3,
        }
        journal.append(events.RoundOpened(**opened, deadline_s=60.0, model_digest="d"))
        answering = [site for site in sites if site not in landed]
        for site in chance.sample(answering, len(answering) // (3 - attempt)):
            fields = {"round": number, "attempt": attempt, "site": site, "waited_s": chance.random()}
            if chance.random() < 0.2:
                journal.append(events.ReplyFailed(**fields, phase="train", code="task_failed", reason="no GPU"))
                continue
            landed.add(site)
            facts = {"digest": "x", "num_examples": chance.randrange(1, 99), "size_bytes": chance.randrange(1, 10**6)}
            journal.append(events.UpdateLanded(**fields, **facts, metrics={}, report={"device": "cpu"}))
        if attempt == 1 and number % 2:
            journal.append(
                events.RoundAbandoned(round=number, attempt=1, because="deadline", landed=len(landed), quorum=3)
            )
            continue
        break
    survivors = tuple(sorted(landed))
    missing = tuple(site for site in sites if site not in landed)
    journal.append(
        events.RoundClosed(round=number, attempt=attempt, because="all", survivors=survivors, missing=missing)
    )
    if missing and number > 2:
        journal.append(events.ReplyLate(round=number - 2, phase="train", site=missing[0]))
    journal.append(
        events.RoundCommitted(
            round=number,
            model_digest=f"m{number}",
            state_digests={},
            num_examples=1,
            metrics={"loss": chance.random()},
            fold_s=0.1,
        )
    )
    journal.append(events.EvaluationOpened(round=number, cohort=sites[:2], deadline_s=9.0))
    journal.append(
        events.EvaluationLanded(round=number, site=sites[0], num_examples=3, metrics={"loss": 1.0}, waited_s=0.5)
    )
    journal.append(events.Evaluated(round=number, at="sites", num_examples=3, sites=1, metrics={"loss": 1.0}))


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store.db")
    with made.write() as session:
        facts = {
            "title": "digits",
            "project": "default",
            "priority": 0,
            "kind": "run",
            "state": "running",
            "config": "{}",
        }
        times = {"submitted_by": "ada", "submitted_s": 1.0, "start_s": 0.0, "changed_s": 1.0}
        session.add(Run(name="20261126-digits", **facts, **times))
    yield made
    made.close()


def take_all(store, journal, *, at_once=10**6, fails=lambda: False):
    """Ingest a journal in pieces; some transactions fail, and each piece may be a new process's."""
    with store.read() as session:
        lines = session.get_one(Run, 1).lines
    ingest = Ingest(1, journal, lines, is_secure=False)
    while records := ingest.more()[:at_once]:
        try:
            with store.write() as session:
                ingest.write(session, records)
                if fails():
                    raise InterruptedError
        except InterruptedError:
            ingest.forget()
            continue
        ingest.done(records)


def tables(store):
    with store.read() as session:
        rounds = [
            (
                r.number,
                r.state,
                r.attempts,
                r.opened_s,
                r.closed_s,
                r.committed_s,
                r.survivors,
                r.because,
                r.received_bytes,
                r.model_digest,
                r.online,
                r.cohort,
                r.wanted,
                r.quorum,
                r.fold_s,
            )
            for r in session.scalars(select(Round).order_by(Round.number))
        ]
        replies = sorted(
            (
                r.round,
                r.attempt,
                r.phase,
                r.site,
                r.outcome,
                r.code,
                r.reason,
                r.at_s,
                r.waited_s,
                r.size_bytes,
                r.num_examples or 0,
                r.report,
            )
            for r in session.scalars(select(Reply))
        )
        metrics = sorted((m.place, m.name, m.round, m.value) for m in session.scalars(select(Metric)))
        run = session.get_one(Run, 1)
        return rounds, replies, metrics, (run.lines, run.rounds_done, run.rounds_wanted)


def test_the_tables_say_what_the_journal_says(store, tmp_path):
    journal = a_journal(tmp_path)
    take_all(store, journal)
    state = RunState.of(read(journal))
    rounds, replies, metrics, run = tables(store)
    assert run == (len(read(journal)), 6, 6)
    for row in rounds:
        entry = state.round(row[0])
        assert row[1:3] == ("committed", len(entry.opened))
        assert (row[6], row[8]) == (len(entry.closed.survivors), entry.received_bytes)
        of_round = [reply for reply in replies if reply[0] == row[0] and reply[2] == "train"]
        assert {reply[3] for reply in of_round if reply[4] == "landed"} == set(entry.landed)
        assert {reply[3] for reply in of_round if reply[4] == "late"} == set(entry.late) - set(entry.landed)
        assert not [reply for reply in of_round if reply[4] == "asked"]
    assert len(metrics) == 12


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_of_a_model_that_diverged_is_a_gap_in_its_curve_and_stops_nothing(store, tmp_path, value):
    journal = Journal.create(tmp_path / "20261126-digits", CONFIG, durable=False)
    facts = {"at": "centre", "num_examples": 9, "sites": 0}
    journal_round(journal, 1, SITES, random.Random(7))
    journal.append(events.Evaluated(round=1, metrics={"loss": value, "accuracy": 0.1}, **facts))
    journal.close()
    take_all(store, journal.directory)
    assert [(place, name) for place, name, *_ in tables(store)[2] if place == "centre"] == [("centre", "accuracy")]


@pytest.mark.parametrize("at_once", [1, 3, 50])
def test_an_ingest_in_pieces_by_many_processes_with_failures_gives_the_same_tables(store, tmp_path, at_once):
    journal = a_journal(tmp_path)
    whole = Store(tmp_path / "whole.db")
    with whole.write() as session, store.read() as other:
        run = other.get_one(Run, 1)
        columns = [column.name for column in Run.__table__.columns]
        session.add(Run(**{name: getattr(run, name) for name in columns}))
    take_all(whole, journal)
    chance = random.Random(at_once)
    content = (journal / "events.jsonl").read_bytes()
    for share in (0.2, 0.5, 0.7, 1.0):  # the journal grows meanwhile, and another process takes over
        (journal / "events.jsonl").write_bytes(content[: int(len(content) * share)])
        take_all(store, journal, at_once=at_once, fails=lambda: chance.random() < 0.2)
    assert tables(store) == tables(whole)
    whole.close()


def test_secure_rounds_are_told_by_their_sum(store, tmp_path):
    journal = Journal.create(tmp_path / "secure", CONFIG, durable=False)
    opened = {"round": 1, "attempt": 1, "seed": 1, "online": 3, "cohort": SITES[:3], "wanted": 3, "quorum": 2}
    journal.append(events.RoundOpened(**opened, deadline_s=60.0, model_digest="d"))
    journal.append(events.StageClosed(round=1, attempt=1, stage="upload", sites=SITES[:2], waited_s=1.0))
    fields = {
        "digest": "x",
        "receipt_digest": "r",
        "num_examples": 9,
        "metrics": {},
        "clipped": 0,
        "size_bytes": 100,
        "waited_s": 2.0,
    }
    journal.append(events.SumLanded(round=1, attempt=1, survivors=SITES[:2], dropped=SITES[2:3], **fields))
    journal.append(events.RoundClosed(round=1, attempt=1, because="all", survivors=SITES[:2], missing=SITES[2:3]))
    journal.close()
    ingest = Ingest(1, journal.directory, 0, is_secure=True)
    records = ingest.more()
    with store.write() as session:
        ingest.write(session, records)
    with store.read() as session:
        outcomes = {reply.site: (reply.phase, reply.outcome) for reply in session.scalars(select(Reply))}
        row = session.get_one(Round, (1, 1))
        assert (row.stage, row.received_bytes, row.survivors) == ("upload", 200, 2)
    assert outcomes == {
        "site-0": ("secagg", "landed"),
        "site-1": ("secagg", "landed"),
        "site-2": ("secagg", "missing"),
    }


@pytest.mark.slow
def test_five_thousand_events_a_second_come_into_the_tables(store, tmp_path):
    sites = tuple(f"site-{number:03}" for number in range(100))
    journal = a_journal(tmp_path, rounds=100, sites=sites)
    lines = len(read(journal))
    began = time.perf_counter()
    take_all(store, journal)
    print(f"{lines / (time.perf_counter() - began):.0f} events/s over {lines}")
    assert dataclasses.astuple(RunState.of(read(journal)).ended) == ("completed", "100 rounds")
