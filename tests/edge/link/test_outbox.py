"""Uploads through losses: resumed at the object, no byte twice after an acknowledgement."""

import asyncio
import logging
import random

import httpx
import pytest

from edge.link import outbox
from tests.edge.link.fleet_centre import FleetCentre, object_id, reply_to
from tests.edge.link.kit import SuperNode, link, read, until, world
from tests.edge.link.wires import Line

SEED = 5
KIB = 1024


def update(objects=12, kib=64):
    """Contents that no compression makes small."""
    chance = random.Random(SEED)
    return [chance.randbytes(kib * KIB) for _ in range(objects)]


def size(contents):
    return sum(map(len, contents.values()))


def test_an_upload_goes_on_at_the_object_after_a_partition(tmp_path):
    async def scenario():
        line = lambda port: Line(port, bytes_per_s=400 * KIB)  # noqa: E731
        async with world(tmp_path, line=line) as it:
            node = SuperNode(it)
            request, contents = reply_to("m" * 64, update())
            it.line.when_up = (it.line.up_bytes + 300 * KIB, it.line.cut)
            reply = await node.reply(request, contents)
            await until(lambda: it.line.when_up is None)
            before = dict(it.centre.received)
            assert not it.centre.is_whole(reply)
            it.line.reset()  # the connection is dead; what comes now waits
            it.line.bytes_per_s = None
            await until(lambda: it.status.centre.channel.connection is None)
            acknowledged = set(it.centre.objects)
            it.line.mend()
            await until(lambda: it.centre.is_whole(reply))
            assert before
            assert set(it.centre.received.values()) == {1}, "an acknowledged object was sent again"
            # Only what was on its way when the line was cut goes twice: at most one object a worker.
            assert it.centre.bytes_in <= size(contents) + outbox.AT_ONCE * 64 * KIB + 100
            assert acknowledged < set(contents)

    asyncio.run(scenario())


def test_a_session_that_ran_out_is_begun_anew_and_everything_comes(tmp_path):
    async def scenario():
        async def forget_once(centre):
            if len(centre.objects) == 5:
                centre.after_object = None
                centre.lose_sessions()

        async with world(tmp_path) as it:
            it.centre.after_object = forget_once
            request, contents = reply_to("m" * 64, update())
            reply = await SuperNode(it).reply(request, contents)
            await until(lambda: it.centre.is_whole(reply))
            assert len(it.calls("push-messages")) >= 2
            await until(lambda: not list(it.home.outbox.iterdir()))
            assert it.status.outbox.sent == 1

    asyncio.run(scenario())


def test_a_session_is_kept_alive_while_one_object_takes_longer_than_it_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "FRESH_S", 0.4)

    async def scenario():
        async def slow(centre):
            await asyncio.sleep(1.5)

        async with world(tmp_path) as it:
            it.centre.before_object = slow
            request, contents = reply_to("m" * 64, [b"one large object"])
            reply = await SuperNode(it).reply(request, contents)
            await until(lambda: it.centre.is_whole(reply))
            assert len(it.calls("push-messages")) >= 2

    asyncio.run(scenario())


def test_a_link_that_was_ended_goes_on_where_it_was(tmp_path):
    async def scenario():
        async with world(tmp_path, start=False) as it:
            request, contents = reply_to("m" * 64, update())
            halted = asyncio.Event()

            async def halt(centre):
                if len(centre.objects) >= 6:
                    halted.set()
                    await asyncio.sleep(3600)

            it.centre.after_object = halt
            async with link(it):
                reply = await SuperNode(it).reply(request, contents)
                await halted.wait()
                for client in it.clients:
                    client.close()
            it.centre.after_object = None
            had = dict(it.centre.received)
            assert 6 <= len(had) < len(contents)
            async with link(it):
                await until(lambda: it.centre.is_whole(reply))
            assert all(it.centre.received[name] == count for name, count in had.items())

    asyncio.run(scenario())


def test_what_the_power_cut_short_is_left_out_and_asked_for_again(tmp_path):
    async def scenario():
        async with world(tmp_path, start=False) as it:
            request, contents = reply_to("m" * 64, update(3))
            it.centre.statuses["push-messages"] = 503
            async with link(it):
                node = SuperNode(it)
                reply = await node.reply(request, contents)
                node.http.close()
            (directory,) = it.home.outbox.iterdir()
            (damaged, *_) = contents
            (directory / damaged).write_bytes(contents[damaged][:100])
            it.centre.statuses.clear()
            async with link(it):
                node = SuperNode(it)
                answer = await node.announce(request)  # a SuperNode that outlived the link asks again
                assert list(answer.objects_to_push) == [damaged]
                await node.push_object(answer.session_id, contents[damaged])
                await until(lambda: it.centre.is_whole(reply))
                node.http.close()

    asyncio.run(scenario())


def test_a_new_life_of_the_supernode_drops_what_it_had_not_handed_over_whole(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            it.centre.statuses["push-messages"] = 503
            node = SuperNode(it)
            whole, contents = reply_to("a" * 64, update(2, 1))
            await node.reply(whole, contents)
            half, more = reply_to("b" * 64, update(3, 1))
            answer = await node.announce(half)
            await node.push_object(answer.session_id, more[answer.objects_to_push[0]])
            assert len(list(it.home.outbox.iterdir())) == 2
            await node.activate()
            assert len(list(it.home.outbox.iterdir())) == 1
            assert it.calls("activate-node")[-1].headers["fedfleet-holds"] == "a" * 64
            it.centre.statuses.clear()
            await until(lambda: it.centre.is_whole(whole.messages_list[0].metadata.message_id))
            assert half.messages_list[0].metadata.message_id not in it.centre.trees

    asyncio.run(scenario())


def test_an_upload_outlives_a_channel_that_is_closed_under_it(tmp_path):
    async def scenario():
        hangs, goes_on = asyncio.Event(), asyncio.Event()

        async def hang(centre):
            hangs.set()
            await goes_on.wait()

        async with world(tmp_path) as it:
            it.centre.before_object = hang
            reply = await SuperNode(it).reply(*reply_to("m" * 64, update(3, 1)))
            await hangs.wait()
            connection = it.status.centre.channel.connection
            connection.lost.set()
            await connection.channel.close()  # gRPC cancels those who wait on it
            it.centre.before_object = None
            goes_on.set()
            await until(lambda: it.centre.is_whole(reply))

    asyncio.run(scenario())


def test_a_reply_that_the_disk_does_not_give_back_is_lost_and_told_and_the_next_one_goes(tmp_path, caplog):
    caplog.set_level(logging.INFO)

    async def scenario():
        async with world(tmp_path) as it:
            it.centre.statuses["push-messages"] = 503
            node = SuperNode(it)
            request, contents = reply_to("m" * 64, update(2))
            await node.reply(request, contents)
            (directory,) = it.home.outbox.iterdir()
            (damaged, *_) = contents
            (directory / damaged).unlink()
            (directory / damaged).mkdir()  # as a bad sector: it is there, and cannot be read
            it.centre.statuses.clear()
            await until(lambda: not it.status.outbox.waiting)
            assert "a reply was lost: " in caplog.text
            whole = await node.reply(*reply_to("n" * 64, update(2, 1)))
            await until(lambda: it.centre.is_whole(whole))

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [400, 403, 404])
def test_a_reply_that_nobody_wants_any_more_is_given_up_and_told(tmp_path, status):
    async def scenario():
        async with world(tmp_path) as it:
            it.centre.statuses["push-messages"] = status
            node = SuperNode(it)
            request, contents = reply_to("m" * 64, [b"too late"])
            answer = await node.announce(request)
            await until(lambda: it.status.outbox.given_up)
            with pytest.raises(httpx.HTTPStatusError) as caught:
                await node.push_object(answer.session_id, contents[answer.objects_to_push[0]])
            assert caught.value.response.status_code == 403  # Flower: the run is over
            assert it.status.outbox.given_up == ["as the test wants it"]
            assert not list(it.home.outbox.iterdir())

    asyncio.run(scenario())


def test_a_reply_waits_while_the_site_is_not_let_in(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            it.centre.denied = "revoked by the operator"
            reply = await SuperNode(it).reply(*reply_to("m" * 64, [b"an update"]))
            await until(lambda: it.status.centre.channel.refused)
            assert list(it.home.outbox.iterdir())
            it.centre.denied = ""
            it.status.centre.channel.hurry()
            await until(lambda: it.centre.is_whole(reply))

    asyncio.run(scenario())


def test_a_full_outbox_makes_the_supernode_wait(tmp_path, monkeypatch):
    async def scenario():
        async with world(tmp_path, outbox_mib=1) as it:
            it.centre.statuses["push-messages"] = 503
            node = SuperNode(it)
            await node.reply(*reply_to("a" * 64, update(40, 64)))
            with pytest.raises(httpx.HTTPStatusError) as caught:
                await node.announce(reply_to("b" * 64, [b"more"])[0])
            assert caught.value.response.status_code == 503

    asyncio.run(scenario())


def test_what_lies_in_the_outbox_is_for_the_owner_only(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            it.centre.statuses["push-messages"] = 503
            request, contents = reply_to("m" * 64, [b"an update"])
            await SuperNode(it).reply(request, contents)
            (directory,) = it.home.outbox.iterdir()
            assert directory.stat().st_mode & 0o077 == 0
            for path in directory.iterdir():
                assert path.stat().st_mode & 0o077 == 0
            assert (directory / object_id(b"an update")).read_bytes() == b"an update"

    asyncio.run(scenario())


def test_objects_that_the_centre_has_already_are_not_sent(tmp_path):
    async def scenario():
        centre = FleetCentre()
        contents = update(4)
        centre.objects[object_id(contents[0])] = contents[0]
        async with world(tmp_path, centre=centre) as it:
            reply = await SuperNode(it).reply(*reply_to("m" * 64, contents))
            await until(lambda: it.centre.is_whole(reply))
            assert object_id(contents[0]) not in it.centre.received

    asyncio.run(scenario())


def test_the_status_tells_what_is_still_to_be_sent(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            it.centre.statuses["push-messages"] = 503
            await SuperNode(it).reply(*reply_to("m" * 64, update(2)))
            await until(lambda: it.home.status.exists() and "replies to reach" in read(it.home.status)["waits_for"])
            assert read(it.home.status)["outbox"]["bytes"] > 2 * 64 * KIB

    asyncio.run(scenario())
