from __future__ import annotations

import dataclasses
import os
import socket
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fl.digests import file_digest
from fl.errors import ConfigError, JournalError
from fl.report import advice, words
from fl.report.facts import Answer, Facts
from fl.report.gather import gather
from fl.report.page import render
from fl.report.prices import read_prices
from fl.report.view import tiles
from fl.rounds import events
from fl.rounds.journal import Journal, load_state
from tests.fl.report.journals import EVENTS, cut, failing, journal, killed_in_round_two, resume
from tests.fl.rounds.simulator import SimulatedSite, SimulatedTime, SiteSimulator, federation, run_config

MODEL_BYTES = 80
"""20 float32 parameters: see the simulator."""


def answers_of(facts: Facts, site: str, number: int, phase: str = "train") -> list[Answer]:
    return [a for a in facts.rounds[number - 1].answers if a.site == site and a.phase == phase]


def test_the_head_of_a_report_agrees_with_the_journal(tmp_path: Path) -> None:
    facts = gather(journal(tmp_path / "run"))
    run, state = facts.run, load_state(tmp_path / "run")
    assert (run.name, run.status, run.reason, run.seed) == ("test", "completed", "3 rounds", 5)
    assert (run.rounds_committed, run.rounds_planned) == (3, 3)
    assert (run.parameters, run.model_bytes) == (20, MODEL_BYTES)
    assert run.model_digest == state.model_digest
    assert run.model_path is not None
    assert file_digest(Path(run.model_path)) == run.model_digest
    assert run.updated == state.updated
    assert facts.config == run_config().to_dict()
    assert facts.environment["packages"]["fedfleet"] == run.fedfleet


def test_each_round_has_its_cohort_times_bytes_and_metrics(tmp_path: Path) -> None:
    facts = gather(journal(tmp_path / "run", evaluation={"sites_every": 1, "centre_every": 3}))
    state = load_state(tmp_path / "run")
    for entry in facts.rounds:
        committed = state.rounds[entry.number].committed
        assert committed
        assert (entry.cohort, entry.survivors, entry.num_examples) == (4, 4, 100)
        assert entry.measured["training"].metrics == committed.metrics
        assert entry.training_s == pytest.approx(2.0)  # the slowest site takes 2 s
        assert entry.evaluation_s == pytest.approx(2.0)
        assert entry.folding_s == committed.fold_s
        assert entry.sent_bytes == 2 * 4 * MODEL_BYTES
        assert entry.received_bytes == 4 * MODEL_BYTES
    assert [sorted(entry.measured) for entry in facts.rounds] == [["sites", "training"]] * 2 + [
        ["centre", "sites", "training"]
    ]


def test_a_failure_keeps_its_reason_and_is_counted(tmp_path: Path) -> None:
    site = failing("the disk of the scanner is full", rounds=(1, 3))
    facts = gather(journal(tmp_path / "run", federation(site_2=site)))
    (answer,) = answers_of(facts, "site-2", 1)
    assert (answer.outcome, answer.code, answer.reason) == ("failed", "task_failed", "the disk of the scanner is full")
    (reason,) = facts.reasons
    assert (reason.count, reason.sites, reason.first_round, reason.last_round) == (2, ("site-2",), 1, 3)
    (summary,) = [site for site in facts.sites if site.name == "site-2"]
    assert summary.outcomes == {1: "failed", 2: "answered", 3: "failed"}
    assert summary.last_reason == "the disk of the scanner is full"


def test_a_silent_site_is_told_from_a_late_one(tmp_path: Path) -> None:
    sites = federation(site_3=SimulatedSite(silent=True), site_4=SimulatedSite(delay_s=45.0))
    facts = gather(journal(tmp_path / "run", sites, round={"deadline_s": 30.0}))
    (silent,), (late,) = answers_of(facts, "site-3", 1), answers_of(facts, "site-4", 1)
    assert (silent.outcome, silent.reason) == ("silent", "no answer by the deadline of 30 s")
    assert silent.came_s is None
    assert late.outcome == "late"
    assert late.waited_s == pytest.approx(45.0)
    assert {reason.code for reason in facts.reasons} == {"silent", "late"}


def test_a_site_that_was_not_needed_is_no_trouble(tmp_path: Path) -> None:
    facts = gather(journal(tmp_path / "run", federation(10), rounds=1, round={"cohort": 5, "over_selection": 1.0}))
    assert (facts.rounds[0].survivors, facts.rounds[0].spare) == (5, 5)
    assert facts.reasons == ()
    assert advice.concerns(facts) == []


def test_an_abandoned_attempt_keeps_its_failures_and_asks_only_for_the_rest(tmp_path: Path) -> None:
    attempts = [1]

    def fail_once(request):
        return (
            failing("out of memory").fail(request) if request.phase == "train" and attempts and attempts.pop() else None
        )

    sites = federation(3, site_1=SimulatedSite(fail=fail_once))
    facts = gather(journal(tmp_path / "run", sites, rounds=1, round={"quorum": 1.0}))
    (entry,) = facts.rounds
    assert [(a.abandoned, a.landed, a.quorum) for a in entry.attempts] == [(True, 2, 3), (False, 3, 3)]
    assert [(a.attempt, a.outcome) for a in answers_of(facts, "site-1", 1)] == [(1, "failed"), (2, "answered")]
    assert [a.attempt for a in answers_of(facts, "site-2", 1)] == [1]
    assert entry.sent_bytes == 4 * MODEL_BYTES
    assert (entry.survivors, entry.failed) == (3, 0)
    assert any("ended below the quorum" in concern.what for concern in advice.concerns(facts))


def test_a_killed_server_asks_again_only_for_what_is_missing(tmp_path: Path) -> None:
    facts = gather(killed_in_round_two(tmp_path / "run"))
    first, second = facts.run.sessions
    assert (first.ended, second.ended) == (None, "completed: 2 rounds")
    assert second.at_s == pytest.approx(first.active_s)
    assert facts.run.active_s == pytest.approx(first.active_s + second.active_s)
    sent = {answer.site: answer.sent_bytes for answer in facts.rounds[1].answers}
    assert sent == {"site-1": 80, "site-2": 80, "site-3": 160, "site-4": 160}
    assert [concern.what for concern in advice.concerns(facts)] == ["The server was killed once and continued"]


def test_an_update_damaged_on_disk_is_shown_and_so_is_its_replacement(tmp_path: Path) -> None:
    facts = gather(killed_in_round_two(tmp_path / "run", spoil=True))
    assert [a.outcome for a in answers_of(facts, "site-1", 2)] == ["dropped", "answered"]
    assert facts.rounds[1].survivors == 4
    assert facts.rounds[1].received_bytes == 5 * MODEL_BYTES
    assert any("changed on the server's disk" in concern.what for concern in advice.concerns(facts))


def test_a_torn_line_is_mentioned(tmp_path: Path) -> None:
    directory = journal(tmp_path / "run", rounds=2, journal={"keep_updates": True})
    cut(directory, 12)
    with (directory / EVENTS).open("ab") as file:
        file.write(b'{"seq":12,"ti')
    resume(directory, SiteSimulator(federation()), run_config(2, journal={"keep_updates": True}))
    facts = gather(directory)
    assert facts.run.torn_bytes == 13
    assert "13 B of a torn line" in next(c.why for c in advice.concerns(facts) if "killed" in c.what)


def test_a_wall_clock_that_jumps_changes_no_duration(tmp_path: Path) -> None:
    time = SimulatedTime()

    def jump(request):
        time.wall_offset_s += -86_400 if request.round % 2 else 7 * 86_400
        return

    sites = SiteSimulator(federation(3, site_1=SimulatedSite(fail=jump)), time)
    facts = gather(journal(tmp_path / "run", sites))
    assert [entry.training_s for entry in facts.rounds] == pytest.approx([1.5] * 3, abs=0.01)
    assert 4.5 <= facts.run.active_s < 10


def test_an_evaluation_that_fails_is_a_reason_of_its_own(tmp_path: Path) -> None:
    sites = federation(site_2=failing("no labels", phase="evaluate"), site_3=SimulatedSite(silent=True))
    facts = gather(journal(tmp_path / "run", sites, evaluation={"sites_every": 3}, round={"deadline_s": 9.0}))
    found = {(reason.phase, reason.code): reason.count for reason in facts.reasons}
    assert found == {("train", "silent"): 3, ("evaluate", "task_failed"): 1, ("evaluate", "silent"): 1}
    assert facts.rounds[2].measured["sites"].sites == 2
    assert [site.failed_evaluations for site in facts.sites] == [0, 1, 1, 0]


def test_a_site_that_could_not_initialise_is_mentioned(tmp_path: Path) -> None:
    facts = gather(journal(tmp_path / "run", federation(site_1=failing("no torch here", phase="initialise"))))
    assert [(a.site, a.round, a.reason) for a in facts.initialisation] == [("site-1", 0, "no torch here")]
    assert facts.run.model_source == "site site-2"
    assert any("No initial parameters from site-1" in concern.what for concern in advice.concerns(facts))


def test_a_failed_run_says_why_and_how_to_continue(tmp_path: Path) -> None:
    silent = {f"site-{i}": SimulatedSite(silent=True) for i in (2, 3, 4)}
    config = {"quorum": 3, "deadline_s": 20.0, "attempts": 2}
    facts = gather(journal(tmp_path / "run", {**federation(), **silent}, round=config))
    assert facts.run.status == "failed"
    first = advice.concerns(facts)[0]
    assert (first.level, first.what) == ("error", "The run failed")
    assert "1 of 3 needed sites answered" in first.why
    assert first.command == f"fl run resume {tmp_path / 'run'}"
    assert facts.rounds[0].state == "trying again"


def test_a_run_in_progress_is_told_from_an_interrupted_one(tmp_path: Path) -> None:
    with Journal.create(tmp_path / "run", run_config().to_dict()) as writer:
        assert gather(tmp_path / "run").run.status == "created"
        writer.append(events.RunStarted(pid=os.getpid(), host=socket.gethostname()))
        assert gather(tmp_path / "run").run.status == "running"
    assert gather(tmp_path / "run").run.status == "interrupted"
    assert advice.concerns(gather(tmp_path / "run"))[0].what == "The run was interrupted"


def test_the_lock_of_a_killed_process_does_not_make_a_run_running(tmp_path: Path) -> None:
    gone = os.fork()
    if gone == 0:
        os._exit(0)
    os.waitpid(gone, 0)
    with Journal.create(tmp_path / "run", run_config().to_dict()) as writer:
        writer.append(events.RunStarted(pid=gone, host=socket.gethostname()))
    (tmp_path / "run/lock").write_text(f"{gone}\n")
    assert gather(tmp_path / "run").run.status == "interrupted"


def test_what_a_site_says_of_its_machine_is_taken_only_if_it_makes_sense(tmp_path: Path) -> None:
    nonsense = {"device": 5, "samples_per_s": "fast", "energy_j": 3.5, "cpu_s": 0.5, "peak_memory_bytes": True}

    class Boasting(SiteSimulator):
        def replies(self, timeout_s):
            for reply in super().replies(timeout_s):
                yield dataclasses.replace(reply, report=nonsense)

    port = Boasting(federation())
    facts = gather(journal(tmp_path / "run", port, rounds=1))
    (answer,) = answers_of(facts, "site-1", 1)
    assert (answer.device, answer.samples_per_s, answer.peak_memory_bytes, answer.energy_j) == (None, None, None, 3.5)
    (site,) = [one for one in facts.sites if one.name == "site-1"]
    assert (answer.cpu_s, site.cpu_s) == (0.5, 0.5)
    (tile,) = [one for one in tiles(facts) if one.label == "CPU time of training"]
    assert (tile.value, tile.under) == (
        words.seconds(0.5 * len(facts.sites)),
        f"at {words.plural(len(facts.sites), 'site')}",
    )


def test_a_run_costs_what_its_energy_time_and_traffic_do(tmp_path: Path) -> None:
    class Measuring(SiteSimulator):
        def replies(self, timeout_s):
            for reply in super().replies(timeout_s):
                yield dataclasses.replace(
                    reply, report={"device": "cuda", "wall_s": 36.0, "energy_j": 36_000.0, "cpu_s": 18.0}
                )

    directory = journal(tmp_path / "run", Measuring(federation(5)), rounds=2)
    file = tmp_path / "server.toml"
    file.write_text('addresses = ["a:1"]\n[prices]\nkwh = 0.5\ngpu_hour = 2.0\ncpu_hour = 0.2\ncurrency = "CHF"\n')
    facts = gather(directory, prices=read_prices(file))
    assert facts.cost == pytest.approx(10 * (0.01 * 0.5 + 0.01 * 2.0 + 0.005 * 0.2))
    assert [(tile.value, tile.under) for tile in tiles(facts) if tile.label == "cost"] == [
        ("0.26 CHF", "0.5 a kWh, 2 a GPU-hour, 0.2 a core-hour")
    ]
    assert gather(directory).cost is None
    file.write_text("[prices]\nkwh = -1.0\n")
    with pytest.raises(ConfigError, match=r"prices\.kwh"):
        read_prices(file)
    file.write_text("")
    with pytest.raises(ConfigError, match=r"has no \[prices\]"):
        read_prices(file)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda directory: (directory / EVENTS).unlink(), "is not a journal"),
        (lambda directory: cut(directory, 0), "its journal is empty"),
        (lambda directory: (directory / "config.json").write_text("{}"), "was changed after the run began"),
        (lambda directory: (directory / "config.json").unlink(), "cannot read"),
        (
            lambda directory: (directory / EVENTS).write_bytes(
                (directory / EVENTS).read_bytes().replace(b"site-1", b"x", 1)
            ),
            "is damaged",
        ),
    ],
    ids=["no events", "no lines", "another config", "no config", "a changed line"],
)
def test_a_journal_that_cannot_be_trusted_is_refused(tmp_path: Path, spoil, words) -> None:
    directory = journal(tmp_path / "run", rounds=1)
    spoil(directory)
    with pytest.raises(JournalError, match=words):
        gather(directory)


def test_an_answer_that_nobody_asked_for_is_shown_all_the_same(tmp_path: Path) -> None:
    time = SimulatedTime()
    with Journal.create(tmp_path / "run", run_config().to_dict(), clock=time.clock) as writer:
        writer.append(events.RunStarted(pid=1, host="elsewhere"))
        writer.append(
            events.RoundOpened(
                round=1,
                attempt=1,
                seed=1,
                online=1,
                cohort=("site-1",),
                wanted=1,
                quorum=1,
                deadline_s=9.0,
                model_digest="",
            )
        )
        time.sleep(2.0)
        writer.append(
            events.UpdateLanded(
                round=1,
                attempt=1,
                site="guest",
                digest="",
                num_examples=3,
                metrics={},
                report={},
                size_bytes=80,
                waited_s=1.5,
            )
        )
        facts = gather(tmp_path / "run")
    assert facts.run.status == "running"  # on another computer, so it cannot be told from here
    assert [(a.site, a.outcome) for a in facts.rounds[0].answers] == [("guest", "answered"), ("site-1", "waiting")]


def test_survivors_whose_updates_were_only_seen_as_a_sum_have_answered(tmp_path: Path) -> None:
    cohort = ("site-1", "site-2", "site-3")
    with Journal.create(tmp_path / "run", run_config().to_dict(), clock=SimulatedTime().clock) as writer:
        writer.append(
            events.RoundOpened(
                round=1, attempt=1, seed=1, online=3, cohort=cohort, wanted=3, quorum=2, deadline_s=9.0, model_digest=""
            )
        )
        writer.append(
            events.ReplyFailed(
                round=1, attempt=1, phase="secagg", site="site-3", code="refused", reason="not today", waited_s=1.0
            )
        )
        writer.append(
            events.RoundClosed(
                round=1, attempt=1, because="the deadline of 9 s had passed", survivors=cohort[:2], missing=cohort[2:]
            )
        )
        facts = gather(tmp_path / "run")
    assert [site.outcomes for site in facts.sites] == [{1: "answered"}, {1: "answered"}, {1: "failed"}]
    assert [(reason.phase, reason.code) for reason in facts.reasons] == [("train", "refused")]
    assert "</html>" in render(facts)


def test_a_stopped_run_is_a_note_with_the_command_to_continue(tmp_path: Path) -> None:
    directory = journal(tmp_path / "run")
    cut(directory, 12)
    with Journal(directory) as writer:
        writer.append(events.RunEnded(status="stopped", reason="fl run stop"))
    facts = gather(directory)
    (concern,) = [concern for concern in advice.concerns(facts) if "stopped" in concern.what]
    assert (concern.level, concern.command) == ("note", f"fl run resume {directory}")
    assert facts.run.sessions[-1].ended == "stopped: fl run stop"


def test_a_model_that_became_worse_is_noted(tmp_path: Path) -> None:
    facts = gather(journal(tmp_path / "run"))
    losses = (2.0, 0.5, 0.9)
    rounds = tuple(
        dataclasses.replace(
            entry, measured={"centre": dataclasses.replace(entry.measured["training"], metrics={"loss": loss})}
        )
        for entry, loss in zip(facts.rounds, losses, strict=True)
    )
    (concern,) = advice.concerns(dataclasses.replace(facts, rounds=rounds))
    assert concern.what == "The loss was lowest in round 2"
    assert "it was 0.5 then and is 0.9 after round 3" in concern.why


def test_a_journal_without_its_environment_is_reported_all_the_same(tmp_path: Path) -> None:
    (journal(tmp_path / "run") / "environment.json").unlink()
    assert gather(tmp_path / "run").environment == {}


def test_every_beginning_of_a_journal_can_be_drawn(tmp_path: Path) -> None:
    sites = federation(5, site_2=failing("<b>", rounds=(1,)), site_3=SimulatedSite(delay_s=25.0))
    directory = journal(tmp_path / "run", sites, rounds=2, evaluation={"sites_every": 1}, round={"deadline_s": 20.0})
    whole = (directory / EVENTS).read_bytes()
    for keep in range(1, whole.count(b"\n") + 1):
        (directory / EVENTS).write_bytes(b"".join(whole.splitlines(keepends=True)[:keep]))
        facts = gather(directory)
        assert "</html>" in render(facts)
        for entry in facts.rounds:
            others = entry.failed + entry.late + entry.silent + entry.spare + entry.waiting
            assert entry.cohort == entry.survivors + others, f"after {keep} lines"


SITE = st.builds(
    SimulatedSite,
    delay_s=st.sampled_from([0.5, 3.0, 12.0, 30.0]),
    silent=st.sampled_from([False, False, True]),
    fail=st.sampled_from([lambda request: None, failing("broken").fail, failing("moody", rounds=(2,)).fail]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    sites=st.lists(SITE, min_size=2, max_size=6),
    quorum=st.sampled_from([0.3, 0.6, 1.0]),
    linger_s=st.sampled_from([2.0, 1000.0]),
    sites_every=st.integers(0, 2),
)
def test_the_parts_of_any_run_add_up(tmp_path_factory, sites, quorum, linger_s, sites_every) -> None:
    directory = tmp_path_factory.mktemp("run") / "run"
    journal(
        directory,
        {f"site-{i}": site for i, site in enumerate(sites)},
        round={"quorum": quorum, "linger_s": linger_s, "deadline_s": 10.0, "attempts": 2},
        evaluation={"sites_every": sites_every},
    )
    facts = gather(directory)
    assert facts.run.status in ("completed", "failed")
    for entry in facts.rounds:
        assert entry.cohort == entry.survivors + entry.failed + entry.late + entry.silent + entry.spare + entry.waiting
        assert entry.waiting == 0
    assert sum(site.sent_bytes for site in facts.sites) == sum(entry.sent_bytes for entry in facts.rounds)
    assert sum(site.received_bytes for site in facts.sites) == sum(entry.received_bytes for entry in facts.rounds)
    assert sum(site.answered for site in facts.sites) >= sum(entry.survivors for entry in facts.rounds)
    assert "</html>" in render(facts)
