"""An app's files unpacked, its ClientApp called: the private parts of Flower that a task's process needs.

What ``flwr-clientapp`` does between pulling a message and pushing the reply. It has neither the task's token nor any
business with the network: a parcel comes in, a parcel goes out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import shutil
import traceback
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from flwr.app import Context, Error, Message
from flwr.app.message import remove_content_from_message
from flwr.cli.install import install_from_fab
from flwr.clientapp import ClientApp
from flwr.clientapp.client_app import LoadClientAppError
from flwr.common.config import get_project_config
from flwr.common.constant import ErrorCode
from flwr.common.serde import context_from_proto, context_to_proto, message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Context as ContextProto
from flwr.proto.message_pb2 import Message as MessageProto
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_ref import load_app
from flwr.supercore.task_identity import TaskIdentity

from edge.runner import parcel
from edge.runner.flower import Task

PRIVATE: Mapping[str, str] = {
    "flwr.app.message:remove_content_from_message": "(message)",
    "flwr.cli.install:install_from_fab": "(fab_file, install_dir, skip_prompt)",
    "flwr.common.config:get_project_config": "(project_dir)",
    "flwr.common.serde:context_from_proto": "(context_proto)",
    "flwr.common.serde:context_to_proto": "(context)",
    "flwr.common.serde:message_from_proto": "(message_proto)",
    "flwr.common.serde:message_to_proto": "(message)",
    "flwr.proto.message_pb2:Context": "run_id node_id",
    "flwr.proto.message_pb2:Message": "metadata error",
    "flwr.supercore.inflatable.inflatable_object:get_all_nested_objects": "(obj)",
    "flwr.supercore.inflatable.inflatable_object:get_object_tree": "(obj)",
    "flwr.supercore.inflatable.inflatable_object:no_object_id_recompute": "()",
    "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents": "(object_id, object_contents)",
    "flwr.supercore.object_ref:load_app": "(module_attribute_str, error_type, project_dir)",
}
"""Every private name and what we pass to it; ``TaskIdentity`` and the constants are tested by what they do."""

OBJECT = "object/"
REFUSED = ErrorCode.MOD_FAILED_PRECONDITION
INVALID = ErrorCode.INVALID_FAB
CRASHED = ErrorCode.CLIENT_APP_CRASHED


@dataclasses.dataclass(frozen=True, slots=True)
class App:
    """An unpacked app."""

    digest: str
    directory: Path
    reference: str
    """Where its ClientApp is, ``module:attribute``."""
    bundle: bytes = dataclasses.field(default=b"", repr=False, compare=False)
    """The files as they came."""


@dataclasses.dataclass(frozen=True, slots=True)
class ReplyParcel:
    """What the SuperNode gets of a reply."""

    head: bytes
    tree: bytes
    context: bytes | None
    """What the app keeps; ``None`` if it could not answer itself."""
    failure: str
    """The reason of an error reply, else empty."""
    pieces: Iterator[tuple[str, bytes]]
    """Read one at a time."""


class AppError(Exception):
    """An app that cannot be unpacked."""


def unpack(content: bytes, digest: str, apps: Path) -> App:
    """An app's files, in a directory that its whole digest names.

    Flower names the directory by 32 bits of the digest, and takes one that an interrupted task left half-written
    for whole.

    Raises:
        AppError: If the bundle is not the one that the digest means, or no Flower app.
    """
    directory = apps / digest
    if not directory.is_dir():
        if hashlib.sha256(content).hexdigest() != digest:
            raise AppError(f"the app's bundle is not the one with the digest {digest}")
        part = apps / f".{digest}.part"
        shutil.rmtree(part, ignore_errors=True)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                made = install_from_fab(content, install_dir=part, skip_prompt=True)
            made.rename(directory)
        except (click.ClickException, zipfile.BadZipFile, ValueError, OSError, KeyError) as err:
            raise AppError(f"the app cannot be unpacked: {getattr(err, 'message', err)}") from err
        finally:
            shutil.rmtree(part, ignore_errors=True)
    try:
        components = get_project_config(directory)["tool"]["flwr"]["app"]["components"]
        return App(digest, directory, components["clientapp"], content)
    except (OSError, ValueError, KeyError) as err:
        raise AppError(f"the app names no clientapp: {err}") from err


def write_input(writer: parcel.Writer, task: Task, context: bytes) -> None:
    """The part of a task's parcel that is no piece of the message."""
    writer.add("task", json.dumps(task.as_json() | {"token": ""}).encode())
    writer.add("context", context)


def load(reference: str, directory: Path) -> ClientApp:
    """The app's ClientApp; whatever its modules raise comes as it is."""
    app = load_app(reference, LoadClientAppError, directory)
    if not isinstance(app, ClientApp):
        raise LoadClientAppError(f"{reference} is a {type(app).__name__}, not a ClientApp")
    return app


def answer(reference: str, directory: Path, received: Path, answered: Path) -> str:
    """Answer a message as Flower's own process for it does; an exception of the app is an error reply.

    Args:
        reference: Where the ClientApp is.
        directory: The unpacked app.
        received: Parcel of the message.
        answered: Parcel of the reply, to be written.

    Returns:
        Why it failed; empty if it didn't.
    """
    task, context, message = _open(received)
    failure = ""
    try:
        reply = load(reference, directory)(message=message, context=context)
        if not isinstance(reply, Message):
            raise TypeError(f"the app answered with a {type(reply).__name__}, not with a Message")
        _write_reply(answered, task, reply, context)
    except (Exception, SystemExit, KeyboardInterrupt) as err:
        code, failure = _describe(err)
        traceback.print_exception(err)
        _write_reply(answered, task, Message(Error(code, failure), reply_to=message), context)
    return failure


def write_error(path: Path, task: Task, code: int, reason: str) -> None:
    """An error reply in the place of an app that cannot give one."""
    message = message_from_proto(MessageProto.FromString(task.message))
    _write_reply(path, task, Message(Error(code, reason), reply_to=message), None)


def read_reply(path: Path) -> ReplyParcel:
    """A reply that lies ready.

    Raises:
        ValueError: If it is cut short.
    """
    pieces = parcel.read(path)
    head, tree, context = (data for _, data in itertools.islice(pieces, 3))
    message = MessageProto.FromString(head)
    failure = message.error.reason if message.HasField("error") else ""
    objects = ((name.removeprefix(OBJECT), data) for name, data in pieces)
    return ReplyParcel(head, tree, context or None, failure, objects)


def _open(received: Path) -> tuple[Task, Context, Message]:
    pieces = dict(parcel.read(received))
    task = Task.from_json(json.loads(pieces.pop("task")))
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = task.task_id, task.run_id, task.node_id
    context = context_from_proto(ContextProto.FromString(pieces.pop("context")))
    contents = {name.removeprefix(OBJECT): pieces.pop(name) for name in list(pieces)}
    message = inflate_object_from_contents(task.message_id, contents)
    assert isinstance(message, Message)
    # Flower leaves the id out of the pieces, because it is their hash.
    message.metadata.__dict__["_message_id"] = task.message_id
    return task, context, message


def _write_reply(path: Path, task: Task, reply: Message, context: Context | None) -> None:
    reply.metadata.__dict__["_message_id"] = reply.object_id
    head = message_to_proto(remove_content_from_message(reply))
    writer = parcel.Writer(path)
    with no_object_id_recompute():
        writer.add("head", head.SerializeToString())
        writer.add("tree", get_object_tree(reply).SerializeToString())
        writer.add("context", context_to_proto(context).SerializeToString() if context else b"")
        for object_id, piece in get_all_nested_objects(reply).items():
            writer.add(OBJECT + object_id, piece.deflate())
    writer.finish()


def _describe(err: BaseException) -> tuple[int, str]:
    """Flower's code and words for an exception, so that nobody can tell by them who ran the app."""
    if isinstance(err, LoadClientAppError):
        return (
            ErrorCode.LOAD_CLIENT_APP_EXCEPTION,
            f"An exception was raised when attempting to load `ClientApp`: {err}",
        )
    if isinstance(err, SystemExit):
        return CRASHED, f"the app ended its own process: sys.exit({err.code!r})"
    return ErrorCode.CLIENT_APP_RAISED_EXCEPTION, f"{type(err)}:<'{err}'>"
