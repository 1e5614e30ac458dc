"""Dividing a data set among sites."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.errors import ConfigError
from fl.tasks.splits import SplitConfig, split

KINDS = ("iid", "dirichlet", "label", "quantity")

configs = st.builds(
    SplitConfig,
    kind=st.sampled_from(KINDS),
    alpha=st.sampled_from([1e-6, 0.01, 0.1, 1.0, 100.0]),
    labels_per_site=st.integers(1, 5),
    exponent=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    minimum=st.integers(1, 4),
)
label_lists = st.lists(st.integers(0, 4), min_size=1, max_size=200).map(np.array)


@settings(deadline=None, max_examples=300)
@given(config=configs, labels=label_lists, sites=st.integers(1, 12), seed=st.integers(0, 2**62))
def test_every_example_goes_to_one_site_and_no_site_is_below_the_minimum(config, labels, sites, seed):
    if len(labels) < sites * config.minimum:
        with pytest.raises(ConfigError, match=f"{len(labels)} examples do not suffice for {sites} sites"):
            config.split(labels, sites, seed)
        return
    try:
        parts = config.split(labels, sites, seed)
    except ConfigError:
        # Only labels set limits that enough examples alone do not lift.
        if config.kind == "label":
            return
        raise
    assert len(parts) == sites
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))
    assert min(len(part) for part in parts) >= config.minimum
    assert all(np.array_equal(part, np.sort(part)) and part.dtype == np.int64 for part in parts)


@settings(deadline=None, max_examples=50)
@given(config=configs, seed=st.integers(0, 2**62))
def test_the_same_seed_gives_the_same_division(config, seed):
    labels = np.arange(400) % 5
    once, again = config.split(labels, 5, seed), config.split(labels, 5, seed)
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_another_seed_gives_another_division(kind):
    labels = np.arange(1000) % 10
    once, other = split(labels, 5, kind, 1), split(labels, 5, kind, 2)
    assert any(not np.array_equal(a, b) for a, b in zip(once, other, strict=True))


def test_iid_parts_are_of_equal_size():
    assert sorted(len(part) for part in split(np.zeros(11, int), 3, "iid", 1)) == [3, 4, 4]


@settings(deadline=None, max_examples=100)
@given(labels_per_site=st.integers(1, 10), sites=st.integers(10, 30), seed=st.integers(0, 2**62))
def test_a_site_knows_as_many_labels_as_asked(labels_per_site, sites, seed):
    labels = np.arange(3000) % 10
    for part in split(labels, sites, "label", seed, labels_per_site=labels_per_site):
        assert len(np.unique(labels[part])) == labels_per_site


def test_a_smaller_alpha_makes_sites_differ_more():
    labels = np.arange(5000) % 10

    def distance_from_the_whole(alpha):
        shares = [
            np.bincount(labels[part], minlength=10) / len(part)
            for part in split(labels, 10, "dirichlet", 1, alpha=alpha)
        ]
        return np.mean([np.abs(share - 0.1).sum() for share in shares])

    distances = [distance_from_the_whole(alpha) for alpha in (0.01, 0.1, 1.0, 100.0)]
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 1.0 > 0.3 > distances[-1]


def test_dirichlet_proportions_have_the_variance_of_their_distribution():
    # One label, 20 sites, alpha 1: shares are Beta(1, 19) with variance 19 / (400 * 21). 200 divisions of 4,000
    # examples give 4,000 shares; their fourth moment bounds the standard error of the variance to under 5 %.
    shares = [
        len(part) / 4000 for seed in range(200) for part in split(np.zeros(4000, int), 20, "dirichlet", seed, alpha=1.0)
    ]
    assert np.var(shares) == pytest.approx(19 / (400 * 21), rel=0.2)


def test_quantities_follow_the_power_law():
    sizes = sorted((len(part) for part in split(np.zeros(10_000, int), 4, "quantity", 1, exponent=1.0)), reverse=True)
    expected = 10_000 * np.array([1, 1 / 2, 1 / 3, 1 / 4]) / (1 + 1 / 2 + 1 / 3 + 1 / 4)
    assert np.allclose(sizes, expected, atol=3)


def test_any_site_may_be_the_largest():
    largest = {np.argmax([len(part) for part in split(np.zeros(100, int), 4, "quantity", seed)]) for seed in range(40)}
    assert largest == {0, 1, 2, 3}  # chance of missing one: 4 * 0.75 ** 40 < 1e-4, and the seeds are fixed


def test_labels_may_be_texts():
    labels = np.array(["cat", "dog", "eel"] * 10)
    for part in split(labels, 3, "label", 1, labels_per_site=1):
        assert len(set(labels[part])) == 1


@pytest.mark.parametrize(
    ("labels", "sites", "shape", "message"),
    [
        ([0, 1], 3, {"kind": "iid"}, "2 examples do not suffice for 3 sites with at least 1 each"),
        ([0] * 10, 3, {"kind": "iid", "minimum": 4}, "10 examples do not suffice for 3 sites with at least 4 each"),
        (
            [0, 1, 2] * 9,
            2,
            {"kind": "label", "labels_per_site": 4},
            "split.labels_per_site is 4, and there are 3 labels",
        ),
        ([0, 1, 2] * 9, 2, {"kind": "label", "labels_per_site": 1}, "2 sites with 1 labels each leave some of the 3"),
        ([0, 0, 0, 0, 1], 4, {"kind": "label", "labels_per_site": 1}, "would have 0 examples, at least 1 needed"),
        ([0.5, 1.5, 2.5], 2, {"kind": "dirichlet"}, "a split of kind dirichlet needs labels"),
        ([0, 1], 0, {"kind": "iid"}, "sites is 0, must be at least 1"),
        ([0, 1], 2, {"kind": "dirichlet", "alpha": 0.0}, "split.alpha is 0.0, must be above 0"),
        ([0, 1], 2, {"kind": "quantity", "exponent": -1.0}, "split.exponent is -1.0, must be at least 0"),
        ([0, 1], 2, {"kind": "label", "labels_per_site": 0}, "split.labels_per_site is 0, must be at least 1"),
        ([0, 1], 2, {"kind": "dirichlett"}, "unknown split dirichlett"),
    ],
)
def test_a_division_that_does_not_exist_is_refused(labels, sites, shape, message):
    with pytest.raises(ConfigError, match=message):
        split(np.array(labels), sites, seed=1, **shape)


def test_every_kind_has_a_line_in_the_config_and_a_default_that_works():
    parts = SplitConfig().split(np.arange(30) % 3, 3, 1)
    assert [len(part) for part in parts] == [10, 10, 10]
    assert {field.name for field in dataclasses.fields(SplitConfig)} == {
        "kind", "alpha", "labels_per_site", "exponent", "minimum",
    }  # fmt: skip
