import hashlib

import pytest
from flwr.app import Message, RecordDict
from flwr.common.serde import message_to_proto
from flwr.proto import fleet_pb2, heartbeat_pb2, message_pb2, node_pb2
from hypothesis import given
from hypothesis import strategies as st

from fl.errors import RefusedError
from fl.flower.private import ensure_identity
from server.gateway import fleet, superlink


def tree(name, *children):
    return message_pb2.ObjectTree(object_id=hashlib.sha256(name.encode()).hexdigest(), children=children)


def mail_for(node_id, *records, message_id="m1"):
    content = tree(f"content of {message_id}", *records)
    metadata = message_pb2.Metadata(run_id=7, message_id=message_id, dst_node_id=node_id, created_at=1e9, ttl=60.0)
    return fleet_pb2.PullMessagesResponse(
        messages_list=[message_pb2.Message(metadata=metadata)],
        message_object_trees=[message_pb2.ObjectTree(object_id=message_id, children=[content])],
    ).SerializeToString()


@pytest.mark.parametrize(
    "method",
    ["register-node", "unregister-node", "start-run", "../control/start-run", "push-object", "pull-object", ""],
)
def test_a_call_that_no_site_may_make_is_unknown(method):
    with pytest.raises(RefusedError, match="no site may call"):
        fleet.parse(method, b"", fleet.METHODS)


@pytest.mark.parametrize("method", sorted(fleet.METHODS))
def test_a_body_that_is_too_large_is_not_looked_at(method):
    known = fleet.METHODS[method]
    with pytest.raises(RefusedError, match=f"at most {known.longest_bytes} are taken"):
        fleet.parse(method, b"\0" * (known.longest_bytes + 1), fleet.METHODS)


@pytest.mark.parametrize("method", sorted(fleet.METHODS))
def test_a_body_that_is_no_protobuf_is_refused(method):
    with pytest.raises(RefusedError, match="the body is no"):
        fleet.parse(method, b"\xff\xff", fleet.METHODS)


@given(st.binary(max_size=200), st.sampled_from(sorted(fleet.METHODS)))
def test_any_body_is_parsed_or_refused_and_nothing_else(body, method):
    try:
        request = fleet.parse(method, body, fleet.METHODS)
    except RefusedError:
        return
    fleet.node_of(request)


@given(st.integers(0, 2**40))
def test_a_length_is_written_as_protobuf_writes_it(value):
    # A field of type uint64 is its tag and the number.
    written = node_pb2.Node(node_id=value).SerializeToString()
    assert written == (b"\x08" + fleet._varint(value) if value else b"")


@given(st.binary(max_size=300))
def test_an_object_behind_its_head_is_the_message_that_flower_expects(content):
    request = message_pb2.PushObjectRequest(node=node_pb2.Node(node_id=3), run_id=2**63, object_id="ab", session_id="s")
    whole = request.SerializeToString() + b"\x22" + fleet._varint(len(content)) + content
    request.object_content = content
    assert message_pb2.PushObjectRequest.FromString(whole) == request


def test_the_node_of_each_call_is_the_one_that_it_names():
    node = node_pb2.Node(node_id=5)
    assert fleet.node_of(fleet_pb2.PullMessagesRequest(node=node)) == 5
    assert fleet.node_of(fleet_pb2.DeactivateNodeRequest(node_id=6)) == 6
    assert fleet.node_of(heartbeat_pb2.SendNodeHeartbeatRequest(node=node)) == 5
    assert fleet.node_of(fleet_pb2.ActivateNodeRequest(public_key=b"k")) is None


def test_objects_are_listed_children_first_and_once():
    shared = tree("shared")
    ids = fleet.object_ids(tree("top", tree("left", shared), tree("right", shared)))
    names = [hashlib.sha256(name.encode()).hexdigest() for name in ("shared", "left", "right", "top")]
    assert ids == names


def test_a_tree_of_any_depth_is_listed():
    deep = tree("0")
    for i in range(1, 90):  # protobuf itself refuses 100
        deep = tree(str(i), deep)
    assert len(fleet.object_ids(deep)) == 90


def test_a_model_that_many_nodes_get_is_kept_once():
    record = tree("record", *(tree(f"array {i}") for i in range(100)))
    first = fleet.objects_of(mail_for(1, record, message_id="m1"))
    second = fleet.objects_of(mail_for(2, record, message_id="m2"))
    assert first[1] is second[1]
    assert first[0] != second[0]
    assert len(first[1]) == 101


def test_an_empty_answer_has_no_mail():
    assert fleet.mail(b"") is None
    assert fleet.mail(fleet_pb2.PullMessagesResponse().SerializeToString()) is None


def test_mail_is_read_with_what_its_reply_needs():
    mail = fleet.mail(mail_for(4))
    assert (mail.message_id, mail.run_id, mail.expires_s) == ("m1", 7, 1e9 + 60.0)


def test_a_reply_that_is_not_one_is_refused():
    with pytest.raises(RefusedError, match="exactly one reply"):
        fleet.reply(fleet_pb2.PushMessagesRequest())
    other = fleet_pb2.PushMessagesRequest(
        messages_list=[message_pb2.Message(metadata=message_pb2.Metadata(message_id="a"))],
        message_object_trees=[message_pb2.ObjectTree(object_id="b")],
    )
    with pytest.raises(RefusedError, match="those of another message"):
        fleet.reply(other)


def test_a_lost_message_is_answered_with_an_error_in_the_nodes_name():
    ensure_identity()
    message = Message(RecordDict(), 11, "train")
    message.metadata.__dict__["_message_id"] = message.object_id
    head = message_pb2.Message(metadata=message_to_proto(message).metadata)
    body = fleet_pb2.PullMessagesResponse(
        messages_list=[head], message_object_trees=[message_pb2.ObjectTree(object_id=message.object_id)]
    ).SerializeToString()
    announce, object_id, content = fleet.lost_reply(fleet.mail(body).head, "the power went")
    request = fleet.parse("push-messages", announce, fleet.METHODS)
    reply = fleet.reply(request)
    assert (reply.reply_to, reply.src_node_id, reply.message_id) == (message.object_id, 11, object_id)
    assert request.messages_list[0].error.reason == "the power went"
    assert hashlib.sha256(content).hexdigest() == object_id


def test_only_flowers_version_headers_pass():
    from fl.link import link_pb2 as link

    headers = superlink._headers(
        link.Signature(public_key="k"), {"flwr-package-version": "1.41.0", "cookie": "x", "host": "y"}
    )
    assert headers["flwr-package-version"] == "1.41.0"
    assert not {"cookie", "host"} & set(headers)
