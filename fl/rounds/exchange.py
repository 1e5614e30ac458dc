"""Asking sites and waiting for them: within a window of time, one reply at a time, whatever they answer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import TypeVar

from fl.errors import TooFewSitesError
from fl.rounds import cohort, events
from fl.rounds.config import RoundConfig
from fl.rounds.journal import Clock, Journal
from fl.rounds.port import Reply, Request, Sites
from fl.rounds.spool import UnusableError

T = TypeVar("T")

log = logging.getLogger(__name__)


class Window:
    """The time in which replies are taken, on the monotonic clock."""

    def __init__(self, clock: Clock, length_s: float) -> None:
        self._clock, self._opened = clock, clock.monotonic()
        self._closes = self._opened + length_s
        self.shortened = False

    @property
    def passed_s(self) -> float:
        """Seconds since it was opened."""
        return round(self._clock.monotonic() - self._opened, 3)

    @property
    def left_s(self) -> float:
        """Seconds until it closes, never below 0."""
        return max(0.0, self._closes - self._clock.monotonic())

    def end_after(self, seconds: float) -> None:
        """Close it so many seconds from the first call, if that is sooner."""
        if not self.shortened and seconds < self.left_s:
            self._closes = self._clock.monotonic() + seconds
            self.shortened = True


class Exchange:
    """Requests and replies between the engine and the sites, written down where they fail or are late.

    Args:
        journal: The run's.
        sites: The port to the sites.
        config: The ``[round]`` table.
        minimum: The fewest updates that the strategy can fold.
    """

    def __init__(self, journal: Journal, sites: Sites, config: RoundConfig, *, minimum: int) -> None:
        self.journal, self.sites, self.config, self.minimum = journal, sites, config, minimum
        self._only = frozenset(config.sites)

    def window(self, length_s: float) -> Window:
        """A window that opens now."""
        return Window(self.journal.clock, length_s)

    def online(self) -> Sequence[str]:
        """The sites that could be asked now, sorted; those that the run is not for are left out."""
        online = self.sites.online()
        return [site for site in online if site in self._only] if self._only else online

    def await_sites(
        self,
        purpose: str,
        *,
        returning: Collection[str] = (),
        without: Callable[[Sequence[str]], Mapping[str, str]] = lambda sites: {},
    ) -> Sequence[str]:
        """The sites online, as soon as there are enough of them.

        Args:
            purpose: What they are needed for, for messages.
            returning: Sites that were there a moment ago; they are waited for up to ``round.rejoin_s``.
            without: Which of the sites online do not count, and why.

        Raises:
            TooFewSitesError: If there are too few for longer than ``round.wait_s``.
        """
        window, told = self.window(self.config.wait_s), False
        while True:
            present = self.online()
            left_out = without(present)
            online = [site for site in present if site not in left_out] if left_out else present
            needed = cohort.needed(self.config, len(online), minimum=self.minimum)
            expected = [site for site in returning if site not in present]
            if len(online) >= needed and (not expected or window.passed_s >= self.config.rejoin_s):
                return online
            if len(online) < needed and not window.left_s:
                reasons = "".join(f"; without {site}: {reason}" for site, reason in sorted(left_out.items())[:1])
                raise TooFewSitesError(
                    f"{purpose}: {len(online)} sites online, {needed} needed, after {window.passed_s:.0f} s{reasons}",
                    hint="bring sites back, then fl run resume; or raise round.wait_s for the next run",
                )
            if not told:
                log.info("%s: waiting for %s", purpose, ", ".join(expected) or f"{needed - len(online)} more sites")
                told = True
            self.journal.clock.sleep(self.journal.clock.poll_s)

    def replies(self, request: Request, asked: Collection[str], window: Window) -> Iterator[tuple[Reply, float]]:
        """The replies to a request as they land, with how long they took, until all have or the window closes.

        Replies to earlier requests are recorded as late; a second reply of a site is ignored.
        """
        waiting = set(asked)
        while waiting and window.left_s > 0:
            for reply in self.sites.replies(min(self.journal.clock.poll_s, window.left_s)):
                earlier = reply.request
                if earlier.stage == "forget":
                    continue  # nobody waits for it
                if earlier is not request and earlier != request:
                    self.journal.append(events.ReplyLate(round=earlier.round, phase=earlier.phase, site=reply.site))
                elif reply.site in waiting:
                    waiting.discard(reply.site)
                    yield reply, window.passed_s

    def take(self, reply: Reply, waited_s: float, use: Callable[[Reply], T]) -> T | None:
        """Use a reply; record a failed or unusable one with its reason instead, and go on."""
        failure = reply.failure
        if failure is None:
            try:
                return use(reply)
            except UnusableError as err:
                failure = err.failure
        request = reply.request
        log.warning("round %d: %s left out: %s", request.round, reply.site, failure.reason)
        self.journal.append(
            events.ReplyFailed(
                round=request.round,
                attempt=request.attempt,
                phase=request.phase,
                site=reply.site,
                code=failure.code,
                reason=failure.reason,
                waited_s=waited_s,
            )
        )
        return None
