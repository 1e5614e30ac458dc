from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fl.errors import ConfigError, RunError
from fl.strategies import create
from tests.fl.strategies.helpers import fold_all, folded_update, updates_of

sensible = st.floats(-1e6, 1e6, width=32, allow_subnormal=False)


@given(
    updates_NP=hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.integers(1, 30)), elements=sensible),
    data=st.data(),
)
@settings(deadline=None)
def test_fedavg_is_the_mean_weighted_by_examples(updates_NP, data):
    counts = st.lists(st.integers(0, 10**6), min_size=len(updates_NP), max_size=len(updates_NP)).filter(any)
    examples = data.draw(counts)
    folded = folded_update(create("fedavg", {}), updates_of(updates_NP, examples))
    expected = np.average(updates_NP.astype(np.float64), axis=0, weights=examples)
    bound = 2 * len(updates_NP) * np.finfo(np.float32).eps * np.abs(updates_NP).max()
    np.testing.assert_allclose(folded, expected, rtol=0, atol=bound)


def test_the_update_moves_the_model():
    model_P, update_P = np.float32([1, 2, 3]), np.float32([0.5, -0.5, 0])
    assert fold_all(create("fedavg", {}), model_P, updates_of([update_P]))[0].tolist() == [1.5, 1.5, 3]


def test_a_site_without_examples_counts_for_nothing():
    updates_NP = np.float32([[1, 2], [np.nan, np.inf]])
    assert folded_update(create("fedavg", {}), updates_of(updates_NP, [3, 0])).tolist() == [1, 2]


def test_a_round_without_any_example_is_refused():
    with pytest.raises(RunError, match="none of the 2 sites that answered has an example"):
        folded_update(create("fedavg", {}), updates_of(np.ones((2, 3)), [0, 0]))


def test_the_mean_of_a_thousand_sites_is_still_exact_to_float32():
    rng = np.random.default_rng(1)
    updates_NP = rng.standard_normal((1000, 500), dtype=np.float32)
    folded = folded_update(create("fedavg", {}), updates_of(updates_NP))
    np.testing.assert_allclose(folded, updates_NP.astype(np.float64).mean(axis=0), atol=3e-7)


def test_fedprox_folds_as_fedavg_and_tells_the_sites_its_price():
    updates = updates_of(np.random.default_rng(0).standard_normal((4, 100)), [1, 2, 3, 4])
    fedprox = create("fedprox", {"proximal_mu": 0.3})
    assert fedprox.site_options() == {"proximal_mu": 0.3}
    assert create("fedavg", {}).site_options() == {}
    assert folded_update(fedprox, updates).tobytes() == folded_update(create("fedavg", {}), updates).tobytes()


def test_a_negative_price_is_refused():
    with pytest.raises(ConfigError, match=r"strategy.proximal_mu is -1.0, must be at least 0"):
        create("fedprox", {"proximal_mu": -1})
