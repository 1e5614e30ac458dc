from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl.errors import ConfigError, RunError
from fl.strategies import create
from tests.fl.strategies.helpers import folded_update, updates_of

ROBUST = {
    "median": {},
    "trimmed_mean": {"trimmed_fraction": 0.3},
    "krum": {"num_malicious_sites": 3},
    "multi_krum": {"num_malicious_sites": 3},
    "geometric_median": {},
}

matrices = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 20), st.integers(1, 20)),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)


# --- each against an oracle ---


@given(updates_NP=matrices)
@settings(deadline=None)
def test_the_median_is_numpys_to_the_bit(updates_NP):
    folded = folded_update(create("median", {}), updates_of(updates_NP))
    np.testing.assert_array_equal(folded, np.median(updates_NP, axis=0))


@given(updates_NP=matrices, fraction=st.floats(0.05, 0.49))
@settings(deadline=None)
def test_the_trimmed_mean_is_scipys(updates_NP, fraction):
    strategy = create("trimmed_mean", {"trimmed_fraction": fraction})
    if len(updates_NP) < strategy.minimum_updates():
        with pytest.raises(RunError, match="trimmed_mean with these options needs"):
            folded_update(strategy, updates_of(updates_NP))
        return
    expected = scipy.stats.trim_mean(updates_NP.astype(np.float64), fraction + 1e-12, axis=0)
    folded = folded_update(strategy, updates_of(updates_NP))
    np.testing.assert_allclose(folded, expected, rtol=1e-5, atol=1e-6 * np.abs(updates_NP).max())


def test_a_share_that_is_a_whole_number_of_sites_is_not_rounded_down():
    updates_NP = np.arange(100, dtype=np.float32).reshape(100, 1) ** 2
    folded = folded_update(create("trimmed_mean", {"trimmed_fraction": 0.29}), updates_of(updates_NP))
    assert folded[0] == pytest.approx(np.mean(np.arange(29, 71) ** 2.0), rel=1e-6)


def krum_scores(updates_NP, num_malicious):
    """Blanchard et al. by the letter: over every choice of neighbours, the smallest sum."""
    n = len(updates_NP)
    distances_NN = ((updates_NP[:, None].astype(np.float64) - updates_NP[None]) ** 2).sum(axis=2)
    return [
        min(
            sum(distances_NN[i, j] for j in near)
            for near in itertools.combinations([j for j in range(n) if j != i], n - num_malicious - 2)
        )
        for i in range(n)
    ]


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("num_sites", "num_malicious"), [(3, 0), (5, 1), (8, 2), (9, 3), (10, 2)])
def test_krum_takes_the_update_with_the_lowest_score(seed, num_sites, num_malicious):
    updates_NP = np.random.default_rng(seed).standard_normal((num_sites, 50), dtype=np.float32)
    scores = krum_scores(updates_NP, num_malicious)
    krum = create("krum", {"num_malicious_sites": num_malicious})
    np.testing.assert_array_equal(folded_update(krum, updates_of(updates_NP)), updates_NP[int(np.argmin(scores))])
    for selected in (None, 1, 3):
        options = {"num_malicious_sites": num_malicious}
        multi = create("multi_krum", options | ({"num_selected_sites": selected} if selected else {}))
        best = np.argsort(scores)[: selected or num_sites - num_malicious - 2]
        np.testing.assert_allclose(
            folded_update(multi, updates_of(updates_NP)), updates_NP[best].mean(axis=0), atol=1e-6
        )


def test_krum_prefers_the_first_site_of_equals():
    updates_NP = np.float32([[3], [1], [1], [1], [9]])
    assert folded_update(create("krum", {}), updates_of(updates_NP)).tolist() == [1]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_geometric_median_has_the_smallest_sum_of_distances(seed, weighted):
    rng = np.random.default_rng(seed)
    updates_NP = rng.standard_normal((9, 6), dtype=np.float32)
    examples = rng.integers(1, 10, 9).tolist()
    weights = np.array(examples if weighted else [1] * 9) / (sum(examples) if weighted else 9)

    def objective(point):
        return float(weights @ np.linalg.norm(updates_NP.astype(np.float64) - point, axis=1))

    start = updates_NP.mean(axis=0)
    options = {"xatol": 1e-6, "fatol": 1e-12, "maxiter": 20_000, "maxfev": 20_000}
    best = scipy.optimize.minimize(objective, start, method="Nelder-Mead", options=options)
    assert best.success
    strategy = create("geometric_median", {"max_iterations": 200, "weighted": weighted})
    folded = folded_update(strategy, updates_of(updates_NP, examples))
    assert objective(folded) <= best.fun * (1 + 1e-6)
    np.testing.assert_allclose(folded, best.x, atol=5e-3)


def test_the_geometric_median_may_lie_on_an_update():
    updates_NP = np.float32([[1, 1], [1, 1], [1, 1], [50, -20]])
    folded = folded_update(create("geometric_median", {"max_iterations": 60}), updates_of(updates_NP))
    np.testing.assert_allclose(folded, [1, 1], atol=1e-4)


# --- against those who do not play by the rules ---


ATTACKS = {
    "nothing at all": lambda honest: 0 * honest[:3],
    "the opposite": lambda honest: -honest[:3],
    "the opposite, loud": lambda honest: -1000 * honest[:3],
    "a million times too much": lambda honest: 1e6 * honest[:3],
    "as large as a float goes": lambda honest: np.full_like(honest[:3], 3.4e38),
    "as large as a float goes, both ways": lambda honest: np.sign(honest[:3] - honest[3]) * np.float32(3.4e38),
    "all the same": lambda honest: np.tile(-5 * honest[0], (3, 1)),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("first", [False, True])
def test_three_of_ten_sites_do_not_lead_the_model_away(name, attack, first):
    rng = np.random.default_rng(6)
    direction_P = rng.standard_normal(2000, dtype=np.float32)
    honest_NP = direction_P + 0.3 * rng.standard_normal((7, 2000), dtype=np.float32)
    malicious_NP = ATTACKS[attack](honest_NP).astype(np.float32)
    rows = [malicious_NP, honest_NP] if first else [honest_NP, malicious_NP]
    # They also claim to have a billion examples each.
    examples = [10**9] * 3 + [1] * 7 if first else [1] * 7 + [10**9] * 3
    folded = folded_update(create(name, ROBUST[name]), updates_of(np.concatenate(rows), examples))
    away = np.linalg.norm(folded - direction_P) / np.linalg.norm(direction_P)
    assert away < 0.5  # one honest update alone is 0.3 away
    mean = folded_update(create("fedavg", {}), updates_of(np.concatenate(rows), examples))
    with np.errstate(over="ignore"):
        assert not np.linalg.norm(mean - direction_P) / np.linalg.norm(direction_P) < 0.9


# --- options ---


@pytest.mark.parametrize(
    ("name", "options", "needed"),
    [
        ("median", {}, 1),
        ("trimmed_mean", {}, 5),
        ("trimmed_mean", {"trimmed_fraction": 0.1}, 10),
        ("trimmed_mean", {"trimmed_fraction": 0.34}, 3),
        ("krum", {"num_malicious_sites": 0}, 3),
        ("krum", {"num_malicious_sites": 2}, 7),
        ("multi_krum", {"num_malicious_sites": 1, "num_selected_sites": 9}, 9),
        ("geometric_median", {}, 1),
    ],
)
def test_the_fewest_updates_a_rule_can_work_with(name, options, needed):
    assert create(name, options).minimum_updates() == needed


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("trimmed_mean", "trimmed_fraction", 0.5),
        ("trimmed_mean", "trimmed_fraction", 0),
        ("krum", "num_malicious_sites", -1),
        ("multi_krum", "num_malicious_sites", -1),
        ("multi_krum", "num_selected_sites", 0),
        ("geometric_median", "max_iterations", 0),
        ("geometric_median", "smoothing", 0),
    ],
)
def test_a_value_out_of_its_range_is_refused(name, key, value):
    with pytest.raises(ConfigError, match=f"strategy.{key} is "):
        create(name, {key: value})
