"""The postbox with a SuperLink that only counts: its own loop, real time, generous bounds."""

import asyncio
import contextlib
import types

import pytest

from fl.errors import RefusedError
from server.gateway.config import GatewayConfig
from server.gateway.mail import Asked, Postbox


class Counting:
    """Stands for SuperLink: has mail for some nodes, once, and counts who was asked for."""

    def __init__(self, *, noticed=False):
        self.mail, self.asked, self.noticed, self.status = {}, [], noticed, 200

    async def ask(self, node):
        self.asked.append(node.node_id)
        await asyncio.sleep(0)
        body = self.mail.pop(node.node_id, b"")
        return Asked(self.status, body, has_mail=bool(body), is_noticed=self.noticed)


def node(number):
    return types.SimpleNamespace(node_id=number)


@contextlib.asynccontextmanager
async def postbox(superlink, **config):
    box = Postbox(GatewayConfig(**config), superlink.ask)
    task = asyncio.create_task(box.run())
    yield box
    task.cancel()


async def until(condition, timeout_s=20):
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


def test_a_node_that_has_mail_is_answered_when_it_asks():
    async def scenario():
        superlink = Counting()
        superlink.mail[1] = b"hello"
        async with postbox(superlink) as box:
            return await box.wait(node(1), 20)

    assert asyncio.run(scenario()).body == b"hello"


def test_a_question_is_held_for_as_long_as_it_says_and_then_answered_empty():
    async def scenario():
        async with postbox(Counting()) as box:
            began = asyncio.get_running_loop().time()
            answer = await box.wait(node(1), 0.5)
            return answer, asyncio.get_running_loop().time() - began, box.waiting

    answer, took_s, waiting = asyncio.run(scenario())
    assert (answer.status, answer.body, waiting) == (200, b"", 0)
    assert took_s >= 0.45


def test_a_notice_asks_for_exactly_the_nodes_that_it_names_and_at_once():
    async def scenario():
        superlink = Counting(noticed=True)
        # So slow that nothing is asked for by itself after the first look.
        async with postbox(superlink, polls_per_s=0.001, busy_polls_per_s=0.001) as box:
            waits = {number: asyncio.create_task(box.wait(node(number), 60)) for number in range(50)}
            await until(lambda: box.waiting == 50)
            superlink.asked.clear()
            superlink.mail |= {7: b"seven", 11: b"eleven"}
            box.notice([7, 11])
            async with asyncio.timeout(5):
                answers = [await waits[7], await waits[11]]
            asked = sorted(superlink.asked)
            for wait in waits.values():
                wait.cancel()
            return answers, asked

    answers, asked = asyncio.run(scenario())
    assert [answer.body for answer in answers] == [b"seven", b"eleven"]
    assert asked == [7, 11]


def test_a_notice_for_a_node_that_does_not_wait_yet_is_kept_for_it():
    async def scenario():
        superlink = Counting(noticed=True)
        async with postbox(superlink, polls_per_s=0.001, busy_polls_per_s=0.001) as box:
            await box.wait(node(1), 0.1)
            superlink.mail[1] = b"later"
            box.notice([1])
            async with asyncio.timeout(5):
                return await box.wait(node(1), 30)

    assert asyncio.run(scenario()).body == b"later"


def test_a_thousand_idle_nodes_cost_superlink_no_more_than_the_rate():
    async def scenario():
        superlink = Counting()
        async with postbox(superlink, polls_per_s=5.0, busy_polls_per_s=500.0) as box:
            waits = [asyncio.create_task(box.wait(node(number), 60)) for number in range(1000)]
            await until(lambda: len(set(superlink.asked)) == 1000)  # everybody once, at the busy rate
            before, began = len(superlink.asked), asyncio.get_running_loop().time()
            await asyncio.sleep(2)
            asked, passed_s = len(superlink.asked) - before, asyncio.get_running_loop().time() - began
            for wait in waits:
                wait.cancel()
            return asked, passed_s, box.idle_s

    asked, passed_s, idle_s = asyncio.run(scenario())
    assert asked <= 5.0 * passed_s + 5 + 1  # the rate, and what was saved up
    assert idle_s == 200


def test_a_few_idle_nodes_are_asked_for_every_two_seconds():
    box = Postbox(GatewayConfig(), Counting().ask)
    assert box.idle_s == 2.0


def test_mail_that_nobody_told_of_makes_the_gateway_look_for_the_others_too():
    async def scenario():
        superlink = Counting()
        async with postbox(superlink, polls_per_s=0.5, busy_polls_per_s=200.0) as box:
            waits = {number: asyncio.create_task(box.wait(node(number), 60)) for number in range(40)}
            await until(lambda: len(set(superlink.asked)) == 40 and not box._asking)
            for plan in box._plans.values():
                plan.interval_s = 80.0
            for number in range(40):  # as after a long time without mail
                box._schedule(number, asyncio.get_running_loop().time() + 80)
            superlink.mail |= dict.fromkeys(range(40), b"mail")
            box._schedule(3, asyncio.get_running_loop().time())
            box._wake.set()
            async with asyncio.timeout(10):
                return [(await wait).body for wait in waits.values()]

    assert asyncio.run(scenario()) == [b"mail"] * 40


def test_a_site_that_is_refused_while_it_waits_hears_so_at_once():
    def check(waiting):
        if waiting.node_id == 2:
            raise RefusedError("site-2 is revoked")

    async def scenario():
        async with postbox(Counting()) as box:
            first, second = (asyncio.create_task(box.wait(node(number), 60)) for number in (1, 2))
            await until(lambda: box.waiting == 2)
            box.recheck(check)
            with pytest.raises(RefusedError, match="site-2 is revoked"):
                await second
            assert not first.done()
            first.cancel()

    asyncio.run(scenario())


def test_a_node_that_asks_twice_is_answered_once_with_mail():
    async def scenario():
        superlink = Counting(noticed=True)
        async with postbox(superlink, polls_per_s=0.001, busy_polls_per_s=0.001) as box:
            first = asyncio.create_task(box.wait(node(1), 60))
            await until(lambda: box.waiting == 1)
            second = asyncio.create_task(box.wait(node(1), 60))
            await until(first.done)
            superlink.mail[1] = b"one"
            box.notice([1])
            async with asyncio.timeout(5):
                return first.result().body, (await second).body

    assert asyncio.run(scenario()) == (b"", b"one")


def test_a_superlink_that_is_away_does_not_end_the_wait():
    async def scenario():
        superlink = Counting()
        superlink.status = 503
        async with postbox(superlink) as box:
            wait = asyncio.create_task(box.wait(node(1), 30))
            await until(lambda: len(superlink.asked) >= 2)
            assert not wait.done()
            superlink.status = 200
            superlink.mail[1] = b"back"
            async with asyncio.timeout(10):
                return (await wait).body

    assert asyncio.run(scenario()) == b"back"


def test_a_signature_that_superlink_refuses_ends_the_wait():
    async def scenario():
        superlink = Counting()
        superlink.status = 401
        async with postbox(superlink) as box:
            return await box.wait(node(1), 30)

    assert asyncio.run(scenario()).status == 401
