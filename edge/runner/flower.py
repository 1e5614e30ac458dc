"""The private parts of Flower that the runner needs: the SuperNode's Runtime API.

Flower's ``flwr-clientapp`` does two things, and so do we, in two processes: the runner claims a task, pulls what it
gets and pushes what it answers; the app's own process turns what came into what goes out (``clientapp``).
A contract test holds Flower to this shape.
"""

from __future__ import annotations

import base64
import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
from flwr.common.constant import SubStatus
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
    PushAppMessagesRequest,
    PushTaskOutputRequest,
    SendTaskHeartbeatRequest,
)
from flwr.supercore.constant import TASK_TOKEN_HEADER, TaskType
from flwr.supercore.inflatable.inflatable_object import (
    iterate_object_tree,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor, SuperExecAuthHttpInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity

PRIVATE: Mapping[str, str] = {
    "flwr.proto.message_pb2:ConfirmMessageReceivedRequest": "node run_id message_object_id",
    "flwr.proto.message_pb2:Context": "run_id node_id",
    "flwr.proto.message_pb2:Message": "metadata error",
    "flwr.proto.message_pb2:ObjectTree": "object_id children",
    "flwr.proto.message_pb2:PullObjectRequest": "node run_id object_id",
    "flwr.proto.message_pb2:PullObjectResponse": "object_found object_available object_content",
    "flwr.proto.message_pb2:PushObjectRequest": "node run_id object_id object_content session_id",
    "flwr.proto.message_pb2:PushObjectResponse": "stored",
    "flwr.proto.runtime_pb2:AcquireTaskRequest": "supported_task_types",
    "flwr.proto.runtime_pb2:AcquireTaskResponse": "task token",
    "flwr.proto.runtime_pb2:PullAppMessagesResponse": "messages_list message_object_trees",
    "flwr.proto.runtime_pb2:PullTaskInputResponse": "task_id run context fab",
    "flwr.proto.runtime_pb2:PushAppMessagesRequest": "messages_list message_object_trees",
    "flwr.proto.runtime_pb2:PushAppMessagesResponse": "objects_to_push session_id",
    "flwr.proto.runtime_pb2:PushTaskOutputRequest": "context sub_status details",
    "flwr.proto.runtime_pb2:SendTaskHeartbeatResponse": "success",
    "flwr.supercore.inflatable.inflatable_object:iterate_object_tree": "(tree)",
    "flwr.supercore.interceptors:RuntimeVersionHttpInterceptor": "(component_name)",
    "flwr.supercore.interceptors:SuperExecAuthHttpInterceptor": "(master_secret, protected_methods)",
    "flwr.supercore.runtime:RuntimeHttpClient.AcquireTask": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.ConfirmMessageReceived": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PullMessages": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PullObject": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PullTaskInput": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PushMessages": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PushObject": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.PushTaskOutput": "(self, request)",
    "flwr.supercore.runtime:RuntimeHttpClient.SendTaskHeartbeat": "(self, request)",
}
"""Every private name and what we pass to it; ``TaskIdentity`` and the constants are tested by what they do."""

LOST_FOR_GOOD_S = 20.0


class GoneError(Exception):
    """The SuperNode doesn't know the task any more, or refuses to go on with it."""


class AwayError(Exception):
    """Nobody answers where the SuperNode should be."""


@dataclasses.dataclass(frozen=True, slots=True)
class Task:
    """A task that we have claimed, and the head of the message that it has to answer."""

    token: str = dataclasses.field(repr=False)
    task_id: int
    run_id: int
    node_id: int
    is_client: bool
    """Whether it is for a ClientApp, and not for an agent."""
    digest: str
    """SHA-256 of the app's bundle, as SuperLink gave it."""
    message: bytes = dataclasses.field(default=b"", repr=False)
    """The message without its content, as Flower writes it."""
    tree: bytes = dataclasses.field(default=b"", repr=False)
    """Ids of its pieces."""

    @property
    def message_id(self) -> str:
        """The message's id; empty before the SuperNode has told it."""
        return str(ObjectTree.FromString(self.tree).object_id)

    @property
    def kind(self) -> str:
        """``train``, ``evaluate`` or ``query``, and perhaps an action after a dot."""
        return str(MessageProto.FromString(self.message).metadata.message_type)

    def as_json(self) -> dict[str, Any]:
        """For the record of the task in hand."""
        facts = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return facts | {key: base64.b64encode(facts[key]).decode() for key in ("message", "tree")}

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Task:
        """The reverse of ``as_json``."""
        return cls(**{**facts, **{key: base64.b64decode(facts[key]) for key in ("message", "tree")}})


class RuntimeApi:
    """The SuperNode's Runtime API, for one task at a time.

    Args:
        address: ``host:port``.
        secret: What the SuperNode wants from who asks for tasks.
    """

    def __init__(self, address: str, secret: bytes) -> None:
        self._token = _Token()
        self._client = RuntimeHttpClient.from_server_address(
            address,
            insecure=True,
            root_certificates=None,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="fedfleet-runner"),
                SuperExecAuthHttpInterceptor(
                    master_secret=secret, protected_methods={"/flwr.proto.Runtime/AcquireTask"}
                ),
                self._token,
            ],
        )

    def acquire(self) -> Task | None:
        """Claim the oldest task that waits, if one does.

        Raises:
            AwayError: If the SuperNode doesn't answer.
            GoneError: If it refuses us.
        """
        self._token.value = ""
        request = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP, TaskType.AGENT_APP])
        answer = self._call(self._client.AcquireTask, request, patience_s=0)
        if not answer.HasField("task") or not answer.token:
            return None
        found = answer.task
        return Task(answer.token, found.task_id, found.run_id, 0, found.type == TaskType.CLIENT_APP, found.fab_hash)

    def use(self, task: Task) -> None:
        """Speak for this task from now on."""
        self._token.value = task.token
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task.task_id, task.run_id, task.node_id

    def begin(self, task: Task) -> tuple[Task, bytes, bytes]:
        """Tell the SuperNode that the task starts.

        Returns:
            The task with its node; its context, as Flower writes it; the app's bundle.
        """
        self.use(task)
        answer = self._call(self._client.PullTaskInput, PullTaskInputRequest())
        task = dataclasses.replace(task, node_id=answer.context.node_id, digest=answer.run.fab_hash)
        self.use(task)
        return task, answer.context.SerializeToString(), answer.fab.content

    def head(self, task: Task) -> Task | None:
        """The task with its message's head; ``None`` while the SuperNode has not stored that yet."""
        answer = self._call(self._client.PullMessages, PullAppMessagesRequest())
        if not answer.messages_list:
            return None
        (message, *_), (tree, *_) = answer.messages_list, answer.message_object_trees
        message.metadata.message_id = tree.object_id
        return dataclasses.replace(task, message=message.SerializeToString(), tree=tree.SerializeToString())

    def pieces(self, task: Task) -> list[str]:
        """Ids of the message's pieces, each once."""
        return list(dict.fromkeys(tree.object_id for tree in iterate_object_tree(ObjectTree.FromString(task.tree))))

    def pull(self, task: Task, object_id: str) -> bytes | None:
        """One piece; ``None`` while the SuperNode has not received it yet."""
        request = PullObjectRequest(node=Node(node_id=task.node_id), run_id=task.run_id, object_id=object_id)
        answer = self._call(self._client.PullObject, request)
        if not answer.object_found:
            raise GoneError("the SuperNode has no such piece of the message")
        return answer.object_content if answer.object_available else None

    def confirm(self, task: Task) -> None:
        """Let the SuperNode forget the message's pieces."""
        node = Node(node_id=task.node_id)
        request = ConfirmMessageReceivedRequest(node=node, run_id=task.run_id, message_object_id=task.message_id)
        self._call(self._client.ConfirmMessageReceived, request)

    def heartbeat(self) -> None:
        """Keep the task ours for another minute."""
        if not self._call(self._client.SendTaskHeartbeat, SendTaskHeartbeatRequest()).success:
            raise GoneError("the SuperNode has given the task up")

    def announce(self, message: bytes, tree: bytes) -> tuple[str, list[str]]:
        """Give the SuperNode the head of a reply.

        Returns:
            The session in which its pieces are to be pushed, and which ones.
        """
        request = PushAppMessagesRequest(
            messages_list=[MessageProto.FromString(message)], message_object_trees=[ObjectTree.FromString(tree)]
        )
        answer = self._call(self._client.PushMessages, request)
        return answer.session_id, list(answer.objects_to_push)

    def push(self, task: Task, session: str, object_id: str, content: bytes) -> bool:
        """Give the SuperNode a piece of the reply; false if it wants none in this session any more."""
        request = PushObjectRequest(
            node=Node(node_id=task.node_id),
            run_id=task.run_id,
            session_id=session,
            object_id=object_id,
            object_content=content,
        )
        return bool(self._call(self._client.PushObject, request).stored)

    def finish(self, context: bytes | None, failure: str) -> None:
        """End the task: what the app keeps for its next one, and why it failed, if it did."""
        request = PushTaskOutputRequest(
            context=ContextProto.FromString(context) if context else None,
            sub_status=SubStatus.FAILED if failure else SubStatus.COMPLETED,
            details=failure,
        )
        self._call(self._client.PushTaskOutput, request)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _call(self, method: Callable[[Any], Any], request: object, patience_s: float = LOST_FOR_GOOD_S) -> Any:
        deadline = time.monotonic() + patience_s
        delay_s = 0.0
        while True:
            try:
                return method(request)
            except httpx.HTTPStatusError as err:
                if err.response.status_code not in (502, 503, 504):
                    words = err.response.text[:256] or err.response.reason_phrase
                    raise GoneError(f"the SuperNode refuses: {err.response.status_code} {words}") from err
                problem: Exception = err
            except httpx.ConnectError as err:
                raise AwayError("the SuperNode doesn't answer") from err  # its memory, and so the task, is gone
            except httpx.TransportError as err:
                problem = err  # a kept connection that it closed just now, for example
            if time.monotonic() >= deadline and delay_s:
                raise AwayError(f"the SuperNode doesn't answer: {problem}") from problem
            time.sleep(delay_s)
            delay_s = min(1.0, delay_s + 0.2)


class _Token:
    """Names the task in each request."""

    value = ""

    def intercept(self, context: Any, call_next: Callable[[Any], httpx.Response]) -> httpx.Response:
        if self.value:
            context.request.headers[TASK_TOKEN_HEADER] = self.value
        return call_next(context)
