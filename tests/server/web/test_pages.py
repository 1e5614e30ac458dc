"""The dashboard's pages without a browser: what they show, who may do what, what they cost."""

import re
import time

import pytest
from sqlalchemy import update

from fl.errors import StorageError
from fl.link.report import SiteReport
from server import web
from server.store.models import Event, Site
from server.store.runs import Run
from tests.server import seeds
from tests.server.api import kit

HTML = {"accept": "text/html"}
PAGES = (
    "/",
    "/sites/clinic-0006",
    "/runs",
    "/runs/1",
    "/runs/1/usage",
    "/runs/1/log",
    "/compare?run=1&run=3",
    "/models",
)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    folder = tmp_path_factory.mktemp("room")
    made = kit.open_room(folder)
    web.install(made.app)
    seeds.fill(made.store, folder / "models", time.time())
    yield made
    made.store.close()


def sign_in(room, name, role="operator", projects=("*",)):
    """A browser of somebody who has just signed in."""
    room.people.add_user(kit.OPERATOR, name, role, projects)
    token = room.people.add_token(kit.OPERATOR, name).secret
    browser = room.client(token=None, follow_redirects=False)
    browser.headers.update(HTML)
    answer = browser.post("/sign-in", data={"token": token, "to": "/runs"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    return browser


def csrf_of(browser, path="/runs"):
    return re.search(r'name="csrf" value="([^"]+)"', browser.get(path).text)[1]


@pytest.mark.parametrize("path", PAGES)
def test_a_viewer_sees_every_page_and_nothing_inline(room, path):
    text = room.client().get(path, headers=HTML).text
    assert "<h1>" in text
    assert 'lang="en"' in text
    assert 'href="#content"' in text
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! src=| type=\"application/json\")", text)
    assert not re.search(r"<table(?!.*?<thead>)", text, re.DOTALL)


def test_who_is_not_signed_in_is_asked_to_and_comes_back(room):
    browser = room.client(token=None, follow_redirects=False)
    answer = browser.get("/runs/1?round=2", headers=HTML)
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in?to=%2Fruns%2F1%3Fround%3D2")
    assert 'value="/runs/1?round=2"' in browser.get(answer.headers["location"]).text


def test_a_wrong_token_is_said_on_the_form(room):
    answer = room.client(token=None).post("/sign-in", data={"token": "fl_wrong"}, headers=HTML)
    assert answer.status_code == 401
    assert "this token is not good" in answer.text
    assert "fl user token NAME" in answer.text


def test_signing_in_leads_to_pages_of_ours_only(room):
    room.people.add_user(kit.OPERATOR, "mallet", "viewer", ("*",))
    token = room.people.add_token(kit.OPERATOR, "mallet").secret
    browser = room.client(token=None, follow_redirects=False)
    answer = browser.post("/sign-in", data={"token": token, "to": "//evil.example/"})
    assert answer.headers["location"] == "/"


def test_the_fleet_says_each_sites_state_and_what_to_type(room):
    text = room.client().get("/", headers=HTML).text
    assert "outside its owner&#39;s limits: window 20:00–06:00" in text
    assert "<code>fl site quarantine clinic-0008 --release</code>" in text
    assert "training round 20 of " in text


@pytest.mark.parametrize(
    ("query", "number"),
    [("text=clinic-0006", 1), ("state=training", 9), ("label=region%3Dnorth", 6), ("text=nobody", 0)],
)
def test_the_fleet_is_filtered(room, query, number):
    assert room.client().get(f"/?{query}", headers=HTML).text.count('<th scope="row">') == number


def test_a_run_of_an_app_which_counts_its_own_rounds_shows_none(room):
    def set_rounds(done, wanted):
        with room.store.write() as session:
            session.execute(update(Run).where(Run.number == 1).values(rounds_done=done, rounds_wanted=wanted))

    client = room.client()
    before = client.get("/api/v1/runs/1").json()["row"]
    set_rounds(0, 0)
    try:
        for path in ("/runs", "/runs/1", "/compare?run=1&run=3"):
            assert not re.search(r"\b0\s*(<small>)?\s*of 0\b", client.get(path, headers=HTML).text), path
    finally:
        set_rounds(before["rounds_done"], before["rounds_wanted"])


def test_a_form_of_another_page_changes_nothing(room):
    browser = sign_in(room, "eve")
    assert browser.post("/models/promote", data={"model": "1", "name": "eve", "csrf": "guessed"}).status_code == 403
    token = csrf_of(browser)
    foreign = browser.post(
        "/models/promote", data={"model": "1", "name": "eve", "csrf": token}, headers={"origin": "https://evil.example"}
    )
    assert foreign.status_code == 403
    assert "eve" not in [alias["name"] for alias in room.client().get("/api/v1/aliases").json()]


def test_a_viewer_gets_no_buttons_and_cannot_do_without_them(room):
    browser = sign_in(room, "vera", "viewer")
    assert "Yes, stop" not in browser.get("/runs/1").text
    assert browser.post("/runs/1/stop", data={"csrf": csrf_of(browser)}).status_code == 403
    assert browser.get("/audit").status_code == 403


def test_a_model_is_promoted_and_moved_back(room):
    browser = sign_in(room, "olga")
    for path, data in (("promote", {"model": "1"}), ("promote", {"model": "2"}), ("roll-back", {})):
        form = {"name": "candidate", "csrf": csrf_of(browser), **data}
        assert browser.post(f"/models/{path}", data=form).status_code == 303
    moves = room.client().get("/api/v1/aliases/candidate").json()
    assert [move["model"] for move in moves] == [1, 2, 1]
    assert {move["by"] for move in moves} == {"olga"}


def test_a_run_file_is_checked_and_what_was_typed_stays(room):
    browser = sign_in(room, "rosa")
    wrong = '[run]\nrounds = "many"\n'
    answer = browser.post("/runs/new", data={"file": wrong, "project": "default", "csrf": csrf_of(browser)})
    assert answer.status_code == 422
    assert "rounds" in answer.text
    assert "rounds = &#34;many&#34;" in answer.text


def test_a_run_of_another_project_is_not_there(room):
    browser = sign_in(room, "paul", "operator", ("default",))
    assert browser.get("/runs/1").status_code == 200
    there, nowhere = browser.get("/runs/2"), browser.get("/runs/77")
    assert (there.status_code, nowhere.status_code) == (404, 404)
    assert there.text.replace("no run 2", "") == nowhere.text.replace("no run 77", "")
    assert "20261125-digits-2" not in browser.get("/runs").text


def test_signing_out_ends_the_session(room):
    browser = sign_in(room, "otto")
    browser.post("/sign-out", data={"csrf": csrf_of(browser)})
    assert browser.get("/runs").headers["location"].startswith("/sign-in")


def test_what_a_site_says_is_text(room):
    with room.store.write() as session:
        session.add(Event(site=1, at_s=1.0, what="said", words="<script>alert(1)</script>"))
    text = room.client().get("/sites/clinic-0001", headers=HTML).text
    assert "&lt;script&gt;alert(1)" in text
    assert "<script>alert" not in text


def test_what_a_probe_found_is_said_in_words_and_what_it_did_not_is_left_out(room):
    facts = {
        "memory_mib": 65536,
        "memory_limit_mib": None,
        "kubernetes": False,
        "gpu_problem": "",
        "oddity": [1],
        "cores": 8,
    }
    with room.store.write() as session:
        session.get(Site, 2).report = SiteReport(facts=facts).to_json()
    text = room.client().get("/sites/clinic-0002", headers=HTML).text
    assert "<dt>memory</dt><dd>64.0 GiB</dd>" in text
    assert "<dt>kubernetes</dt><dd>no</dd>" in text
    assert "<dt>cores</dt><dd>8</dd>" in text
    assert not any(name in text for name in ("memory limit", "gpu problem", "oddity"))


def test_a_page_that_is_not_there_is_a_page_for_a_browser_and_a_problem_for_a_program(room):
    page, problem = room.client().get("/nowhere", headers=HTML), room.client().get("/nowhere")
    assert (page.status_code, problem.status_code) == (404, 404)
    assert "<h1>Not found</h1>" in page.text
    assert problem.json()["detail"] == "nothing is here"


def test_a_store_that_is_down_is_said_and_comes_back(room, monkeypatch):
    def down():
        raise StorageError("the store does not answer", hint="it is tried again with the next request")

    with monkeypatch.context() as broken:
        broken.setattr(room.store, "read", down)
        answer = room.client().get("/", headers=HTML)
        assert answer.status_code == 503
        assert "the store does not answer" in answer.text
    assert room.client().get("/", headers=HTML).status_code == 200


def test_the_fleet_page_of_a_thousand_sites_is_small(tmp_path):
    made = kit.open_room(tmp_path)
    web.install(made.app)
    seeds.fill(made.store, tmp_path / "models", time.time(), seeds.Size(sites=1000, rounds=3, cohort=100))
    answer = made.client().get("/", headers=HTML)
    made.store.close()
    assert answer.text.count('<th scope="row">') == 1000
    assert len(answer.content) <= 200_000


def test_with_anonymous_view_everybody_looks_and_nobody_changes(tmp_path):
    made = kit.open_room(tmp_path, access={"anonymous_view": True})
    web.install(made.app)
    seeds.fill(made.store, tmp_path / "models", time.time(), seeds.Size(sites=3, rounds=2, cohort=2))
    browser = made.client(token=None, follow_redirects=False)
    browser.headers.update(HTML)
    for path in ("/", "/runs", "/runs/1", "/models"):
        text = browser.get(path).text
        assert "Sign in" in text
        assert 'method="post"' not in text, path
    assert browser.post("/runs/1/stop", data={"csrf": ""}).status_code in (303, 401, 403)
    assert browser.get("/audit").headers.get("location", "").startswith("/sign-in")
    assert made.client().get("/api/v1/runs/1").json()["row"]["state"] == "running"
    made.store.close()
