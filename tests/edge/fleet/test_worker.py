"""The real worker process over sites that are made up: pyinfra's ``@fake`` connector."""

import json

import pytest

from edge.fleet.plan import planned
from edge.fleet.rollout import Rollout
from edge.fleet.state import begin
from fl.errors import ProcessError
from tests.edge.fleet import made
from tests.edge.fleet.fake_centre import FakeCentre

pytestmark = pytest.mark.timeout(600)


def roll(session, centre=None, state=None):
    state = state or begin(session.fleet, session.wanted, force=False)
    with session.store.lock, session.hands(executes=True) as hands:
        said = []
        centre = centre or FakeCentre(session, version=session.fleet.release.version)
        Rollout(session.fleet, session.wanted, state, session.store, hands, centre, say=said.append).run()
    return state


def test_from_nothing_to_a_site_and_nothing_the_second_time(tmp_path):
    session = made.fake_fleet(tmp_path, {"a": {}})
    centre = FakeCentre(session)
    state = roll(session, centre)
    assert state.counts() == {"done": 1}, state
    assert centre.tokens == ["a"]
    site = made.site_state(session, "a")
    assert site["installed"] == ["helm", "k3s", "namespace-fl-system"]
    assert "secret/fl-site-join" not in site["objects"]
    done = len(site["log"])
    assert roll(session).counts() == {"unchanged": 1}
    assert len(made.site_state(session, "a")["log"]) == done


def test_a_plan_asks_once_and_changes_nothing(tmp_path):
    session = made.fake_fleet(tmp_path, {"a": {}})
    with session.hands(executes=False) as hands:
        (answer,) = hands.each(["a"], "plan", parallel=1)
    plan = planned(session.wanted["a"], answer.result, "0.3.1")
    assert set(plan.changes) == {"host", "cluster", "image", "helm", "identity"}
    assert "bring the bundle's files" in plan.changes["host"]
    assert any("upgrade --install" in command for command in plan.commands)
    assert "+  id: a" in plan.diff
    assert made.site_state(session, "a")["log"] == []
    assert made.site_state(session, "a")["asked"] == 1  # the survey; no operation asked again


def test_a_worker_that_ends_is_an_error_that_names_its_log(tmp_path):
    session = made.fake_fleet(tmp_path, {"a": {}}, natures={"a": {"dies": True}})
    with pytest.raises(ProcessError), session.hands(executes=True) as hands:
        list(hands.each(["a"], "stage", parallel=1))


@pytest.mark.slow
def test_500_sites_with_failures_are_upgraded_taken_back_and_resumed(tmp_path):
    sites = {
        f"s{number:03}": {
            "distro": "existing",
            "kubernetes": {"kubeconfig": "/etc/kubernetes/admin.conf"},
            "labels": {"ring": "canary"} if number < 5 else {},
        }
        for number in range(500)
    }
    waves = [{"name": "canary", "select": {"ring": "canary"}}, {"name": "rest", "parallel": 100}]
    rollout = {"soak_s": 0, "gate_s": 60, "waves": waves, "abort": {"failed": 0.1, "unhealthy": 1}, "rollback": "wave"}
    natures = {f"s{number:03}": {"unreachable": True} for number in range(100, 110)}
    natures |= {f"s{number:03}": {"fails": {"images import": "ctr: no space left on device"}} for number in (200, 201)}
    natures["s300"] = {"no_sudo": True}
    natures["s301"] = {"wrong_key": True}
    session = made.fake_fleet(tmp_path, sites, natures=natures, rollout=rollout)
    state = roll(session)
    assert state.status == "completed", state.reason
    assert state.counts() == {"done": 486, "deferred": 10, "failed": 4}
    assert "no space left on device" in state.sites["s200"].reason
    assert "sudo was refused" in state.sites["s300"].reason

    # The ten come back, the four are mended: a resume brings them, and only them.
    session = made.fake_fleet(tmp_path, sites, rollout=rollout)
    state = session.store.load()
    for name in state.of("deferred", "failed"):
        state.sites[name].status = "waiting"
    state.waves[1].is_done = False
    assert roll(session, state=state).counts() == {"done": 500}

    # A release whose pods do not become ready at one canary: nobody else is touched.
    newer = {"release": {"version": "0.3.2", "bundle": "bundle"}, "rollout": rollout | {"gate_s": 1}}
    session = made.fake_fleet(tmp_path, sites, **newer)
    made.FakeSession.natures = {"s003": {"sick": session.wanted["s003"].digest}}
    state = roll(session)
    assert state.status == "rolled back"
    assert state.counts() == {"rolled back": 5, "waiting": 495}
    revisions = made.site_state(session, "s003")["revisions"]
    assert json.dumps(revisions).count("Rollback to 1") == 1
