import json
import time

import pytest

from server.store.runs import Reply
from tests.server.api import kit


def test_the_openapi_document_describes_every_route(same_room):
    document = same_room.client().get("/api/v1/openapi.json").json()
    assert {"/api/v1/runs", "/api/v1/sites/{id}", "/api/v1/events", "/api/v1/audit/verify"} <= set(document["paths"])
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    assert all(operation["summary"] for path in document["paths"].values() for operation in path.values())


def test_every_site_says_in_words_what_it_does_and_what_to_type(same_room):
    found = same_room.client().get("/api/v1/sites").json()
    north, south = found["sites"]["items"]
    assert (north["words"], north["level"]) == ("training round 2 of 20261126-digits", "good")
    assert (south["words"], south["condition"], south["advice"]) == (
        "away since 2 hours",
        "away",
        "at the site: fl site status",
    )
    assert north["gpu"] == "2 × NVIDIA L4"
    assert found["counts"] == {"training": 1, "away": 1}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"text": "NOR"}, ["north"]),
        ({"text": "away"}, ["south"]),
        ({"state": "bad"}, ["south"]),
        ({"state": "training"}, ["north"]),
        ({"state": "active"}, ["north", "south"]),
        ({"label": "region=x"}, []),
    ],
)
def test_sites_are_filtered(same_room, query, expected):
    found = same_room.client().get("/api/v1/sites", params=query).json()
    assert [row["id"] for row in found["sites"]["items"]] == expected
    assert (found["total"], found["found"]) == (2, len(expected))


def test_one_site_shows_its_history(same_room):
    found = same_room.client().get("/api/v1/sites/north").json()
    assert found["events"][0]["what"] == "approved"
    assert {(reply["round"], reply["outcome"]) for reply in found["replies"]} == {(1, "landed"), (2, "asked")}


def test_what_is_not_there_is_404_with_what_to_type(same_room):
    for path, hint in (("sites/x", "fl site list"), ("runs/x", "fl run list"), ("models/x", "fl model list")):
        answer = same_room.client().get(f"/api/v1/{path}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["hint"] == hint


def test_pages_of_runs_hold_each_run_once(room):
    with room.store.write() as session:
        session.add_all([kit.a_run(f"run-{number}") for number in range(23)])
    client, found, after = room.client(), [], ""
    while after is not None:
        page = client.get("/api/v1/runs", params={"limit": 7, "after": after}).json()
        found += [run["number"] for run in page["items"]]
        after = page["next"]
    assert found == list(range(25, 0, -1))


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 1001}, {"after": "x"}, {"after": "-1"}, {"state": "odd"}])
def test_a_wrong_question_is_refused_and_says_where(same_room, query):
    answer = same_room.client().get("/api/v1/runs", params=query)
    assert answer.status_code == 422
    assert next(iter(query)) in answer.json()["detail"] or "no run is ever" in answer.json()["detail"]


def test_a_run_says_what_it_used_and_what_that_cost(tmp_path):
    from fl.report.prices import Prices

    room = kit.open_room(tmp_path, prices=Prices(kwh=0.5, gpu_hour=3.0, currency="CHF"))
    kit.fill(room.store, tmp_path)
    usage = room.client().get("/api/v1/runs/20261126-digits").json()["usage"]
    # Two trainings of 30 s on a GPU, 3600 J each: 2 Wh at 0.5 a kWh, and a minute at 3 an hour.
    assert usage["energy_j"] == 7200
    assert (usage["gpu_s"], usage["cpu_s"], usage["up_bytes"]) == (60, 72, 2048)
    assert usage["cost"] == pytest.approx(0.001 + 0.05)
    assert usage["currency"] == "CHF"
    by_site = room.client().get("/api/v1/usage", params={"by": "site"}).json()
    assert [row["name"] for row in by_site] == ["north", "south"]
    assert sum(row["amount"]["cost"] for row in by_site) == pytest.approx(usage["cost"])


def test_a_run_without_measured_energy_says_none_instead_of_nothing_used(room):
    with room.store.write() as session:
        for reply in session.query(Reply):
            reply.report = json.dumps({"wall_s": 1.0, "device": "cpu", "energy_j": None})
    usage = room.client().get("/api/v1/runs/1").json()["usage"]
    assert (usage["energy_j"], usage["measured"], usage["trainings"], usage["gpu_s"]) == (None, 0, 2, 0)


def test_rounds_and_timeline_agree_on_who_took_part(same_room):
    client = same_room.client()
    rounds = client.get("/api/v1/runs/1/rounds").json()["items"]
    assert [(entry["number"], entry["state"]) for entry in rounds] == [(2, "open"), (1, "committed")]
    assert rounds[1]["outcomes"] == {"landed": 2}
    assert rounds[1]["metrics"] == {"sites": {"accuracy": 0.75}}
    timeline = client.get("/api/v1/runs/1/timeline", params={"first": 1, "last": 1}).json()
    assert [site["site"] for site in timeline["sites"]] == ["north", "south"]
    assert timeline["sites"][0]["spans"][0]["to_s"] - timeline["sites"][0]["spans"][0]["from_s"] == pytest.approx(30)


def test_runs_are_compared_by_the_settings_in_which_they_differ(room):
    with room.store.write() as session:
        session.add(kit.a_run("other", config=json.dumps({"run": {"rounds": 5}, "task": {"name": "digits"}})))
    found = room.client().get("/api/v1/compare", params={"run": ["20261126-digits", "other"]}).json()
    assert found["settings"] == {"run.rounds": ["3", "5"]}
    assert found["newest"] == {"sites/accuracy": [0.75, None]}


def test_a_metric_that_is_not_finite_is_null(room):
    from server.store.runs import Metric

    with room.store.write() as session:
        session.add(Metric(run=1, place="sites", name="loss", round=1, value=float("inf")))
    assert room.client().get("/api/v1/runs/1/curves").json()["sites/loss"] == [[1, None]]


def test_a_model_is_downloaded_by_its_name(same_room):
    answer = same_room.client().get("/api/v1/models/production/file")
    assert answer.content == b"arrays"
    assert answer.headers["etag"] == "sha"
    assert same_room.client().get("/api/v1/models/production").json()["aliases"] == ["production"]


def test_the_queue_hides_other_projects_and_keeps_their_places(room):
    with room.store.write() as session:
        session.add(kit.a_run("mine", state="queued", submitted_s=time.time()))
    assert [entry["place"] for entry in room.client().get("/api/v1/queue").json()] == [1, 2]
    (entry,) = room.user("ada", projects=["radiology"]).get("/api/v1/queue").json()
    assert (entry["row"]["name"], entry["place"]) == ("20261126-secret", 2)


def test_a_store_that_is_gone_is_said_in_words_and_comes_back(room):
    client = room.client()
    assert client.get("/healthz").text == "ok\n"
    path = room.store.place.path
    away = path.with_name("away.db")
    room.store.close()
    path.rename(away)
    path.mkdir()
    try:
        answer = client.get("/api/v1/runs")
        assert answer.status_code == 503
        assert "cannot use" in answer.json()["detail"]
        assert answer.headers["retry-after"] == "5"
        assert client.get("/healthz").status_code == 503
    finally:
        path.rmdir()
        away.rename(path)
    assert client.get("/api/v1/runs").status_code == 200
