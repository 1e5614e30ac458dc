"""Server-sent events, over a real connection: what is told, to whom, and how soon."""

import asyncio
import contextlib
import threading
import time

import httpx
import pytest
import uvicorn

from fl.errors import ConfigError, RefusedError, UnreachableError
from server.client import Client
from server.live import Live, as_event
from tests.server.api import kit


@contextlib.contextmanager
def served(app):
    """An application on a free port of loopback; yields its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        app.state.context.live.close()
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def there(room):
    """A control room that is served, and its address."""
    with served(room.app) as url:
        yield room, url


def heard(client, number, **wanted):
    """The next events of somebody who watches, in a list that fills while one does other things."""
    found, ready = [], threading.Event()

    def listen():
        with contextlib.suppress(UnreachableError), contextlib.closing(client.events(**wanted)) as events:
            for event in events:
                found.append((time.time(), event))
                ready.set()
                if sum(event.topic != "alive" for _, event in found) >= number:
                    return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert ready.wait(5), "no first sign of life"
    return found, thread


def test_a_change_reaches_a_watcher_within_a_second(there):
    room, url = there
    found, thread = heard(Client(url, kit.LOCAL_TOKEN), 2)
    told_s = time.time()
    room.live.publish("round", "20261126-digits", project="default", round=2, state="committed")
    room.live.publish("site", "north")
    thread.join(5)
    (_, alive), (at_s, first), (_, second) = found
    assert alive.topic == "alive"
    assert (first.topic, first.facts["round"], first.facts["state"]) == ("round", 2, "committed")
    assert (second.topic, second.facts["name"]) == ("site", "north")
    assert at_s - told_s < 1.0


def test_a_watcher_of_one_run_hears_of_nothing_else(there):
    room, url = there
    found, thread = heard(Client(url, kit.LOCAL_TOKEN), 1, run="20261126-digits")
    room.live.publish("run", "20261126-secret", project="radiology")
    room.live.publish("site", "north")
    room.live.publish("run", "20261126-digits", project="default")
    thread.join(5)
    assert [event.facts["name"] for _, event in found if event.topic != "alive"] == ["20261126-digits"]


def test_runs_of_other_projects_and_the_audit_are_not_told(there):
    room, url = there
    room.people.add_user(kit.OPERATOR, "ada", "viewer", ["default"])
    found, thread = heard(Client(url, room.people.add_token(kit.OPERATOR, "ada").secret), 1)
    for topic in ("run", "round", "reply", "metric", "model"):
        room.live.publish(topic, "20261126-secret", project="radiology")
    room.live.publish("audit", "1")
    room.live.publish("user", "bob")
    room.live.publish("run", "20261126-digits", project="default")
    thread.join(5)
    assert [event.facts["name"] for _, event in found if event.topic != "alive"] == ["20261126-digits"]


def raw(url, **headers):
    """The first event of a connection."""
    headers["Authorization"] = f"Bearer {kit.LOCAL_TOKEN}"
    with httpx.stream("GET", f"{url}/api/v1/events", headers=headers, timeout=5) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        text = ""
        for piece in answer.iter_text():
            text += piece
            if text.count("\n\n") >= 1 and ("data" in text or "alive" in text):
                return text
    return text


def test_who_comes_back_hears_what_was_missed(there):
    room, url = there
    first = raw(url).splitlines()[0].removeprefix("id: ")
    for number in range(3):
        room.live.publish("site", f"s{number}")
    with httpx.stream(
        "GET", f"{url}/api/v1/events", headers={"Authorization": f"Bearer {kit.LOCAL_TOKEN}", "Last-Event-ID": first}
    ) as answer:
        text = ""
        for piece in answer.iter_text():
            text += piece
            if "s2" in text:
                break
    assert [name for name in ("s0", "s1", "s2") if f'"name":"{name}"' in text] == ["s0", "s1", "s2"]


@pytest.mark.parametrize("last", ["0badc0de-1", "x", "0badc0de-"])
def test_who_comes_back_to_another_life_is_told_to_load_everything_again(there, last):
    _, url = there
    assert "event: again" in raw(url, **{"Last-Event-ID": last})


def test_a_watcher_who_falls_behind_is_told_to_load_everything_again():
    live = Live(kept=10)

    async def watch():
        batches = live.watch(lambda change: True)
        first = await anext(batches)
        for number in range(25):
            live.publish("site", f"s{number}")
        missed = await anext(batches)
        live.publish("site", "next")
        return first, missed, await anext(batches)

    first, missed, after = asyncio.run(watch())
    assert not first.again
    assert missed.again
    assert b"event: again" in as_event(missed)
    assert [change.name for change in after.changes] == ["next"]


def test_a_quiet_watch_gives_signs_of_life():
    async def watch():
        batches = Live().watch(lambda change: True, heartbeat_s=0.05)
        await anext(batches)
        return await anext(batches)

    assert as_event(asyncio.run(watch())).endswith(b": alive\n\n")


def test_nothing_is_lost_between_many_threads_that_publish_and_many_that_watch():
    live = Live()

    async def watch(number):
        found = []
        async for batch in live.watch(lambda change: change.number % 2 == number % 2):
            assert not batch.again
            found += [change.number for change in batch.changes]
            if found and found[-1] >= 2000 - 1:
                return found
        return found

    async def everybody():
        watchers = [asyncio.ensure_future(watch(number)) for number in range(20)]
        await asyncio.sleep(0.05)
        threads = [threading.Thread(target=lambda: [live.publish("site", "x") for _ in range(250)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        return await asyncio.gather(*watchers)

    for number, found in enumerate(asyncio.run(everybody())):
        assert found == [value for value in range(1, 2001) if value % 2 == number % 2]
    assert live.watching == 0


def test_as_many_live_views_are_open_as_may_be(tmp_path):
    room = kit.open_room(tmp_path, access={"viewers": 1})
    with served(room.app) as url:
        client = Client(url, kit.LOCAL_TOKEN)
        found, thread = heard(client, 1)
        with pytest.raises(RefusedError, match="1 live views are open"):
            next(Client(url, kit.LOCAL_TOKEN).events())
        room.live.publish("site", "x")
        thread.join(5)
        assert len(found) == 2


def test_the_client_says_what_the_server_says(there):
    _room, url = there
    client = Client(url, kit.LOCAL_TOKEN)
    assert client.me().name == "local"
    assert [run.name for run in client.runs()] == ["20261126-secret", "20261126-digits"]
    assert client.run("1").row.words == "round 2 of 3"
    assert client.fleet().total == 2
    assert client.rounds("1")[0].number == 2
    assert client.curves("1") == {"sites/accuracy": [(1, 0.75)]}
    assert client.models()[-1].aliases == ("production",)
    assert b"".join(client.download("production")) == b"arrays"
    with pytest.raises(ConfigError, match="no run nothing"):
        client.run("nothing")
    with pytest.raises(RefusedError, match="this token is not good"):
        Client(url, "fl_wrong").me()
    client.add_user("ada", "viewer", ["*"])
    made = client.add_token("ada", "laptop", 1)
    assert Client(url, made.secret).me().role == "viewer"
    assert client.users()[0].tokens[0].name == "laptop"
    assert client.verify_audit().rows == len(client.audit()) == len(list(client.export_audit()))


def test_a_control_room_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(UnreachableError, match="does not answer"):
        Client("http://127.0.0.1:9", "x").me()
    with pytest.raises(UnreachableError, match="no control room runs in"):
        Client.of_home(tmp_path)
