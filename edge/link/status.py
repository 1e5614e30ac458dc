"""How the link is: for the owner (``status.json``, ``fl site status``), for probes, and for the centre."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from edge.home import Home, SiteFile
from edge.link import certificate
from edge.link.centre import Centre
from edge.link.channel import LostError
from edge.link.outbox import Outbox
from fl.errors import FLError
from fl.files import write_atomic
from fl.link import link_pb2
from fl.link.identity import clock_words
from fl.link.report import Refused, SiteReport

VERSION = 1
WRITE_EVERY_S, REPORT_EVERY_S, TICK_S = 30.0, 60.0, 1.0
REFUSALS_KEPT = 50
TOLD_AT_ONCE = ("state", "waits_for", "gateway", "refused", "message", "run_id", "clock", "certificate_ends_s")


class Status:
    """Gathers what there is to say.

    Args:
        home: The site's.
        site: Who it is.
        centre: The way to the centre.
        outbox: Replies on their way.
        facts: What the probe found.
    """

    def __init__(
        self, home: Home, site: SiteFile, centre: Centre, outbox: Outbox, *, facts: Mapping[str, Any] | None = None
    ) -> None:
        self.home, self.site, self.centre, self.outbox = home, site, centre, outbox
        self.facts = dict(facts or {})
        self.run_id = 0
        """The run of the message that was delivered last and is not answered yet; 0 without one."""
        self.node_seen_s = 0.0
        """When the SuperNode last called, by the wall clock."""
        self.started_s = time.time()
        self._refused: dict[str, Refused] = {}
        self._changed = asyncio.Event()

    def refuse(self, reason: str, run_id: int) -> None:
        """Count a refusal."""
        before = self._refused.pop(reason, None)
        self._refused[reason] = Refused(
            reason=reason, count=(before.count if before else 0) + 1, last_s=time.time(), run_id=run_id
        )
        while len(self._refused) > REFUSALS_KEPT:
            del self._refused[next(iter(self._refused))]
        self.change()

    def change(self) -> None:
        """Say that something changed that others want to know soon."""
        self._changed.set()

    def waits_for(self) -> str:
        """What the site waits for, in words; empty if it works or is ready to."""
        channel = self.centre.channel
        if channel.refused:
            return f"the centre to let it in: {channel.refused}"
        if channel.words:
            return f"the centre: {channel.words}"
        policy = self.centre.limits.policy
        policy.now()
        if policy.error:
            return f"a policy file that can be used: {policy.error}"
        closed = self.centre.limits.closed()
        if closed:
            return f"the owner's limits: {closed}"
        if self.outbox.waiting:
            return f"{self.outbox.size_bytes >> 10} KiB of replies to reach the centre"
        if time.time() - self.node_seen_s > 60:
            return "the SuperNode to call"
        return ""

    def as_dict(self) -> dict[str, Any]:
        """Everything, as in ``status.json``. Times are seconds since 1970 by the site's clock."""
        channel, limits = self.centre.channel, self.centre.limits
        usage, now = limits.usage, channel.connection
        ends_s = certificate.ends_s(self.home)
        today = usage.today()
        return {
            "version": VERSION,
            "site": self.site.id,
            "pid": os.getpid(),
            "at_s": time.time(),
            "started_s": self.started_s,
            "state": "refused" if channel.refused else "connected" if now else "away",
            "waits_for": self.waits_for(),
            "gateway": now.address if now else None,
            "connected_since_s": now.since_s if now else None,
            "last_contact_s": channel.last_contact_s or None,
            "message": channel.message,
            "clock": clock_words(-channel.clock_offset_s),
            "clock_offset_s": round(channel.clock_offset_s, 3),
            "certificate_ends_s": ends_s,
            "node_seen_s": self.node_seen_s or None,
            "run_id": self.run_id or None,
            "outbox": {
                "replies": len(self.outbox.waiting),
                "bytes": self.outbox.size_bytes,
                "sent": self.outbox.sent,
                "given_up": self.outbox.given_up,
            },
            "today": {"up_bytes": today.up_bytes, "down_bytes": today.down_bytes, "gpu_s": round(today.gpu_s, 1)},
            "bytes_left": usage.bytes_left(),
            "gpu_left_s": usage.gpu_left_s(),
            "refused": [
                {"reason": it.reason, "count": it.count, "last_s": it.last_s, "run_id": it.run_id}
                for it in self._refused.values()
            ],
            "facts": self.facts,
        }

    def report(self) -> SiteReport:
        """What the centre is told."""
        usage = self.centre.limits.usage
        return SiteReport(
            waits_for=self.waits_for(),
            run_id=self.run_id,
            outbox_bytes=self.outbox.size_bytes,
            refused=tuple(self._refused.values()),
            given_up=tuple(self.outbox.given_up),
            bytes_left=usage.bytes_left(),
            gpu_left_s=usage.gpu_left_s(),
            certificate_ends_s=certificate.ends_s(self.home),
            facts=self.facts,
        )

    async def write_forever(self) -> None:
        """Keep ``status.json`` true until cancelled."""
        before, wrote_at = "", 0.0
        while True:
            self.centre.limits.flush()
            said = self.as_dict()
            shape = json.dumps(
                {key: said[key] for key in ("state", "waits_for", "gateway", "refused", "message", "run_id")}
            )
            if shape != before or time.monotonic() - wrote_at > WRITE_EVERY_S:
                with contextlib.suppress(FLError):  # a full disk is told by what waits for it
                    write_atomic(self.home.status, json.dumps(said, indent=2, ensure_ascii=False), mode=0o600)
                if shape != before:
                    self.change()
                before, wrote_at = shape, time.monotonic()
            await asyncio.sleep(TICK_S)

    async def report_forever(self) -> None:
        """Tell the centre until cancelled: when something changed, and every minute."""
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), REPORT_EVERY_S)
            self._changed.clear()
            try:
                async with self.centre.channel.calling() as stub:
                    answer = await stub.Report(link_pb2.SiteReport(json=self.report().to_json()), timeout=15)
                    self.centre.channel.heard(answer)
            except LostError:
                self.change()
            except FLError:
                pass
            await asyncio.sleep(TICK_S)  # changes that come together are told together


def read(home: Home) -> dict[str, Any] | None:
    """What the link last wrote; ``None`` if it wrote nothing that can be read."""
    try:
        said = json.loads(home.status.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) and said.get("version") == VERSION else None
