"""Sites inside this process: the same engine, journal, strategies and local training as deployment, no network.

One site trains after the other, each when its reply is taken, so memory holds one model at a time. A site's seed is
derived as it is at a deployed site, so both give the same model for one seed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

from fl.arrays import ArrayFile, Arrays
from fl.rounds.port import Reply, Request
from fl.rounds.site import Worker


class InProcessSites:
    """The port to sites that train right here.

    Args:
        workers: Sites at work, by id.
    """

    def __init__(self, workers: Mapping[str, Worker]) -> None:
        self.workers = workers
        self._asked: deque[tuple[str, Request, Arrays | None, bytes]] = deque()

    def online(self) -> Sequence[str]:
        """All of them."""
        return sorted(self.workers)

    def ask(
        self,
        sites: Sequence[str],
        request: Request,
        model: ArrayFile | None,
        payloads: Mapping[str, bytes] | None = None,
    ) -> None:
        """Note who is asked; the model is copied, because its file is closed before the replies are taken."""
        arrays = {name: array.copy() for name, array in model.arrays().items()} if model else None
        self._asked.extend((site, request, arrays, (payloads or {}).get(site, b"")) for site in sites)

    def replies(self, timeout_s: float) -> Iterable[Reply]:
        """Train or evaluate at the next site, and return its reply."""
        if self._asked:
            site, request, arrays, payload = self._asked.popleft()
            yield self.workers[site].answer(request, arrays, payload)
