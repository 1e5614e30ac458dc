"""Flower's Fleet messages, as far as the link looks into them: the only module of the link that imports flwr."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flwr.app import Error
from flwr.app import Message as FlowerMessage
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, recorddict_pb2, run_pb2
from flwr.supercore.inflatable.inflatable_object import get_object_tree, no_object_id_recompute
from google.protobuf.message import DecodeError

from fl.errors import RefusedError

PRIVATE: Mapping[str, str] = {
    "flwr.common.serde:message_from_proto": "(message_proto)",
    "flwr.common.serde:message_to_proto": "(message)",
    "flwr.supercore.inflatable.inflatable_object:get_object_tree": "(obj)",
    "flwr.supercore.inflatable.inflatable_object:no_object_id_recompute": "()",
    "flwr.proto.fleet_pb2:PullMessagesResponse": "messages_list message_object_trees",
    "flwr.proto.fleet_pb2:PushMessagesRequest": "node messages_list message_object_trees",
    "flwr.proto.fleet_pb2:PushMessagesResponse": "objects_to_push session_id results",
    "flwr.proto.heartbeat_pb2:SendNodeHeartbeatResponse": "success",
    "flwr.proto.message_pb2:Metadata": "run_id message_id dst_node_id reply_to_message_id",
    "flwr.proto.message_pb2:ConfirmMessageReceivedRequest": "node run_id message_object_id",
    "flwr.proto.message_pb2:ObjectTree": "object_id children",
    "flwr.proto.message_pb2:PushObjectRequest": "node run_id object_id object_content session_id",
    "flwr.proto.message_pb2:PushObjectResponse": "stored",
    "flwr.proto.fab_pb2:GetFabRequest": "node hash_str run_id",
    "flwr.proto.fab_pb2:GetFabResponse": "fab",
    "flwr.proto.run_pb2:GetRunRequest": "node run_id",
    "flwr.proto.run_pb2:GetRunResponse": "run",
    "flwr.proto.run_pb2:Run": "fab_hash",
}
"""Flower's private functions, and its messages with the fields that we read or write."""

REFUSED = 6  # MOD_FAILED_PRECONDITION: what fl.flower.grid calls "refused"
PREFIX = "/v1/fleet/"
PROTOBUF = "application/protobuf"


@dataclasses.dataclass(frozen=True, slots=True)
class Mail:
    """A message on its way to the SuperNode."""

    message_id: str
    run_id: int
    node_id: int
    head: bytes
    """The message without its content, as protobuf."""


def mail(body: bytes) -> Mail | None:
    """The message in an answer to ``pull-messages``, if there is one."""
    answer = fleet_pb2.PullMessagesResponse.FromString(body)
    if not answer.messages_list:
        return None
    metadata = answer.messages_list[0].metadata
    # Flower makes no message without content, be it empty.
    head = message_pb2.Message(metadata=metadata, content=recorddict_pb2.RecordDict()).SerializeToString()
    return Mail(metadata.message_id, metadata.run_id, metadata.dst_node_id, head)


NO_MAIL = b""
"""The answer to ``pull-messages`` when there is none."""

HEARD = heartbeat_pb2.SendNodeHeartbeatResponse(success=True).SerializeToString()
"""The answer to a heartbeat."""

STORED = message_pb2.PushObjectResponse(stored=True).SerializeToString()
NOT_STORED = message_pb2.PushObjectResponse(stored=False).SerializeToString()


@dataclasses.dataclass(frozen=True, slots=True)
class Announced:
    """A reply that the SuperNode announces by ``push-messages``."""

    message_id: str
    reply_to: str
    run_id: int
    object_ids: tuple[str, ...]
    """All objects of the reply, each once, children before parents."""


def announced(body: bytes) -> Announced:
    """What a ``push-messages`` announces.

    Raises:
        RefusedError: If it is not one reply with its objects.
    """
    request = _read(fleet_pb2.PushMessagesRequest, body)
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        raise RefusedError("push-messages: exactly one reply with its objects is taken")
    metadata = request.messages_list[0].metadata
    ids = tuple(dict.fromkeys(_ids(request.message_object_trees[0])))
    for object_id in ids:
        if len(object_id) != 64 or not set(object_id) <= set("0123456789abcdef"):
            raise RefusedError("push-messages: an object's id is no SHA-256")
    return Announced(metadata.message_id, metadata.reply_to_message_id, metadata.run_id, ids)


def _ids(tree: Any) -> Iterator[str]:
    for child in tree.children:
        yield from _ids(child)
    yield tree.object_id


def hand_over(reply: Announced, missing: Sequence[str]) -> bytes:
    """The link's own answer to ``push-messages``: which objects the SuperNode is to hand over."""
    return fleet_pb2.PushMessagesResponse(
        results={reply.message_id: 0}, objects_to_push=missing, session_id=reply.message_id
    ).SerializeToString()


def wanted(body: bytes) -> tuple[str, list[str]]:
    """From SuperLink's answer to ``push-messages``: the session, and the objects that it does not have."""
    answer = fleet_pb2.PushMessagesResponse.FromString(body)
    return answer.session_id, list(answer.objects_to_push)


@dataclasses.dataclass(frozen=True, slots=True)
class Object:
    """An object that the SuperNode hands over by ``push-object``."""

    session_id: str
    object_id: str
    content: bytes


def pushed(body: bytes) -> Object:
    """What a ``push-object`` brings.

    Raises:
        RefusedError: If it cannot be read, or its content is not what its id says.
    """
    request = _read(message_pb2.PushObjectRequest, body)
    content = request.object_content
    if hashlib.sha256(content).hexdigest() != request.object_id:
        raise RefusedError("push-object: the content is not what the object's id says")
    return Object(request.session_id, request.object_id, content)


def is_stored(body: bytes) -> bool:
    """Whether SuperLink took the object."""
    return bool(message_pb2.PushObjectResponse.FromString(body).stored)


def confirmed(body: bytes) -> str:
    """The message that a ``confirm-message-received`` is about."""
    return str(_read(message_pb2.ConfirmMessageReceivedRequest, body).message_object_id)


def fab_asked(body: bytes) -> tuple[int, str]:
    """Run and digest of the app that a ``get-fab`` asks for."""
    request = _read(fab_pb2.GetFabRequest, body)
    return request.run_id, request.hash_str


def fab_digest(body: bytes) -> str:
    """SHA-256 of the app that an answer to ``get-fab`` brings."""
    return hashlib.sha256(fab_pb2.GetFabResponse.FromString(body).fab.content).hexdigest()


def get_run(mail: Mail) -> bytes:
    """The question which app a message's run has."""
    return run_pb2.GetRunRequest(node=node_pb2.Node(node_id=mail.node_id), run_id=mail.run_id).SerializeToString()


def app_of(body: bytes) -> str:
    """The digest of the app, from an answer to ``get-run``."""
    return str(run_pb2.GetRunResponse.FromString(body).run.fab_hash)


def refusal(mail: Mail, reason: str) -> tuple[bytes, dict[str, bytes]]:
    """An error reply to a message.

    Args:
        mail: The message.
        reason: Why, for the run's operator.

    Returns:
        The ``push-messages`` that announces it, and its objects' contents by id.
    """
    original = message_from_proto(message_pb2.Message.FromString(mail.head))
    message = FlowerMessage(Error(code=REFUSED, reason=reason), reply_to=original)
    with no_object_id_recompute():
        object_id = message.object_id
        message.metadata.__dict__["_message_id"] = object_id
        request = fleet_pb2.PushMessagesRequest(
            node=node_pb2.Node(node_id=mail.node_id),
            messages_list=[message_to_proto(message)],
            message_object_trees=[get_object_tree(message)],
        )
        return request.SerializeToString(), {object_id: bytes(message.deflate())}


def _read(kind: Any, body: bytes) -> Any:
    try:
        return kind.FromString(body)
    except DecodeError as err:
        raise RefusedError(f"this is no {kind.DESCRIPTOR.name}") from err
