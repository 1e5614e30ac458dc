"""Holding a site's question for mail until there is some, whatever the number of sites that wait.

SuperLink has no way to wait: it says whether there is mail now. A ServerApp of ours tells the gateway whom it has
written to (``notices``), and exactly those nodes are asked for. For other apps the gateway asks by itself: often for
nodes that had mail a moment ago, rarely for idle ones, and all questions together stay within two rates, one for
idle nodes and one for busy ones.
"""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
from collections.abc import Awaitable, Callable, Iterable

from fl.errors import RefusedError
from server.gateway.config import GatewayConfig
from server.gateway.limits import Bucket
from server.gateway.nodes import Node

AT_ONCE = 8
"""Questions to SuperLink at the same time; it answers one at a time anyway."""

BUSY_S = 0.3
IDLE_S = 2.0
GROWTH = 1.5


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """What came of one question to SuperLink."""

    status: int
    body: bytes
    has_mail: bool = False
    is_noticed: bool = False
    """Whether the run of that mail has a ServerApp that tells whom it writes to."""


@dataclasses.dataclass(slots=True)
class _Plan:
    """When a node is asked for next; kept between its questions."""

    interval_s: float
    due: float


class Postbox:
    """The nodes that wait for mail.

    Args:
        config: Rates.
        ask: Asks SuperLink for a node's mail, writes down what it gives, and does not raise.
    """

    def __init__(self, config: GatewayConfig, ask: Callable[[Node], Awaitable[Asked]]) -> None:
        self._config, self._ask = config, ask
        self._waiting: dict[int, tuple[Node, asyncio.Future[Asked]]] = {}
        self._plans: dict[int, _Plan] = {}
        self._urgent: set[int] = set()
        self._asking: set[int] = set()
        self._due: list[tuple[float, int]] = []
        self._wake = asyncio.Event()
        self._idle = Bucket(config.polls_per_s, max(1.0, config.polls_per_s))
        self._busy = Bucket(config.busy_polls_per_s, max(1.0, config.busy_polls_per_s / 2))
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """How many nodes wait."""
        return len(self._waiting)

    @property
    def idle_s(self) -> float:
        """How often an idle node is asked for: less often the more there are."""
        return max(IDLE_S, len(self._waiting) / self._config.polls_per_s)

    async def wait(self, node: Node, hold_s: float) -> Asked:
        """A node's mail, or an empty answer after ``hold_s``.

        Raises:
            RefusedError: If the site is refused meanwhile.
        """
        before = self._waiting.pop(node.node_id, None)
        if before is not None and not before[1].done():
            before[1].set_result(Asked(200, b""))  # the same node asks again: nobody reads the earlier answer
        answer: asyncio.Future[Asked] = asyncio.get_running_loop().create_future()
        self._waiting[node.node_id] = (node, answer)
        # Who comes anew is asked for once, soon; what it had before may have been long ago.
        plan = self._plans.setdefault(node.node_id, _Plan(IDLE_S / GROWTH, self._now()))
        self._schedule(node.node_id, min(plan.due, self._now() + self.idle_s))
        self._wake.set()
        try:
            async with asyncio.timeout(hold_s):
                return await answer
        except TimeoutError:
            return Asked(200, b"")
        finally:
            if self._waiting.get(node.node_id, (None, None))[1] is answer:
                del self._waiting[node.node_id]

    def notice(self, node_ids: Iterable[int]) -> None:
        """These nodes have mail."""
        self._urgent.update(node_ids)
        self._wake.set()

    def quicken(self, node: Node) -> None:
        """A node answered a message, so the next one may come soon."""
        if plan := self._plans.get(node.node_id):
            plan.interval_s = BUSY_S

    def recheck(self, check: Callable[[Node], None]) -> None:
        """End the wait of nodes that are refused now."""
        for node, answer in list(self._waiting.values()):
            try:
                check(node)
            except RefusedError as err:
                if not answer.done():
                    answer.set_exception(err)

    async def run(self) -> None:
        """Ask SuperLink, until cancelled."""
        while True:
            self._wake.clear()
            pause_s = self._step()
            try:
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _step(self) -> float | None:
        """Start what is due; seconds until something else is, ``None`` if that is not known."""
        for node_id in [it for it in self._urgent if it in self._waiting and it not in self._asking]:
            if len(self._asking) >= AT_ONCE:
                return None  # woken when one is done
            self._start(node_id)
        now = self._now()
        while self._due:
            at, node_id = self._due[0]
            if node_id not in self._waiting or node_id in self._asking or self._plans[node_id].due != at:
                heapq.heappop(self._due)  # planned anew since, or when it waits again
                continue
            if at > now:
                return at - now
            if len(self._asking) >= AT_ONCE:
                return None
            bucket = self._busy if self._plans[node_id].interval_s < IDLE_S else self._idle
            if (delay_s := bucket.delay_s()) > 0:
                return delay_s
            bucket.take()
            heapq.heappop(self._due)
            self._start(node_id)
        return None

    def _schedule(self, node_id: int, due: float) -> None:
        self._plans[node_id].due = due
        heapq.heappush(self._due, (due, node_id))

    def _start(self, node_id: int) -> None:
        self._asking.add(node_id)
        task = asyncio.get_running_loop().create_task(self._one(node_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _one(self, node_id: int) -> None:
        try:
            node, answer = self._waiting[node_id]
            asked = await self._ask(node)
            self._learn(node_id, asked)
            # The one who waits may be another call of the same node by now, or nobody: what was written down as
            # delivered is then given to the next one.
            _, answer = self._waiting.get(node_id, (node, answer))
            if (asked.has_mail or asked.status not in (200, 503)) and not answer.done():
                answer.set_result(asked)
        finally:
            self._asking.discard(node_id)
            self._wake.set()

    def _learn(self, node_id: int, asked: Asked) -> None:
        now, plan = self._now(), self._plans[node_id]
        was_urgent = node_id in self._urgent
        self._urgent.discard(node_id)
        if asked.has_mail and asked.is_noticed:
            plan.interval_s = self.idle_s
        elif asked.has_mail:
            plan.interval_s = BUSY_S
            for other in self._waiting:  # who writes to one often writes to others
                if self._plans[other].due > now:
                    self._plans[other].interval_s = min(self._plans[other].interval_s, IDLE_S / GROWTH)  # once
                    self._schedule(other, now)
        elif was_urgent or asked.status != 200:  # SuperLink has it in a moment, or is away and may have lost it
            plan.interval_s = BUSY_S
        else:
            longer_s = plan.interval_s * GROWTH
            plan.interval_s = longer_s if longer_s < IDLE_S else self.idle_s
        self._schedule(node_id, now + plan.interval_s)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
