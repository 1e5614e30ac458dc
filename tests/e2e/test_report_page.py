"""The report's page in a real browser: nothing is loaded, nothing fails, keys, pointer and phone work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import fl.report
from tests.e2e.browser import CHROMIUM, Browser, chromium
from tests.fl.report.journals import failing, journal
from tests.fl.rounds.simulator import SimulatedSite, federation

ATTACK = "</script><script>window.attacked = true</script><img src=x onerror='window.attacked = true'>"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    sites = federation(5, site_2=failing(ATTACK, rounds=(2,)), site_3=SimulatedSite(silent=True))
    directory = tmp_path_factory.mktemp("run") / "run"
    journal(directory, sites, rounds=4, evaluation={"sites_every": 2, "centre_every": 1}, round={"deadline_s": 20.0})
    return fl.report.write(directory)


def test_the_page_loads_nothing_and_fails_nowhere(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert [request["request"]["url"] for request in browser.told("Network.requestWillBeSent")] == [page.as_uri()]
    assert browser.told("Runtime.exceptionThrown") == []
    assert browser.told("Runtime.consoleAPICalled") == []
    assert browser.told("Log.entryAdded") == []


def test_the_key_facts_can_be_seen(browser: Browser, page: Path) -> None:
    browser.open(page)
    text = " ".join(browser.run("document.body.innerText").split())
    for words in ("test completed", "4 of 4", "site-3", "no answer by the deadline of 20 s", "What needs attention"):
        assert words in text
    drawn = browser.run("[...document.querySelectorAll('.chart .line')].map((line) => line.getTotalLength())")
    assert len(drawn) == 4
    assert min(drawn) > 100


def test_what_a_site_says_does_not_run(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("window.attacked") is None
    assert ATTACK in browser.run("document.body.innerText")


def test_the_script_of_a_stranger_would_be_refused(browser: Browser, page: Path, tmp_path: Path) -> None:
    """Should escaping ever fail, the content security policy is the second wall."""
    broken = tmp_path / "broken.html"
    broken.write_text(page.read_text().replace("<footer>", f"<footer>{ATTACK}", 1))
    browser.open(broken)
    assert browser.run("window.attacked") is None
    assert "Content Security Policy" in browser.told("Log.entryAdded")[0]["entry"]["text"]


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_the_page_is_no_wider_than_the_screen(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_dark_and_light_follow_the_system(browser: Browser, page: Path) -> None:
    shades = {}
    for scheme in ("light", "dark"):
        browser.open(page, scheme=scheme)
        colour = browser.run("getComputedStyle(document.body).backgroundColor")
        shades[scheme] = sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    assert shades["dark"] < 150 < 600 < shades["light"]


def test_the_arrow_keys_go_through_a_chart(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.press("Tab")
    browser.run("document.querySelector('.chart svg').focus()")
    browser.press("Home")
    browser.press("ArrowRight")
    tip = browser.run("document.getElementById('tip').innerText")
    assert tip.startswith("round 2")
    assert "evaluation at the sites: " in tip
    browser.press("Escape")
    assert browser.run("document.getElementById('tip').hidden")


def test_the_pointer_shows_the_numbers_of_charts_and_strips(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.point_at(".chart svg", 0.99)
    assert browser.run("document.getElementById('tip').innerText").startswith("round 4")
    browser.point_at("#sites tbody tr:nth-child(2) .strip", 0.4)
    assert browser.run("document.getElementById('tip').innerText") == "site-2, round 2\nfailed"
    browser.point_at("h1", 0.5)
    assert browser.run("document.getElementById('tip').hidden")


def test_a_click_on_a_heading_sorts_the_sites(browser: Browser, page: Path) -> None:
    browser.open(page)
    first = "document.querySelector('#sites tbody th').innerText"
    button = "[...document.querySelectorAll('#sites thead button')].find((b) => b.innerText === '{}')"
    browser.run(button.format("silent") + ".click()")
    assert browser.run(first) == "site-3"
    browser.run(button.format("site") + ".click()")
    assert browser.run(first) == "site-5"
    browser.run(button.format("site") + ".click()")
    assert browser.run(first) == "site-1"
    assert browser.run(button.format("site") + ".closest('th').getAttribute('aria-sort')") == "ascending"
