"""Who is online, as SuperLink is told: few heartbeats for many sites, and a quick word when a site is lost.

SuperNodes send a heartbeat every 30 s. The gateway answers them, and itself tells SuperLink, with an interval that
grows with the number of nodes, so that SuperLink hears a bounded number each second. A node whose site has been
silent is deactivated with the newest signature that it sent, and its messages fail then instead of much later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from server.gateway.config import GatewayConfig
from server.gateway.limits import Bucket
from server.gateway.nodes import Node, Nodes

SHORTEST_S, LONGEST_S = 30.0, 900.0
"""Heartbeat intervals; Flower takes 10 to 1800 s and waits for two of them."""

PATIENCE = 2
SIGNATURE_S = 290.0
"""How long a signature is good for; Flower says 300 s."""

TICK_S = 1.0
AGAIN_S = 3.0


class Leases:
    """Keeps SuperLink's view of who is online.

    Args:
        config: Rates.
        nodes: All of them.
        beat: Sends a node's heartbeat with an interval in seconds; whether SuperLink took it.
        end: Deactivates a node.
    """

    def __init__(
        self,
        config: GatewayConfig,
        nodes: Nodes,
        beat: Callable[[Node, float], Awaitable[bool]],
        end: Callable[[Node], Awaitable[None]],
    ) -> None:
        self._config, self._nodes, self._beat, self._end = config, nodes, beat, end
        self._bucket = Bucket(config.heartbeats_per_s, 4 * config.heartbeats_per_s)

    @property
    def interval_s(self) -> float:
        """Seconds between two heartbeats of one node."""
        return min(LONGEST_S, max(SHORTEST_S, len(self._nodes) / self._config.heartbeats_per_s))

    def activated(self, node: Node) -> None:
        """SuperLink took a node's activation or heartbeat with the present interval."""
        now = time.monotonic()
        node.has_left = False
        node.online_until = now + PATIENCE * self.interval_s
        node.renew_at = now + self.interval_s

    async def run(self) -> None:
        """Look after the leases, until cancelled."""
        while True:
            await asyncio.sleep(TICK_S)
            await self.tick()

    async def tick(self) -> None:
        """Look at each node once."""
        for node in list(self._nodes):
            await self._look_after(node)

    async def _look_after(self, node: Node) -> None:
        now = time.monotonic()
        is_present = node.calls > 0 or now - node.contact_at < self._config.lost_after_s
        can_sign = now - node.signed_at < SIGNATURE_S
        is_online = node.online_until > now
        if is_online and can_sign and (not is_present or node.is_quarantined):
            await self._end(node)
            node.online_until = float("-inf")
        elif is_present and can_sign and not node.has_left and not node.is_quarantined and node.renew_at <= now:
            if self._bucket.delay_s() > 0:
                return
            self._bucket.take()
            if await self._beat(node, self.interval_s):
                self.activated(node)
            else:
                node.renew_at = now + AGAIN_S
