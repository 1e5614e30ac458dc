"""Flower's calls, one by one: what each may do for the node that is bound to the caller's certificate."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import functools
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fl.errors import RefusedError
from fl.link import link_pb2 as link
from server.gateway import fleet
from server.gateway.config import MIB, GatewayConfig
from server.gateway.counters import Counters
from server.gateway.leases import Leases
from server.gateway.ledger import Delivery
from server.gateway.mail import Asked, Postbox
from server.gateway.nodes import Node, Nodes
from server.gateway.notices import Notices
from server.gateway.pieces import LONGEST_BYTES, Fetched, Pieces
from server.gateway.superlink import PIECE_BYTES, SuperLink

log = logging.getLogger(__name__)

HOLDS = "fedfleet-holds"
"""Header of an activation: ids of messages whose replies the link still has, separated by commas."""

ACTIVATIONS, ALREADY_ONLINE = 3, 412
RUN_IS_OVER = 403
"""What SuperLink answers to whoever asks for pieces of a run that is not running."""
SHORTEST_HOLD_S = 0.5
"""Even who does not want to wait waits for one question to SuperLink."""

RESTARTED = "the site was restarted while it worked on this"
AHEAD_BYTES = 1 * MIB
"""How much of an object is waited for before SuperLink hears of it."""

PULL_HOLD_S = 3.0
"""How long an object that its ServerApp is still uploading is waited for."""
PULL_PAUSE_S, PULL_GROWTH = 0.02, 1.3
"""First pause between two questions for it, and how it grows: SuperLink is asked a dozen times at most."""

SLOW_S = 2.0
"""An object that would take longer than this is collected on disk first: a signature lasts 300 s, and SuperLink's
connections are few."""


class NotYetError(RefusedError):
    """What will be possible in a moment."""


class Calls:
    """The calls that pass, and the loops behind them.

    Args:
        config: Bounds.
        superlink: Where they go.
        nodes: Who may do what.
        counters: Where bytes are counted.
        changed: Called when the registry changed.
        spool: Directory for objects that come slowly.
    """

    def __init__(
        self,
        config: GatewayConfig,
        superlink: SuperLink,
        nodes: Nodes,
        counters: Counters,
        changed: Callable[[], None],
        spool: Path,
    ) -> None:
        self._config, self._superlink, self._nodes, self._counters = config, superlink, nodes, counters
        self._spool, self._pieces = spool, Pieces()
        self.postbox = Postbox(config, self._ask)
        self.leases = Leases(config, nodes, self._beat, self._end)
        self.notices = Notices(self.postbox.notice, changed)
        self._handlers = {
            "activate-node": self._activate,
            "deactivate-node": self._deactivate,
            "send-node-heartbeat": self._heartbeat,
            "pull-messages": self._pull_messages,
            "push-messages": self._push_messages,
            "get-run": self._get_run,
            "confirm-message-received": self._confirm,
        }

    async def call(self, node: Node, call: link.FleetCall) -> tuple[int, bytes]:
        """Answer a small call.

        Returns:
            HTTP's status and a body.

        Raises:
            RefusedError: If the node may not make it.
        """
        request = self._admit(node, call, fleet.METHODS)
        status, body = await self._handlers[call.method](node, call, request)
        self._check_clock(status, call.signature)
        return status, body

    def _admit(self, node: Node, call: link.FleetCall, methods: Mapping[str, fleet.Method]) -> Any:
        request = fleet.parse(call.method, call.body, methods)
        if not node.node_id:
            raise NotYetError(f"the node of site {node.site} is not registered at SuperLink yet")
        node.sign(call.signature)
        named = fleet.node_of(request)
        if named not in (None, node.node_id):
            raise RefusedError(f"{call.method} names node {named}, which is not site {node.site}")
        if node.is_quarantined and call.method not in ("activate-node", "send-node-heartbeat", "pull-messages"):
            raise RefusedError(f"site {node.site} is quarantined")
        return request

    async def _activate(self, node: Node, call: link.FleetCall, request: Any) -> tuple[int, bytes]:
        if request.public_key.strip() != node.public_key.strip():
            raise RefusedError(f"the key to activate is not the one of site {node.site}")
        if node.is_quarantined:
            return 200, fleet.activated(node.node_id)
        node.has_left = True  # no heartbeat from here on until it is online
        interval_s = self.leases.interval_s
        for _ in range(ACTIVATIONS):
            # Its former life may not have said goodbye, and SuperLink would refuse it until that one's lease is over.
            await self._superlink.call("deactivate-node", fleet.deactivate(node.node_id), call.signature)
            status, body = await self._superlink.call(
                "activate-node", fleet.activate(request.public_key, interval_s), call.signature, call.headers
            )
            if status != ALREADY_ONLINE:  # a heartbeat that was on its way
                break
        if status == 200:
            self.leases.activated(node)
            if not await self._give_up(node, call):
                return 503, b""  # the SuperNode tries again, and so do we
        return status, body

    async def _give_up(self, node: Node, call: link.FleetCall) -> bool:
        """Say of each message that a restarted site has lost that it is lost, instead of leaving that to a deadline.

        Returns:
            Whether SuperLink took all of that.
        """
        held = set(call.headers.get(HOLDS, "").split(","))
        for it in list(node.deliveries.values()):
            if not it.is_confirmed or it.reply_id or it.message_id in held:
                continue
            announce, object_id, content = fleet.lost_reply(it.head, RESTARTED)
            status, body = await self._superlink.call("push-messages", announce, call.signature)
            if status == 200:
                session_id, _ = fleet.announced(body)
                head = fleet.Object(it.run_id, session_id, object_id, len(content))
                status, _ = await self._superlink.push(node.node_id, head, _one(content), call.signature, {})
                self.notices.landed(it.run_id, it.message_id)
            if status == 503:
                return False
            self._nodes.drop(node, it)
        return True

    async def _deactivate(self, node: Node, call: link.FleetCall, request: Any) -> tuple[int, bytes]:
        node.has_left, node.online_until = True, float("-inf")
        return await self._superlink.call(call.method, call.body, call.signature, call.headers)

    async def _heartbeat(self, node: Node, call: link.FleetCall, request: Any) -> tuple[int, bytes]:
        return 200, fleet.heard()

    async def _pull_messages(self, node: Node, call: link.FleetCall, request: Any) -> tuple[int, bytes]:
        hold_s = min(max(call.hold_s, SHORTEST_HOLD_S), self._config.hold_s)
        if (it := node.undelivered()) and not node.is_quarantined:
            it.given += 1
            return 200, it.body or b""
        asked = await self.postbox.wait(node, hold_s)
        if asked.has_mail and (it := node.undelivered()):
            it.given += 1
            self._counters.add(node.site, it.run_id, down=len(asked.body))
        return asked.status, asked.body

    async def _push_messages(self, node: Node, call: link.FleetCall, request: Any) -> tuple[int, bytes]:
        reply = fleet.reply(request)
        it = node.check_reply(reply)
        status, body = await self._superlink.call(call.method, call.body, call.signature, call.headers)
        self._counters.add(node.site, it.run_id, up=len(call.body))
        if status == 200:
            session_id, wanted = fleet.announced(body)
            if not wanted:
                # Either all has come, or the ServerApp has taken the head of the reply, with which SuperLink forgets
                # the message but not the session of its objects. That head may be of a call whose answer died.
                missing = await self._missing(node, it, sorted(it.pending) or reply.objects, call)
                if missing is None:
                    return 503, b""
                if missing:
                    session_id, wanted = it.session_id or fleet.ANY_SESSION, missing
                    body = fleet.wanting(reply.message_id, session_id, wanted)
            self._nodes.announce(it, reply.message_id, session_id, wanted)
            self.postbox.quicken(node)
            if not wanted:  # SuperLink has all of it, or takes none of it
                self._land(node, it)
        return status, body

    async def _missing(
        self, node: Node, it: Delivery, objects: Sequence[str], call: link.FleetCall
    ) -> list[str] | None:
        """Which of these objects of a reply SuperLink still waits for; ``None`` if it is away."""
        missing = []
        for object_id in sorted(objects, key=lambda name: name == it.reply_id):  # the message itself is the last
            is_there = await self._superlink.has(node.node_id, it.run_id, object_id, call.signature, call.headers)
            if is_there is None:
                return None
            if not is_there:
                missing.append(object_id)
        return missing

    async def _get_run(self, node: Node, call: link.FleetCall, request: Any) -> tuple[int, bytes]:
        node.check_run(request.run_id)
        return await self._superlink.call(call.method, call.body, call.signature, call.headers)

    async def _confirm(self, node: Node, call: link.FleetCall, request: Any) -> tuple[int, bytes]:
        it = node.delivery(request.message_object_id)
        status, body = await self._superlink.call(call.method, call.body, call.signature, call.headers)
        if status == 200:
            self._nodes.confirm(it)
        return status, body

    async def push(self, node: Node, head: link.PushHead, pieces: AsyncIterator[bytes]) -> tuple[int, bytes]:
        """Pass an object on, piece by piece.

        Raises:
            RefusedError: If no reply of this node announced it, or it is too large, or not as large as it says.
        """
        node.sign(head.signature)
        if node.is_quarantined:
            raise RefusedError(f"site {node.site} is quarantined")
        session_id, objects = node.landed
        if head.session_id == session_id and head.object_id in objects:
            return 200, fleet.stored()  # the answer to an earlier call was lost
        it = node.pushing(head.run_id, head.object_id)
        if it.pending and head.object_id not in it.pending and head.session_id == it.session_id:
            return 200, fleet.stored()
        if head.size_bytes > self._config.object_mib * MIB:
            raise RefusedError(f"an object of {head.size_bytes} bytes, at most {self._config.object_mib} MiB are taken")
        if it.reply_bytes + head.size_bytes > self._config.reply_mib * MIB:
            raise RefusedError(f"a reply of more than {self._config.reply_mib} MiB")
        content = _exactly(head.size_bytes, pieces)
        session_id = it.session_id or head.session_id
        session_id = "" if session_id == fleet.ANY_SESSION else session_id
        sent = fleet.Object(head.run_id, session_id, head.object_id, head.size_bytes)
        start, is_slow = await _begin(content, head.size_bytes)
        with contextlib.ExitStack() as ends:
            whole = _chain(start, content)
            if is_slow:
                file = ends.enter_context(tempfile.TemporaryFile(dir=self._spool))
                async for piece in whole:
                    file.write(piece)
                file.seek(0)
                whole = _read(file)
            status, body = await self._superlink.push(node.node_id, sent, whole, node.signature, head.headers)
        self._counters.add(node.site, head.run_id, up=head.size_bytes)
        if status == 200 and fleet.was_stored(body):
            it.reply_bytes += head.size_bytes
            it.pending.discard(head.object_id)
            if not it.pending:
                self._land(node, it)
        self._check_clock(status, head.signature)
        return status, body

    def _land(self, node: Node, it: Delivery) -> None:
        self._nodes.land(node, it)
        self.notices.landed(it.run_id, it.message_id)

    async def pull(self, node: Node, call: link.FleetCall) -> AsyncIterator[tuple[int, int, bytes]]:
        """A large answer piece by piece, each with HTTP's status and the size of all of them in bytes.

        Raises:
            RefusedError: If what is asked for belongs to no message of this node.
        """
        request = self._admit(node, call, fleet.STREAMED)
        if call.method == "pull-object":
            node.check_pull(request.run_id, request.object_id)
        else:
            node.check_run(request.run_id)
        if call.method == "pull-object":
            fetch = functools.partial(self._fetch, call)
            is_its_own = request.object_id in node.deliveries  # the message itself: no other site gets it
            fetched = await (fetch() if is_its_own else self._pieces.get(request.run_id, request.object_id, fetch))
            if (content := fetched.content) is not None:
                self._check_clock(fetched.status, call.signature)
                self._end_run(node, request.run_id, fetched.status)
                with self._pieces.held(request.run_id, request.object_id, content):
                    for start in range(0, max(1, len(content)), PIECE_BYTES):
                        piece = content[start : start + PIECE_BYTES]
                        self._counters.add(node.site, request.run_id, down=len(piece))
                        yield fetched.status, len(content), piece
                return
        async with self._superlink.pull(call.method, call.body, call.signature, call.headers) as (status, size, pieces):
            self._check_clock(status, call.signature)
            self._end_run(node, request.run_id, status)
            if size == 0:
                yield status, 0, b""
            async for piece in pieces:
                self._counters.add(node.site, request.run_id, down=len(piece))
                yield status, size, piece

    async def _fetch(self, call: link.FleetCall) -> Fetched:
        """An object, waited for if the ServerApp is still uploading it: sent away, a SuperNode would sleep a second."""
        until, pause_s = time.monotonic() + PULL_HOLD_S, PULL_PAUSE_S
        while True:
            async with self._superlink.pull(call.method, call.body, call.signature, call.headers) as answer:
                status, size, pieces = answer
                if size > LONGEST_BYTES:
                    return Fetched(status, None)
                body = b"".join([piece async for piece in pieces])
            is_early = status == 200 and size <= fleet.NO_CONTENT_BYTES and fleet.is_awaited(body)
            if not is_early or time.monotonic() > until:
                return Fetched(status, body)
            await asyncio.sleep(pause_s)
            pause_s *= PULL_GROWTH

    def _end_run(self, node: Node, run_id: int, status: int) -> None:
        if status == RUN_IS_OVER:  # a message of it must not be given again
            for it in [it for it in node.deliveries.values() if it.run_id == run_id]:
                self._nodes.drop(node, it)

    async def _ask(self, node: Node) -> Asked:
        """Ask SuperLink for a node's mail and write down what it gives, before anybody can lose it."""
        if node.is_quarantined:
            return Asked(200, b"")
        status, body = await self._superlink.call("pull-messages", fleet.pull_messages(node.node_id), node.signature)
        mail = fleet.mail(body) if status == 200 else None
        if mail is None:
            return Asked(status, body)
        self._nodes.deliver(node, mail, body)
        return Asked(status, body, has_mail=True, is_noticed=self.notices.is_noticed(mail.run_id))

    async def _beat(self, node: Node, interval_s: float) -> bool:
        body = fleet.heartbeat(node.node_id, interval_s)
        status, _ = await self._superlink.call("send-node-heartbeat", body, node.signature)
        return status == 200

    async def _end(self, node: Node) -> None:
        log.info("site %s is silent, so its node is offline", node.site)
        await self._superlink.call("deactivate-node", fleet.deactivate(node.node_id), node.signature)

    def _check_clock(self, status: int, signature: link.Signature) -> None:
        if status != 401:
            return
        try:
            signed_at = datetime.datetime.fromisoformat(signature.timestamp)
            ahead_s = (signed_at - datetime.datetime.now(datetime.UTC)).total_seconds()
        except (ValueError, TypeError):
            raise RefusedError("SuperLink refused the node's signature") from None
        raise RefusedError(
            f"SuperLink refused the node's signature, made {-ahead_s:.0f} s ago by our clock: are both right?"
        )


async def _exactly(size_bytes: int, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces, if they are as many bytes as was said."""
    left = size_bytes
    async for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise RefusedError(f"an object of {size_bytes} bytes has more than that")
        if piece:
            yield piece
    if left:
        raise RefusedError(f"an object of {size_bytes} bytes ended {left} bytes early")


async def _begin(pieces: AsyncIterator[bytes], size_bytes: int) -> tuple[list[bytes], bool]:
    """The first pieces, and whether the rest will take long at the rate at which they came."""
    start: list[bytes] = []
    began, got = time.monotonic(), 0
    async for piece in pieces:
        start.append(piece)
        got += len(piece)
        if got >= AHEAD_BYTES:
            break
    taken_s = time.monotonic() - began
    return start, bool(got) and taken_s * (size_bytes - got) / got > SLOW_S


async def _chain(start: list[bytes], rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    for piece in start:
        yield piece
    async for piece in rest:
        yield piece


async def _read(file: Any) -> AsyncIterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        yield piece


async def _one(content: bytes) -> AsyncIterator[bytes]:
    yield content
