"""Makes the pictures of the dashboard in ``docs/screenshots``: real pages in Chromium, of a store filled from a seed.

python docs/make_screenshots.py [NAME …]

Needs Chromium and what ``.[dev]`` brings. What the pages show is drawn from a seed; times are those of today.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from typing import Any  # noqa: E402

import uvicorn  # noqa: E402
from PIL import Image  # noqa: E402

from fl import console, ports  # noqa: E402
from server import web  # noqa: E402
from tests.e2e.browser import launched  # noqa: E402
from tests.server import seeds  # noqa: E402
from tests.server.api import kit  # noqa: E402

FOLDER = ROOT / "docs" / "screenshots"
SHOTS: dict[str, tuple[str, str, int, int]] = {
    "fleet": ("/", "light", 1180, 900),
    "site": ("/sites/clinic-0006", "light", 1180, 900),
    "run": ("/runs/1?round=17", "light", 1180, 1300),
    "compare": ("/compare?run=1&run=3", "dark", 1180, 1290),
    "models": ("/models", "light", 1180, 760),
    "phone": ("/runs/1", "dark", 390, 844),
}
"""A page, its colours, and how many pixels of it are shown."""

MOST_BYTES = 100_000
VIVID = 60
"""Least difference of a colour's largest and smallest part that is no grey."""


@contextlib.contextmanager
def control_room(folder: Path) -> Iterator[str]:
    """A control room with sites, runs and models, until the block ends; its address."""
    room = kit.open_room(folder)
    web.install(room.app)
    seeds.fill(room.store, folder / "models", time.time())
    room.people.add_user(kit.OPERATOR, "ada", "admin", ("*",))
    port = ports.free_port()
    server = uvicorn.Server(uvicorn.Config(room.app, port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{port} {room.people.add_token(kit.OPERATOR, 'ada').secret}"
    finally:
        server.should_exit = True
        thread.join()
        room.store.close()


def small(png: bytes) -> bytes:
    """The same picture with 256 colours: half of them the most frequent, half the most frequent of what is no grey.

    A palette by frequency alone would paint the few red and yellow dots, which matter most, in the next grey.
    """
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    counted: Any = sorted(picture.getcolors(1 << 24) or (), reverse=True)
    vivid = [colour for _, colour in counted if max(colour) - min(colour) > VIVID]
    kept = dict.fromkeys([colour for _, colour in counted[:128]] + vivid[:128])
    palette = Image.new("P", (1, 1))
    palette.putpalette([part for colour in kept for part in colour])
    out = io.BytesIO()
    picture.quantize(palette=palette, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def main(names: list[str]) -> None:
    """Make all, or those named."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, control_room(Path(folder)) as found, launched() as browser:
        address, token = found.split()
        for name in names or SHOTS:
            path, scheme, width, height = SHOTS[name]
            context = browser.new_context(
                base_url=address, color_scheme=scheme, viewport={"width": width, "height": height}
            )
            page = context.new_page()
            page.goto(f"/sign-in?to={path}".replace("&", "%26"))
            page.get_by_label("Access token").fill(token)
            page.get_by_role("button", name="Sign in").click()
            page.get_by_role("button", name="Sign out").wait_for()
            page.wait_for_timeout(1000)  # parts that are fetched after the page
            content = small(page.screenshot())
            assert len(content) <= MOST_BYTES, f"{name} has {len(content)} bytes"
            (FOLDER / f"{name}.png").write_bytes(content)
            console.say(f"docs/screenshots/{name}.png: {len(content) / 1000:.0f} KB")
            context.close()


if __name__ == "__main__":
    main(sys.argv[1:])
