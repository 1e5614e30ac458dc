"""The page of simulations in a real browser: nothing is loaded, nothing fails, and it fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from simulations.report import write
from tests.e2e.browser import CHROMIUM, Browser, chromium

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def page(sweep: Path, tmp_path_factory) -> Path:
    return write(sweep, out=tmp_path_factory.mktemp("page") / "simulation.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_loads_nothing_and_fails_nowhere(browser: Browser, page: Path, scheme: str) -> None:
    browser.open(page, scheme=scheme)
    assert [request["request"]["url"] for request in browser.told("Network.requestWillBeSent")] == [page.as_uri()]
    assert browser.told("Runtime.exceptionThrown") == []
    assert browser.told("Log.entryAdded") == []


def test_every_variant_has_one_colour_in_light_and_another_in_dark(browser: Browser, page: Path) -> None:
    colours = []
    for scheme in ("light", "dark"):
        browser.open(page, scheme=scheme)
        script = (
            "[...document.querySelectorAll('#variants tbody .key')].map((key) => getComputedStyle(key).backgroundColor)"
        )
        variants = browser.run(script)[:2]
        line = browser.run("getComputedStyle(document.querySelector('#curves .line.k-v0')).stroke")
        assert line == variants[0]
        colours += variants
    assert len(set(colours)) == 4


def test_a_click_on_a_heading_sorts_by_the_numbers_behind_the_cells(browser: Browser, page: Path) -> None:
    browser.open(page)
    column = "document.querySelectorAll('#variants .sortable tbody tr td:nth-child(3)')"
    for order in ("descending", "ascending"):
        browser.run("document.querySelectorAll('#variants .sortable thead th')[2].querySelector('button').click()")
        values = [float(value) for value in browser.run(f"[...{column}].map((cell) => cell.dataset.v)")]
        assert values == sorted(values, reverse=order == "descending")


def test_a_chart_tells_its_numbers_to_the_pointer(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.point_at("#curves .chart svg", 0.99)
    text = browser.run("document.getElementById('tip').innerText")
    assert text.startswith("round 4")
    assert "fedadam (mean of 2 seeds): " in text
    assert "over the seeds" in text


def test_nothing_but_tables_scrolls_sideways_on_a_phone(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    assert browser.run("document.documentElement.scrollWidth") <= 390
