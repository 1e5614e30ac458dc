"""Flower's Fleet API: the calls that may pass, and what they say.

The one module of the gateway that knows Flower. Bodies of small calls are parsed and checked; those of objects are
passed on piece by piece, behind a head that the gateway writes itself.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping, Sequence, Set
from typing import Any

from flwr.app import Error
from flwr.app import Message as FlowerMessage
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, recorddict_pb2, run_pb2
from flwr.supercore.inflatable.inflatable_object import get_object_tree, no_object_id_recompute
from google.protobuf.message import DecodeError
from google.protobuf.message import Message as Proto

from fl.errors import RefusedError

PRIVATE: Mapping[str, str] = {
    "flwr.common.serde:message_from_proto": "(message_proto)",
    "flwr.common.serde:message_to_proto": "(message)",
    "flwr.supercore.inflatable.inflatable_object:get_object_tree": "(obj)",
    "flwr.supercore.inflatable.inflatable_object:no_object_id_recompute": "()",
    "flwr.proto.fleet_pb2:ActivateNodeRequest": "public_key heartbeat_interval",
    "flwr.proto.fleet_pb2:ActivateNodeResponse": "node_id",
    "flwr.proto.fleet_pb2:DeactivateNodeRequest": "node_id",
    "flwr.proto.fleet_pb2:DeactivateNodeResponse": "",
    "flwr.proto.fleet_pb2:PullMessagesRequest": "node",
    "flwr.proto.fleet_pb2:PullMessagesResponse": "messages_list message_object_trees",
    "flwr.proto.fleet_pb2:PushMessagesRequest": "node messages_list message_object_trees clientapp_runtime_list",
    "flwr.proto.fleet_pb2:PushMessagesResponse": "objects_to_push session_id results",
    "flwr.proto.message_pb2:PullObjectResponse": "object_found object_available",
    "flwr.proto.heartbeat_pb2:SendNodeHeartbeatRequest": "node heartbeat_interval",
    "flwr.proto.heartbeat_pb2:SendNodeHeartbeatResponse": "success",
    "flwr.proto.message_pb2:ConfirmMessageReceivedRequest": "node run_id message_object_id",
    "flwr.proto.message_pb2:Message": "metadata content error",
    "flwr.proto.message_pb2:Metadata": (
        "run_id message_id src_node_id dst_node_id reply_to_message_id group_id ttl message_type created_at"
    ),
    "flwr.proto.message_pb2:ObjectTree": "object_id children",
    "flwr.proto.message_pb2:PushObjectRequest": "node run_id object_id object_content session_id",
    "flwr.proto.message_pb2:PushObjectResponse": "stored",
    "flwr.proto.message_pb2:PullObjectRequest": "node run_id object_id",
    "flwr.proto.recorddict_pb2:RecordDict": "",
    "flwr.proto.fab_pb2:GetFabRequest": "node hash_str run_id",
    "flwr.proto.run_pb2:GetRunRequest": "node run_id",
    "flwr.proto.node_pb2:Node": "node_id",
}
"""Flower's messages that pass, with the fields that we read or write."""

KIB = 1024
MIB = 1024 * KIB
LOST = 8  # Flower's code for a ClientApp that crashed, which is what it makes of a task that goes silent


@dataclasses.dataclass(frozen=True, slots=True)
class Method:
    """A call that may pass: what its body is, how large at most, and whether it can be repeated."""

    request: type[Any]
    longest_bytes: int
    repeatable: bool = True


METHODS: Mapping[str, Method] = {
    "activate-node": Method(fleet_pb2.ActivateNodeRequest, 4 * KIB),
    "deactivate-node": Method(fleet_pb2.DeactivateNodeRequest, KIB),
    "send-node-heartbeat": Method(heartbeat_pb2.SendNodeHeartbeatRequest, KIB),
    "pull-messages": Method(fleet_pb2.PullMessagesRequest, KIB, repeatable=False),
    "push-messages": Method(fleet_pb2.PushMessagesRequest, 8 * MIB),
    "get-run": Method(run_pb2.GetRunRequest, KIB),
    "confirm-message-received": Method(message_pb2.ConfirmMessageReceivedRequest, KIB),
}
"""Those whose body and answer are small; ``register-node`` and ``unregister-node`` are the operator's."""

STREAMED: Mapping[str, Method] = {
    "pull-object": Method(message_pb2.PullObjectRequest, KIB),
    "get-fab": Method(fab_pb2.GetFabRequest, KIB),
}
"""Those whose answer is passed on as it comes."""


def parse(method: str, body: bytes, methods: Mapping[str, Method]) -> Any:
    """The request of a call.

    Raises:
        RefusedError: If the call is none of ``methods``, or its body is too large or not what it should be.
    """
    known = methods.get(method)
    if known is None:
        raise RefusedError(f"no site may call {method[:64]!r}")
    if len(body) > known.longest_bytes:
        raise RefusedError(f"{method}: {len(body)} bytes, at most {known.longest_bytes} are taken")
    request = known.request()
    try:
        request.ParseFromString(body)
    except DecodeError as err:
        raise RefusedError(f"{method}: the body is no {known.request.DESCRIPTOR.name}") from err
    return request


def node_of(request: Any) -> int | None:
    """The node that a request names; ``None`` for an activation, which names a key."""
    if isinstance(request, fleet_pb2.ActivateNodeRequest):
        return None
    if isinstance(request, fleet_pb2.DeactivateNodeRequest):
        return int(request.node_id)
    return int(request.node.node_id)


def object_ids(tree: Any) -> list[str]:
    """All ids of an object tree, each once, in Flower's order of upload: children first."""
    seen: dict[str, None] = {}
    stack = [(tree, iter(tree.children))]
    while stack:
        node, children = stack[-1]
        child = next(children, None)
        if child is not None:
            stack.append((child, iter(child.children)))
        else:
            seen.setdefault(node.object_id)
            stack.pop()
    return list(seen)


def pull_messages(node_id: int) -> bytes:
    """Body of a question for mail."""
    return _bytes(fleet_pb2.PullMessagesRequest(node=node_pb2.Node(node_id=node_id)))


def heartbeat(node_id: int, interval_s: float) -> bytes:
    """Body of a heartbeat that keeps a node online for twice the interval."""
    node = node_pb2.Node(node_id=node_id)
    return _bytes(heartbeat_pb2.SendNodeHeartbeatRequest(node=node, heartbeat_interval=interval_s))


def activate(public_key: bytes, interval_s: float) -> bytes:
    """Body of an activation."""
    return _bytes(fleet_pb2.ActivateNodeRequest(public_key=public_key, heartbeat_interval=interval_s))


def deactivate(node_id: int) -> bytes:
    """Body of a deactivation."""
    return _bytes(fleet_pb2.DeactivateNodeRequest(node_id=node_id))


def activated(node_id: int) -> bytes:
    """Answer to an activation."""
    return _bytes(fleet_pb2.ActivateNodeResponse(node_id=node_id))


def heard() -> bytes:
    """Answer to a heartbeat."""
    return _bytes(heartbeat_pb2.SendNodeHeartbeatResponse(success=True))


def stored() -> bytes:
    """Answer to an object that SuperLink has."""
    return _bytes(message_pb2.PushObjectResponse(stored=True))


def was_stored(body: bytes) -> bool:
    """Whether SuperLink took an object."""
    return bool(message_pb2.PushObjectResponse.FromString(body).stored)


def announced(body: bytes) -> tuple[str, list[str]]:
    """What SuperLink answers to a reply's head: the session, and the ids of the objects that it wants."""
    answer = fleet_pb2.PushMessagesResponse.FromString(body)
    return str(answer.session_id), list(answer.objects_to_push)


def wanting(message_id: str, session_id: str, objects: Sequence[str]) -> bytes:
    """Answer to a reply's head that asks for the rest of it in a session that began before."""
    return _bytes(
        fleet_pb2.PushMessagesResponse(results={message_id: 0}, objects_to_push=objects, session_id=session_id)
    )


def pull_object(node_id: int, run_id: int, object_id: str) -> bytes:
    """Body of a question for an object."""
    node = node_pb2.Node(node_id=node_id)
    return _bytes(message_pb2.PullObjectRequest(node=node, run_id=run_id, object_id=object_id))


ANY_SESSION = "any"
"""What a site is told of a session whose name died with SuperLink's answer; SuperLink itself finds it by the object."""

NO_CONTENT_BYTES = 8
"""An answer to ``pull-object`` that is longer has content."""


def is_awaited(body: bytes) -> bool:
    """Whether SuperLink, which has no content of an object, knows of it and waits for it."""
    answer = message_pb2.PullObjectResponse.FromString(body)
    return bool(answer.object_found and not answer.object_available)


@dataclasses.dataclass(frozen=True, slots=True)
class Mail:
    """A message on its way to a node, as SuperLink gave it."""

    message_id: str
    run_id: int
    expires_s: float
    """Seconds since 1970 after which nobody waits for the reply."""
    head: bytes
    """The message without its content."""


def mail(body: bytes) -> Mail | None:
    """The message in SuperLink's answer to a question for mail, if there is one."""
    if not body:
        return None
    answer = fleet_pb2.PullMessagesResponse.FromString(body)
    if not answer.messages_list:
        return None
    message = answer.messages_list[0]
    metadata = message.metadata
    # Without content Flower takes it for no message at all.
    head = _bytes(message_pb2.Message(metadata=metadata, content=recorddict_pb2.RecordDict()))
    return Mail(metadata.message_id, metadata.run_id, metadata.created_at + metadata.ttl, head)


def objects_of(body: bytes) -> tuple[Set[str], ...]:
    """Ids of the objects of the mail in SuperLink's answer; those of one model are shared by all its messages."""
    (tree,) = fleet_pb2.PullMessagesResponse.FromString(body).message_object_trees
    own, shared = {tree.object_id}, []
    for content in tree.children:
        own.add(content.object_id)
        for record in content.children:
            ids = _records.get(record.object_id)
            if ids is None:
                ids = _records[record.object_id] = frozenset(object_ids(record))
            shared.append(ids)
    return (own, *shared)


# An id is the hash of what it names, ids of its children included: equal ids mean equal trees. An entry goes with the
# last message that needs it.
_records: weakref.WeakValueDictionary[str, frozenset[str]] = weakref.WeakValueDictionary()


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """The head of a reply, as a site announces it."""

    message_id: str
    reply_to: str
    run_id: int
    src_node_id: int
    objects: tuple[str, ...] = ()
    """Ids of its objects, children first, the message itself last."""


def reply(request: Any) -> Reply:
    """The one reply that a ``push-messages`` announces.

    Raises:
        RefusedError: If it announces none, several, or objects under another id than the message's.
    """
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise RefusedError("push-messages: exactly one reply with its objects is taken")
    metadata = request.messages_list[0].metadata
    if request.message_object_trees[0].object_id != metadata.message_id:
        raise RefusedError("push-messages: the objects are those of another message")
    return Reply(
        metadata.message_id,
        metadata.reply_to_message_id,
        metadata.run_id,
        metadata.src_node_id,
        tuple(object_ids(request.message_object_trees[0])),
    )


def lost_reply(head: bytes, reason: str) -> tuple[bytes, str, bytes]:
    """What says in a site's name that a message was lost there: the body to announce it, its id, its one object."""
    original = message_from_proto(message_pb2.Message.FromString(head))
    message = FlowerMessage(Error(code=LOST, reason=reason), reply_to=original)
    with no_object_id_recompute():
        object_id = message.object_id
        message.metadata.__dict__["_message_id"] = object_id
        request = fleet_pb2.PushMessagesRequest(
            node=node_pb2.Node(node_id=message.metadata.src_node_id),
            messages_list=[message_to_proto(message)],
            message_object_trees=[get_object_tree(message)],
        )
        return _bytes(request), object_id, bytes(message.deflate())


@dataclasses.dataclass(frozen=True, slots=True)
class Object:
    """An object that a site pushes."""

    run_id: int
    session_id: str
    object_id: str
    size_bytes: int


def push_head(node_id: int, head: Object) -> bytes:
    """What stands before an object's content in the body of a ``push-object``."""
    request = message_pb2.PushObjectRequest(
        node=node_pb2.Node(node_id=node_id),
        run_id=head.run_id,
        session_id=head.session_id,
        object_id=head.object_id,
    )
    # Fields of a protobuf message may stand in any order, so the content goes last, as it comes.
    return _bytes(request) + b"\x22" + _varint(head.size_bytes)


def _bytes(message: Proto) -> bytes:
    return bytes(message.SerializeToString())


def _varint(value: int) -> bytes:
    """A number as protobuf writes lengths."""
    pieces = bytearray()
    while value > 0x7F:
        pieces.append(value & 0x7F | 0x80)
        value >>= 7
    pieces.append(value)
    return bytes(pieces)
