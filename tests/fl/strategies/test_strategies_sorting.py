from __future__ import annotations

import sys

import numpy as np
import pytest

from fl.strategies import create
from fl.strategies.sorting import NETWORK_LIMIT, MiddleMean, network
from tests.fl.strategies.helpers import folded_update, updates_of


def run(num_inputs: int, ranks: range, inputs_NT: np.ndarray) -> list[np.ndarray]:
    """The wanted ranks, by the network's program; inputs are read-only, and unwritten memory is NaN."""
    program = network(num_inputs, ranks)
    registers = [*inputs_NT, *np.full((program.scratch_rows, inputs_NT.shape[1]), np.nan, np.float32)]
    for vector in registers[:num_inputs]:
        vector.flags.writeable = False
    for left, right, low, high in program.comparisons:
        if low is not None:
            np.minimum(registers[left], registers[right], out=registers[low])
        if high is not None:
            np.maximum(registers[left], registers[right], out=registers[high])
    return [registers[result] for result in program.results]


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


def test_a_median_compares_less_than_a_sort_and_needs_few_rows():
    everything, median = network(8, range(8)), network(8, range(3, 5))
    assert len(everything.comparisons) == 19  # Batcher's, which is optimal for eight
    operations = sum((step.low is not None) + (step.high is not None) for step in median.comparisons)
    assert operations < 2 * 19
    assert max(everything.scratch_rows, median.scratch_rows) <= 9


@pytest.mark.parametrize("num_sites", [2, 3, 8, 21, NETWORK_LIMIT])
@pytest.mark.parametrize("cut", [0, 1, 7, 10])
def test_network_and_sort_give_the_same_bits(num_sites, cut, monkeypatch):
    if 2 * cut >= num_sites:
        pytest.skip("nothing would be left")
    rng = np.random.default_rng(cut)
    tiles = list(rng.choice(np.float32([-1.5, -0.0, 0.0, 2.25, 1e30, 3.1]), (num_sites, 1024)))
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
