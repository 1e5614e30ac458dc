from __future__ import annotations

import sys

import numpy as np
import pytest

from fl.strategies import create
from fl.strategies.base import Tiles
from fl.strategies.sorting import NETWORK_LIMIT, MiddleMean, network, run_network
from tests.fl.strategies.helpers import folded_update, updates_of


def run(num_inputs: int, ranks: range, inputs_NT: np.ndarray) -> list[np.ndarray]:
    """The wanted ranks, by the network."""
    rows_NT = run_network(network(num_inputs, ranks), inputs_NT.copy(), np.full_like(inputs_NT[0], np.nan))
    return [rows_NT[rank] for rank in ranks]


@pytest.mark.parametrize("num_inputs", range(1, 15))
def test_every_pattern_of_zeros_and_ones_is_sorted(num_inputs):
    # Knuth's 0-1 principle: a network that sorts these sorts everything, and so for each single rank.
    patterns = (np.arange(2**num_inputs)[None, :] >> np.arange(num_inputs)[:, None] & 1).astype(np.float32)
    expected = np.sort(patterns, axis=0)
    for ranks in (range(num_inputs), range((num_inputs - 1) // 2, num_inputs // 2 + 1)):
        for rank, values in zip(ranks, run(num_inputs, ranks, patterns), strict=True):
            assert (values == expected[rank]).all()


@pytest.mark.parametrize("num_inputs", [15, 16, 17, 31, 33, 48, 63, 64])
def test_larger_networks_sort_random_columns(num_inputs):
    columns = np.random.default_rng(num_inputs).integers(0, 9, (num_inputs, 2000)).astype(np.float32)
    for rank, values in enumerate(run(num_inputs, range(num_inputs), columns)):
        assert (values == np.sort(columns, axis=0)[rank]).all()


def test_a_median_compares_less_than_a_sort():
    assert len(network(8, range(8))) == 19  # Batcher's, which is optimal for eight
    assert sum(step.wants_low + step.wants_high for step in network(8, range(3, 5))) < 2 * 19


@pytest.mark.parametrize(
    ("num_sites", "cut"), [(1, 0), (2, 0), (3, 1), (8, 0), (8, 3), (21, 7), (21, 10), (NETWORK_LIMIT, 10)]
)
def test_network_and_sort_give_the_same_bits(num_sites, cut, monkeypatch):
    rng = np.random.default_rng(num_sites)
    values = np.float32([-1.5, -0.0, 0.0, 2.25, 1e30, 3.1])
    tiles = Tiles(updates_of(rng.choice(values, (num_sites, 1024))), slice(0, 1024))
    out = []
    for limit in (NETWORK_LIMIT, 0):
        monkeypatch.setattr(sys.modules[MiddleMean.__module__], "NETWORK_LIMIT", limit)
        rule = MiddleMean(num_sites, cut)
        out.append(np.empty(1024, np.float32))
        rule(tiles, out[-1], np.empty((rule.scratch_rows + 1, 1024), np.float32))
    assert out[0].tobytes() == out[1].tobytes()
    assert not np.signbit(out[0][out[0] == 0]).any()


def test_more_sites_than_the_network_takes_have_the_same_median():
    updates_NP = np.random.default_rng(8).standard_normal((NETWORK_LIMIT + 7, 3001), dtype=np.float32)
    folded = folded_update(create("median", {}), updates_of(updates_NP))
    np.testing.assert_array_equal(folded, np.median(updates_NP, axis=0))
