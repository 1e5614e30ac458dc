"""Flower apps in the queue, against a SuperLink that is played."""

import dataclasses
import json
from pathlib import Path

import pytest

from fl.errors import BusyError, ConfigError, UnreachableError
from server import audit
from server.controller.apps import BUNDLE
from tests.server.controller.test_controller import ADA, Play, PlayedSuperLink

APP = Path(__file__).parents[2] / "e2e" / "apps" / "mean"


class SuperLink(PlayedSuperLink):
    """Knows an app's name, which Flower takes from the bundle."""

    def start_run(self, bundle, config):
        number = super().start_run(bundle, config)
        self.become(number, app="tests/mean-app", status="pending")
        return number

    def become(self, number, **changes):
        self.known[number] = dataclasses.replace(self.known[number], **changes)


@pytest.fixture
def play(tmp_path):
    made = Play(tmp_path)
    made.superlink = SuperLink()
    yield made
    made.centre.close()


def submit(play, **changes):
    return play.actions.submit_app(ADA, APP, changes, project="xray")


def test_an_app_waits_starts_runs_and_completes(play):
    name = submit(play, rounds=2)
    assert (play.run(name).state, play.run(name).kind, play.run(name).title) == ("queued", "app", "tests/mean-app")
    play.tick()
    assert (play.run(name).state, play.run(name).flower_run) == ("starting", "1")
    assert play.superlink.known[1].config == {"rounds": 2}
    play.superlink.become(1, status="running")
    play.tick()
    assert play.run(name).state == "running"
    play.superlink.finish(1, "completed")
    play.tick()
    assert play.run(name).state == "completed"
    with play.store.read() as session:
        assert [row.action for row in audit.rows(session)] == ["run.start", "run.start", "run.complete"]


def test_an_app_that_failed_says_why_and_is_started_again_from_its_beginning(play):
    name = submit(play)
    play.tick()
    play.superlink.finish(1, "failed", "no heartbeat from its ServerApp")
    play.tick()
    assert (play.run(name).state, play.run(name).reason) == ("failed", "no heartbeat from its ServerApp")
    play.actions.resume_run(ADA, name)
    play.tick()
    assert (play.run(name).state, play.run(name).flower_run, play.run(name).lives) == ("starting", "2", 2)


def test_an_app_is_stopped_and_cannot_be_paused(play):
    name = submit(play)
    play.tick()
    with pytest.raises(BusyError, match="is a Flower app, and cannot be paused"):
        play.actions.pause_run(ADA, name)
    play.actions.stop_run(ADA, name)
    play.tick(2)
    assert (play.run(name).state, play.superlink.alive()) == ("stopped", [])


def test_one_that_was_stopped_past_the_control_room_is_stopped(play):
    name = submit(play)
    play.tick()
    play.superlink.finish(1, "stopped")
    play.tick()
    assert play.run(name).state == "stopped"


@pytest.mark.parametrize("has_told", [False, True])
def test_a_controller_that_dies_while_it_hands_an_app_over_starts_no_second_one(play, has_told):
    other = submit(play)
    play.tick()
    name = submit(play)
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
    assert (play.run(name).state, play.run(other).flower_run) == ("starting", "1")
    assert play.superlink.alive() == [1, 2]
    assert play.run(name).flower_run == "2"


def test_a_superlink_that_is_away_keeps_an_app_in_its_place_and_one_without_memory_fails_it(play):
    name = submit(play)
    play.tick()
    play.superlink.is_up = False
    later = submit(play, rounds=1)
    play.tick(3)
    assert (play.run(name).state, play.run(later).state) == ("starting", "queued")
    play.superlink.is_up = True
    play.superlink.known.clear()
    play.tick()
    assert (play.run(name).state, play.run(name).reason) == ("failed", "SuperLink does not know it any more")
    assert play.run(later).state == "starting"


def test_an_answer_that_is_lost_starts_no_second_one(play):
    name, start_run = submit(play), play.superlink.start_run

    def lose(*given):
        start_run(*given)
        raise UnreachableError("no SuperLink answers")

    play.superlink.start_run = lose
    play.tick()
    assert play.run(name).state == "interrupted"
    play.superlink.start_run = start_run
    play.tick()
    assert (play.run(name).state, play.run(name).flower_run, play.superlink.alive()) == ("starting", "2", [2])


def test_the_same_app_that_somebody_else_runs_is_left_alone(play):
    play.superlink.start_run(b"", {})
    submit(play)
    play.tick(3)
    assert play.superlink.alive() == [1, 2]


def test_what_is_no_app_or_has_no_such_key_leaves_nothing_behind(play, tmp_path):
    with pytest.raises(ConfigError, match="unknown run config key round"):
        submit(play, round=2)
    with pytest.raises(ConfigError, match=r"it has no pyproject\.toml"):
        play.actions.submit_app(ADA, tmp_path, {})
    assert not list((play.centre.home.path / "runs").glob("*"))


def test_a_bundle_that_is_gone_fails_its_run(play):
    name = submit(play)
    (play.centre.home.runs / name / BUNDLE).unlink()
    play.tick()
    assert play.run(name).state == "failed"
    assert "cannot read its app.fab" in play.run(name).reason
    assert json.loads(play.run(name).config) == {}
