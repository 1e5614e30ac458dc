"""What each site's node may do now: which messages it has, and what it may answer.

Pure bookkeeping: who calls and what SuperLink says comes from outside.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

from fl.errors import RefusedError
from fl.link import link_pb2 as link
from server.gateway import fleet
from server.gateway.ledger import Delivery, Ledger
from server.sites import Admitted

MOST_GIVEN = 3
"""How often a message is given again that the node never confirms."""


@dataclasses.dataclass(slots=True)
class Node:
    """One site's node."""

    site: str
    node_id: int
    """0 until it is registered at SuperLink."""
    public_key: bytes
    certificate: bytes = b""
    """DER, of its last call."""
    signature: link.Signature = dataclasses.field(default_factory=link.Signature)
    """The newest that its calls have brought; valid for 300 s."""
    signed_at: float = float("-inf")
    contact_at: float = float("-inf")
    """Monotonic time of its last call."""
    calls: int = 0
    """Calls that are being answered."""
    online_until: float = float("-inf")
    """Monotonic time until which SuperLink takes it for online, as far as we know."""
    renew_at: float = 0.0
    """Monotonic time at which SuperLink should hear of it again."""
    has_left: bool = False
    """Whether it said goodbye."""
    is_quarantined: bool = False
    instance: str = ""
    """Of the site's link."""
    deliveries: dict[str, Delivery] = dataclasses.field(default_factory=dict)
    landed: tuple[str, frozenset[str]] = ("", frozenset())
    """Session and objects of its last whole reply, for a site that did not hear that they arrived."""

    def sign(self, signature: link.Signature) -> None:
        """Keep a call's signature.

        Raises:
            RefusedError: If it was made with another key than this node's.
        """
        try:
            key = base64.b64decode(signature.public_key, validate=True)
        except (binascii.Error, ValueError) as err:
            raise RefusedError("the signature names no key") from err
        if key.strip() != self.public_key.strip():
            raise RefusedError(f"the key that signs is not the one of site {self.site}")
        self.signature, self.signed_at = signature, time.monotonic()

    def undelivered(self) -> Delivery | None:
        """A message that it was given and never confirmed: its answer was lost on the way."""
        for it in self.deliveries.values():
            if not it.is_confirmed and not it.reply_id and it.given < MOST_GIVEN and it.expires_s > time.time():
                return it
        return None

    def delivery(self, message_id: str) -> Delivery:
        """A message that it has not answered yet.

        Raises:
            RefusedError: If there is no such message.
        """
        it = self.deliveries.get(message_id)
        if it is None:
            raise RefusedError(f"message {message_id[:16]} was not delivered to site {self.site}, or is answered")
        return it

    def check_run(self, run_id: int) -> None:
        """Refuse what belongs to a run in which this node has no message."""
        if all(it.run_id != run_id for it in self.deliveries.values()):
            raise RefusedError(f"site {self.site} has no message of run {run_id}")

    def check_pull(self, run_id: int, object_id: str) -> None:
        """Refuse an object that belongs to no message of this node."""
        for it in self.deliveries.values():
            if it.run_id == run_id and any(object_id in ids for ids in it.objects):
                return
        raise RefusedError(f"object {object_id[:16]} belongs to no message of site {self.site}")

    def check_reply(self, reply: fleet.Reply) -> Delivery:
        """The message that a reply answers.

        Raises:
            RefusedError: If it is in another node's name, answers what this node was not given, or answers twice.
        """
        if reply.src_node_id != self.node_id:
            raise RefusedError(f"the reply names node {reply.src_node_id} as its source, which is not site {self.site}")
        it = self.delivery(reply.reply_to)
        if it.run_id != reply.run_id:
            raise RefusedError(f"the reply is of run {reply.run_id}, the message is of run {it.run_id}")
        if it.reply_id and it.reply_id != reply.message_id:
            raise RefusedError(f"message {it.message_id[:16]} has another reply already")
        return it

    def pushing(self, run_id: int, object_id: str) -> Delivery:
        """The message whose reply an object belongs to.

        Raises:
            RefusedError: If no reply of this node announced it.
        """
        for it in self.deliveries.values():
            if it.run_id == run_id and object_id in it.announced:
                return it
        raise RefusedError(f"no reply of site {self.site} has announced object {object_id[:16]}")


class Nodes:
    """All nodes that called since the gateway started, and what the ledger knows of them.

    Args:
        ledger: Where deliveries are kept.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._nodes: dict[str, Node] = {}
        self._earlier: dict[int, list[Delivery]] = {}
        for it in ledger.deliveries():
            self._earlier.setdefault(it.node_id, []).append(it)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def __len__(self) -> int:
        return len(self._nodes)

    def known(self) -> set[str]:
        """Ids of all messages that nodes have and have not answered."""
        mine = {message_id for node in self for message_id in node.deliveries}
        return mine | {it.message_id for earlier in self._earlier.values() for it in earlier}

    def of(self, admitted: Admitted, certificate: bytes) -> Node:
        """The node that is bound to a certificate's site."""
        node = self._nodes.get(admitted.site)
        if node is None or node.node_id != admitted.node_id or node.public_key != admitted.node_public_key:
            if node is not None:
                self.forget(node)
            node = Node(admitted.site, admitted.node_id, admitted.node_public_key)
            for it in self._earlier.pop(admitted.node_id, []):
                node.deliveries[it.message_id] = it
            self._nodes[admitted.site] = node
        node.certificate = certificate
        node.is_quarantined = admitted.state != "active"
        return node

    def forget(self, node: Node) -> None:
        """A node whose site is not let in any more, or has another one now."""
        for it in list(node.deliveries.values()):
            self.drop(node, it)
        self._nodes.pop(node.site, None)

    def deliver(self, node: Node, mail: fleet.Mail, body: bytes) -> Delivery:
        """Write down that a node gets a message; what it has already stays as it is."""
        if known := node.deliveries.get(mail.message_id):
            return known
        it = Delivery(mail.message_id, node.node_id, mail.run_id, mail.expires_s, mail.head, body)
        it.objects = fleet.objects_of(body)
        self._ledger.add(it)
        node.deliveries[it.message_id] = it
        return it

    def confirm(self, it: Delivery) -> None:
        """The site has all of a message."""
        if not it.is_confirmed:
            it.body, it.objects = None, ()
            self._ledger.confirm(it)

    def announce(self, it: Delivery, reply_id: str, session_id: str, wanted: Iterable[str]) -> None:
        """SuperLink knows of the reply and wants these objects."""
        wanted = frozenset(wanted)
        it.announced = it.announced | wanted
        it.pending = set(wanted)
        it.reply_id, it.session_id = reply_id, session_id
        it.body, it.objects = None, ()
        self._ledger.announce(it)

    def land(self, node: Node, it: Delivery) -> None:
        """The reply is whole."""
        node.landed = (it.session_id, frozenset(it.announced))
        self.drop(node, it)

    def drop(self, node: Node, it: Delivery) -> None:
        """Nobody waits for a reply any more."""
        node.deliveries.pop(it.message_id, None)
        self._ledger.remove(it)

    def sweep(self) -> None:
        """Drop what expired."""
        now = time.time()
        for node in self:
            for it in [it for it in node.deliveries.values() if it.expires_s < now]:
                with suppress(RefusedError):
                    self.drop(node, it)
