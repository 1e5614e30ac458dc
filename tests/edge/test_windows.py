import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge import windows
from fl.errors import ConfigError


def at(text, zone="UTC"):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=windows.find_zone(zone))


@pytest.mark.parametrize(
    ("text", "when", "is_open"),
    [
        ("Sat 01:00-05:00 Europe/Berlin", "2026-01-03T01:00", True),
        ("Sat 01:00-05:00 Europe/Berlin", "2026-01-03T00:59", False),
        ("Sat 01:00-05:00 Europe/Berlin", "2026-01-03T04:59", True),
        ("Sat 01:00-05:00 Europe/Berlin", "2026-01-03T05:00", False),
        ("Sat 01:00–05:00 Europe/Berlin", "2026-01-03T03:00", True),
        ("Sat 01:00-05:00 Europe/Berlin", "2026-01-04T03:00", False),
        ("Mon-Fri 18:00-07:00 Europe/Berlin", "2026-01-02T23:00", True),  # Friday night
        ("Mon-Fri 18:00-07:00 Europe/Berlin", "2026-01-03T06:59", True),  # still Friday's
        ("Mon-Fri 18:00-07:00 Europe/Berlin", "2026-01-03T18:00", False),  # Saturday has none
        ("Mon-Fri 18:00-07:00 Europe/Berlin", "2026-01-05T06:00", False),  # nor did Sunday
        ("Fri-Mon 00:00-24:00 Europe/Berlin", "2026-01-04T12:00", True),  # over the end of the week
        ("Fri-Mon 00:00-24:00 Europe/Berlin", "2026-01-06T12:00", False),
        ("Sat,Sun 00:00-24:00 Europe/Berlin", "2026-01-04T23:59", True),
        ("Sat, Sun 00:00-24:00 Europe/Berlin", "2026-01-05T00:00", False),
        ("daily 22:00-06:00 Europe/Berlin", "2026-01-05T05:59", True),
        ("DAILY 9:00-17:00 Europe/Berlin", "2026-01-05T09:00", True),
        ("mon 09:00-10:00 Europe/Berlin", "2026-01-05T09:30", True),
    ],
)
def test_a_window_is_open_by_the_clock_on_the_wall_of_its_zone(text, when, is_open):
    assert windows.parse(text).is_open(at(when, "Europe/Berlin")) is is_open


def test_the_clock_of_the_zone_counts_not_that_of_the_machine():
    window = windows.parse("Sat 01:00-05:00 Europe/Berlin")
    assert window.is_open(at("2026-01-03T00:30"))  # 01:30 in Berlin, winter
    assert not window.is_open(at("2026-07-04T03:30"))  # 05:30 in Berlin, summer
    assert windows.parse("Sat 01:00-05:00").is_open(at("2026-01-03T04:30"))
    assert windows.parse("Sat 01:00-05:00", "America/New_York").is_open(at("2026-01-03T09:30"))


def test_days_on_which_the_clock_is_moved():
    window = windows.parse("Sun 02:00-03:00 Europe/Berlin")
    spring = at("2026-03-29T00:00")
    minutes = [spring + datetime.timedelta(minutes=m) for m in range(24 * 60)]
    assert not any(window.is_open(minute) for minute in minutes)  # that hour does not exist
    autumn = at("2026-10-25T00:00")
    minutes = [autumn + datetime.timedelta(minutes=m) for m in range(24 * 60)]
    assert sum(window.is_open(minute) for minute in minutes) == 120  # and here it comes twice


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("Sat", "'Sat' is no window"),
        ("", "'' is no window"),
        ("Sat 1-5", "is no window"),
        ("Sat 01:00-05:00 Europe/Berlin please", "is no window"),
        ("Sat 01:00-25:00", "there is no 25:00 o'clock"),
        ("Sat 01:60-02:00", "there is no 01:60 o'clock"),
        ("Sat 05:00-05:00", "starts when it ends"),
        ("Sat 24:00-05:00", "starts at 24:00"),
        ("Sam 01:00-05:00", "'Sam' is no day"),
        ("Mon-Wed-Fri 01:00-05:00", "more than two ends"),
        ("Sat 01:00-05:00 Europe/Berln", "no time zone 'Europe/Berln'"),
        ("Sat 01:00-05:00 ../../etc/passwd", "no time zone"),
    ],
)
def test_what_is_no_window_is_refused_with_the_part_at_fault(text, complaint):
    with pytest.raises(ConfigError) as caught:
        windows.parse(text)
    assert complaint in caught.value.message


def test_no_windows_are_always_open():
    assert windows.is_open([], at("2026-01-03T00:30"))


def test_the_next_opening_is_told():
    both = [windows.parse("Sat 01:00-05:00 Europe/Berlin"), windows.parse("Wed 12:00-13:00 UTC")]
    assert windows.opens_next(both, at("2026-01-05T00:00")) == "Wed 2026-01-07 12:00 UTC"
    assert windows.opens_next(both, at("2026-01-07T14:00")) == "Sat 2026-01-10 01:00 Europe/Berlin"
    assert windows.opens_next(both[:1], at("2026-01-03T01:00", "Europe/Berlin")).startswith("Sat 2026-01-10")


DAYS = st.sets(st.sampled_from(windows.DAYS), min_size=1).map(lambda days: ",".join(sorted(days)))
MINUTE = st.integers(0, 24 * 60 - 1)


@given(DAYS, MINUTE, st.integers(1, 24 * 60), st.integers(0, 2**31), st.sampled_from(["UTC", "Asia/Kathmandu"]))
def test_at_its_next_start_a_window_is_open_and_just_before_nothing_else_began(days, start, length, now_s, zone):
    clock = lambda minute: f"{minute // 60:02d}:{minute % 60:02d}"  # noqa: E731
    end = (start + length) % (24 * 60)
    if end == start:
        end = start + 1 if start < 24 * 60 - 1 else 0
    window = windows.parse(f"{days} {clock(start)}-{clock(end)} {zone}")
    now = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
    opens = window.next_start(now)
    assert opens > now
    assert window.is_open(opens)
    assert opens - now <= datetime.timedelta(days=7)
    if not window.is_open(now):  # then nothing opens before
        assert not any(window.is_open(now + (opens - now) * part) for part in (0.1, 0.5, 0.9))
