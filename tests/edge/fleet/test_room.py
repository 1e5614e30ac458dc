"""What the control room's audit has of a rollout, told over the real API."""

import json

import httpx
import pytest
from sqlalchemy import select

from edge.fleet import commands
from edge.fleet import rollout as machine
from edge.fleet.centre import CentreCommand
from edge.fleet.config import CentreSection
from edge.fleet.room import Room
from edge.fleet.state import begin
from fl import console
from fl.errors import ConfigError
from server import audit
from server.client import Client
from server.commands import queued
from server.store.runs import Round, Run
from tests.edge.fleet import made
from tests.edge.fleet.fake_centre import FakeCentre
from tests.server.api import kit


class Transport(httpx.BaseTransport):
    """Hands requests to an app in this process."""

    def __init__(self, app):
        self._client = kit.TestClient(app, base_url="https://fl.example.org")

    def handle_request(self, request):
        answer = self._client.request(request.method, str(request.url), headers=request.headers, content=request.read())
        return httpx.Response(answer.status_code, headers=answer.headers, content=answer.content)


@pytest.fixture
def room(tmp_path):
    made_room = kit.open_room(tmp_path / "centre")
    yield made_room
    made_room.store.close()


@pytest.fixture
def section(room, tmp_path):
    """``centre`` of a fleet file, for a user with a role."""

    def section(role="operator", projects=("*",)):
        room.people.add_user(kit.OPERATOR, "ada", role, projects)
        file = tmp_path / "token"
        file.touch(mode=0o600)
        file.write_text(room.people.add_token(kit.OPERATOR, "ada").secret)
        return CentreSection(room="https://fl.example.org", token_file=file)

    return section


def rows(room):
    with room.store.read() as session:
        audit.verify(audit.rows(session))
        found = [row for row in audit.rows(session) if row.action.startswith("fleet.")]
        return [(row.action, row.subject, row.who, row.via, json.loads(row.after)) for row in found]


@pytest.fixture
def session(tmp_path):
    """A fleet of three sites that are made up, one of which is first."""
    return made.fake_fleet(tmp_path, {"a": {"labels": {"ring": "canary"}}, "b": {}, "c": {}})


def test_a_rollout_and_its_rollback_are_in_the_audit_with_who_and_each_wave(
    room, section, session, tmp_path, monkeypatch
):
    monkeypatch.setattr(machine, "LOOK_S", 0.01)
    config, transport = section(), Transport(room.app)
    monkeypatch.setattr("edge.fleet.room.Room", lambda _, say: Room(config, say, transport=transport))
    monkeypatch.setattr("edge.fleet.centre.CentreCommand", lambda _: FakeCentre(session))
    monkeypatch.setattr(commands, "open_session", lambda *_: session)
    commands.apply(tmp_path / "fleet.yaml", as_json=True)
    commands.rollback(tmp_path / "fleet.yaml", as_json=True)
    told = rows(room)
    assert {entry[1:4] for entry in told} == {(f"test/{session.store.load().id}", "ada", "api")}
    assert [(action, after.get("wave"), after["status"], after["sites"]) for action, _, _, _, after in told] == [
        ("fleet.begin", None, "running", {"waiting": 3}),
        ("fleet.wave", "canary", "running", {"done": 1, "waiting": 2}),
        ("fleet.wave", "others", "running", {"done": 3}),
        ("fleet.end", None, "completed", {"done": 3}),
        ("fleet.rollback", None, "rolled back", {"rolled back": 3}),
    ]
    assert {after["version"] for *_, after in told} == {"0.3.1"}


def test_a_rollout_finds_the_open_rounds_of_a_control_room(room, capsys, tmp_path, monkeypatch):
    kit.fill(room.store, tmp_path)
    client = Client("https://fl.example.org", kit.LOCAL_TOKEN, transport=Transport(room.app))

    def ask(_, words, **options):
        capsys.readouterr()
        if words[1] == "list":
            queued.list_runs(client, state="", project="", limit=100, as_json=True)
        else:
            queued.show(client, words[2], as_json=True)
        return json.loads(capsys.readouterr().out)

    monkeypatch.setattr(CentreCommand, "_ask", ask)
    with room.store.read() as session:
        open_rounds = session.execute(
            select(Run.name, Round.number)
            .join(Round, Round.run == Run.number)
            .where(Run.state == "running", Round.state == "open")
        ).all()
    assert open_rounds
    assert CentreCommand(CentreSection()).open_rounds() == dict(map(tuple, open_rounds))


@pytest.mark.parametrize(("role", "projects"), [("viewer", ("*",)), ("operator", ("radiology",))])
def test_who_may_not_keep_sites_writes_nothing_and_hears_it_once(room, section, session, role, projects):
    said = []
    teller = Room(section(role, projects), said.append, transport=Transport(room.app))
    state = begin(session.fleet, session.wanted, force=True)
    teller.tell(state, "begin")
    teller.tell(state, "end")
    teller.close()
    assert len(said) == 1
    assert said[0].startswith("the control room does not write this rollout down: ")
    assert rows(room) == []


def test_a_control_room_that_is_away_holds_no_rollout_up_and_no_token_is_said(section, session):
    def gone(request):
        raise httpx.ConnectError("connection refused")

    said = []
    config = section()
    teller = Room(config, said.append, transport=httpx.MockTransport(gone))
    state = begin(session.fleet, session.wanted, force=True)
    for _ in range(3):
        teller.tell(state, "begin")
    assert said == ["the control room does not write this rollout down: connection refused"]


def test_without_a_room_nothing_is_told_and_a_token_that_others_can_read_is_not_used(section, session):
    Room(CentreSection(), console.say).tell(begin(session.fleet, session.wanted, force=True), "begin")
    config = section()
    config.token_file.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others"):
        Room(config, console.say)


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"room": "http://fl.example.org", "token_file": "t"}, "must be https"),
        ({"room": "https://fl.example.org"}, "go together"),
        ({"token_file": "t"}, "go together"),
    ],
)
def test_half_a_room_is_refused(keys, complaint):
    with pytest.raises(ConfigError, match=complaint):
        CentreSection(**keys)
