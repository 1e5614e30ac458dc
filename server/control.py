"""Typed client of the SuperLink's Control API: register nodes, start, follow and stop runs.

Flower publishes no client library, so this module is the one place where the private parts behind its
command line are used. ``PRIVATE`` lists them; a contract test checks that they exist and take what we pass.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from flwr.common.serde import fab_to_proto, user_config_from_proto, user_config_to_proto
from flwr.proto.control_pb2 import (
    ListNodesRequest,
    ListRunsRequest,
    RegisterNodeRequest,
    StartRunRequest,
    StopRunRequest,
    StreamLogsRequest,
    UnregisterNodeRequest,
)
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.error import FlowerError
from flwr.supercore.fab import Fab

from fl.errors import FLError, InputError, UnreachableError
from fl.processes import without_proxy

PRIVATE: Mapping[str, str] = {
    "flwr.common.serde:fab_to_proto": "(fab)",
    "flwr.common.serde:user_config_from_proto": "(proto)",
    "flwr.common.serde:user_config_to_proto": "(user_config)",
    "flwr.supercore.control:ControlHttpClient": "(base_url, *, interceptors, verify, timeout, retry_invoker)",
    "flwr.supercore.control:ControlHttpClient.StartRun": "(self, request)",
    "flwr.supercore.control:ControlHttpClient.StopRun": "(self, request)",
    "flwr.supercore.control:ControlHttpClient.StreamLogs": "(self, request)",
    "flwr.supercore.control:ControlHttpClient.ListRuns": "(self, request)",
    "flwr.supercore.control:ControlHttpClient.RegisterNode": "(self, request)",
    "flwr.supercore.control:ControlHttpClient.UnregisterNode": "(self, request)",
    "flwr.supercore.control:ControlHttpClient.ListNodes": "(self, request)",
    "flwr.supercore.error:FlowerError.from_json": "(value)",
    "flwr.supercore.fab:Fab": "(hash_str, content, verifications)",
    "flwr.proto.control_pb2:RegisterNodeRequest": "public_key name location",
    "flwr.proto.control_pb2:UnregisterNodeRequest": "node_id",
    "flwr.proto.control_pb2:ListNodesRequest": "",
    "flwr.proto.control_pb2:StartRunRequest": "fab override_config",
    "flwr.proto.control_pb2:ListRunsRequest": "run_id limit",
    "flwr.proto.control_pb2:StopRunRequest": "run_id",
    "flwr.proto.control_pb2:StreamLogsRequest": "run_id after_timestamp",
    "flwr.proto.node_pb2:NodeInfo": "node_id name status location online_until public_key",
    "flwr.proto.run_pb2:Run": "run_id fab_id status pending_at running_at finished_at override_config",
    "flwr.proto.run_pb2:RunStatus": "status sub_status details",
}
"""Private names of Flower that this module uses, each with its parameters, or with its fields for a
message."""

TIMEOUT_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A SuperNode, as the SuperLink knows it."""

    node_id: int
    name: str
    status: str
    location: str
    public_key: bytes
    """PEM text; what tells a node of this life from one of an earlier life."""


@dataclasses.dataclass(frozen=True, slots=True)
class FlowerRun:
    """A run, as the SuperLink knows it."""

    run_id: int
    app: str
    """Publisher and name of the Flower app."""
    status: str
    """``pending``, ``starting``, ``running`` or ``finished``."""
    sub_status: str
    """How it finished: ``completed``, ``failed`` or ``stopped``; empty before."""
    details: str
    """Why it failed, if Flower says so."""
    pending_at: str
    """When it was submitted, ISO 8601, UTC."""
    running_at: str
    finished_at: str
    config: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """What was changed in the app's run config when it was submitted."""

    @property
    def is_finished(self) -> bool:
        """Whether it ended, in whatever way."""
        return self.status == "finished"

    @property
    def state(self) -> str:
        """Status in one word."""
        return self.sub_status or self.status


class Control:
    """The Control API of one SuperLink. Close it, or use it in a ``with`` block.

    Args:
        address: ``host:port``.
        ca: The certificate authority that its certificate must come from.

    Raises (every method):
        UnreachableError: If the SuperLink does not answer.
        InputError: If it refuses what it was asked, in its words.
        FLError: If it fails.
    """

    def __init__(self, address: str, ca: Path) -> None:
        self.address = address
        # The client reads proxies from the environment, and a proxy cannot reach this machine's loopback.
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = without_proxy(os.environ)
        try:
            context = ssl.create_default_context(cafile=str(ca))
        except OSError as err:
            raise UnreachableError(f"cannot read {ca}: {err.strerror or err}", hint="fl up") from err
        self._client = ControlHttpClient(f"https://{address}", verify=context, timeout=TIMEOUT_S)

    def register_node(self, public_key: bytes, *, name: str, location: str | None = None) -> int:
        """Let a node with this public key (PEM) take part.

        Args:
            public_key: EC key on a NIST curve.
            name: The site's name, which runs see.
            location: ``latitude,longitude``, if it shall be known.

        Returns:
            Its node id.
        """
        request = RegisterNodeRequest(public_key=public_key, name=name, location=location)
        with self._errors(f"cannot register {name}"):
            return int(self._client.RegisterNode(request).node_id)

    def unregister_node(self, node_id: int) -> None:
        """Let this node take part no longer."""
        with self._errors(f"cannot unregister node {node_id}"):
            self._client.UnregisterNode(UnregisterNodeRequest(node_id=node_id))

    def nodes(self) -> list[Node]:
        """All nodes that are registered, by name."""
        with self._errors("cannot list nodes"):
            found = self._client.ListNodes(ListNodesRequest()).nodes_info
        nodes = [
            Node(info.node_id, info.name, info.status, info.location, info.public_key)
            for info in found
            if info.status != "unregistered"
        ]
        return sorted(nodes, key=lambda node: (node.name, node.node_id))

    def start_run(self, bundle: bytes, config: Mapping[str, bool | int | float | str]) -> int:
        """Submit a bundled Flower app (see ``server.bundle``).

        Args:
            bundle: The FAB.
            config: Values for keys that the app's own run config has.

        Returns:
            The run's id.
        """
        fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
        request = StartRunRequest(fab=fab_to_proto(fab), override_config=user_config_to_proto(dict(config)))
        with self._errors("cannot start the run"):
            answer = self._client.StartRun(request)
        if not answer.HasField("run_id"):
            raise InputError(f"the SuperLink at {self.address} refused the app", hint="see its log")
        return int(answer.run_id)

    def runs(self, *, at_most: int = 100) -> list[FlowerRun]:
        """The latest runs, newest first."""
        with self._errors("cannot list runs"):
            found = self._client.ListRuns(ListRunsRequest(limit=at_most)).run_dict
        return sorted((_run(run) for run in found.values()), key=lambda run: run.pending_at, reverse=True)

    def run(self, run_id: int) -> FlowerRun:
        """One run."""
        with self._errors(f"cannot read run {run_id}"):
            found = self._client.ListRuns(ListRunsRequest(run_id=run_id)).run_dict
        return _run(found[run_id])

    def log(self, run_id: int, *, after: float = 0.0) -> Iterator[tuple[str, float]]:
        """What a run's ServerApp prints, from a time on and until the run ends.

        Args:
            run_id: The run.
            after: Only what came after this time (seconds since 1970); the time given with an earlier piece
                continues after that piece.

        Yields:
            Pieces of text, each with the time of its last line.
        """
        with self._errors(f"cannot follow run {run_id}"):
            for piece in self._client.StreamLogs(StreamLogsRequest(run_id=run_id, after_timestamp=after)):
                yield piece.log_output, piece.latest_timestamp

    def stop(self, run_id: int) -> None:
        """End a run; its ServerApp is ended too."""
        with self._errors(f"cannot stop run {run_id}"):
            self._client.StopRun(StopRunRequest(run_id=run_id))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def __enter__(self) -> Control:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPStatusError as err:
            answer = err.response
            known = FlowerError.from_json(answer.text)
            if known is None:
                raise FLError(f"{doing}: the SuperLink failed with status {answer.status_code}") from err
            words = " ".join(filter(None, [known.message, known.public_details])).strip().rstrip(".")
            kind = InputError if answer.status_code < 500 else FLError
            raise kind(f"{doing}: {words[:1].lower()}{words[1:]}") from err
        except (httpx.RequestError, ValueError) as err:
            hint = "start it with fl up, or see its log in the federation's home"
            raise UnreachableError(f"{doing}: no SuperLink answers at {self.address}", hint=hint) from err


def _run(run: Any) -> FlowerRun:
    return FlowerRun(
        run_id=run.run_id,
        app=run.fab_id,
        status=run.status.status,
        sub_status=run.status.sub_status,
        details=run.status.details,
        pending_at=run.pending_at,
        running_at=run.running_at,
        finished_at=run.finished_at,
        config=user_config_from_proto(run.override_config),
    )
