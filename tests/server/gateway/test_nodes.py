import base64
import time
import types

import pytest

from fl.errors import RefusedError, StorageError
from fl.link import link_pb2 as link
from server.gateway import fleet
from server.gateway.ledger import Ledger
from server.gateway.nodes import MOST_GIVEN, Nodes
from tests.server.gateway.test_fleet import mail_for, tree


def admitted(site="site-1", node_id=2**64 - 5, key=b"KEY 1", state="active"):
    return types.SimpleNamespace(site=site, node_id=node_id, node_public_key=key, state=state, renew_after_s=1.0)


def mail(message_id="m1", run_id=7, expires_s=None):
    return fleet.Mail(message_id, run_id, time.time() + 60 if expires_s is None else expires_s, b"head")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.db"


@pytest.fixture
def nodes(path):
    ledger = Ledger(path)
    yield Nodes(ledger)
    ledger.close()


@pytest.fixture
def node(nodes):
    return nodes.of(admitted(), b"certificate")


def reply(node, **changes):
    facts = {"message_id": "r1", "reply_to": "m1", "run_id": 7, "src_node_id": node.node_id}
    return fleet.Reply(**(facts | changes))


def test_a_signature_of_another_key_is_refused(node):
    node.sign(link.Signature(public_key=base64.b64encode(b"KEY 1\n").decode()))
    with pytest.raises(RefusedError, match="not the one of site site-1"):
        node.sign(link.Signature(public_key=base64.b64encode(b"KEY 2").decode()))
    with pytest.raises(RefusedError, match="names no key"):
        node.sign(link.Signature(public_key="%%"))


def test_a_reply_in_another_nodes_name_is_refused(nodes, node):
    nodes.deliver(node, mail(), mail_for(1))
    with pytest.raises(RefusedError, match="names node 3 as its source, which is not site site-1"):
        node.check_reply(reply(node, src_node_id=3))


def test_a_reply_to_a_message_of_another_node_is_refused(nodes, node):
    other = nodes.of(admitted("site-2", 9, b"KEY 2"), b"other")
    nodes.deliver(other, mail(), mail_for(9))
    with pytest.raises(RefusedError, match="was not delivered to site site-1"):
        node.check_reply(reply(node))
    assert other.check_reply(reply(other)).message_id == "m1"


def test_a_reply_of_another_run_is_refused(nodes, node):
    nodes.deliver(node, mail(), mail_for(1))
    with pytest.raises(RefusedError, match="the reply is of run 8, the message is of run 7"):
        node.check_reply(reply(node, run_id=8))


def test_the_same_reply_may_be_announced_again_and_another_one_may_not(nodes, node):
    it = nodes.deliver(node, mail(), mail_for(1))
    nodes.announce(node.check_reply(reply(node)), "r1", "session", ["o1", "o2"])
    assert node.check_reply(reply(node)) is it
    with pytest.raises(RefusedError, match="has another reply already"):
        node.check_reply(reply(node, message_id="r2"))


def test_a_reply_that_is_whole_cannot_be_sent_again(nodes, node):
    it = nodes.deliver(node, mail(), mail_for(1))
    nodes.announce(it, "r1", "session", ["o1"])
    nodes.land(node, it)
    with pytest.raises(RefusedError, match="or is answered"):
        node.check_reply(reply(node))
    with pytest.raises(RefusedError, match="no reply of site site-1 has announced object o1"):
        node.pushing(7, "o1")


def test_only_objects_of_a_nodes_own_messages_can_be_pulled_until_it_has_confirmed_them(nodes, node):
    record = tree("record", tree("array"))
    it = nodes.deliver(node, mail(), mail_for(1, record))
    array = record.children[0].object_id
    for object_id in ("m1", record.object_id, array):
        node.check_pull(7, object_id)
    with pytest.raises(RefusedError, match="belongs to no message"):
        node.check_pull(8, array)
    with pytest.raises(RefusedError, match="belongs to no message"):
        node.check_pull(7, tree("somebody else's").object_id)
    nodes.confirm(it)
    with pytest.raises(RefusedError, match="belongs to no message"):
        node.check_pull(7, array)


def test_a_run_of_which_a_node_has_no_message_is_none_of_its_business(nodes, node):
    with pytest.raises(RefusedError, match="has no message of run 7"):
        node.check_run(7)
    nodes.deliver(node, mail(), mail_for(1))
    node.check_run(7)


def test_a_message_that_was_never_confirmed_is_given_again_but_not_for_ever(nodes, node):
    it = nodes.deliver(node, mail(), mail_for(1))
    for _ in range(MOST_GIVEN):
        assert node.undelivered() is it
        it.given += 1
    assert node.undelivered() is None


def test_a_confirmed_answered_or_expired_message_is_not_given_again(nodes, node):
    nodes.confirm(nodes.deliver(node, mail("m1"), mail_for(1)))
    nodes.announce(nodes.deliver(node, mail("m2"), mail_for(1)), "r", "s", ["o"])
    nodes.deliver(node, mail("m3", expires_s=time.time() - 1), mail_for(1))
    assert node.undelivered() is None


def test_what_was_delivered_is_known_after_a_restart(nodes, node, path):
    record = tree("record", tree("array"))
    body = mail_for(1, record)
    nodes.deliver(node, mail("m1"), body)
    nodes.confirm(nodes.deliver(node, mail("m2"), body))
    nodes.announce(nodes.deliver(node, mail("m3"), body), "r3", "session", ["o1", "o2"])
    answered = nodes.deliver(node, mail("m4"), body)
    nodes.land(node, answered)
    nodes.deliver(node, mail("m5", expires_s=time.time() - 1), body)

    again = Ledger(path)
    node = Nodes(again).of(admitted(), b"certificate")
    assert set(node.deliveries) == {"m1", "m2", "m3"}
    assert node.undelivered().body == body
    node.check_pull(7, record.children[0].object_id)
    assert node.deliveries["m2"].is_confirmed
    assert node.pushing(7, "o2").session_id == "session"
    assert node.check_reply(reply(node, reply_to="m3", message_id="r3"))
    again.close()


def test_a_site_with_a_new_node_starts_with_nothing(nodes, node):
    nodes.deliver(node, mail(), mail_for(1))
    new = nodes.of(admitted(node_id=12, key=b"KEY 3"), b"certificate")
    assert new is not node
    assert new.deliveries == {}
    assert len(nodes) == 1


def test_the_sweep_drops_what_expired(nodes, node):
    nodes.deliver(node, mail("m1", expires_s=time.time() - 1), mail_for(1))
    nodes.deliver(node, mail("m2"), mail_for(1))
    nodes.sweep()
    assert set(node.deliveries) == {"m2"}


def test_a_ledger_that_is_no_database_says_so(tmp_path):
    (tmp_path / "ledger.db").write_bytes(b"x" * 5000)
    with pytest.raises(StorageError, match=r"ledger\.db"):
        Ledger(tmp_path / "ledger.db")


def test_the_ledger_is_for_its_owner_only(nodes, path):
    assert path.stat().st_mode & 0o777 == 0o600
