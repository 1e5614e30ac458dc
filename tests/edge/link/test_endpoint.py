"""The SuperNode's side: what it is told, what is held, what is refused."""

import asyncio
import ssl

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from edge.datagrams import Mailbox
from tests.edge.link.fleet_centre import NODE_ID, object_id, reply_to
from tests.edge.link.kit import SuperNode, answered, until, world


def test_a_supernode_activates_takes_a_message_and_answers_it(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            node = SuperNode(it)
            assert await node.activate() == NODE_ID
            pulling = asyncio.create_task(node.pull())
            await until(lambda: it.calls("pull-messages"))
            message_id = it.centre.post([b"a model", b"a config"])
            answer = await pulling
            assert answer.messages_list[0].metadata.message_id == message_id
            for content in (b"a model", b"a config"):
                assert (await node.pull_object(object_id(content))).object_content == content
            await node.confirm(message_id)
            request, contents = reply_to(message_id, [b"an update", b"metrics" * 1000])
            reply = await node.reply(request, contents)
            await until(lambda: it.centre.is_whole(reply))
            assert it.centre.replies[reply].metadata.reply_to_message_id == message_id
            assert set(it.centre.received) == set(contents)
            await until(lambda: not list(it.home.outbox.iterdir()))

    asyncio.run(scenario())


def test_a_question_for_mail_is_asked_once_and_held(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            node = SuperNode(it)
            pulling = asyncio.create_task(node.pull())
            await until(lambda: it.calls("pull-messages"))
            assert 15 < it.calls("pull-messages")[0].hold_s < 25
            it.centre.post([b"late"])
            assert (await pulling).messages_list
            assert len(it.calls("pull-messages")) == 1

    asyncio.run(scenario())


def test_the_next_question_waits_until_the_last_reply_has_gone(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            node = SuperNode(it)
            it.centre.statuses["push-messages"] = 503
            request, contents = reply_to("m" * 64, [b"an update"])
            reply = await node.reply(request, contents)
            pulling = asyncio.create_task(node.pull())
            await until(lambda: len(it.calls("push-messages")) > 1)
            assert not it.calls("pull-messages")
            it.centre.statuses.clear()
            await until(lambda: it.calls("pull-messages"))
            assert it.centre.is_whole(reply)
            it.centre.post([b"next"])
            await pulling

    asyncio.run(scenario())


def test_the_runner_is_told_of_mail_and_its_answer_ends_the_wait(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            runner = Mailbox(it.home.runner_socket)
            node = SuperNode(it)
            message_id = it.centre.post([b"work"])
            await node.pull()
            assert list(runner.receive()) == [{"waits": True}, {"mail": message_id, "run": 7}]
            confirming = asyncio.create_task(node.confirm(message_id))
            await until(lambda: it.calls("confirm-message-received"))
            await asyncio.sleep(0.1)
            assert not confirming.done()
            answered(it, "another message")
            answered(it, message_id)
            await confirming
            runner.close()

    asyncio.run(scenario())


def test_without_a_runner_nothing_waits_for_one(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            node = SuperNode(it)
            message_id = it.centre.post([b"work"])
            await node.pull()
            async with asyncio.timeout(10):
                await node.confirm(message_id)

    asyncio.run(scenario())


def test_an_object_that_the_centre_lacks_is_told_as_flower_tells_it(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            assert not (await SuperNode(it).pull_object("0" * 64)).object_found

    asyncio.run(scenario())


def test_a_large_object_comes_whole(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            content = bytes(range(256)) * 20_000
            it.centre.post([content])
            assert (await SuperNode(it).pull_object(object_id(content))).object_content == content

    asyncio.run(scenario())


def test_calls_that_the_supernode_did_not_sign_are_refused(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            stranger = SuperNode(it)
            stranger.http = it.client(ec.generate_private_key(ec.SECP384R1()))
            with pytest.raises(httpx.HTTPStatusError) as caught:
                await stranger.pull()
            assert caught.value.response.status_code == 403
            async with anybody(it) as client:
                answer = await client.post(f"https://127.0.0.1:{it.port}/v1/fleet/pull-messages", content=b"")
                assert answer.status_code == 403
            assert not it.centre.calls

    asyncio.run(scenario())


OTHERS = [
    ("POST", "/v1/control/start-run"),
    ("POST", "/v1/runtime/acquire-task"),
    ("POST", "/v1/fleet/register-node"),
    ("POST", "/v1/fleet/unregister-node"),
    ("POST", "/v1/fleet/../control/start-run"),
    ("GET", "/v1/fleet/pull-messages"),
    ("GET", "/openapi.json"),
]


def test_only_fleet_calls_of_a_node_pass(tmp_path):
    async def scenario():
        async with world(tmp_path) as it, anybody(it) as client:
            for method, path in OTHERS:
                answer = await client.request(method, f"https://127.0.0.1:{it.port}{path}")
                assert answer.status_code == 404, path
            assert not it.centre.calls

    asyncio.run(scenario())


def anybody(it):
    """Another user of the machine, who can read the public certificate."""
    return httpx.AsyncClient(verify=ssl.create_default_context(cafile=it.home.local_ca))


def test_a_body_that_is_no_message_of_flowers_is_refused(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            node = SuperNode(it)
            request, _ = reply_to("m" * 64, [b"an update"])
            request.message_object_trees[0].children[0].object_id = "../../etc/passwd"
            with pytest.raises(httpx.HTTPStatusError) as caught:
                await node.announce(request)
            assert caught.value.response.status_code == 400
            assert not list(it.home.outbox.iterdir())

    asyncio.run(scenario())


def test_an_object_that_nobody_announced_is_not_stored(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            assert not (await SuperNode(it).push_object("no such session", b"content")).stored

    asyncio.run(scenario())


def test_a_heartbeat_is_answered_without_a_connection(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            node = SuperNode(it)
            assert (await node.beat()).success
            assert len(it.calls("send-node-heartbeat")) == 1
            await it.server.stop(0)
            await until(lambda: it.status.centre.channel.connection is None)
            assert (await node.beat()).success

    asyncio.run(scenario())


def test_a_node_that_the_superlink_does_not_know_any_more_is_told(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            it.centre.statuses["pull-messages"] = 401
            with pytest.raises(httpx.HTTPStatusError) as caught:
                await SuperNode(it).pull()
            assert caught.value.response.status_code == 401

    asyncio.run(scenario())
