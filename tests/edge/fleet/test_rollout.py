"""What a rollout decides: waves, gates, deferral, abort, rollback, pause, resume."""

import datetime

import pytest
import yaml

from edge.fleet import bundle
from edge.fleet import rollout as machine
from edge.fleet.centre import Seen
from edge.fleet.rollout import Rollout
from edge.fleet.session import open_fleet
from edge.fleet.state import begin
from fl.errors import BusyError, UnreachableError
from tests.edge.fleet import made
from tests.edge.fleet.fake_hands import FakeHands

SITES = {f"s{number}": {"labels": {"ring": "canary"} if number < 2 else {}} for number in range(8)}


class Centre:
    """Sees all sites with the right version, or as it is told."""

    def __init__(self, *, seen=None, rounds=({},), smoke=""):
        self.seen, self.rounds, self.smoke_result = seen, list(rounds), smoke
        self.smokes, self.tokens, self.asked = [], [], 0

    def version(self):
        return "0.3.1"

    def sites(self):
        return {name: Seen(True, "0.3.1") for name in SITES} | (self.seen or {})

    def open_rounds(self):
        self.asked += 1
        return self.rounds.pop(0) if len(self.rounds) > 1 else self.rounds[0]

    def join_token(self, site):
        self.tokens.append(site)
        return f"token-of-{site}"

    def smoke(self, run_file, sites, timeout_s):
        self.smokes.append(sorted(sites))
        return self.smoke_result


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(machine, "LOOK_S", 0.01)


@pytest.fixture
def fleet(tmp_path):
    """Open a fleet with changes to its rollout."""
    bundle.build(made.bundle_source(tmp_path / "source"), tmp_path / "bundle")

    def fleet(sites=SITES, **changes):
        rollout = {"soak_s": 0, "gate_s": 0.5, "waves": [{"name": "canary", "select": {"ring": "canary"}}]} | changes
        (tmp_path / "fleet.yaml").write_text(yaml.safe_dump(made.fleet_values(sites, rollout=rollout)))
        return open_fleet(tmp_path / "fleet.yaml", home=tmp_path / "home")

    return fleet


def roll(session, hands, centre=None, state=None, *, force=False):
    state = state or begin(session.fleet, session.wanted, force=force)
    said = []
    Rollout(session.fleet, session.wanted, state, session.store, hands, centre or Centre(), say=said.append).run()
    assert session.store.load() == state  # what is on disk is what is in memory
    return state


def order(hands, step):
    return [name for done, name in hands.done if done == step]


def test_the_canary_wave_is_through_before_the_others_are_touched(fleet):
    session = fleet()
    hands = FakeHands(session)
    state = roll(session, hands)
    assert state.status == "completed"
    assert state.counts() == {"done": 8}
    first_of_rest = hands.done.index(("stage", "s2"))
    assert hands.done.index(("health", "s0")) < first_of_rest
    assert hands.done.index(("health", "s1")) < first_of_rest


def test_a_second_rollout_changes_nothing_and_makes_no_smoke_run(fleet, tmp_path):
    (tmp_path / "smoke.toml").touch()
    session = fleet(smoke="smoke.toml")
    hands, centre = FakeHands(session), Centre()
    assert roll(session, hands, centre).counts() == {"done": 8}
    assert centre.smokes == [["s0", "s1"]]  # the canaries, and nobody else
    assert roll(session, hands, centre).counts() == {"unchanged": 8}
    assert len(centre.smokes) == 1


def test_a_sick_canary_stops_the_rollout_and_its_wave_goes_back(fleet):
    session = fleet()
    before = {name: {"runs": "old"} for name in SITES}
    hands = FakeHands(session, before | {"s1": {"runs": "old", "sick": "CrashLoopBackOff"}})
    state = roll(session, hands)
    assert state.status == "rolled back"
    assert "s1 not healthy: pod fl-site-0 is not ready: CrashLoopBackOff" in state.reason
    assert state.of("rolled back") == ["s0", "s1"]
    assert set(state.of("waiting")) == set(SITES) - {"s0", "s1"}
    assert set(hands.running.values()) == {"old"}


@pytest.mark.parametrize(
    ("scope", "back"),
    [("none", []), ("site", ["s5"]), ("wave", ["s2", "s3", "s4", "s5", "s6", "s7"]), ("all", list(SITES))],
)
def test_a_rollback_has_its_scope(fleet, scope, back):
    session = fleet(rollback=scope)
    natures = {name: {"runs": "old"} for name in SITES} | {"s5": {"runs": "old", "sick": "Error"}}
    hands = FakeHands(session, natures)
    roll(session, hands)
    assert [name for name in SITES if hands.running[name] == "old"] == back


def test_a_site_without_a_release_before_has_none_after_its_rollback(fleet):
    session = fleet()
    hands = FakeHands(session, {"s0": {"sick": "Error"}})
    roll(session, hands)
    assert hands.running["s0"] is None


def test_a_pod_that_restarts_during_the_soak_is_unhealthy(fleet):
    session = fleet(soak_s=0.5)
    state = roll(session, FakeHands(session, {"s0": {"restarts": True}}))
    assert "during the soak: pod fl-site-0 was started again" in state.reason


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (Seen(False, "0.3.1"), "the link is down"),
        (Seen(True, "0.3.0"), "the site says it is 0.3.0, not 0.3.1"),
        (Seen(True, ""), "of no version"),
        (Seen(False, "", is_waiting=True), "waits to be let in: fl site approve s0"),
    ],
)
def test_the_link_must_be_up_with_the_right_version(fleet, seen, words):
    session = fleet()
    state = roll(session, FakeHands(session), Centre(seen={"s0": seen}))
    assert words in state.reason


def test_an_unreachable_site_is_put_off_and_blocks_nobody(fleet):
    session = fleet(max_unreachable=0.2)
    hands = FakeHands(session, {"s3": {"unreachable": {"stage"}}})
    state = roll(session, hands)
    assert state.status == "completed"
    assert state.sites["s3"].status == "deferred"
    assert state.counts()["done"] == 7
    assert order(hands, "stage").count("s3") == 2  # once more at the end


def test_a_site_that_is_lost_in_the_middle_of_its_upgrade_is_put_off_and_picked_up(fleet):
    session = fleet(max_unreachable=0.2)
    hands = FakeHands(session, {"s3": {"unreachable": {"release"}}})
    state = roll(session, hands)
    assert state.sites["s3"].status == "deferred"
    hands.natures = {}
    state.sites["s3"].status = "waiting"
    state.waves[1].is_done = False
    assert roll(session, hands, state=state).counts() == {"done": 8}


def test_a_site_that_is_lost_after_its_upgrade_is_no_reason_to_go_back(fleet):
    session = fleet(gate_s=30)
    hands = FakeHands(session, {"s0": {"unreachable": {"health"}}})
    state = roll(session, hands)
    assert state.status == "completed"
    assert "out of reach since its upgrade" in state.sites["s0"].reason


def test_many_unreachable_sites_pause_the_rollout_before_anything_changes(fleet):
    session = fleet(max_unreachable=0.2)
    hands = FakeHands(session, {name: {"unreachable": {"stage"}} for name in ("s0", "s1")})
    state = roll(session, hands)
    assert (state.status, order(hands, "release")) == ("paused", [])
    assert "2 of 8 sites are out of reach" in state.reason


def test_failures_below_the_bound_do_not_stop_a_wave(fleet):
    session = fleet(abort={"failed": 2, "unhealthy": 1})
    state = roll(session, FakeHands(session, {"s4": {"fails": {"release": "no space left on device"}}}))
    assert state.status == "completed"
    assert state.sites["s4"].reason == "no space left on device"
    assert state.counts() == {"done": 7, "failed": 1}


def test_failures_at_the_bound_stop_it(fleet):
    session = fleet(abort={"failed": 2, "unhealthy": 1})
    fails = {name: {"runs": "old", "fails": {"release": "no"}} for name in ("s4", "s5")}
    state = roll(session, FakeHands(session, {name: {"runs": "old"} for name in SITES} | fails))
    assert state.status == "rolled back"
    assert "s4, s5 failed: no" in state.reason


def test_an_upgrade_waits_for_the_open_round(fleet):
    session = fleet()
    centre = Centre(rounds=[{"run": 4}, {"run": 4}, {}])
    assert roll(session, FakeHands(session), centre).status == "completed"
    assert centre.asked >= 4


def test_the_beginning_of_the_next_round_will_do(fleet):
    session = fleet()
    centre = Centre(rounds=[{"run": 4}, {"run": 4}, {"run": 5}, {"run": 5}, {"run": 6}])
    assert roll(session, FakeHands(session), centre).status == "completed"


def test_a_round_that_never_closes_pauses_the_rollout(fleet):
    session = fleet(round_wait_s=0)
    hands = FakeHands(session)
    state = roll(session, hands, Centre(rounds=[{"run": 4}]))
    assert (state.status, order(hands, "release")) == ("paused", [])
    assert "round 4 of run is still open" in state.reason


def test_force_waits_for_no_round(fleet):
    session = fleet(round_wait_s=0)
    assert roll(session, FakeHands(session), Centre(rounds=[{"run": 4}]), force=True).status == "completed"


def test_a_failed_smoke_run_takes_the_canaries_back(fleet, tmp_path):
    (tmp_path / "smoke.toml").touch()
    session = fleet(smoke="smoke.toml")
    hands = FakeHands(session, {name: {"runs": "old"} for name in SITES})
    state = roll(session, hands, Centre(smoke="run 7 failed"))
    assert state.status == "rolled back"
    assert state.reason == "wave canary: the smoke run failed: run 7 failed"
    assert set(hands.running.values()) == {"old"}


def test_a_new_site_gets_one_token_and_it_is_taken_away_again(fleet):
    session = fleet()
    hands, centre = FakeHands(session, {"s2": {"enrolled": False}}), Centre()
    assert roll(session, hands, centre).status == "completed"
    assert centre.tokens == ["s2"]
    assert hands.tokens["s2"] == "token-of-s2"
    assert order(hands, "enrolled") == ["s2"]
    assert "token-of" not in (session.store.directory / "rollout.json").read_text()


def test_without_a_centre_a_new_site_cannot_join(fleet):
    session = fleet()
    hands = FakeHands(session, {"s0": {"enrolled": False}})
    state = begin(session.fleet, session.wanted, force=False)
    Rollout(session.fleet, session.wanted, state, session.store, hands, None, say=lambda line: None).run()
    assert "without a centre there is no join token" in state.reason


def test_a_site_outside_its_window_is_put_off(fleet):
    now = datetime.datetime.now(datetime.UTC)
    other_day = (now + datetime.timedelta(days=3)).strftime("%a")
    window = f"{other_day} 01:00-02:00 UTC"
    session = fleet(SITES | {"s7": {"window": window}})
    hands = FakeHands(session)
    state = roll(session, hands)
    assert (state.status, state.sites["s7"].status) == ("completed", "deferred")
    assert state.sites["s7"].reason == f"outside its window, {window}"
    assert roll(session, hands, force=True).counts() == {"unchanged": 7, "done": 1}


def test_a_pause_ends_with_the_sites_at_work_and_a_resume_goes_on(fleet):
    session = fleet()
    hands = FakeHands(session)
    stage = hands.stage

    def pausing(name):
        if name == "s3":
            session.store.pause()
        return stage(name)

    hands.stage = pausing
    state = roll(session, hands)
    assert (state.status, state.reason) == ("paused", "fl fleet pause")
    assert [state.sites[name].status for name in ("s1", "s3", "s4")] == ["done", "staged", "waiting"]
    session.store.unpause()
    hands.stage = stage
    state = roll(session, hands, state=session.store.load())
    assert state.counts() == {"done": 8}
    assert order(hands, "stage").count("s0") == 1  # what was done is not done again


@pytest.mark.parametrize("step", ["stage", "release", "health"])
def test_a_rollout_that_is_killed_anywhere_goes_on_where_it_stopped(fleet, step):
    session = fleet()
    hands = FakeHands(session, {name: {"runs": "old"} for name in SITES})
    original = getattr(hands, step)

    def killed(name, **more):
        result = original(name, **more)
        if name == "s4":
            raise KeyboardInterrupt
        return result

    setattr(hands, step, killed)
    with pytest.raises(KeyboardInterrupt):
        roll(session, hands)
    setattr(hands, step, original)
    state = roll(session, hands, state=session.store.load())
    assert state.counts() == {"done": 8}
    assert {site.before for site in state.sites.values()} == {1}  # the way back is still the one from before


def test_what_the_centre_does_not_tell_pauses_the_rollout(fleet):
    class Silent(Centre):
        def open_rounds(self):
            raise UnreachableError("no answer")

    session = fleet()
    state = roll(session, FakeHands(session), Silent())
    assert (state.status, state.reason) == ("paused", "the centre cannot be asked for open rounds: no answer")


def test_two_rollouts_of_one_fleet_exclude_each_other(fleet):
    session = fleet()
    with session.store.lock, pytest.raises(BusyError):
        type(session.store.lock)(session.store.lock.path).acquire()


def test_the_history_tells_each_rollout_that_ended(fleet):
    session = fleet()
    hands = FakeHands(session)
    roll(session, hands)
    roll(session, hands)
    entries = list(session.store.history())
    assert [entry["sites"] for entry in entries] == [{"done": 8}, {"unchanged": 8}]
    with (session.store.directory / "history.jsonl").open("a") as file:
        file.write('{"id": "cut o')
    assert len(list(session.store.history())) == 2
