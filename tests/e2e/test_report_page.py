"""The report's page in a real browser: nothing is loaded, nothing fails, keys, pointer and phone work."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import fl.report
from tests.fl.report.journals import failing, journal
from tests.fl.rounds.simulator import SimulatedSite, federation

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]
TIMEOUT_S = 60.0
ATTACK = "</script><script>window.attacked = true</script><img src=x onerror='window.attacked = true'>"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is not installed: apt-get install chromium"),
]


class Browser:
    """Chromium, spoken to in its DevTools protocol over a pair of pipes.

    Attributes:
        events: What it told without being asked, in order.
    """

    def __init__(self, profile: Path) -> None:
        self.events: list[dict[str, Any]] = []
        self._last_id, self._session, self._buffer = 0, "", b""
        commands, self._write = _pipe()
        self._read, answers = _pipe()

        def give_pipes() -> None:
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        self._process = subprocess.Popen(
            [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}"],
            preexec_fn=give_pipes,  # Chromium wants them as 3 and 4
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Network", "Log", "Page"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._last_id:
            self.events.append(answer)
        assert "result" in answer, answer
        return answer["result"]

    def open(self, path: Path, *, width: int = 1280, scheme: str = "light") -> None:
        """Show a file, until it is loaded."""
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self.ask("Page.navigate", url=path.as_uri())
        while not self.told("Page.loadEventFired"):
            self.events.append(self._next())

    def told(self, method: str) -> list[dict[str, Any]]:
        """The events of a kind since the page was opened."""
        return [event["params"] for event in self.events if event.get("method") == method]

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        result = self.ask("Runtime.evaluate", expression=script, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    def point_at(self, selector: str, x_share: float) -> None:
        """Move the pointer over an element."""
        self.run(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
        box = self.run(f"document.querySelector({selector!r}).getBoundingClientRect().toJSON()")
        x, y = box["x"] + x_share * box["width"], box["y"] + box["height"] / 2
        self.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._write, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def _next(self) -> dict[str, Any]:
        end = time.monotonic() + TIMEOUT_S
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            assert ready, "Chromium does not answer"
            piece = os.read(self._read, 1 << 20)
            assert piece, "Chromium ended"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


def _pipe() -> tuple[int, int]:
    """A pipe whose numbers are not those that Chromium's ends get."""
    ends = []
    for fd in os.pipe():
        ends.append(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20))
        os.close(fd)
    return ends[0], ends[1]


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    profile = tmp_path_factory.mktemp("profile")
    running = Browser(profile)
    yield running
    running.close()
    shutil.rmtree(profile, ignore_errors=True)


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
