"""Bad input of every kind: one error with words and a hint, before anything is trained or revealed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.policy import Policy
from fl.errors import ConfigError
from fl.secagg import errors
from fl.secagg.config import RoundConfig, decode_config
from fl.secagg.graph import neighbour_count
from fl.secagg.ledger import Ledger
from fl.secagg.parameters import thresholds
from fl.secagg.policy import TABLES, SitePolicy
from fl.secagg.profiles import PROFILES
from fl.secagg.quantise import BLOCK, check_trailer, decode_mean, quantise
from fl.secagg.sidevector import WEIGHT_UNIT, decode_side, encode_side, side_length, site_weight
from tests.fl.secagg.federation import Federation

STANDARD, PACKED = PROFILES["standard"], PROFILES["packed16"]


def one_site(update: list[float], *, clip: float = 1.0, weight: float = 1.0, **settings: Any) -> Any:
    vector = np.array(update, np.float32)
    settings = {"profile": STANDARD, "n_max": 3, "dither_key": bytes(32)} | settings
    return quantise(vector, [vector.size], [clip], weight=weight, **settings)


# ---- cohort and thresholds ----


@pytest.mark.parametrize(
    ("n", "corrupt", "threshold", "dropouts"),
    [
        (3, 1, 3, 0),
        (4, 1, 3, 1),
        (5, 1, 4, 1),
        (10, 3, 7, 3),
        (30, 9, 20, 10),
        (100, 33, 67, 33),
        (1000, 333, 667, 333),
    ],
)
def test_thresholds_are_those_of_the_specification(n: int, corrupt: int, threshold: int, dropouts: int) -> None:
    limits = thresholds(n)
    assert (limits.corrupt, limits.threshold, limits.max_dropouts) == (corrupt, threshold, dropouts)


def test_two_different_sets_of_survivors_never_both_get_enough_signatures() -> None:
    for n in range(3, 1000):
        limits = thresholds(n)
        assert 2 * limits.threshold > n + limits.corrupt
        assert limits.min_aggregate - limits.corrupt >= 2


@pytest.mark.parametrize(
    ("n", "gamma", "dropouts", "k"),
    [
        (300, 0.05, 0.02, 30),
        (300, 0.33, 0.1, 126),
        (500, 0.1, 0.1, 102),
        (1000, 0.05, 0.05, 90),
        (1000, 0.2, 0.05, 136),
    ],
)
def test_the_number_of_neighbours_is_that_of_the_specification(n: int, gamma: float, dropouts: float, k: int) -> None:
    assert neighbour_count(n, int(gamma * n), int(dropouts * n), 40) == k


def test_a_thousand_sites_of_which_a_third_may_be_corrupt_have_184_neighbours_each() -> None:
    assert neighbour_count(1000, 333, 50, 40) == 184


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_sites_are_refused(count: int) -> None:
    with pytest.raises(ConfigError, match="n_max"):
        Federation(count)


def test_too_few_advertisements_end_the_session() -> None:
    federation = Federation(5, settings={"n_min": 5})
    with pytest.raises(errors.TooFewSurvivorsError, match="4 sites advertised keys, 5 are needed"):
        federation.play("advertise", {federation.names[1]})


@pytest.mark.parametrize(("profile", "limit"), [("packed16", 128), ("standard", 4096)])
def test_more_sites_than_the_ring_allows_are_refused_before_training(profile: str, limit: int) -> None:
    federation = Federation(3)
    federation.config(profile=profile, n_max=limit)
    with pytest.raises(errors.RingError, match=f"{limit + 1} sites, the profile {profile} has room for {limit}"):
        federation.config(profile=profile, n_max=limit + 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sizes": ()}, "0 sizes and 1 clips"),
        ({"sizes": (0,)}, "0 parameters"),
        ({"sizes": (-1, 5), "clips": (1.0, 1.0)}, "parameters, at least one"),
        ({"clips": (float("nan"),)}, "clips is nan"),
        ({"clips": (0.0,)}, "clips is 0.0"),
        ({"round": 0}, "round is 0"),
        ({"attempt": 0}, "attempt is 0"),
        ({"n_min": 2}, "n_min is 2"),
        ({"suite": "ROT13"}, "suite is 'ROT13'"),
        ({"profile": "standart"}, "unknown profile standart"),
        ({"aggregator": "xyz"}, "aggregator must be 32 bytes"),
        ({"run_id": ""}, "run_id"),
        ({"run_id": "a\nb"}, "run_id"),
        ({"metrics": ("loss", "loss")}, "different names"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Federation(3).config(**changes)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b"\xff", b"[" * 100_000, b'{"round": NaN}'])
def test_a_configuration_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises((errors.MessageError, ConfigError)):
        decode_config(data)


def test_a_configuration_is_read_as_it_was_written() -> None:
    config = Federation(3).config(clips=(0.1,), l2_clip=3.5, privacy="site")
    assert decode_config(config.encode()) == config
    assert isinstance(config, RoundConfig)


# ---- updates ----


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 5])
def test_nan_and_infinity_are_refused(bad: float, place: int) -> None:
    federation = Federation(4)
    federation.play_until("mask")
    name = federation.names[0]
    federation.updates[name] = federation.updates[name].copy()
    federation.updates[name][place] = bad
    reply = federation.sites[name].answer(federation.server.request_for(name), model=federation.local_model(name))
    assert isinstance(reply.refused, errors.UpdateError)
    assert "NaN or infinity" in reply.refused.message
    assert reply.vector is None
    federation.server.receive(name, reply.payload)
    federation.play("mask", {name})
    federation.play("agree")
    federation.play("unmask")
    assert federation.server.result().dropped == (name,)


def test_a_norm_clip_does_not_hide_nan() -> None:
    federation = Federation(4, settings={"l2_clip": 1.0})
    federation.play_until("mask")
    name = federation.names[0]
    federation.updates[name] = np.full(40, np.nan, np.float32)
    with pytest.raises(errors.UpdateError, match="NaN"):
        federation.site_handles(name, federation.server.request_for(name))


@pytest.mark.parametrize("update", [[], [1.0, 2.0]])
def test_an_update_of_another_size_is_refused(update: list[float]) -> None:
    with pytest.raises(errors.UpdateError, match="parameters, the round's model"):
        quantise(np.array(update, np.float32), [3], [1.0], weight=1, profile=STANDARD, n_max=3, dither_key=bytes(32))


def test_no_parameters_at_all_are_refused() -> None:
    with pytest.raises(errors.UpdateError, match="0 parameters"):
        one_site([])


@pytest.mark.parametrize("weight", [0.0, -1.0, 1.1, float("nan"), float("inf")])
def test_a_weight_outside_its_range_is_refused(weight: float) -> None:
    with pytest.raises(errors.UpdateError, match="weight"):
        one_site([0.5], weight=weight)


def test_a_site_without_examples_is_refused() -> None:
    federation = Federation(3)
    federation.play_until("mask")
    name = federation.names[0]
    federation.num_examples[name] = 0
    with pytest.raises(errors.UpdateError, match="0 examples"):
        federation.site_handles(name, federation.server.request_for(name))


def test_a_huge_number_of_examples_counts_as_the_cap() -> None:
    federation = Federation(3, settings={"weight_cap": 10})
    federation.num_examples = dict.fromkeys(federation.names, 2**40)
    result = federation.run()
    assert result.side.weight == 3.0
    assert result.side.num_examples == 3 * 2**40
    assert site_weight(1, 2**31) > 0
    assert site_weight(5, 0) == 1.0


@pytest.mark.parametrize("profile", [STANDARD, PACKED])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_update_of_every_site_does_not_overflow(profile: Any, sign: int) -> None:
    for n_max in (3, 10, 127, 128):
        total = np.zeros(1 + profile.trailer, profile.dtype)
        for site in range(n_max):
            total += one_site([sign * 1e30], profile=profile, n_max=n_max, dither_key=bytes([site]) * 32).vector
        check_trailer(total, n_max, profile, n_max)
        mean = decode_mean(total, [1], [1.0], total_weight=n_max, profile=profile, n_max=n_max)
        assert mean[0] == pytest.approx(sign, abs=1 / profile.q_max(n_max))


def test_clipped_elements_are_counted() -> None:
    quantised = one_site([0.5, 2.0, -3.0, 1.0, -1.0])
    assert quantised.clipped == 2
    signed = quantised.vector.view(np.int32)
    q_max = STANDARD.q_max(3)
    assert abs(signed[1] - q_max) <= 1
    assert abs(signed[2] + q_max) <= 1


def test_random_rounding_has_the_right_mean() -> None:
    """40,000 roundings of one value: standard error of the mean is at most 0.5 / 200; six of them pass."""
    count = 40_000
    q_max = PACKED.q_max(10)
    for value in (0.25, 0.5, 0.9, -0.3):
        update = np.full(count, (3 + value) / q_max, np.float32)
        signed = one_site(list(update), profile=PACKED, n_max=10).vector[:count].view(np.int16)
        assert set(np.unique(signed)) <= {int(np.floor(3 + value)), int(np.floor(3 + value)) + 1}
        assert abs(signed.mean() - (3 + value)) < 6 * 0.5 / np.sqrt(count)


def test_tensors_have_clips_of_their_own_across_blocks() -> None:
    sizes, clips = [BLOCK + 3, 5, BLOCK // 2], [1.0, 10.0, 0.1]
    rng = np.random.default_rng(3)
    update = np.concatenate([rng.uniform(-clip, clip, size) for size, clip in zip(sizes, clips, strict=True)])
    vector = quantise(
        update.astype(np.float32), sizes, clips, weight=0.5, profile=STANDARD, n_max=3, dither_key=bytes(32)
    ).vector
    mean = decode_mean(vector, sizes, clips, total_weight=0.5, profile=STANDARD, n_max=3)
    assert np.abs(mean - update).max() < 1e-6


def test_memory_for_the_vector_is_used_and_checked() -> None:
    memory = np.zeros(4, np.uint32)
    assert one_site([0.5], out=memory).vector is memory
    with pytest.raises(ValueError, match="4 are needed"):
        one_site([0.5], out=np.zeros(3, np.uint32))


def test_a_sum_that_lacks_its_check_values_is_refused() -> None:
    vector = one_site([0.1, 0.2]).vector
    for place in (-1, -2):
        wrong = vector.copy()
        wrong[place] += 1
        with pytest.raises(errors.UnmaskError, match="check values"):
            check_trailer(wrong, 1, STANDARD, 3)
    wrong = vector.copy()
    wrong[-3] = 0
    with pytest.raises(errors.UnmaskError, match="weight 0"):
        check_trailer(wrong, 1, STANDARD, 3)


# ---- the side vector ----


def test_metrics_that_a_site_lacks_or_that_are_not_finite_count_nothing() -> None:
    names = ("loss", "accuracy", "f1")
    sites = [
        (10, {"loss": 2.0, "accuracy": 0.5}),
        (30, {"loss": float("nan"), "accuracy": -0.25}),
        (60, {"loss": float("inf")}),
    ]
    total = np.zeros(side_length(names), np.uint64)
    for count, metrics in sites:
        total += encode_side(names, metrics, num_examples=count, weight=1.0, clipped=2, n_max=3)
    side = decode_side(names, total, count=3)
    assert side.num_examples == 100
    assert side.clipped == 6
    assert set(side.metrics) == {"loss", "accuracy"}
    assert side.metrics["loss"] == pytest.approx(2.0, abs=1e-6)
    assert side.metrics["accuracy"] == pytest.approx((10 * 0.5 - 30 * 0.25) / 40, abs=1e-6)


def test_huge_metrics_and_counts_do_not_wrap_around() -> None:
    names, n_max = ("loss",), 1000
    one = encode_side(names, {"loss": -1e300}, num_examples=2**50, weight=1.0, clipped=0, n_max=n_max)
    total = one * np.uint64(n_max)
    assert decode_side(names, total, count=n_max).metrics["loss"] == -4096.0


def test_a_side_vector_of_noise_is_refused() -> None:
    with pytest.raises(errors.UnmaskError, match="masks did not cancel"):
        decode_side((), np.array([1, 2**63, 3], np.uint64), count=3)
    assert decode_side((), np.array([1, WEIGHT_UNIT, 3], np.uint64), count=3).weight == 1.0


# ---- files of the site ----


def test_a_policy_file_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    path = tmp_path / "site.toml"
    path.write_text("[secagg]\nmin_sites = 5\nprofiles = ['standard']\n")
    assert SitePolicy.from_file(path) == SitePolicy(min_sites=5, profiles=("standard",))
    path.write_text("[secagg]\nmin_site = 5\n")
    with pytest.raises(ConfigError, match=r"unknown key secagg\.min_site") as caught:
        SitePolicy.from_file(path)
    assert caught.value.hint == "did you mean secagg.min_sites?"
    path.write_text("[secagg]\nmin_sites = 2\n")
    with pytest.raises(ConfigError, match="must be at least 3"):
        SitePolicy.from_file(path)
    path.write_text("[secag]\nrequired = true\n")
    with pytest.raises(ConfigError, match="unknown table secag") as caught:
        SitePolicy.from_file(path)
    assert caught.value.hint == "did you mean secagg?"
    path.write_text("required = true\n")
    with pytest.raises(ConfigError, match="unknown table required"):
        SitePolicy.from_file(path)


def test_the_floors_may_stand_in_the_owners_whole_policy_file(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text("[apps]\nallow = []\n[secagg]\nrequired = true\n[limits]\nmib_per_day = 10.0\n")
    assert SitePolicy.from_file(path).required
    assert set(TABLES) == {field.name for field in dataclasses.fields(Policy)}


def test_a_ledger_is_read_as_it_was_written_and_a_damaged_one_is_refused() -> None:
    federation = Federation(3)
    federation.run()
    ledger = federation.ledgers[federation.names[0]]
    assert Ledger.decode(ledger.encode()) == ledger
    assert ledger.runs["run-1"].revealed
    for data in (b"", b"{}", b"[]", ledger.encode()[:-20], ledger.encode().replace(b"v1", b"v9")):
        with pytest.raises(errors.SecAggError, match="ledger is damaged"):
            Ledger.decode(data)


def test_every_error_has_a_status() -> None:
    tree = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    statuses = {error.__name__: error.exit_status for error in tree if issubclass(error, errors.SecAggError)}
    refused = {"PolicyError", "RingError", "UpdateError"} | {name for name in statuses if name.startswith("Roster")}
    assert {name for name, status in statuses.items() if status == 2} == refused
    assert {name for name, status in statuses.items() if status not in (1, 2)} == set()
    for name in statuses:
        assert errors.__doc__
        assert name in errors.__doc__
