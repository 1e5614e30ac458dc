"""Pieces that several sites get."""

import asyncio
import contextlib

import pytest

from server.gateway import pieces
from server.gateway.config import MIB
from server.gateway.fleet import NO_CONTENT_BYTES
from server.gateway.pieces import LONGEST_BYTES, Fetched, Pieces


class SuperLink:
    """Answers when it is told to; counts the questions."""

    def __init__(self, *answers):
        self.answers, self.questions, self.may = list(answers), 0, asyncio.Event()

    async def fetch(self):
        self.questions += 1
        await self.may.wait()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def asked_by(sites, *answers, object_id="a", kept=None):
    """What so many sites get that ask at the same time, and how often SuperLink was asked."""

    async def ask():
        superlink, it = SuperLink(*answers), kept or Pieces()
        tasks = [asyncio.ensure_future(it.get(7, object_id, superlink.fetch)) for _ in range(sites)]
        await asyncio.sleep(0)
        superlink.may.set()
        return await asyncio.gather(*tasks, return_exceptions=True), superlink.questions

    return asyncio.run(ask())


WHOLE = Fetched(200, bytes(100))


def test_a_thousand_sites_ask_superlink_once():
    found, questions = asked_by(1000, WHOLE)
    assert found == [WHOLE] * 1000
    assert questions == 1


def test_a_refusal_is_the_askers_alone():
    found, questions = asked_by(3, Fetched(401, b"your clock"), WHOLE)
    assert found == [Fetched(401, b"your clock"), WHOLE, WHOLE]
    assert questions == 2


def test_what_is_not_there_yet_is_shared_and_not_kept():
    early, kept = Fetched(200, bytes(NO_CONTENT_BYTES)), Pieces()
    assert asked_by(3, early, kept=kept) == ([early] * 3, 1)
    assert asked_by(1, WHOLE, kept=kept) == ([WHOLE], 1)


def test_a_piece_that_is_too_long_is_left_to_each_site():
    found, _ = asked_by(3, Fetched(200, None))
    assert found == [Fetched(200, None)] * 3


def test_a_superlink_that_dies_is_said_to_who_waits_and_asked_again_later():
    kept = Pieces()
    found, _ = asked_by(2, ConnectionError("gone"), kept=kept)
    assert all(isinstance(it, ConnectionError) for it in found)
    assert asked_by(1, WHOLE, kept=kept) == ([WHOLE], 1)


def test_who_gives_up_does_not_take_it_from_the_others():
    async def ask():
        superlink, it = SuperLink(WHOLE), Pieces()
        first, second = (asyncio.ensure_future(it.get(7, "a", superlink.fetch)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        superlink.may.set()
        return await second

    assert asyncio.run(ask()) == WHOLE


def test_memory_is_bounded_and_the_least_used_goes_first():
    kept, long = Pieces(), Fetched(200, bytes(LONGEST_BYTES))
    for number in range(8):
        asked_by(1, long, object_id=str(number), kept=kept)
    assert asked_by(1, long, object_id="0", kept=kept)[1] == 0
    asked_by(1, WHOLE, object_id="more", kept=kept)
    assert asked_by(1, long, object_id="0", kept=kept)[1] == 0
    assert asked_by(1, long, object_id="1", kept=kept)[1] == 1
    assert sum(len(content) for content in kept._kept.values()) <= 64 * MIB


def test_what_is_on_its_way_to_slow_sites_is_bounded_too():
    kept, long = Pieces(), Fetched(200, bytes(LONGEST_BYTES))
    with contextlib.ExitStack() as sites:
        for number in range(9):
            for _ in range(100):  # the same piece for many sites lies in memory once
                sites.enter_context(kept.held(7, str(number), long.content))
        assert asked_by(1, long, object_id="new", kept=kept) == ([Fetched(200, None)], 0)
    assert asked_by(1, long, object_id="new", kept=kept) == ([long], 1)


def test_runs_do_not_share_what_has_the_same_name():
    async def ask():
        superlink, it = SuperLink(WHOLE), Pieces()
        superlink.may.set()
        for run_id in (7, 8):
            await it.get(run_id, "a", superlink.fetch)
        return superlink.questions

    assert asyncio.run(ask()) == 2


def test_nothing_is_kept_for_long(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pieces, "KEEP_S", 0.01)

    async def ask():
        superlink, it = SuperLink(WHOLE), Pieces()
        superlink.may.set()
        for _ in range(2):
            await it.get(7, "a", superlink.fetch)
            await asyncio.sleep(0.05)
        return superlink.questions, it._bytes

    assert asyncio.run(ask()) == (2, 0)
