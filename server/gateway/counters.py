"""Bytes and calls per site and run, kept in memory and handed to the registry now and then."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(slots=True)
class Count:
    """What a site sent and got in one run; run 0 stands for calls that belong to none."""

    up_bytes: int = 0
    down_bytes: int = 0
    calls: int = 0


class Counters:
    """Counts since the last ``drain``, and sums since the start."""

    def __init__(self) -> None:
        self.total = Count()
        self.refused = 0
        """Calls that were refused."""
        self._counts: dict[tuple[str, int], Count] = {}

    def add(self, site: str, run_id: int, *, up: int = 0, down: int = 0, calls: int = 0) -> None:
        """Count bytes and calls of a site."""
        for count in (self._counts.setdefault((site, run_id), Count()), self.total):
            count.up_bytes += up
            count.down_bytes += down
            count.calls += calls

    def drain(self, write: Callable[..., None], *, only_runs: bool = False) -> None:
        """Hand over what was counted, with the arguments of ``Centre.count``; those of no run can wait for later."""
        counts, self._counts = self._counts, {}
        for (site, run_id), count in counts.items():
            if only_runs and run_id == 0:
                self._counts[site, run_id] = count
                continue
            write(site, run_id, up=count.up_bytes, down=count.down_bytes, calls=count.calls)
