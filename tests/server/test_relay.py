"""What one control room tells, all over the same PostgreSQL tell."""

import asyncio
import contextlib
import logging
import time

import pytest

from server import relay
from server.live import Live
from server.relay import MOST_BYTES, Relay
from server.store import Store
from server.store.places import from_url

pytestmark = pytest.mark.slow


@pytest.fixture
def rooms(postgres):
    """Three processes' worth of hubs; what each heard of others."""
    url, made = postgres.database(), []
    with contextlib.ExitStack() as ends:
        for _ in range(3):
            store, live, heard = Store(from_url(url, "test")), Live(), []
            ends.callback(store.close)
            made.append((store, live, heard, ends.enter_context(Relay(store, live, heard=heard.append))))
        assert all(one.listening.wait(10) for _, _, _, one in made)
        yield made


def until(condition, what):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def since(live, number):
    """What somebody sees who saw everything until then: the changes, and whether some were missed."""

    async def look():
        async for batch in live.watch(lambda change: True, since=number):
            if batch.changes or batch.again:
                return [change.name for change in batch.changes], batch.again
        raise AssertionError("the watch ended")

    return asyncio.run(asyncio.wait_for(look(), 20))


def test_what_one_tells_the_others_tell_in_order_and_not_the_one_again(rooms):
    marks = [live.now for _, live, _, _ in rooms]
    names = [f"run-{number}" for number in range(1200)]
    for name in names:
        rooms[0][1].publish("run", name, project="p", state="running")
    until(lambda: all(len(heard) == len(names) for _, _, heard, _ in rooms[1:]), "all changes")
    for (_, live, _, _), mark in zip(rooms, marks, strict=True):
        assert since(live, mark) == (names, False)
    assert rooms[0][2] == []
    change = rooms[1][2][0]
    assert (change.topic, change.project) == ("run", "p")
    assert '"state":"running"' in change.text


def test_a_change_that_is_too_long_to_be_told_is_missed_by_the_others(rooms):
    marks = [live.now for _, live, _, _ in rooms]
    rooms[2][1].publish("metric", "digits", values="é" * MOST_BYTES)
    assert since(rooms[2][1], marks[2]) == (["digits"], False)
    for index in (0, 1):
        assert since(rooms[index][1], marks[index]) == ([], True)


def test_what_came_while_postgresql_was_away_is_missed_and_then_all_goes_on(rooms, postgres, caplog):
    caplog.set_level(logging.INFO)
    postgres.stop()
    until(lambda: not any(one.listening.is_set() for _, _, _, one in rooms), "that all noticed")
    marks = [live.now for _, live, _, _ in rooms]
    rooms[0][1].publish("site", "north")  # never blocks, never fails
    postgres.start()
    assert all(one.listening.wait(20) for _, _, _, one in rooms)
    for index in (1, 2):
        assert since(rooms[index][1], marks[index])[1]
    until(lambda: (rooms[1][1].publish("site", "south"), any(c.name == "south" for c in rooms[0][2]))[1], "a change")
    said = [record.message for record in caplog.records if record.name == "server.relay"]
    assert sum(line.startswith("listening between control rooms pauses: ") for line in said) == 3
    assert "listening between control rooms goes on" in said


def test_a_long_absence_of_postgresql_fills_no_memory(rooms, postgres, monkeypatch):
    monkeypatch.setattr(relay, "MOST_WAITING", 100)
    postgres.stop()
    until(lambda: not any(one.listening.is_set() for _, _, _, one in rooms), "that all noticed")
    for number in range(1000):
        rooms[0][1].publish("run", f"run-{number}")
    assert rooms[0][3].waiting <= 100 + relay.TOGETHER
    marks = [live.now for _, live, _, _ in rooms]
    postgres.start()
    for index in (1, 2):
        assert since(rooms[index][1], marks[index])[1]
