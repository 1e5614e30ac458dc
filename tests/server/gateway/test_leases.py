import asyncio
import time
import types

import pytest

from server.gateway.config import GatewayConfig
from server.gateway.leases import Leases
from server.gateway.ledger import Ledger
from server.gateway.nodes import Nodes


@pytest.fixture
def nodes(tmp_path):
    ledger = Ledger(tmp_path / "ledger.db")
    yield Nodes(ledger)
    ledger.close()


def add(nodes, number=1, state="active"):
    who = types.SimpleNamespace(site=f"site-{number}", node_id=number, node_public_key=b"k", state=state)
    node = nodes.of(who, b"")
    node.contact_at = node.signed_at = time.monotonic()
    return node


class SuperLink:
    def __init__(self):
        self.beats, self.ended, self.is_there = [], [], True

    async def beat(self, node, interval_s):
        self.beats.append((node.node_id, interval_s))
        return self.is_there

    async def end(self, node):
        self.ended.append(node.node_id)


def leases(nodes, superlink, **config):
    return Leases(GatewayConfig(**config), nodes, superlink.beat, superlink.end)


def test_a_node_that_was_heard_of_is_brought_online_and_then_left_alone(nodes):
    superlink, node = SuperLink(), add(nodes)
    it = leases(nodes, superlink)
    for _ in range(5):
        asyncio.run(it.tick())
    assert superlink.beats == [(1, 30.0)]
    assert node.online_until > time.monotonic() + 50


def test_the_interval_grows_with_the_number_of_nodes_so_that_the_rate_does_not(nodes):
    superlink = SuperLink()
    for number in range(1, 1001):
        add(nodes, number)
    it = leases(nodes, superlink, heartbeats_per_s=4.0)
    asyncio.run(it.tick())
    assert len(superlink.beats) <= 17  # what is saved up
    assert it.interval_s == 250.0


def test_a_node_that_has_been_silent_is_offline_at_once(nodes):
    superlink, node = SuperLink(), add(nodes)
    it = leases(nodes, superlink, lost_after_s=30.0)
    asyncio.run(it.tick())
    node.contact_at -= 31
    asyncio.run(it.tick())
    asyncio.run(it.tick())
    assert superlink.ended == [1]
    node.contact_at = node.signed_at = time.monotonic()
    node.renew_at = 0
    asyncio.run(it.tick())
    assert len(superlink.beats) == 2


def test_a_node_whose_question_is_being_held_is_not_silent(nodes):
    superlink, node = SuperLink(), add(nodes)
    it = leases(nodes, superlink)
    asyncio.run(it.tick())
    node.contact_at, node.calls = node.contact_at - 100, 1
    asyncio.run(it.tick())
    assert superlink.ended == []


def test_without_a_fresh_signature_nothing_can_be_said(nodes):
    superlink, node = SuperLink(), add(nodes)
    node.signed_at -= 300
    asyncio.run(leases(nodes, superlink).tick())
    assert superlink.beats == []


def test_a_node_that_said_goodbye_is_not_brought_back(nodes):
    superlink, node = SuperLink(), add(nodes)
    node.has_left = True
    asyncio.run(leases(nodes, superlink).tick())
    assert superlink.beats == []


def test_a_quarantined_node_is_taken_offline(nodes):
    superlink, node = SuperLink(), add(nodes)
    it = leases(nodes, superlink)
    asyncio.run(it.tick())
    node.is_quarantined = True
    asyncio.run(it.tick())
    asyncio.run(it.tick())
    assert superlink.ended == [1]
    assert len(superlink.beats) == 1


def test_a_superlink_that_is_away_is_asked_again_in_a_few_seconds(nodes):
    superlink, node = SuperLink(), add(nodes)
    superlink.is_there = False
    it = leases(nodes, superlink)
    asyncio.run(it.tick())
    asyncio.run(it.tick())
    assert len(superlink.beats) == 1
    assert 0 < node.renew_at - time.monotonic() < 4
