"""Chromium for tests of pages, and for the screenshots of the documentation; driven by Playwright."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

AXE = Path(__file__).parent / "axe" / "axe.min.js"
CHROMIUM = shutil.which("chromium") or ""
MISSING = "chromium is not installed: apt-get install chromium"


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """A running Chromium of this system."""
    assert CHROMIUM, MISSING
    with sync_playwright() as play:
        running = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield running
        finally:
            running.close()


class Watched:
    """What went wrong in a page since it was made, or since ``clear``.

    Attributes:
        errors: Exceptions of scripts, and what the browser itself says: refused scripts, failed requests.
        said: What scripts wrote to the console.
        asked: Addresses that were requested.
    """

    def __init__(self, page: Page) -> None:
        self.errors: list[str] = []
        self.said: list[str] = []
        self.asked: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", self._hear)
        page.on("request", lambda request: self.asked.append(request.url))

    def clear(self) -> None:
        """Forget what was."""
        for kind in (self.errors, self.said, self.asked):
            kind.clear()

    def _hear(self, message: ConsoleMessage) -> None:
        (self.errors if message.type == "error" else self.said).append(message.text)


def serious(page: Page) -> list[str]:
    """What axe finds in a page that is serious or worse."""
    page.evaluate(AXE.read_text())
    found = page.evaluate("axe.run(document)")["violations"]
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:200]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


def is_as_wide_as_the_screen(page: Page) -> bool:
    """Whether nothing makes the page scroll sideways."""
    size = page.viewport_size
    assert size is not None
    return int(page.evaluate("document.documentElement.scrollWidth")) <= size["width"]


def point_at(page: Page, selector: str, x_share: float) -> None:
    """Move the pointer over the first element of a selector, to a share of its width."""
    found = page.locator(selector).first
    found.scroll_into_view_if_needed()
    box = found.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + x_share * box["width"], box["y"] + box["height"] / 2)
