"""What the dashboard's pages cost at the server, over a store filled by ``tests/server/seeds.py``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from typing import Any

from benchmarks._control_api import room
from benchmarks._table import Row

FLEET_MS, FLEET_KB = 150.0, 200.0
RUN_MS = 250.0
HTML = {"accept": "text/html"}


def fleet_page_ms(quick: bool) -> Iterable[Row]:
    """The fleet with 1,000 sites, all in one page, and its size."""
    with room(1000, 20 if quick else 200, 100) as (made, client):
        _install(made)
        value, size, none = _took(client, "/", quick)
    met = value <= FLEET_MS and size <= FLEET_KB * 1000
    yield Row(
        "fleet_page_ms",
        value,
        "ms",
        none,
        f"{size / 1000:.0f} KB of HTML",
        f"≤ {FLEET_MS:.0f} ms and ≤ {FLEET_KB:.0f} KB with 1,000 sites",
        met,
    )


def run_page_ms(quick: bool) -> Iterable[Row]:
    """A run of 1,000 rounds of 100 sites: curves over all rounds, the newest 50 in the table, one as a timeline."""
    with room(200, 100 if quick else 1000, 100) as (made, client):
        _install(made)
        value, size, none = _took(client, "/runs/1", quick)
    yield Row(
        "run_page_ms",
        value,
        "ms",
        none,
        f"{size / 1000:.0f} KB of HTML",
        f"≤ {RUN_MS:.0f} ms with 1,000 rounds × 100 sites",
        value <= RUN_MS,
    )


def _install(made: Any) -> None:
    from server import web

    web.install(made.app)


def _took(client: Any, path: str, quick: bool) -> tuple[float, int, str]:
    """The median of a page, its size, and what a page costs that shows nothing."""
    sizes, times = [], {}
    for asked in (path, "/sites/none"):
        client.get(asked, headers=HTML)
        took = []
        for _ in range(5 if quick else 20):
            begun = time.perf_counter()
            answer = client.get(asked, headers=HTML)
            took.append(1000 * (time.perf_counter() - begun))
        assert answer.status_code == (404 if asked == "/sites/none" else 200), answer.text
        times[asked] = statistics.median(took)
        sizes.append(len(answer.content))
    return times[path], sizes[0], f"{times['/sites/none']:.1f} ms for a page that shows nothing"
