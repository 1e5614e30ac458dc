"""The private parts of Flower that the library needs; a contract test holds them to this shape.

Flower's public Grid copies a whole model for the wire before it sends it, holds a reply three times over while it
unpacks it, and waits inside until a slow site has uploaded all of it. ``push`` and ``landed`` do the same work a few
megabytes at a time, and say at once what has arrived whole.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from flwr.app import Array, ArrayRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PushAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_body,
    get_object_children_ids_from_object_content,
    get_object_tree,
    get_object_type_from_object_content,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    ObjectUnavailableError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

PRIVATE: Mapping[str, str] = {
    "flwr.app.message:remove_content_from_message": "(message)",
    "flwr.app.message.arraychunk:ArrayChunk": "(data)",
    "flwr.common.serde:message_to_proto": "(message)",
    "flwr.proto.message_pb2:ConfirmMessageReceivedRequest": "node run_id message_object_id",
    "flwr.proto.message_pb2:ObjectTree": "object_id children",
    "flwr.proto.runtime_pb2:PullAppMessagesRequest": "message_ids",
    "flwr.proto.runtime_pb2:PullAppMessagesResponse": "messages_list message_object_trees",
    "flwr.proto.runtime_pb2:PushAppMessagesRequest": "messages_list message_object_trees",
    "flwr.proto.runtime_pb2:PushAppMessagesResponse": "message_ids session_id objects_to_push",
    "flwr.supercore.inflatable.inflatable_object:get_all_nested_objects": "(obj)",
    "flwr.supercore.inflatable.inflatable_object:get_object_body": "(object_content, cls)",
    "flwr.supercore.inflatable.inflatable_object:get_object_children_ids_from_object_content": "(object_content)",
    "flwr.supercore.inflatable.inflatable_object:get_object_tree": "(obj)",
    "flwr.supercore.inflatable.inflatable_object:get_object_type_from_object_content": "(object_content)",
    "flwr.supercore.inflatable.inflatable_object:no_object_id_recompute": "()",
    "flwr.supercore.inflatable.inflatable_protobuf_utils:make_pull_object_fn_protobuf": (
        "(pull_object_protobuf, node, run_id)"
    ),
    "flwr.supercore.inflatable.inflatable_protobuf_utils:make_push_object_fn_protobuf": (
        "(push_object_protobuf, node, run_id, session_id)"
    ),
    "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents": "(object_id, object_contents)",
    "flwr.supercore.inflatable.inflatable_utils:pull_objects": "(object_ids, pull_object_fn, max_time)",
    "flwr.supercore.runtime:RuntimeHttpClient.ConfirmMessageReceived": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PullMessages": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PullObject": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PushMessages": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PushObject": "(self, request)",
    "flwr.superlink.grid.http_grid:HttpGrid._runtime_client": "",
}
"""Every private name and what we pass to it, for the contract test; ``TaskIdentity`` is tested by what it does."""

PUSHES = 5
"""How often a SuperLink that stored a piece and did not say so is asked what it lacks."""

WAIT_S = 60.0
"""How long to wait for the last pieces of a reply whose message is there."""


class ReplyLostError(Exception):
    """The pieces of a reply are not to be had any more."""


def ensure_identity() -> None:
    """Let this process make messages, as every process that Flower starts can: set what is not set yet.

    ``Message(…)`` looks up run, task and node of the process, which only Flower's own task processes have.
    """
    for part in ("run_id", "task_id", "node_id"):
        try:
            getattr(TaskIdentity, part)
        except RuntimeError:
            setattr(TaskIdentity, part, 0)


def can_stream(grid: Grid) -> bool:
    """Whether ``landed`` works on this Grid: it is the one that Flower gives a deployed ServerApp."""
    return isinstance(grid, HttpGrid)


def push(grid: Grid, messages: Sequence[Message]) -> list[str | None]:
    """Send messages as ``Grid.push_messages`` does, but with one piece of the model at a time copied for the wire.

    A SuperLink that died after it stored a piece, and before it said so, is asked again what it lacks.

    Returns:
        Their ids, in order; ``None`` for one that SuperLink refused.

    Raises:
        ObjectPushError: If it will not take a piece.
    """
    assert isinstance(grid, HttpGrid)
    pieces: dict[str, InflatableObject] = {}
    with no_object_id_recompute():
        for message in messages:
            message.metadata.__dict__["_message_id"] = message.object_id
            pieces |= get_all_nested_objects(message)
        request = PushAppMessagesRequest(
            messages_list=[message_to_proto(remove_content_from_message(message)) for message in messages],
            message_object_trees=[get_object_tree(message) for message in messages],
        )
        for tries_left in reversed(range(PUSHES)):
            answer = grid._runtime_client.PushMessages(request)
            try:
                _push_pieces(grid, messages[0].metadata.run_id, answer, pieces)
                break
            except ObjectPushError:
                if not tries_left:
                    raise
    return [message_id or None for message_id in answer.message_ids]


def _push_pieces(grid: HttpGrid, run_id: int, answer: Any, pieces: Mapping[str, InflatableObject]) -> None:
    """Send the pieces that SuperLink wants."""
    wanted = set(answer.objects_to_push)
    push_object = make_push_object_fn_protobuf(grid._runtime_client.PushObject, grid.node, run_id, answer.session_id)
    for object_id, piece in pieces.items():
        if object_id in wanted:
            push_object(object_id, piece.deflate())


def landed(grid: Grid, message_ids: Collection[str]) -> list[Landed]:
    """Replies to the given messages that are at SuperLink, each listed once: the caller keeps what it gets."""
    assert isinstance(grid, HttpGrid)
    answer = grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
    return [
        Landed(grid, proto, tree) for proto, tree in zip(answer.messages_list, answer.message_object_trees, strict=True)
    ]


@dataclasses.dataclass(frozen=True)
class Landed:
    """A reply at SuperLink, of which nothing but the head has been pulled yet."""

    grid: HttpGrid
    proto: Any
    tree: ObjectTree

    @property
    def reply_to(self) -> str:
        """Id of the message that it answers."""
        return str(self.proto.metadata.reply_to_message_id)

    @property
    def error(self) -> tuple[int, str] | None:
        """Flower's error code and reason, if it is an error reply."""
        if not self.proto.HasField("error"):
            return None
        return self.proto.error.code, self.proto.error.reason

    def is_whole(self) -> bool:
        """Whether the site has uploaded it; a site uploads the message itself last."""
        try:
            self._pull_object(self.tree.object_id)
        except ObjectUnavailableError:
            return False
        except ObjectPullError:
            return True  # it is gone: ``content`` will say so
        return True

    def content(self) -> tuple[RecordDict, dict[str, LandedArrays]]:
        """Its records without arrays, and its array records by name, to be pulled piece by piece.

        Raises:
            ReplyLostError: If pieces are missing.
            ValueError: If it is not laid out as Flower does.
        """
        (content_tree,) = self.tree.children
        names = json.loads(get_object_body(self.pull(content_tree.object_id), RecordDict))
        records, arrays = RecordDict(), {}
        trees = {tree.object_id: tree for tree in content_tree.children}
        for name, object_id in names.items():
            piece = self.pull(object_id)
            if get_object_type_from_object_content(piece) == ArrayRecord.__name__:
                arrays[name] = LandedArrays(self, trees[object_id], piece)
            else:
                records[name] = inflate_object_from_contents(object_id, {object_id: piece})  # type: ignore[assignment]
        return records, arrays

    def confirm(self) -> None:
        """Let SuperLink forget it."""
        self.grid._runtime_client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self.grid.node, run_id=self.proto.metadata.run_id, message_object_id=self.tree.object_id
            )
        )

    def pull(self, *object_ids: str) -> bytes:
        """Pieces of it, one after the other."""
        try:
            pieces = pull_objects(list(object_ids), self._pull_object, max_time=WAIT_S)
        except ObjectPullError as err:
            raise ReplyLostError(str(err)) from err
        return b"".join(pieces[object_id] for object_id in object_ids)

    @cached_property
    def _pull_object(self) -> Any:
        return make_pull_object_fn_protobuf(
            self.grid._runtime_client.PullObject, self.grid.node, self.proto.metadata.run_id
        )


class LandedArrays:
    """An array record at SuperLink: names in order, and each array when it is asked for."""

    def __init__(self, reply: Landed, tree: ObjectTree, piece: bytes) -> None:
        self._reply = reply
        self._ids: dict[str, str] = json.loads(get_object_body(piece, ArrayRecord))
        self._heads = {name: reply.pull(object_id) for name, object_id in self._ids.items()}

    def shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes, as the site declares them."""
        for name, head in self._heads.items():
            yield name, tuple(json.loads(get_object_body(head, Array))["shape"])

    def array(self, name: str) -> Array:
        """One array, pulled now and not kept."""
        facts = json.loads(get_object_body(self._heads[name], Array))
        return Array(facts["dtype"], tuple(facts["shape"]), facts["stype"], b"".join(self.pieces(name)))

    def pieces(self, name: str) -> Iterator[bytes]:
        """One array's bytes as Flower stores them, each piece pulled when it is asked for."""
        head = self._heads[name]
        unique = get_object_children_ids_from_object_content(head)
        for i in json.loads(get_object_body(head, Array))["arraychunk_ids"]:
            yield get_object_body(self._reply.pull(unique[i]), ArrayChunk)
