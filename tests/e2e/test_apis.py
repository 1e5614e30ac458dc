"""APIs beside a control room, over one home and one PostgreSQL: any answers, and each tells what happens at others."""

import contextlib
import signal
import ssl
import subprocess

import httpx
import pytest

from fl import ports
from fl.errors import UnreachableError
from fl.processes import program
from server import people
from server.audit import Actor
from server.centre import Centre
from server.client import Client
from server.store.places import VARIABLE
from tests.e2e.control_room import Room
from tests.server.kit import make_centre

pytestmark = [pytest.mark.federation, pytest.mark.timeout(600)]

RUN = {
    "run": {"name": "trial", "rounds": 2, "seed": 3},
    "task": {"name": "digits", "network": "mlp"},
    "round": {"min_online": 2, "quorum": 1.0},
}


@pytest.fixture(scope="module")
def room(tmp_path_factory, postgres):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(VARIABLE, postgres.database())
        made = Room(tmp_path_factory.mktemp("room"), control={"listen": f"127.0.0.1:{ports.free_port()}"})
        try:
            yield made
        finally:
            made.end()


class Api:
    """An API beside a room."""

    def __init__(self, room, folder, token):
        address = f"127.0.0.1:{ports.free_port()}"
        self.url, self.log = f"https://{address}", folder / "api.log"
        with room.client() as main:
            argv = [program("fl"), "server", "api", "--home", str(room.home.path), "--beside", main.url]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([*argv, "--listen", address], stdout=log, stderr=log)
        self.ca, self.token = room.home.control / "authorities.pem", token
        room.wait(self.answers, "the API")

    def answers(self):
        assert self.process.poll() is None, self.log.read_text()
        try:
            with self.client() as client:
                return client.me()
        except UnreachableError:
            return None

    def client(self):
        return Client(self.url, self.token, ca=self.ca)

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(30) == 0, self.log.read_text()


@pytest.fixture(scope="module")
def apis(room, tmp_path_factory):
    centre = Centre(room.home)
    people.People(centre.registry.store).add_user(Actor(who="test", via="cli"), "ada", "admin")
    token = people.People(centre.registry.store).add_token(Actor(who="test", via="cli"), "ada", "test").secret
    centre.close()
    with contextlib.ExitStack() as ends:
        made = [Api(room, tmp_path_factory.mktemp(f"api{number}"), token) for number in (1, 2)]
        for one in made:
            ends.callback(one.end)
        yield made


def change(api, path, body):
    """Change something at an API, as a program does."""
    trust = ssl.create_default_context(cafile=str(api.ca))
    with httpx.Client(verify=trust, headers={"Authorization": f"Bearer {api.token}"}) as http:
        answer = http.post(f"{api.url}/api/v1{path}", json=body)
        assert answer.status_code == 204, answer.text


def test_a_run_is_started_at_one_and_followed_at_another(room, apis):
    with apis[0].client() as first, apis[1].client() as second:
        name = first.start_run(config=RUN)
        seen = []
        for event in second.events(run=name):
            seen.append(event.topic)
            if second.run(name).row.state in ("completed", "failed"):
                break
        assert second.run(name).row.state == "completed"
        assert {"run", "round"} <= set(seen)
        # SuperLink alone has it, and listens on the room's loopback.
        assert "round 2" in first.log(name).text
        assert [row.name for row in first.runs()] == [row.name for row in second.runs()]


def test_a_site_that_is_revoked_at_one_is_told_by_all_and_let_in_by_nobody(room, apis):
    with apis[0].client() as first, apis[1].client() as second, room.client() as main:
        events = second.events()
        next(events)
        change(apis[0], "/sites/site-2/revoke", {"reason": "a test"})
        assert next(event for event in events if event.topic == "site").facts["name"] == "site-2"
        assert {client.site("site-2").row.state for client in (first, second, main)} == {"revoked"}


def test_an_api_over_a_file_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    centre = make_centre(tmp_path / "home")
    centre.close()
    argv = [program("fl"), "server", "api", "--home", str(centre.home.path), "--beside", "https://127.0.0.1:1"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "an API beside the control room needs a store in PostgreSQL" in done.stderr


def test_a_certificate_is_checked_for_the_name_that_is_asked_for(apis):
    with Client(apis[0].url, apis[0].token, ca=apis[0].ca, name="localhost") as client:
        assert client.me().name == "ada"
    with (
        Client(apis[0].url, apis[0].token, ca=apis[0].ca, name="elsewhere.example") as client,
        pytest.raises(UnreachableError),
    ):
        client.me()
