"""The page of simulations in a real browser: nothing is loaded, nothing fails, and it fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from simulations.report import write
from tests.e2e.browser import Watched, is_as_wide_as_the_screen, point_at, serious

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def file(sweep: Path, tmp_path_factory) -> Path:
    return write(sweep, out=tmp_path_factory.mktemp("page") / "simulation.html")


@pytest.fixture
def page(file: Path, chromium: Browser) -> Iterator[Page]:
    shown = chromium.new_page(viewport={"width": 1280, "height": 900})
    shown.goto(file.as_uri())
    yield shown
    shown.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_loads_nothing_and_fails_nowhere(file: Path, chromium: Browser, scheme: str) -> None:
    page = chromium.new_page(color_scheme=scheme)
    watched = Watched(page)
    page.goto(file.as_uri())
    assert (watched.asked, watched.errors) == ([file.as_uri()], [])
    assert serious(page) == []
    page.close()


def test_every_variant_has_one_colour_in_light_and_another_in_dark(page: Page) -> None:
    colours = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        script = (
            "[...document.querySelectorAll('#variants tbody .key')].map((key) => getComputedStyle(key).backgroundColor)"
        )
        variants = page.evaluate(script)[:2]
        line = page.evaluate("getComputedStyle(document.querySelector('#curves .line.k-v0')).stroke")
        assert line == variants[0]
        colours += variants
    assert len(set(colours)) == 4


def test_a_click_on_a_heading_sorts_by_the_numbers_behind_the_cells(page: Page) -> None:
    for order in ("descending", "ascending"):
        page.locator("#variants .sortable thead th").nth(2).get_by_role("button").click()
        cells = page.locator("#variants .sortable tbody tr td:nth-child(3)")
        values = [float(value) for value in cells.evaluate_all("cells => cells.map((cell) => cell.dataset.v)")]
        assert values == sorted(values, reverse=order == "descending")


def test_a_chart_tells_its_numbers_to_the_pointer(page: Page) -> None:
    point_at(page, "#curves .chart svg", 0.99)
    text = page.locator("#tip").inner_text()
    assert text.startswith("round 4")
    assert "fedadam (mean of 2 seeds): " in text
    assert "over the seeds" in text


def test_nothing_but_tables_scrolls_sideways_on_a_phone(page: Page) -> None:
    page.set_viewport_size({"width": 390, "height": 900})
    assert is_as_wide_as_the_screen(page)
