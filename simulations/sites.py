"""Simulated sites as the engine's port: who is online, when each reply lands, and what is in it.

When a request goes out, the world says for each site how long its reply is under way and whether it comes at all.
Replies are made only when their turn comes, some at a time and in the order in which they land, so memory holds a
few of them whatever the cohort, and a site that the engine no longer waits for never trains.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import operator
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from fl.arrays import ArrayFile
from fl.rounds.port import Failure, Reply, Request
from fl.tasks.base import Site
from simulations.clock import VirtualTime
from simulations.engine.work import Executor, Job, Model


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """What becomes of one request at one site.

    Attributes:
        seconds: Until the reply lands, in simulated time; infinite if it never does.
        failure: What the site answers instead of a result.
        facts: For the reply's report: seconds, bytes, joules, device, ….
    """

    seconds: float = 0.0
    failure: Failure | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class World(Protocol):
    """Who the sites are, how fast, how reliable and how honest."""

    def online(self, now_s: float) -> Sequence[str]:
        """Sites that could be asked at a moment, sorted."""
        ...

    def site(self, name: str) -> Site:
        """A site and its data."""
        ...

    def trip(self, name: str, request: Request, *, down_bytes: int, up_bytes: int, now_s: float) -> Trip:
        """What becomes of a request that goes out now."""
        ...

    def disguise(self, reply: Reply) -> Reply:
        """What a site sends in place of its honest reply."""
        ...


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class _Asked:
    lands_s: float
    site: str
    request: Request = dataclasses.field(compare=False)
    payload: bytes = dataclasses.field(compare=False)
    trip: Trip = dataclasses.field(compare=False)


class SimulatedSites:
    """The port to sites inside this process.

    Args:
        world: Who they are and how they fare.
        alone: Does what isn't training: one job after the other.
        choose: Gives what does the rest of the work, when the first of it is there: its jobs and the model.
        time: Simulated time; without it replies land as soon as they are made.
    """

    def __init__(
        self,
        world: World,
        alone: Executor,
        choose: Callable[[Sequence[Job], Model], Executor],
        time: VirtualTime | None = None,
    ) -> None:
        self.world, self._time = world, time
        self._alone, self._choose = alone, choose
        self._chosen: Executor | None = None
        self._request: Request | None = None
        self._model: Model | None = None
        self._waiting: deque[_Asked] = deque()
        self._under_way: deque[_Asked] = deque()
        self._results: Iterator[Reply] = iter(())
        self._late: list[_Asked] = []

    def online(self) -> Sequence[str]:
        """Those who are there at this hour."""
        return self.world.online(self._now_s)

    def ask(
        self,
        sites: Sequence[str],
        request: Request,
        model: ArrayFile | None,
        payloads: Mapping[str, bytes] | None = None,
    ) -> None:
        """Send the sites on their trips; the model is copied, because its file is closed before replies are taken."""
        self._end_request()
        self._request = request
        self._model = Model(model.layout, model.vector_P.copy()) if model else None
        down_bytes = self._model.layout.size_bytes if self._model else 0
        up_bytes = down_bytes if request.phase == "train" or request.stage == "mask" else 0
        payloads = payloads or {}
        if request.stage == "forget":  # nobody waits for it
            jobs = [Job(self.world.site(site), request, payloads.get(site, b"")) for site in sites]
            deque(self._alone.execute(jobs, None), maxlen=0)
            return
        asked = []
        for site in sites:
            payload = payloads.get(site, b"")
            trip = self.world.trip(
                site,
                request,
                down_bytes=down_bytes + len(payload),
                up_bytes=up_bytes,
                now_s=self._now_s,
            )
            if math.isfinite(trip.seconds):
                asked.append(_Asked(self._now_s + trip.seconds, site, request, payload, trip))
        self._waiting.extend(sorted(asked, key=operator.attrgetter("lands_s", "site")))  # as they compare, but sooner

    def replies(self, timeout_s: float) -> Iterator[Reply]:
        """What lands within the time-out, in order; simulated time goes on to each reply, or to the time-out's end."""
        until_s, is_silent = self._now_s + timeout_s, True
        while (lands_s := self._next_s()) <= until_s:
            if self._time:
                self._time.advance(lands_s)
            is_silent = False
            yield self._take()
        if self._time and is_silent:
            self._time.advance(until_s)

    def close(self) -> None:
        """End what does the work."""
        self._end_request()
        self._alone.close()
        if self._chosen:
            self._chosen.close()

    @property
    def _now_s(self) -> float:
        return self._time.now_s if self._time else 0.0

    def _next_s(self) -> float:
        """When the next reply lands, infinite if none is under way."""
        current = self._under_way or self._waiting
        return min(current[0].lands_s if current else math.inf, self._late[0].lands_s if self._late else math.inf)

    def _take(self) -> Reply:
        """The next reply; one that nobody waits for any more has nothing in it."""
        current = self._under_way or self._waiting
        if self._late and (not current or self._late[0] < current[0]):
            asked = heapq.heappop(self._late)
            return Reply(site=asked.site, request=asked.request)
        if not self._under_way:
            self._begin_next()
        asked = self._under_way.popleft()
        if asked.trip.failure:
            return Reply(site=asked.site, request=asked.request, failure=asked.trip.failure)
        reply = self.world.disguise(next(self._results))
        return dataclasses.replace(reply, report={**reply.report, **asked.trip.facts}) if asked.trip.facts else reply

    def _begin_next(self) -> None:
        """Begin with as many of the waiting as are best done at once."""
        executor, number = self._executor(), 0
        while self._waiting and number < executor.chunk:
            number += self._waiting[0].trip.failure is None
            self._under_way.append(self._waiting.popleft())
        self._results = iter(executor.execute(self._jobs(self._under_way), self._model))

    def _executor(self) -> Executor:
        """Who does the work of this request."""
        if self._model is None or self._request is None or self._request.phase == "initialise":
            return self._alone
        if self._chosen is None:
            self._chosen = self._choose(self._jobs(self._waiting), self._model)
        return self._chosen

    def _jobs(self, asked: Sequence[_Asked]) -> list[Job]:
        return [Job(self.world.site(it.site), it.request, it.payload) for it in asked if it.trip.failure is None]

    def _end_request(self) -> None:
        """Nobody waits for what is left of the last request: it lands late, without having been made."""
        if close := getattr(self._results, "close", None):
            close()
        self._results = iter(())
        if self._time:
            for asked in (*self._under_way, *self._waiting):
                heapq.heappush(self._late, asked)
        self._under_way.clear()
        self._waiting.clear()
