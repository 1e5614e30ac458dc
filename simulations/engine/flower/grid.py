"""Flower's Grid inside one process: what a ServerApp sends is run by nodes of this computer."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from flwr.app import Message, Metadata, RecordDict
from flwr.serverapp import Grid

from simulations.engine.flower import private
from simulations.engine.flower.client import Answer, Job
from simulations.engine.flower.private import SUPERLINK_NODE_ID, ErrorCode, NodeInfo, Run
from simulations.engine.flower.records import own_message
from simulations.engine.flower.turn import put_back

PULL_S = 1.0
"""How long ``pull_messages`` works, or waits for workers, if nothing is there: an app has a deadline of its own."""

INTERRUPTED_S = 0.5
"""How long to wait for workers in one piece; in a notebook, Ctrl-C reaches us between two."""

log = logging.getLogger("flwr")


class Carrier(Protocol):
    """Has jobs answered: one after the other (``here``), or by workers (``forked``)."""

    def submit(self, job: Job) -> None:
        """Take a job; jobs of one node are answered in this order."""
        ...

    def advance(self, timeout_s: float | None) -> list[Answer]:
        """Get on with the jobs for about this long, until there is an answer at least."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


@dataclasses.dataclass(slots=True)
class _Sent:
    """A message whose reply the ServerApp hasn't pulled yet."""

    metadata: Metadata
    reply: Message | None = None
    answered_at: float = math.inf

    def has_expired(self, now: float) -> bool:
        return _expires_at(self.metadata) <= now


class InProcessGrid(Grid):
    """Carries messages between a ServerApp and the nodes of this process.

    Args:
        run: The run.
        node_ids: All nodes, in the order of their partitions.
        carrier: What has messages answered.

    Guarantees:
        What an app gets shares nothing with what another has that either can write to. ``send_and_receive`` gives
        replies in the order of their messages, however many workers there are.
    """

    def __init__(self, run: Run, node_ids: range, carrier: Carrier) -> None:
        self._run = run
        self._node_ids = node_ids
        self._carrier = carrier
        self._sent: dict[str, _Sent] = {}
        self._serial = 0
        self._answered = 0
        self._told: set[tuple[str, ...]] = set()
        self._errors: dict[int, list[str]] = {}

    @property
    def answered(self) -> int:
        """How many messages have been answered."""
        return self._answered

    @property
    def errors(self) -> Mapping[int, list[str]]:
        """Reasons of error replies by partition, in the order in which they came."""
        return self._errors

    def set_run(self, run: Run) -> None:
        """Set the run, as Flower's grids let an app do."""
        if not isinstance(run, Run):
            raise TypeError(f"`run` must be an instance of Run, got {type(run).__name__}")
        self._run = run

    @property
    def run(self) -> Run:
        """The run, as a copy."""
        return copy.copy(self._run)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Make a message (deprecated in Flower, where ``Message(…)`` does it)."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """All nodes, in the order of their partitions."""
        return list(self._node_ids)

    def get_nodes(self) -> Iterator[NodeInfo]:
        """The same with what Flower says of a node; names and locations are empty."""
        return (NodeInfo(node_id=node_id) for node_id in self._node_ids)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send messages; what becomes of the caller's objects afterwards doesn't matter.

        Returns:
            Their numbers, for ``pull_messages``. A message that Flower would refuse has none, and a line in the log.

        Raises:
            ValueError: If a message is a reply, was delivered, or has no time to live.
        """
        pushed = []
        for message in messages:
            message_id = _message_id(self._serial)
            private.set_message_id(message, message_id)
            _check(message)
            if (problem := self._problem(message.metadata)) is not None:
                log.error(problem)
                continue
            self._sent[message_id] = _Sent(copy.copy(message.metadata))
            job = Job(self._serial, own_message(message))
            job.message.metadata.delivered_at = _now()
            self._serial += 1
            pushed.append(message_id)
            self._carrier.submit(job)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Replies that are there, in the order of their messages; for each that can't come any more, an error reply.

        In this process nodes work while somebody pulls; so this works for up to a second for what was asked for.
        """
        wanted = list(dict.fromkeys(message_ids))
        self._work(wanted, time.time() + PULL_S)
        return [reply for message_id in wanted if (reply := self._reply(message_id)) is not None]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and wait for their replies.

        Args:
            messages: What to send.
            timeout: Seconds after which what isn't there is left out; it can be pulled later. In this process the
                client whose turn it is ends its turn first.
        """
        message_ids = self.push_messages(messages)
        until = math.inf if timeout is None else time.time() + timeout
        self._work(message_ids, until)
        return [reply for message_id in message_ids if (reply := self._reply(message_id, until)) is not None]

    def _problem(self, metadata: Metadata) -> str | None:
        """Why Flower would refuse a message."""
        if metadata.dst_node_id not in self._node_ids:
            return f"Invalid destination node ID for Message: {metadata.dst_node_id}"
        if metadata.src_node_id != SUPERLINK_NODE_ID:
            return f"Invalid source node ID for Message: {metadata.src_node_id}"
        if metadata.run_id != self._run.run_id:
            return f"Invalid run ID for Message: {metadata.run_id}"
        return "Message TTL has expired" if _expires_at(metadata) <= time.time() else None

    def _work(self, message_ids: Iterable[str], until: float) -> None:
        """Have nodes work until these messages are answered or have expired, or the time is up."""
        waiting = {key for key in message_ids if (sent := self._sent.get(key)) and sent.reply is None}
        first_expiry = 0.0
        with put_back():
            while waiting and (now := time.time()) < until:
                if now >= first_expiry:
                    waiting = {key for key in waiting if not self._sent[key].has_expired(now)}
                    first_expiry = min((_expires_at(self._sent[key].metadata) for key in waiting), default=0.0)
                    continue
                for answer in self._carrier.advance(min(first_expiry - now, until - now, INTERRUPTED_S)):
                    self._settle(answer)
                    waiting.discard(_message_id(answer.serial))

    def _settle(self, answer: Answer) -> None:
        """Keep an answer until it is pulled; tell of an error once."""
        self._answered += 1
        message_id = _message_id(answer.serial)
        private.set_message_id(answer.reply, f"{message_id}-reply")
        sent = self._sent.get(message_id)
        if sent is None:  # the ServerApp was told that it has expired
            return
        sent.reply, sent.answered_at = answer.reply, time.time()
        if answer.failure:
            partition = self._note(sent, answer.reply.error.reason or "")
            if answer.failure.where not in self._told:
                self._told.add(answer.failure.where)
                log.error("partition %d raised (the same error of other partitions isn't shown):", partition)
                log.error(answer.failure.text)

    def _reply(self, message_id: str, until: float = math.inf) -> Message | None:
        """What a pull gives for a message: nothing yet, its reply, or SuperLink's word that there won't be one.

        Args:
            message_id: Its number.
            until: A reply that came later isn't there yet.
        """
        now = time.time()
        sent = self._sent.get(message_id)
        if sent is None:
            return self._unavailable(message_id)
        if sent.answered_at > until or (sent.reply is None and not sent.has_expired(now)):
            return None
        del self._sent[message_id]
        if sent.has_expired(now):
            self._note(sent, "no reply within the message's time to live")
            return self._unavailable(message_id, to=sent.metadata)
        assert sent.reply is not None
        if _expires_at(sent.reply.metadata) < now:
            self._note(sent, "the reply's time to live was over before it was pulled")
            return self._unavailable(message_id, ErrorCode.REPLY_MESSAGE_UNAVAILABLE, to=sent.metadata)
        sent.reply.metadata.delivered_at = _now()
        return sent.reply

    def _unavailable(
        self, message_id: str, code: int = ErrorCode.MESSAGE_UNAVAILABLE, *, to: Metadata | None = None
    ) -> Message:
        reason = "the message or its reply has expired, was pulled before, or never was"
        return private.error_reply(self._run.run_id, message_id, code, reason, to=to)

    def _note(self, sent: _Sent, reason: str) -> int:
        partition = sent.metadata.dst_node_id - self._node_ids.start
        self._errors.setdefault(partition, []).append(reason)
        return partition


def _message_id(serial: int) -> str:
    return f"{serial:064x}"


def _expires_at(metadata: Metadata) -> float:
    return metadata.created_at + metadata.ttl


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()


def _check(message: Message) -> None:
    metadata = message.metadata
    if metadata.reply_to_message_id or metadata.delivered_at or metadata.ttl <= 0:
        raise ValueError(f"Invalid message: {message}")
