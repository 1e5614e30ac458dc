"""The private parts of Flower that the simulator of its apps needs; a contract test holds them to this shape."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from flwr.app import Context, Error, Message, Metadata, RecordDict, UserConfig
from flwr.app.message import make_message
from flwr.clientapp import ClientApp
from flwr.common.config import get_fused_config_from_dir, get_project_config
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import ServerApp
from flwr.supercore.object_ref import load_app
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = ["SUPERLINK_NODE_ID", "ErrorCode", "NodeInfo", "Run", "make_message"]

PRIVATE: Mapping[str, str] = {
    "flwr.app.message:make_message": "(metadata, content, error)",
    "flwr.app:Metadata": (
        "(run_id, message_id, src_node_id, dst_node_id, reply_to_message_id, group_id, created_at, ttl, message_type)"
    ),
    "flwr.common.config:get_fused_config_from_dir": "(project_dir, override_config)",
    "flwr.common.config:get_project_config": "(project_dir)",
    "flwr.proto.node_pb2:NodeInfo": "node_id",
    "flwr.supercore.object_ref:load_app": "(module_attribute_str, error_type, project_dir)",
    "flwr.supercore.run:Run.create_empty": "(run_id)",
    "flwr.simulation.run_simulation:_run_simulation": (
        "(num_supernodes, exit_event, client_app, server_app, backend_config, client_app_attr, server_app_context, "
        "app_dir, run, is_app)"
    ),
}
"""Every private function and message, and what we pass to it. What has no signature is tested by what it does."""


class LoadError(Exception):
    """A component that a ``pyproject.toml`` names, and that isn't there."""


@dataclasses.dataclass(frozen=True, slots=True)
class Project:
    """What the ``pyproject.toml`` of an app says.

    Attributes:
        name: ``publisher/name``.
        version: The app's.
        serverapp: Where its ServerApp is: ``module:attribute``.
        clientapp: Likewise.
    """

    name: str
    version: str
    serverapp: str
    clientapp: str


def read_project(directory: Path) -> Project:
    """Read the app's ``pyproject.toml``.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it isn't that of a Flower app, or isn't TOML.
    """
    config = get_project_config(directory)
    app = config["tool"]["flwr"]["app"]
    try:
        serverapp, clientapp = app["components"]["serverapp"], app["components"]["clientapp"]
    except KeyError as err:
        raise ValueError(f"no {err.args[0]} among [tool.flwr.app.components]") from None
    return Project(
        f"{app['publisher']}/{config['project']['name']}", config["project"]["version"], serverapp, clientapp
    )


def run_config(directory: Path, overrides: Mapping[str, Any]) -> UserConfig:
    """The app's flat run config with other values for some of its keys.

    Raises:
        ValueError: If it has no such key.
    """
    return get_fused_config_from_dir(directory, dict(overrides))


def load(reference: str, directory: Path) -> Any:
    """The object that ``module:attribute`` means, with the app's directory on the path.

    Raises:
        LoadError: If the module has no such attribute. What the module itself raises comes as it is.
    """
    return load_app(reference, LoadError, directory)


def is_legacy(server_app: ServerApp, client_app: ClientApp) -> bool:
    """Whether one of them was made with ``server_fn``, ``client_fn`` or a strategy of the deprecated API."""
    return vars(server_app)["_main"] is None or vars(client_app)["_call"] is not None


@contextlib.contextmanager
def identity(run_id: int, node_id: int) -> Iterator[None]:
    """Who makes messages in this process, for as long as the context lasts; ``Message(…)`` looks it up."""
    parts = ("_run_id", "_task_id", "_node_id")
    kept = [getattr(TaskIdentity, part) for part in parts]
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, 1, node_id
    try:
        yield
    finally:
        for part, value in zip(parts, kept, strict=True):
            setattr(TaskIdentity, part, value)


def set_message_id(message: Message, message_id: str) -> None:
    """Give a message its number, as Flower's Grids do."""
    vars(message.metadata)["_message_id"] = message_id


def entries(record: Any) -> dict[str, Any]:
    """A record's own dictionary: writing to it skips the check of each element of a list."""
    return cast(dict[str, Any], vars(record)["_data"])


def error_reply(run_id: int, reply_to: str, code: int, reason: str, *, to: Metadata | None = None) -> Message:
    """What SuperLink itself answers for a message that has no reply.

    Args:
        run_id: The run's.
        reply_to: Number of the message.
        code: One of ``ErrorCode``.
        reason: In words.
        to: Of the message, if it is known.
    """
    metadata = Metadata(
        run_id=run_id,
        message_id="",
        src_node_id=SUPERLINK_NODE_ID,
        dst_node_id=SUPERLINK_NODE_ID,
        reply_to_message_id=reply_to,
        group_id=to.group_id if to else "",
        created_at=time.time(),
        ttl=0.0,
        message_type=to.message_type if to else "system",
    )
    return make_message(metadata, error=Error(code=code, reason=reason))


def run_with_ray(
    apps: tuple[ServerApp, ClientApp],
    *,
    sites: int,
    run: Run,
    project: tuple[Path, Project] | None,
    config: UserConfig,
    workers: int,
) -> Context:
    """Run an app through Flower's own simulation.

    Args:
        apps: The ServerApp, or what stands for it, and the ClientApp.
        sites: How many.
        run: Its number, and the overrides of its run config.
        project: Where the ClientApp's processes load it from; without it, it is sent to them.
        config: The ServerApp's run config.
        workers: CPUs that Ray may use, one a client.

    Returns:
        The ServerApp's context at the end.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from flwr.simulation.run_simulation import _run_simulation
    from flwr.supercore.telemetry import EventType

    server_app, client_app = apps
    directory, settings = project or (None, None)
    run.primary_task_id, run.federation_id = 1, "@none/default"
    with identity(run.run_id, SUPERLINK_NODE_ID):
        return _run_simulation(
            num_supernodes=sites,
            exit_event=EventType.PYTHON_API_RUN_SIMULATION_LEAVE,
            server_app=server_app,
            client_app=client_app if settings is None else None,
            client_app_attr=settings.clientapp if settings else None,
            app_dir=str(directory) if directory else "",
            is_app=settings is not None,
            server_app_context=Context(run.run_id, SUPERLINK_NODE_ID, {}, RecordDict(), dict(config)),
            run=run,
            backend_config={"init_args": {"num_cpus": workers}, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        ).context
