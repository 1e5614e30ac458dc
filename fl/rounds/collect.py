"""Collecting the updates of an attempt: ask who has not answered yet, put on disk what lands."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Protocol

from fl.arrays import Layout
from fl.rounds import checkpoint, events, spool
from fl.rounds.checkpoint import Folding
from fl.rounds.exchange import Exchange
from fl.rounds.port import Reply, Request

log = logging.getLogger(__name__)

WANTED = "the wanted number of sites had answered"


@dataclasses.dataclass(frozen=True, slots=True)
class Collected:
    """How an attempt ended: why, in words, and whose updates there are."""

    because: str
    survivors: tuple[str, ...]


class Collecting(Protocol):
    """One way to collect."""

    def left_out(self, number: int, sites: Sequence[str]) -> Mapping[str, str]:
        """Which of these sites are not to be asked in a round, and why."""
        ...

    def __call__(self, opened: events.RoundOpened, *, resumed: bool) -> Collected:
        """Collect until the attempt is over.

        Args:
            opened: The attempt.
            resumed: Whether an earlier process of the server began it.
        """
        ...


class PlainCollecting:
    """Each site's update as it is: the server sees it, so that any strategy can fold it."""

    def __init__(self, exchange: Exchange, folding: Folding) -> None:
        self.exchange, self.folding, self.journal = exchange, folding, exchange.journal

    def left_out(self, number: int, sites: Sequence[str]) -> Mapping[str, str]:
        """None of them."""
        return {}

    def __call__(self, opened: events.RoundOpened, *, resumed: bool) -> Collected:
        """See ``Collecting``."""
        because = self._collect(opened)
        return Collected(because, tuple(sorted(self.journal.state.round(opened.round).landed)))

    def _collect(self, opened: events.RoundOpened) -> str:
        """Ask whom the journal has no answer of, and return why the attempt is over."""
        entry = self.journal.state.round(opened.round)
        request = Request(
            phase="train",
            round=opened.round,
            attempt=opened.attempt,
            seed=opened.seed,
            options=self.folding.site_options(),
            cohort=len(opened.cohort),
        )
        asked = {site for site in opened.cohort if site not in entry.landed and site not in entry.failed}
        log.info("round %d: asking %d of %d sites", opened.round, len(asked), len(opened.cohort))
        with checkpoint.open_model(self.journal) as model:
            layout = model.layout
            if asked:
                self.exchange.sites.ask(sorted(asked), request, model)
        if len(entry.landed) >= opened.wanted:
            return WANTED
        window, linger_s = self.exchange.window(opened.deadline_s), self.exchange.config.linger_s
        for reply, waited_s in self.exchange.replies(request, asked, window):
            self.exchange.take(reply, waited_s, partial(self._land, layout, waited_s))
            if len(entry.landed) >= opened.wanted:
                return WANTED
            if len(entry.landed) >= opened.quorum and linger_s is not None:
                window.end_after(linger_s)
        if asked <= entry.landed.keys() | entry.failed.keys():
            return "every site had answered"
        return "the quorum had answered" if window.shortened else f"the deadline of {opened.deadline_s:g} s had passed"

    def _land(self, layout: Layout, waited_s: float, reply: Reply) -> None:
        """Put one update on disk, then into the journal."""
        request = reply.request
        if reply.num_examples <= 0:
            raise spool.UnusableError("no_examples", f"{reply.num_examples} examples were trained on")
        digest = spool.land(self.journal, request.round, reply.site, reply.arrays or {}, layout)
        self.journal.append(
            events.UpdateLanded(
                round=request.round,
                attempt=request.attempt,
                site=reply.site,
                digest=digest,
                num_examples=reply.num_examples,
                metrics=dict(reply.metrics),
                report=dict(reply.report),
                size_bytes=layout.size_bytes,
                waited_s=waited_s,
            )
        )
