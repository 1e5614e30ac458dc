"""How fast sites are and when they are there: costs by hand, shares by count, hours by the clock."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.errors import ConfigError
from simulations.devices import AVAILABILITY, DEVICES, HOUR_S, LINKS, DeviceConfig, Equipment, LinkConfig

NAMES = [f"site-{number:04d}" for number in range(1, 1001)]


def equipment(
    devices: list[DeviceConfig] | None = None, links: list[LinkConfig] | None = None, **more: Any
) -> Equipment:
    return Equipment(devices or [], links or [], **{"seed": 1, **more})


def there(device: DeviceConfig, hour: float) -> float:
    """The share of a thousand sites that is there."""
    them = equipment([device])
    return sum(them.is_there(name, hour * HOUR_S) for name in NAMES) / len(NAMES)


def test_a_request_costs_what_one_reckons_by_hand() -> None:
    device = DeviceConfig(name="box", samples_per_s=50.0, watts=20.0)
    link = LinkConfig(name="wire", down_mbit_s=8.0, up_mbit_s=2.0, latency_ms=100.0)
    cost = equipment([device], [link]).cost("site-0001", samples=200, down_bytes=3_000_000, up_bytes=1_000_000)
    assert (cost.device, cost.link) == ("box", "wire")
    assert cost.down_s == pytest.approx(0.1 + 3.0)
    assert cost.compute_s == pytest.approx(4.0)
    assert cost.up_s == pytest.approx(0.1 + 4.0)
    assert cost.energy_j == pytest.approx(80.0)
    assert cost.seconds == pytest.approx(11.2)
    assert (cost.down_bytes, cost.up_bytes) == (3_000_000, 1_000_000)


def test_without_devices_and_links_nothing_takes_time() -> None:
    cost = equipment().cost("site-0001", samples=10**9, down_bytes=10**9, up_bytes=10**9)
    assert (cost.seconds, cost.energy_j, cost.device, cost.link) == (0.0, 0.0, "", "")


@given(samples=st.integers(0, 10**6), size_bytes=st.integers(0, 10**9))
def test_more_work_never_takes_less_time(samples: int, size_bytes: int) -> None:
    them = equipment([DeviceConfig.from_dict({"name": "phone"})], [LinkConfig.from_dict({"name": "lte"})])
    small = them.cost("site-0001", samples=samples, down_bytes=size_bytes, up_bytes=size_bytes)
    large = them.cost("site-0001", samples=samples + 1, down_bytes=size_bytes + 1, up_bytes=size_bytes + 1)
    assert 0 < small.seconds < large.seconds


def test_devices_are_shared_out_in_proportion_and_links_independently_of_them() -> None:
    devices = [DeviceConfig(name="a", share=3.0), DeviceConfig(name="b", share=1.0)]
    links = [LinkConfig(name="x"), LinkConfig(name="y")]
    costs = [equipment(devices, links).cost(name, samples=1, down_bytes=1, up_bytes=1) for name in NAMES]
    pairs = Counter((cost.device, cost.link) for cost in costs)
    # Binomial, 1,000 sites: standard deviations of at most 16.
    assert pairs["a", "x"] == pytest.approx(375, abs=60)
    assert pairs["a", "y"] == pytest.approx(375, abs=60)
    assert pairs["b", "x"] == pytest.approx(125, abs=45)
    assert pairs["b", "y"] == pytest.approx(125, abs=45)


@given(seed=st.integers(0, 1000), order=st.permutations(NAMES[:8]))
def test_a_site_keeps_its_device_in_whatever_order_sites_are_asked(seed: int, order: list[str]) -> None:
    devices = [DeviceConfig(name="a"), DeviceConfig(name="b"), DeviceConfig(name="c")]

    def device(them: Equipment, name: str) -> str:
        return them.cost(name, samples=1, down_bytes=1, up_bytes=1).device

    once, again = equipment(devices, seed=seed), equipment(devices, seed=seed)
    found = {name: device(again, name) for name in order}
    assert {name: device(once, name) for name in NAMES[:8]} == found


def test_a_fleet_says_who_has_which_device_and_link() -> None:
    devices, links = [DeviceConfig(name="a"), DeviceConfig(name="b")], [LinkConfig(name="x"), LinkConfig(name="y")]
    named = {name: {"device": "b", "link": "y"} for name in NAMES[:50]}
    them = equipment(devices, links, named=named)
    costs = [them.cost(name, samples=1, down_bytes=1, up_bytes=1) for name in NAMES[:50]]
    assert {(cost.device, cost.link) for cost in costs} == {("b", "y")}
    with pytest.raises(ConfigError, match="unknown device bb") as caught:
        equipment(devices, links, named={"site-0001": {"device": "bb"}})
    assert caught.value.hint is not None
    with pytest.raises(ConfigError, match="unknown link z"):
        equipment(devices, links, named={"site-0001": {"link": "z"}})


# ---- hours ----


def test_phones_are_there_at_night_and_workstations_in_office_hours() -> None:
    phone, workstation = DeviceConfig.from_dict({"name": "phone"}), DeviceConfig.from_dict({"name": "workstation"})
    assert there(phone, 3) > 0.85  # 0.9, standard deviation 0.01
    assert there(phone, 12) < 0.15
    assert there(workstation, 12) > 0.9
    assert there(workstation, 3) < 0.1
    assert there(DeviceConfig.from_dict({"name": "server"}), 3) == 1.0


@pytest.mark.parametrize("offset_h", [-14.0, -8.0, -0.5, 0.0, 5.5, 14.0])
def test_the_hour_that_counts_is_that_of_the_site(offset_h: float) -> None:
    """There with certainty in its own hour 10 alone; looked at in the middle of each hour of the run."""
    by_hour = tuple(1.0 if hour == 10 else 0.0 for hour in range(24))
    them = equipment([DeviceConfig(name="shift", availability=by_hour, utc_offset_h=offset_h)])
    hours = [hour for hour in range(48) if them.is_there("site-0001", (hour + 0.5) * HOUR_S)]
    first = (10 - int(offset_h // 1)) % 24
    assert hours == [first, first + 24]


@given(hour=st.integers(0, 100), within=st.floats(0, 0.999), offset_h=st.sampled_from([-3.5, 0.0, 5.75]))
def test_who_is_there_stays_for_the_hour(hour: int, within: float, offset_h: float) -> None:
    device = DeviceConfig(name="a", availability=(0.5,) * 12 + (0.2,) * 12, utc_offset_h=offset_h)
    them = equipment([device])
    for name in NAMES[:10]:
        assert them.is_there(name, hour * HOUR_S) == them.is_there(name, (hour + within) * HOUR_S)


def test_who_is_there_changes_from_hour_to_hour_and_from_seed_to_seed() -> None:
    device = DeviceConfig(name="a", availability=(0.5,) * 24)

    def present(seed: int, hour: int) -> list[bool]:
        them = equipment([device], seed=seed)
        return [them.is_there(name, hour * HOUR_S) for name in NAMES[:100]]

    assert present(1, 0) != present(1, 1)
    assert present(1, 0) != present(2, 0)
    assert present(1, 0) == present(1, 0)


def test_whether_everybody_is_always_there_is_known_without_asking_anybody() -> None:
    assert equipment().is_always_there
    assert equipment([DeviceConfig(name="a")]).is_always_there
    assert not equipment([DeviceConfig(name="a"), DeviceConfig(name="b", availability="office")]).is_always_there


# ---- tables ----


def test_a_preset_fills_in_what_a_table_leaves_out() -> None:
    for name, preset in DEVICES.items():
        device = DeviceConfig.from_dict({"name": name, "watts": 1.5})
        assert device.samples_per_s == preset["samples_per_s"]
        assert device.watts == 1.5
        assert len(device.by_hour()) == 24
    for name, preset in LINKS.items():
        assert LinkConfig.from_dict({"name": name}).up_mbit_s == preset["up_mbit_s"]
    assert all(len(hours) == 24 and all(0 <= chance <= 1 for chance in hours) for hours in AVAILABILITY.values())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "a", "share": 0}, "devices.share is 0.0, must be above 0"),
        ({"name": "a", "samples_per_s": 0}, "devices.samples_per_s is 0.0"),
        ({"name": "a", "watts": -1}, "devices.watts is -1.0"),
        ({"name": "a", "utc_offset_h": 15}, "devices.utc_offset_h is 15.0, must be at most 14"),
        ({"name": "a", "availability": "nigths"}, "unknown availability nigths"),
        ({"name": "a", "availability": [1.0] * 23}, "has 23 numbers, must be 24, one an hour"),
        ({"name": "a", "availability": [1.5] * 24}, "devices.availability is 1.5"),
        ({"name": "a", "speed": 1.0}, "unknown key devices.speed"),
        ({}, "devices.name is missing"),
    ],
)
def test_a_device_that_makes_no_sense_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DeviceConfig.from_dict(table)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"name": "a", "share": 0}, "links.share is 0.0"),
        ({"name": "a", "down_mbit_s": 0}, "links.down_mbit_s is 0.0"),
        ({"name": "a", "up_mbit_s": -1}, "links.up_mbit_s is -1.0"),
        ({"name": "a", "latency_ms": -1}, "links.latency_ms is -1.0"),
        ({"name": "a", "up_mbits": 1.0}, "unknown key links.up_mbits"),
    ],
)
def test_a_link_that_makes_no_sense_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LinkConfig.from_dict(table)
