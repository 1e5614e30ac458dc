"""The dashboard in Chromium, against a centre as ``fl server up`` runs it, with two sites that train."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from server.audit import Actor
from server.people import People
from server.store import Store
from tests.e2e.control_room import Room

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

AXE = Path(__file__).parent / "axe" / "axe.min.js"
FILE = """\
[run]
name = "{name}"
rounds = {rounds}

[task]
name = "digits"
network = "mlp"

[round]
min_online = 2
quorum = 1.0

[evaluation]
sites_every = 1
"""
SECONDS = 1000.0
"""Playwright counts in milliseconds."""


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    made = Room(tmp_path_factory.mktemp("room"))
    yield made
    made.end()


@pytest.fixture(scope="module")
def token(room):
    store = Store(room.home.store)
    people, by = People(store), Actor(who="test", via="cli")
    people.add_user(by, "ada", "admin")
    return people.add_token(by, "ada").secret


@pytest.fixture(scope="module")
def chromium():
    path = shutil.which("chromium")
    assert path, "Chromium is not here: apt-get install chromium"
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(chromium, room, token):
    """A page of somebody who has signed in; a script's error, or something that the policy refused, fails the test."""
    context = chromium.new_context(ignore_https_errors=True, base_url=room.client().url)
    shown, wrong = context.new_page(), []
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on(
        "console", lambda said: wrong.append(said.text) if said.type == "error" and "net::" not in said.text else None
    )
    shown.goto("/runs")
    shown.get_by_label("Access token").fill(token)
    shown.get_by_role("button", name="Sign in").click()
    shown.wait_for_url("**/runs")
    yield shown
    context.close()
    assert not wrong


def start(page: Page, name: str, rounds: int) -> str:
    """Start a run by its form; returns its name."""
    page.goto("/runs/new")
    page.get_by_label("Run file").fill(FILE.format(name=name, rounds=rounds))
    page.get_by_role("button", name="Check and start").click()
    page.wait_for_url(f"**/runs/*{name}*said=*")
    return page.url.split("?")[0].rsplit("/", 1)[1]


def confirm(page: Page, verb: str) -> None:
    """Press a button, and the one that asks again."""
    page.locator("summary", has_text=verb).first.click()
    page.get_by_role("button", name=f"Yes, {verb.lower()}").first.click()


def wait_for_state(page: Page, state: str) -> None:
    page.locator("h1 .state", has_text=state).wait_for(timeout=240 * SECONDS)


def serious(page: Page) -> list[str]:
    """What axe finds that is serious or worse."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document)")["violations"]
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def test_a_round_arrives_while_somebody_looks_and_the_run_is_stopped(page, room):
    name = start(page, "watched", 500)
    page.evaluate("window.stays = true")
    wait_for_state(page, "running")
    rows = page.locator("#rounds tbody tr", has_text="committed")
    rows.first.wait_for(timeout=240 * SECONDS)
    with room.client() as client:
        done = client.run(name).row.rounds_done
        room.wait(lambda: client.run(name).row.rounds_done > done, "a round")
        seen_s, number = time.monotonic(), client.run(name).row.rounds_done
    page.wait_for_function(
        "number => Number(document.querySelector('#tiles dd').firstChild.textContent) >= number",
        arg=number,
        timeout=5 * SECONDS,
    )
    assert time.monotonic() - seen_s < 2.0  # one second is promised; this machine does other things, too
    assert page.evaluate("window.stays")  # the page was not loaded again
    page.locator("#curves figure svg").first.wait_for()
    confirm(page, "Stop")
    wait_for_state(page, "stopped")
    assert page.get_by_text(f"fl run resume {name}").count() == 1


def test_a_model_is_promoted_and_the_audit_says_who(page, room):
    name = start(page, "short", 2)
    wait_for_state(page, "completed")
    page.goto(f"/models?run={name}")
    confirm(page, "Promote")
    page.get_by_text("production is model").wait_for()
    page.goto("/audit?verify=1")
    page.get_by_text("The chain holds over").wait_for()
    row = page.locator("tbody tr", has_text="production").first
    assert "ada" in row.inner_text()
    page.goto("/compare?run=1&run=2")
    page.get_by_text("Settings in which they differ").wait_for()
    with page.expect_download() as download:
        page.goto("/models")
        page.get_by_role("link", name="Download").first.click()
    assert download.value.suggested_filename.endswith(".safetensors")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_page(page, scheme, width):
    page.set_viewport_size({"width": width, "height": 800})
    page.emulate_media(color_scheme=scheme)
    for path in ("/", "/sites/site-1", "/runs", "/runs/1", "/runs/new", "/compare", "/models", "/audit"):
        page.goto(path)
        assert serious(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path


def test_the_keyboard_reaches_everything(page):
    page.goto("/")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    page.goto("/runs/1")
    page.locator("#curves svg").first.focus()
    page.keyboard.press("ArrowLeft")
    assert page.locator("#tip").inner_text().startswith("round")


def test_pages_work_without_scripts(chromium, room, token):
    context = chromium.new_context(ignore_https_errors=True, base_url=room.client().url, java_script_enabled=False)
    page = context.new_page()
    page.goto("/")
    page.get_by_label("Access token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="site-1").click()
    confirm(page, "Quarantine")
    page.locator("h1 .state", has_text="quarantined").wait_for()
    confirm(page, "Release")
    page.get_by_text("release: done").wait_for()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("Access token").wait_for()
    context.close()


def test_a_control_room_that_dies_is_said_and_comes_back(page, room):
    page.goto("/runs")
    assert room.kill_part("server.control_room")
    page.get_by_text("trying again").wait_for(timeout=20 * SECONDS)
    page.locator("#pulse").wait_for(state="hidden", timeout=60 * SECONDS)
