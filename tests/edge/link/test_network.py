"""The link over lines as they are: packets lost, late, slow; partitions in the middle of an upload; deaths.

Each test prints how long it took. The partition lasts until the link has lost its connection and tried in vain for a
new one; set FEDFLEET_PARTITION_S to 600 for one of ten minutes.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time

import pytest

from edge.link import outbox
from fl import ports
from tests.edge.link.fleet_centre import FleetCentre
from tests.edge.link.kit import World, make_home, read, serving, until
from tests.edge.link.netns import Wire, needs_namespaces

pytestmark = [pytest.mark.chaos, needs_namespaces, pytest.mark.timeout(900)]

PARTITION_S = float(os.environ.get("FEDFLEET_PARTITION_S", "0"))
KIB, COUNT = 64, 16


@contextlib.asynccontextmanager
async def site_behind(wire, tmp_path):
    """A centre here, and a link in the wire's namespace."""
    centre = FleetCentre()
    home, authority, site = make_home(tmp_path / "site", [f"{wire.here}:1"], longest_backoff_s=2.0)
    async with serving(centre, authority, host=wire.here) as (server, port):
        text = home.site_file.read_text().replace(f"{wire.here}:1", f"{wire.here}:{port}")
        home.site_file.write_text(text)
        it = World(home, centre, server, port, authority, site, ports.free_port(), line=wire)
        async with link_of(it):
            yield it


@contextlib.asynccontextmanager
async def link_of(it):
    """One life of the link's process; ends by SIGKILL."""
    argv = [*it.line.prefix, sys.executable, "-m", "edge.link", "--home", str(it.home.path), "--port", str(it.port)]
    with (it.home.path / "link.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(*argv, stdout=log, stderr=log)
    try:
        lives = len(it.centre.hellos)
        await until(lambda: len(it.centre.hellos) > lives, 90)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def work(it, kib=KIB, count=COUNT):
    """A SuperNode in the namespace takes a message and hands its reply over; the reply's id."""
    it.centre.post([os.urandom(kib * 1024)])
    argv = [*it.line.prefix, sys.executable, "-m", "tests.edge.link.handover"]
    process = await asyncio.create_subprocess_exec(
        *argv, str(it.home.path), str(it.port), str(kib), str(count), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode().split()[-1]


def told(what, began, it):
    print(
        f"{what}: {time.monotonic() - began:.1f} s, {it.line.lost} packets lost, {it.centre.bytes_in} bytes of objects"
    )


def test_loss_of_5_percent_80_ms_and_1_mbit(tmp_path):
    async def scenario():
        with Wire(loss=0.05, delay_s=0.08, bits_per_s=1_000_000) as wire:
            async with site_behind(wire, tmp_path) as it:
                began = time.monotonic()
                reply = await work(it)
                await until(lambda: it.centre.is_whole(reply), 300)
                told("1 MiB up over a bad line", began, it)
                assert wire.lost > 10
                assert set(it.centre.received.values()) == {1}

    asyncio.run(scenario())


def test_a_long_partition_in_the_middle_of_an_upload(tmp_path):
    async def scenario():
        with Wire(delay_s=0.02, bits_per_s=2_000_000) as wire:
            async with site_behind(wire, tmp_path) as it:
                reply = await work(it)
                await until(lambda: 2 <= len(it.centre.objects) < COUNT, 120)
                wire.cut()
                cut_at = time.monotonic()
                await until(lambda: "no answer in time" in read(it.home.status)["waits_for"], 90)
                await asyncio.sleep(max(0.0, cut_at + PARTITION_S - time.monotonic()))
                had = set(it.centre.objects)
                assert len(had) < COUNT
                if PARTITION_S > 180:
                    it.centre.lose_sessions()  # as SuperLink does
                    had = set()
                wire.mend()
                began = time.monotonic()
                await until(lambda: it.centre.is_whole(reply), 120)
                told(f"whole again after {began - cut_at:.0f} s of silence", began, it)
                assert all(it.centre.received[name] == 1 for name in had), "an acknowledged object was sent again"
                assert it.centre.bytes_in <= (COUNT + 1 + outbox.AT_ONCE) * KIB * 1024 * (2 if not had else 1)

    asyncio.run(scenario())


def test_the_link_is_killed_in_the_middle_of_an_upload(tmp_path):
    async def scenario():
        with Wire(delay_s=0.02, bits_per_s=2_000_000) as wire:
            async with site_behind(wire, tmp_path) as it:
                reply = await work(it)
                await until(lambda: 2 <= len(it.centre.objects) < COUNT, 120)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(_pid(it), signal.SIGKILL)
                await asyncio.sleep(1)
                had = dict(it.centre.received)
                began = time.monotonic()
                async with link_of(it):
                    await until(lambda: it.centre.is_whole(reply), 120)
                told("whole after the link's death", began, it)
                assert all(it.centre.received[name] == 1 for name in had)

    asyncio.run(scenario())


def _pid(it):
    return read(it.home.status)["pid"]


def test_the_gateway_is_replaced_in_the_middle_of_an_upload(tmp_path):
    async def scenario():
        with Wire(delay_s=0.02, bits_per_s=2_000_000) as wire:
            async with site_behind(wire, tmp_path) as it:
                reply = await work(it)
                await until(lambda: 2 <= len(it.centre.objects) < COUNT, 120)
                await it.server.stop(0)
                await asyncio.sleep(1)
                had = dict(it.centre.received)
                began = time.monotonic()
                async with serving(it.centre, it.authority, host=wire.here, port=it.centre_port):
                    await until(lambda: it.centre.is_whole(reply), 120)
                told("whole after the gateway's restart", began, it)
                assert all(it.centre.received[name] == 1 for name in had)

    asyncio.run(scenario())


def test_a_dead_line_is_noticed_and_a_new_one_used_at_once(tmp_path):
    async def scenario():
        with Wire(delay_s=0.01) as wire:
            async with site_behind(wire, tmp_path) as it:
                await until(lambda: it.home.status.exists() and read(it.home.status)["state"] == "connected")
                wire.cut()
                await until(lambda: read(it.home.status)["state"] == "away", 90)
                wire.mend()
                began, before = time.monotonic(), len(it.centre.hellos)
                await until(lambda: len(it.centre.hellos) > before, 60)
                told("found again", began, it)

    asyncio.run(scenario())
