"""The report's page in a real browser: nothing is loaded, nothing fails, keys, pointer and phone work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

import fl.report
from tests.e2e.browser import Watched, is_as_wide_as_the_screen, point_at, serious
from tests.fl.report.journals import failing, journal
from tests.fl.rounds.simulator import SimulatedSite, federation

ATTACK = "</script><script>window.attacked = true</script><img src=x onerror='window.attacked = true'>"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    sites = federation(5, site_2=failing(ATTACK, rounds=(2,)), site_3=SimulatedSite(silent=True))
    directory = tmp_path_factory.mktemp("run") / "run"
    journal(directory, sites, rounds=4, evaluation={"sites_every": 2, "centre_every": 1}, round={"deadline_s": 20.0})
    return fl.report.write(directory)


@pytest.fixture
def page(file: Path, chromium: Browser) -> Iterator[Page]:
    shown = chromium.new_page(viewport={"width": 1280, "height": 900})
    shown.goto(file.as_uri())
    yield shown
    shown.close()


def tip(page: Page) -> str:
    return page.locator("#tip").inner_text()


def test_the_page_loads_nothing_and_fails_nowhere(file: Path, chromium: Browser) -> None:
    page = chromium.new_page()
    watched = Watched(page)
    page.goto(file.as_uri())
    page.close()
    assert (watched.asked, watched.errors, watched.said) == ([file.as_uri()], [], [])


def test_the_key_facts_can_be_seen(page: Page) -> None:
    text = " ".join(page.locator("body").inner_text().split())
    for words in ("test completed", "4 of 4", "site-3", "no answer by the deadline of 20 s", "What needs attention"):
        assert words in text
    drawn = page.evaluate("[...document.querySelectorAll('.chart .line')].map((line) => line.getTotalLength())")
    assert len(drawn) == 4
    assert min(drawn) > 100


def test_what_a_site_says_does_not_run(page: Page) -> None:
    assert page.evaluate("window.attacked") is None
    assert ATTACK in page.locator("body").inner_text()


def test_the_script_of_a_stranger_would_be_refused(file: Path, chromium: Browser, tmp_path: Path) -> None:
    """Should escaping ever fail, the content security policy is the second wall."""
    broken = tmp_path / "broken.html"
    broken.write_text(file.read_text().replace("<footer>", f"<footer>{ATTACK}", 1))
    page = chromium.new_page()
    watched = Watched(page)
    page.goto(broken.as_uri())
    assert page.evaluate("window.attacked") is None
    page.close()
    assert "Content Security Policy" in watched.errors[0]


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_the_page_is_no_wider_than_the_screen(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert is_as_wide_as_the_screen(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert serious(page) == []


def test_dark_and_light_follow_the_system(page: Page) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        shades[scheme] = sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    assert shades["dark"] < 150 < 600 < shades["light"]


def test_the_arrow_keys_go_through_a_chart(page: Page) -> None:
    page.locator(".chart svg").first.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert tip(page).startswith("round 2")
    assert "evaluation at the sites: " in tip(page)
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_the_pointer_shows_the_numbers_of_charts_and_strips(page: Page) -> None:
    point_at(page, ".chart svg", 0.99)
    assert tip(page).startswith("round 4")
    point_at(page, "#sites tbody tr:nth-child(2) .strip", 0.4)
    assert tip(page) == "site-2, round 2\nfailed"
    point_at(page, "h1", 0.5)
    assert page.locator("#tip").is_hidden()


def test_a_click_on_a_heading_sorts_the_sites(page: Page) -> None:
    first = page.locator("#sites tbody th").first
    heads = page.locator("#sites thead")
    heads.locator("button", has_text="silent").click()
    assert first.inner_text() == "site-3"
    by_site = heads.locator("button", has_text="site").first
    by_site.click()
    assert first.inner_text() == "site-5"
    by_site.click()
    assert first.inner_text() == "site-1"
    assert by_site.evaluate("button => button.closest('th').getAttribute('aria-sort')") == "ascending"
