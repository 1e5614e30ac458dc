"""The controller against a SuperLink that is played: every death, every order of events, no process."""

from __future__ import annotations

import dataclasses
import json

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import select

from fl.errors import UnreachableError
from fl.files import Lock
from fl.rounds import events
from fl.rounds.journal import Journal, load_state
from server import audit
from server.actions import Actions
from server.audit import Actor
from server.centre import Centre
from server.control import FlowerRun
from server.controller.controller import MOST_DEATHS, Controller
from server.controller.traces import Traces
from server.live import Live
from server.site_actions import SiteActions
from server.store.runs import Model, Run, Use
from tests.server import kit

ADA = Actor(who="ada", via="web")
RUN_FILE = '[task]\nname = "digits"\n[run]\nname = "trial"\nrounds = 2\n'


class PlayedSuperLink:
    """Takes runs, and does with them what a test says."""

    def __init__(self):
        self.known: dict[int, FlowerRun] = {}
        self.is_up = True

    def start_run(self, bundle, config):
        self._check()
        number = len(self.known) + 1
        self.known[number] = FlowerRun(number, "fedfleet/run", "running", "", "", "t", "t", "", dict(config))
        return number

    def runs(self):
        self._check()
        return list(self.known.values())

    def run(self, number):
        self._check()
        return self.known[number]

    def stop(self, number):
        self._check()
        self.finish(number, "stopped")

    def finish(self, number, how, details=""):
        changes = {"status": "finished", "sub_status": how, "details": details}
        self.known[number] = dataclasses.replace(self.known[number], **changes)

    def alive(self):
        return [number for number, run in self.known.items() if not run.is_finished]

    def close(self):
        pass

    def _check(self):
        if not self.is_up:
            raise UnreachableError("no SuperLink answers")


class ServerApp:
    """What a run's ServerApp writes; holds the journal until it is dead."""

    def __init__(self, journal):
        self.journal = Journal(journal)
        self.journal.append(events.RunStarted(pid=1, host="h"))

    def round(self, number):
        opened = {"round": number, "attempt": 1, "seed": 1, "online": 1, "cohort": ("a",), "wanted": 1, "quorum": 1}
        self.journal.append(events.RoundOpened(**opened, deadline_s=9.0, model_digest="d"))
        self.journal.append(
            events.RoundCommitted(
                round=number, model_digest=f"m{number}", state_digests={}, num_examples=1, metrics={}, fold_s=0.1
            )
        )
        folder = self.journal.round_directory(number)
        (folder / "model.safetensors").write_bytes(b"arrays")

    def end(self, status="completed", reason="2 rounds"):
        self.journal.append(events.RunEnded(status=status, reason=reason))
        self.die()

    def die(self):
        self.journal.close()


class Play:
    def __init__(self, folder):
        self.centre = kit.make_centre(folder / "home")
        self.store, self.live, self.at_s = self.centre.registry.store, Live(), 1_000_000.0
        self.actions = Actions(self.centre, self.live)
        self.superlink = PlayedSuperLink()
        self.new_controller()

    def new_controller(self, **options):
        """The one before was killed."""
        self.controller = Controller(
            self.store,
            self.centre.home,
            self.live,
            connect=lambda: self.superlink,
            now=lambda: self.at_s,
            **options,
        )

    def submit(self, **options):
        return self.actions.submit_run(ADA, RUN_FILE, **options)

    def tick(self, times=1, every_s=2.0):
        for _ in range(times):
            self.at_s += every_s
            try:
                self.controller.tick()
            except UnreachableError:
                assert not self.superlink.is_up

    def run(self, name):
        with self.store.read() as session:
            return session.scalars(select(Run).where(Run.name == name)).one()

    def app(self, name):
        return ServerApp(self.centre.home.runs / name)


@pytest.fixture
def play(tmp_path):
    made = Play(tmp_path)
    yield made
    made.centre.close()


def test_a_run_is_started_followed_and_completed_with_its_model(play):
    name = play.submit()
    play.tick()
    assert (play.run(name).state, play.run(name).lives, play.run(name).flower_run) == ("starting", 1, "1")
    app = play.app(name)
    app.round(1)
    play.tick()
    assert (play.run(name).state, play.run(name).rounds_done) == ("running", 1)
    app.round(2)
    app.end()
    play.superlink.finish(1, "completed")
    play.tick(2)
    found = play.run(name)
    assert (found.state, found.rounds_done, found.lines) == ("completed", 2, 7)
    with play.store.read() as session:
        (model,) = session.scalars(select(Model))
        (use,) = session.scalars(select(Use))
        assert (model.round, model.digest, model.app_digest) == (2, "m2", found.app_digest)
        assert use.to_s is not None
        assert audit.verify(audit.rows(session))[0] == 3  # submitted, started, completed


def test_rounds_become_spans_once_also_when_the_controller_died_in_between(play):
    came = InMemorySpanExporter(), InMemorySpanExporter()
    tracing = [Traces(exporter) for exporter in came]
    play.new_controller(traces=tracing[0])
    name = play.submit()
    play.tick()
    app = play.app(name)
    app.round(1)
    play.tick()
    play.new_controller(traces=tracing[1])
    app.round(2)
    app.end()
    play.tick(2)
    for one in tracing:
        one.close()
    names = [[span.name for span in exporter.get_finished_spans()] for exporter in came]
    assert names == [["fold", "round 1"], ["fold", "round 2", f"run {name}"]]


def test_a_dead_serverapp_is_noticed_by_its_lock_and_the_run_goes_on_under_its_number(play):
    name = play.submit()
    play.tick()
    app = play.app(name)
    app.round(1)
    play.tick()
    number = play.run(name).number
    app.die()  # Flower still believes that it runs
    play.tick(2)
    found = play.run(name)
    assert (found.number, found.state, found.lives, found.flower_run) == (number, "starting", 2, "2")
    assert play.superlink.alive() == [2]
    app = play.app(name)
    app.round(2)
    app.end()
    play.tick(2)
    assert play.run(name).state == "completed"


def test_two_serverapps_never_have_one_journal(play):
    name = play.submit()
    play.tick()
    app = play.app(name)
    play.tick()
    play.superlink.finish(1, "failed", "no heartbeat")  # and yet it lives, and writes
    play.tick(5)
    assert play.run(name).state == "interrupted"
    assert play.superlink.alive() == []
    app.round(1)
    app.die()
    play.tick(2)
    assert (play.run(name).state, play.superlink.alive()) == ("starting", [2])


@pytest.mark.parametrize("has_told", [False, True])
def test_a_controller_that_dies_while_it_hands_a_run_over_starts_no_second_one(play, has_told):
    name = play.submit()
    start_run = play.superlink.start_run

    def die(*given):
        if has_told:
            start_run(*given)
        raise KeyboardInterrupt

    play.superlink.start_run = die
    with pytest.raises(KeyboardInterrupt):
        play.tick()
    play.superlink.start_run = start_run
    play.new_controller()
    play.tick(3)
    assert (play.run(name).state, len(play.superlink.alive())) == ("starting", 1)
    assert play.run(name).flower_run == str(play.superlink.alive()[0])


def test_a_superlink_that_is_away_changes_nothing_and_journals_are_read_all_the_same(play):
    name = play.submit()
    play.tick()
    app = play.app(name)
    play.tick()
    play.superlink.is_up = False
    app.round(1)
    play.tick(3)
    assert (play.run(name).state, play.run(name).rounds_done) == ("running", 1)
    later = play.submit()
    play.tick()
    assert play.run(later).state == "queued"
    play.superlink.is_up = True
    play.tick()
    assert (play.run(name).state, play.run(later).state) == ("running", "starting")


def test_a_run_that_dies_again_and_again_in_one_round_fails_in_the_end_and_can_be_resumed(play):
    name = play.submit()
    for _ in range(MOST_DEATHS):
        play.tick()
        assert play.run(name).state == "starting"
        play.app(name).die()
        play.tick()
        play.at_s += 100
    assert play.run(name).state == "failed"
    assert "died 6 times in round 1" in play.run(name).reason
    play.actions.resume_run(ADA, name)
    play.tick()
    assert play.run(name).state == "starting"


def test_too_few_sites_is_a_failure_and_no_death(play):
    name = play.submit()
    play.tick()
    play.app(name).end("failed", "round 1: 0 sites online")
    play.superlink.finish(1, "failed")
    play.tick(3)
    assert (play.run(name).state, play.run(name).reason) == ("failed", "round 1: 0 sites online")
    assert play.run(name).lives == 1


def test_pause_stop_and_resume_end_and_begin_a_serverapp(play):
    name = play.submit()
    play.tick()
    app = play.app(name)
    app.round(1)
    play.tick()
    play.actions.pause_run(ADA, name)
    play.tick()
    assert play.run(name).state == "pausing"  # its ServerApp still has the journal
    app.die()
    play.tick()
    assert play.run(name).state == "paused"
    assert load_state(play.centre.home.runs / name).ended.reason == "pause asked by ada"
    play.tick(3)
    assert play.superlink.alive() == []
    play.actions.resume_run(ADA, name)
    play.tick()
    assert play.run(name).state == "starting"  # the end of the life before is not that of this one
    play.tick()
    assert play.run(name).state == "starting"
    play.actions.stop_run(ADA, name)
    play.tick()
    assert play.run(name).state == "stopped"


def test_a_run_that_completes_while_it_is_being_stopped_is_complete(play):
    name = play.submit()
    play.tick()
    app = play.app(name)
    app.round(1)
    app.round(2)
    play.actions.stop_run(ADA, name)
    app.end()
    play.tick()
    assert play.run(name).state == "completed"


def test_places_are_shared_and_a_start_time_is_kept(play):
    play.new_controller(runs_at_once=2)
    first, second, third = play.submit(), play.submit(), play.submit(project="other")
    later = play.submit(project="third", start_s=play.at_s + 1000)
    play.tick()
    states = {name: play.run(name).state for name in (first, second, third, later)}
    assert states == {first: "starting", second: "queued", third: "starting", later: "queued"}
    for name in (first, third):
        play.app(name).end()
    play.tick(2)
    assert play.run(second).state == "starting"
    assert play.run(later).state == "queued"
    play.at_s += 1000
    play.tick()
    assert play.run(later).state == "starting"


def test_a_damaged_journal_fails_its_run_and_no_other(play):
    bad, good = play.submit(), play.submit()
    path = play.centre.home.runs / bad / "events.jsonl"
    path.write_bytes(path.read_bytes().replace(b"trial", b"trlal") + b"{}\n{}\n")
    play.tick(2)
    assert play.run(bad).state == "failed"
    assert "is damaged" in play.run(bad).reason
    assert play.run(good).state == "starting"


def test_what_happens_is_told_to_who_watches(play):
    name = play.submit(project="xray")
    play.at_s = __import__("time").time()
    play.tick(every_s=0.0)
    play.app(name).round(1)
    play.tick(every_s=0.0)
    told = [(change.topic, json.loads(change.text).get("state")) for change in play.live._ring if change.name == name]
    assert ("run", "starting") in told
    assert ("round", "open") in told
    assert ("round", "committed") in told
    assert {change.project for change in play.live._ring if change.topic in ("run", "round")} == {"xray"}


def test_a_holder_that_does_not_let_go_is_not_killed_if_it_is_not_what_it_says(play, tmp_path):
    from server.controller import held

    with Lock(tmp_path / "lock"):
        assert held.is_held(tmp_path)
        assert not held.kill_holder(tmp_path)  # it is we
    (tmp_path / "lock").write_text("1")
    assert not held.kill_holder(tmp_path)


def test_what_the_command_line_changes_in_the_store_is_told_once_to_those_who_watch(play, monkeypatch):
    told = []
    monkeypatch.setattr(play.live, "publish", lambda topic, name, **_: told.append((topic, name)))
    other = Centre(play.centre.home)  # as fl site does, in a process of its own
    SiteActions(other).add_site(Actor(who="ada", via="cli"), "north")
    other.close()
    play.tick(2)
    assert told == [("site", "north"), ("audit", "north")]
