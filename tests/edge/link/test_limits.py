"""The owner's rates, measured by the amount that passes on a clock of our own."""

import asyncio
import random

import pytest

from edge.link import limits
from edge.link.limits import Bucket, Limits, PolicyFile


class Clock:
    """Monotonic time that passes only while somebody sleeps."""

    def __init__(self):
        self.now = 100.0

    async def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(limits.time, "monotonic", lambda: made.now)
    monkeypatch.setattr(limits.asyncio, "sleep", made.sleep)
    return made


def test_a_rate_is_kept_whatever_the_pieces(clock):
    rate = 125_000.0  # 1 Mbit/s
    bucket = Bucket(lambda: rate)
    chance, sent = random.Random(3), 0

    async def send():
        nonlocal sent
        while sent < 5_000_000:
            piece = chance.randint(1, 200_000)
            await bucket.take(piece)
            sent += piece

    asyncio.run(send())
    assert clock.now - 100.0 == pytest.approx(sent / rate, rel=0.01)


def test_an_idle_line_saves_up_no_more_than_a_burst(clock):
    bucket = Bucket(lambda: 1000.0)
    clock.now += 3600
    asyncio.run(bucket.take(1000))
    assert clock.now - 3700.0 == pytest.approx(1 - limits.BURST_S)


def test_without_a_rate_nothing_waits(clock):
    asyncio.run(Bucket(lambda: None).take(10**12))
    assert clock.now == 100.0


def test_pieces_get_smaller_on_a_slow_line():
    assert Bucket(lambda: None).piece_bytes(512 * 1024) == 512 * 1024
    assert Bucket(lambda: 125_000.0).piece_bytes(512 * 1024) == 31_250
    assert Bucket(lambda: 10.0).piece_bytes(512 * 1024) == 4096


def test_a_policy_that_becomes_unusable_stops_work_and_keeps_the_rates(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("[limits]\nupload_mbit_per_s = 2.0\n")
    made = Limits(PolicyFile(path), tmp_path / "usage.json")
    made.check_new_work()
    assert made.up.piece_bytes(10**9) == 62_500
    path.write_text("[limits]\nupload_mbit_per_s = fast\n")
    with pytest.raises(limits.RefusedError, match=r"cannot be used: .* is not TOML"):
        made.check_new_work()
    assert made.up.piece_bytes(10**9) == 62_500
    path.unlink()
    made.check_new_work()


def test_a_spent_day_holds_what_is_on_its_way(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("[limits]\nmib_per_day = 1.0\n")
    made = Limits(PolicyFile(path), tmp_path / "usage.json")
    assert made.closed() == ""
    made.count(up=500_000)
    assert made.closed() == ""
    made.count(down=600_000)
    assert made.closed() == "today's limits.mib_per_day is spent"
