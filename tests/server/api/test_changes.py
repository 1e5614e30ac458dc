"""Changes over the API that have no page: Flower apps, labels, names and second tokens of sites."""

import json
from pathlib import Path

import pytest

from fl.link.token import decode
from server import audit

APP = Path(__file__).parents[2] / "e2e" / "apps" / "mean"


def last(room):
    with room.store.read() as session:
        *_, row = audit.rows(session)
        return row.action, row.subject, row.who, json.loads(row.after)


def test_an_app_of_the_servers_machine_is_put_into_the_queue_by_its_operator(room):
    wanted = {"app": str(APP), "app_config": {"rounds": 2}, "project": "xray", "priority": 3}
    answer = room.client().post("/api/v1/runs", json=wanted)
    assert answer.status_code == 201, answer.text
    row = room.client().get(f"/api/v1/runs/{answer.json()['name']}").json()["row"]
    assert (row["state"], row["project"], row["priority"], row["can"]) == ("queued", "xray", 3, ["stop"])
    assert last(room)[0] == "run.start"


def test_from_elsewhere_no_directory_of_the_server_is_run(same_room):
    answer = same_room.user("ada", "admin").post("/api/v1/runs", json={"app": str(APP)})
    assert answer.status_code == 403
    assert "from the server's machine only" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("wanted", "complaint"),
    [
        ({"app": str(APP), "file": "x"}, "one of file, config and app"),
        ({}, "one of file, config and app"),
        ({"app": str(APP), "sites": {"region": "north"}}, "decides itself which sites it asks"),
        ({"app": str(APP), "app_config": {"round": 2}}, "unknown run config key round"),
        ({"app": "/nowhere"}, "no such directory"),
    ],
)
def test_an_app_that_cannot_be_run_is_refused(same_room, wanted, complaint):
    answer = same_room.client().post("/api/v1/runs", json=wanted)
    assert answer.status_code == 422, answer.text
    assert complaint in answer.json()["detail"]


def test_a_site_is_labelled_renamed_and_invited_again_and_each_is_in_the_audit(room):
    client = room.user("ada", "operator")
    assert client.patch("/api/v1/sites/north/labels", json={"labels": {"region": "n", "gpu": "l4"}}).status_code == 204
    assert client.patch("/api/v1/sites/north/labels", json={"labels": {"gpu": None}}).status_code == 204
    assert last(room) == ("site.label", "north", "ada", {"labels": {"region": "n"}})
    renamed = client.post("/api/v1/sites/north/rename", json={"id": "far-north"}).json()
    assert decode(renamed["token"]).site == "far-north"
    assert last(room)[:3] == ("site.rename", "north", "ada")
    again = client.post("/api/v1/sites/far-north/rejoin", json={"hours": 1}).json()
    assert decode(again["token"]).new_keys
    action, subject, _, after = last(room)
    assert (action, subject, set(after)) == ("site.rejoin", "far-north", {"expires_s", "new_keys"})
    assert client.post("/api/v1/sites/far-north/rename", json={"id": "south"}).status_code == 422
    assert client.get("/api/v1/sites/north").status_code == 404


def test_a_rollout_is_noted_by_who_keeps_sites_only(room):
    note = {"rollout": "20261126-1", "what": "begin", "version": "0.3.1", "status": "running", "sites": {"waiting": 3}}
    assert room.user("eve", "viewer").post("/api/v1/fleets/test/rollouts", json=note).status_code == 403
    assert room.user("ada", "operator").post("/api/v1/fleets/test/rollouts", json=note).status_code == 204
    told = {"version": "0.3.1", "status": "running", "sites": {"waiting": 3}}
    assert last(room) == ("fleet.begin", "test/20261126-1", "ada", told)
    assert room.client().post("/api/v1/fleets/test/rollouts", json={**note, "what": "odd"}).status_code == 422
