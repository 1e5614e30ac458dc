"""The control room while its store is away: it says so, on every page and in the API, and comes back by itself."""

import time

import pytest

from server import web
from server.store.places import VARIABLE
from tests.server.api import kit
from tests.server.postgres import PostgresServer, programs

HTML = {"accept": "text/html"}


@pytest.mark.slow
def test_a_postgresql_that_is_stopped_is_said_everywhere_and_answers_come_back_with_it(tmp_path, monkeypatch):
    if programs() is None:
        pytest.skip("no PostgreSQL is installed")
    server = PostgresServer()
    try:
        monkeypatch.setenv(VARIABLE, server.database())
        room = kit.open_room(tmp_path)
        web.install(room.app)
        kit.fill(room.store, tmp_path)
        client = room.client()
        assert client.get("/api/v1/runs").json()["items"]
        server.stop()
        began = time.monotonic()
        for path in ("/api/v1/runs", "/api/v1/sites", "/metrics"):
            answer = client.get(path)
            assert answer.status_code == 503, answer.text
        assert client.get("/api/v1/runs").json()["title"] == "StorageError"
        page = client.get("/", headers=HTML)
        assert (page.status_code, "PostgreSQL" in page.text) == (503, True)
        assert client.post("/api/v1/sites", json={"id": "east"}).status_code == 503
        assert client.get("/healthz").status_code == 503
        assert time.monotonic() - began < 10
        server.start()
        assert client.get("/healthz").status_code == 200
        assert [run["number"] for run in client.get("/api/v1/runs").json()["items"]] == [2, 1]
        assert {site["id"] for site in client.get("/api/v1/sites").json()["sites"]["items"]} == {"north", "south"}
        room.store.close()
    finally:
        server.end()
