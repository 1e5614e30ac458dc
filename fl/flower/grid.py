"""Flower's Grid as the engine's port to the sites.

A site's id is the name under which its node was registered; a node without one is ``node-<number>``. A reply stays at
SuperLink until the engine takes it, and is then pulled array by array while it is written to disk. A gateway says at
once when a reply is whole (``fl.flower.mail``); without one, polling begins at short intervals that grow with silence
(Flower's own loop sleeps three seconds).

Flower delivers at most once, so a SuperLink that dies at the wrong moment loses a message or a reply for good, and says
so. The site is then asked again: it answers the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.serverapp import Grid

from fl.arrays import F32, ArrayFile, Layout, LazyArrays
from fl.flower import private, records
from fl.flower.mail import GatewayLine
from fl.rounds.port import Failure, Phase, Reply, Request
from fl.rounds.spool import UnusableError

log = logging.getLogger(__name__)

MESSAGE_TYPE: Mapping[Phase, str] = {"initialise": "query", "train": "train", "evaluate": "evaluate", "secagg": "train"}

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
TOLD_MIN_S, TOLD_MAX_S = 0.5, 2.0
"""The same while the gateway says when a reply is whole: it does not hear of lost sites."""

LOST = ("message_lost", "reply_lost")
"""Failures that are nobody's: Flower lost a message."""
MOST_ASKED = 3
"""How often a site is asked the same, at most."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
"""What a site's id looks like: it names files of the journal."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """The newest request, with what it needs to be sent again."""

    request: Request
    model: Path | None
    payloads: Mapping[str, bytes]
    times: dict[str, int] = dataclasses.field(default_factory=dict)
    """How often each site was asked."""


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
        self._asked: _Asked | None = None
        self._outstanding: dict[str, tuple[str, Request]] = {}
        self._unreachable: list[tuple[str, Request]] = []
        self._landed: list[private.Landed] = []
        self._line = GatewayLine.from_environment(grid.run.run_id if private.can_stream(grid) else 0)

    def online(self) -> Sequence[str]:
        """Ids of the nodes that SuperLink believes to be online, sorted."""
        self._nodes = {site_id(node.name, node.node_id): node.node_id for node in self.grid.get_nodes()}
        return sorted(self._nodes)

    def ask(
        self,
        sites: Sequence[str],
        request: Request,
        model: ArrayFile | None,
        payloads: Mapping[str, bytes] | None = None,
    ) -> None:
        """Push a message to each site; the model is uploaded once for all of them."""
        self._asked = _Asked(request, model.path if model else None, payloads or {})
        self._send(sites, self._asked, model)

    def _send(self, sites: Sequence[str], asked: _Asked, model: ArrayFile | None) -> None:
        self.online()
        request = asked.request
        job = records.Job(request=request, task=self._task, training=self._training)
        # Its mapped pages are given back pack by pack, so that one copy is in memory.
        packed = None if model is None else records.pack(model.arrays(), model.release)
        for site in sites:
            asked.times[site] = asked.times.get(site, 0) + 1
        reachable = [site for site in sites if site in self._nodes]
        messages = [
            Message(
                records.encode_job(job, packed, asked.payloads.get(site, b"")),
                self._nodes[site],
                MESSAGE_TYPE[request.phase],
                group_id=str(request.round),
            )
            for site in reachable
        ]
        if messages:
            push = private.push if private.can_stream(self.grid) else _push
            for site, message_id in zip(reachable, push(self.grid, messages), strict=True):
                if message_id:
                    self._outstanding[message_id] = (site, request)
                else:
                    self._unreachable.append((site, request))
            self._line.mail(self._nodes[site] for site in reachable)
        self._unreachable += [(site, request) for site in sites if site not in reachable]

    def replies(self, timeout_s: float) -> Iterator[Reply]:
        """Replies as they are found, one pulled at a time; returns after a pass that found some, or the time-out."""
        end = time.monotonic() + timeout_s
        pause_s, found = 0.0, False
        while True:
            for reply in self._pass():
                found = True
                yield reply
            left_s = end - time.monotonic()
            if found or left_s <= 0:
                return
            least_s, most_s = (TOLD_MIN_S, TOLD_MAX_S) if self._line.is_open else (POLL_MIN_S, POLL_MAX_S)
            pause_s = min(most_s, max(least_s, pause_s * 1.5))
            if self._line.wait(min(pause_s, left_s)):
                pause_s = 0.0

    def _pass(self) -> Iterator[Reply]:
        """One look at everything that is outstanding."""
        while self._unreachable:
            site, request = self._unreachable.pop()
            failure = Failure(code="site_lost", reason="the site could not be asked: it is not online")
            yield Reply(site=site, request=request, failure=failure)
        if not self._outstanding:
            return
        if not private.can_stream(self.grid):
            yield from self._pull_one_by_one()
            return
        self._landed += private.landed(self.grid, list(self._outstanding.keys() - {it.reply_to for it in self._landed}))
        for landed in list(self._landed):
            if landed.error or landed.is_whole():
                self._landed.remove(landed)
                reply = self._read(landed, *self._outstanding.pop(landed.reply_to))
                if not self._asks_again(reply):
                    yield reply
                    if not landed.error:
                        landed.confirm()

    def _asks_again(self, reply: Reply) -> bool:
        """Whether the site is asked again, because Flower lost what it was asked or what it answered."""
        asked = self._asked
        if reply.failure is None or reply.failure.code not in LOST or asked is None or asked.request != reply.request:
            return False
        if asked.times[reply.site] >= MOST_ASKED:
            return False
        log.warning("%s is asked again: %s", reply.site, reply.failure.reason)
        with ArrayFile(asked.model) if asked.model else contextlib.nullcontext() as model:
            self._send([reply.site], asked, model)
        return True

    def _read(self, landed: private.Landed, site: str, request: Request) -> Reply:
        """A reply whose arrays are pulled from SuperLink when they are looked at, one at a time."""
        if landed.error:
            return _failed(site, request, *landed.error)
        try:
            content, arrays = landed.content()
            update, vector = arrays.get("update"), arrays.get("vector")
            return records.decode_reply(
                site,
                request,
                content,
                update=_lazy(update, records.layout_in(content, "reply")) if update else None,
                vector=_pieces(vector) if vector else None,
            )
        except private.ReplyLostError as err:
            return Reply(site=site, request=request, failure=Failure(code="reply_lost", reason=str(err)[:256]))
        except (KeyError, TypeError, ValueError) as err:
            return records.malformed(site, request, err)

    def _pull_one_by_one(self) -> Iterator[Reply]:
        """Replies through a Grid's public face, for Grids that are not Flower's deployed one."""
        for message_id, (site, request) in list(self._outstanding.items()):
            for message in self.grid.pull_messages([message_id]):
                del self._outstanding[message_id]
                if message.has_error():
                    yield _failed(site, request, message.error.code, message.error.reason)
                else:
                    yield records.decode_reply(site, request, message.content)


def site_id(name: str, node_id: int) -> str:
    """The id of a node's site: its registered name if that can name a file, else its number."""
    return name if NAME.fullmatch(name) else f"node-{node_id}"


def _push(grid: Grid, messages: Sequence[Message]) -> Iterable[str | None]:
    return grid.push_messages(messages)


def _lazy(arrays: private.LandedArrays, layout: Layout | None) -> LazyArrays:
    """Arrays that are pulled when they are looked at: pack by pack, the last one kept."""

    def fetch(name: str) -> F32:
        try:
            return records.decode_array(name, arrays.array(name))
        except private.ReplyLostError as err:
            raise UnusableError("reply_lost", str(err)[:256]) from err
        except (KeyError, TypeError, ValueError, IndexError, records.MalformedRecordError) as err:
            raise UnusableError("malformed", f"{name}: {err}"[:256]) from err

    if layout is None:
        return LazyArrays(Layout(tuple(arrays.shapes())), fetch)
    packs = records.pack_names(layout)
    where = {name: number for number, names in enumerate(packs) for name in names}
    last: tuple[int, dict[str, F32]] = -1, {}

    def unpack(name: str) -> F32:
        nonlocal last
        number = where[name]
        if last[0] != number:
            last = -1, {}  # let go before the next one comes
            try:
                last = number, records.unpack(layout, packs[number], fetch(str(number)))
            except records.MalformedRecordError as err:
                raise UnusableError("malformed", f"pack {number}: {err.message}"[:256]) from err
        return last[1][name]

    return LazyArrays(layout, unpack)


def _pieces(arrays: private.LandedArrays) -> Iterator[bytes]:
    """The bytes of a masked vector, a few megabytes at a time."""
    try:
        yield from records.without_header(arrays.pieces("vector"))
    except private.ReplyLostError as err:
        raise UnusableError("reply_lost", str(err)[:256]) from err
    except (KeyError, TypeError, ValueError, IndexError) as err:
        raise UnusableError("malformed", f"the masked vector: {err}"[:256]) from err


def _failed(site: str, request: Request, code: int, reason: str | None) -> Reply:
    word = FAILURES.get(code, "flower_error")
    text = " ".join(str(reason or word).split())[:256]
    return Reply(site=site, request=request, failure=Failure(code=word, reason=text))
