"""Flower's Grid as the engine's port to the sites.

A site's id is the name under which its node was registered; a node without one is ``node-<number>``. Replies are
pulled one message at a time, so that one reply at a time is in memory, and polled at short intervals that grow with
silence (Flower's own loop sleeps three seconds).
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, Message
from flwr.serverapp import Grid

from fl.arrays import ArrayFile
from fl.flower import records
from fl.rounds.port import Failure, Phase, Reply, Request

log = logging.getLogger(__name__)

MESSAGE_TYPE: Mapping[Phase, str] = {"initialise": "query", "train": "train", "evaluate": "evaluate"}

FAILURES = {
    1: "app_not_loaded",
    2: "task_failed",
    3: "message_lost",
    4: "reply_lost",
    5: "site_lost",
    6: "refused",
    7: "app_invalid",
    8: "task_crashed",
}
"""Flower's error codes (``flwr.common.constant.ErrorCode``; kept equal by a contract test) as one word each."""

POLL_MIN_S, POLL_MAX_S = 0.1, 0.5

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""What a site's id looks like: it names files of the journal."""


class GridSites:
    """The sites behind a Grid.

    Args:
        grid: Flower's.
        task: The ``[task]`` table, sent with each request.
        training: The ``[training]`` table, likewise.
    """

    def __init__(self, grid: Grid, task: dict[str, Any], training: dict[str, Any]) -> None:
        self.grid, self._task, self._training = grid, task, training
        self._nodes: dict[str, int] = {}
        self._outstanding: dict[str, tuple[str, Request]] = {}

    def online(self) -> Sequence[str]:
        """Ids of the nodes that SuperLink believes to be online, sorted."""
        self._nodes = {site_id(node.name, node.node_id): node.node_id for node in self.grid.get_nodes()}
        return sorted(self._nodes)

    def ask(self, sites: Sequence[str], request: Request, model: ArrayFile | None) -> None:
        """Push a message to each site; the model is uploaded once for all of them."""
        self.online()
        content = records.encode_job(
            records.Job(request=request, task=self._task, training=self._training), _record(model)
        )
        reachable = [site for site in sites if site in self._nodes]
        messages = [
            Message(content, self._nodes[site], MESSAGE_TYPE[request.phase], group_id=str(request.round))
            for site in reachable
        ]
        if messages:
            sent = dict(zip(reachable, self.grid.push_messages(messages), strict=True))
            self._outstanding |= {message_id: (site, request) for site, message_id in sent.items()}
        for site in set(sites) - set(reachable):
            self._outstanding[f"unreachable/{request.phase}/{request.round}/{request.attempt}/{site}"] = (
                site,
                request,
            )

    def replies(self, timeout_s: float) -> Iterator[Reply]:
        """Replies as they are found, one pulled at a time; returns after a pass that found some, or the time-out."""
        end = time.monotonic() + timeout_s
        pause_s, found = POLL_MIN_S, False
        while not found:
            for message_id, (site, request) in list(self._outstanding.items()):
                reply = self._pull(message_id, site, request)
                if reply:
                    del self._outstanding[message_id]
                    found = True
                    yield reply
            left_s = end - time.monotonic()
            if found or left_s <= 0:
                return
            time.sleep(min(pause_s, left_s))
            pause_s = min(POLL_MAX_S, pause_s * 1.5)

    def _pull(self, message_id: str, site: str, request: Request) -> Reply | None:
        if message_id.startswith("unreachable/"):
            failure = Failure(code="site_lost", reason="the site was not online when it was asked")
            return Reply(site=site, request=request, failure=failure)
        for message in self.grid.pull_messages([message_id]):
            if message.has_error():
                code = FAILURES.get(message.error.code, "flower_error")
                reason = " ".join(str(message.error.reason or code).split())[:256]
                return Reply(site=site, request=request, failure=Failure(code=code, reason=reason))
            return records.decode_reply(site, request, message.content)
        return None


def site_id(name: str, node_id: int) -> str:
    """The id of a node's site: its registered name if that can name a file, else its number."""
    return name if NAME.fullmatch(name) else f"node-{node_id}"


def _record(model: ArrayFile | None) -> ArrayRecord | None:
    if model is None:
        return None
    record = records.encode_arrays(model.arrays())
    model.release()
    return record
