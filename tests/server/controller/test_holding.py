"""Shares are counted in sites: a run that holds the whole fleet uses more than one that holds two of its sites."""

import pytest
from sqlalchemy import select

from server.controller.queue import decayed
from server.store.models import Site
from server.store.runs import Run, Use
from server.views.queue import uses
from tests.server.controller.test_controller import ADA, Play


@pytest.fixture
def play(tmp_path):
    made = Play(tmp_path)
    with made.store.write() as session:
        for number in range(20):
            state, labels = ("revoked" if number == 0 else "active"), '{"region": "north"}' if number < 6 else "{}"
            session.add(Site(id=f"site-{number:02}", state=state, created_s=1.0, changed_s=1.0, labels=labels))
    yield made
    made.centre.close()


def submit(play, round_table="", **options):
    text = f'[task]\nname = "digits"\n[run]\nname = "trial"\nrounds = 2\n[round]\n{round_table}\n'
    return play.actions.submit_run(ADA, text, **options)


def stretches(play, name):
    with play.store.read() as session:
        found = session.scalars(
            select(Use).join(Run, Run.number == Use.run).where(Run.name == name).order_by(Use.number)
        )
        return [(use.sites, use.to_s is None) for use in found]


@pytest.mark.parametrize(
    ("table", "options", "sites"),
    [
        ("", {}, 19),  # all that are active
        ("", {"sites": {"region": "north"}}, 5),
        ("cohort = 4", {}, 4),
        ("cohort = 0.5", {"sites": {"region": "north"}}, 3),
        ("cohort = 4\nover_selection = 0.5", {}, 6),
        ("cohort = 100", {}, 19),
    ],
)
def test_a_run_without_a_round_yet_is_counted_by_what_it_will_ask(play, table, options, sites):
    name = submit(play, table, **options)
    play.tick(2)
    assert stretches(play, name) == [(sites, True)]


def test_a_run_on_a_fleet_without_sites_counts_as_one(tmp_path):
    play = Play(tmp_path)
    name = play.submit()
    play.tick(2)
    assert stretches(play, name) == [(1, True)]
    play.centre.close()


def test_a_round_that_asks_another_number_of_sites_begins_another_stretch(play):
    name = submit(play)
    play.tick(2)
    app = play.app(name)
    app.round(1)  # one site is online
    play.tick(3)
    assert stretches(play, name) == [(19, False), (1, True)]
    app.round(2)
    app.end()
    play.tick(2)
    assert stretches(play, name) == [(19, False), (1, False)]


def test_the_project_that_held_fewer_sites_for_the_same_time_starts_next(play):
    play.new_controller(runs_at_once=2)
    large, small = submit(play, project="a-large"), submit(play, "cohort = 2", project="b-small")
    play.tick(2)
    play.at_s += 3600
    with play.store.read() as session:
        used = decayed(uses(session, play.at_s), play.at_s)
    assert used["a-large"] == pytest.approx(19 / 2 * used["b-small"])
    first, second = submit(play, project="a-large"), submit(play, project="b-small")
    for name in (large, small):
        play.app(name).end()
    play.new_controller(runs_at_once=1)
    play.tick(2)
    assert (play.run(second).state, play.run(first).state) == ("starting", "queued")
