from __future__ import annotations

import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.arrays import ArrayFile, Layout, write_arrays
from fl.errors import RunError
from fl.strategies import Update, create, fold
from fl.strategies.registry import STRATEGIES
from tests.fl.strategies.helpers import fold_all, folded_update, updates_of

fold_module = sys.modules["fl.strategies.fold"]  # the name in the package is the function's

NAMES = sorted(STRATEGIES)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 4096 elements and tiles of at most 2048, so that small vectors have many of both."""
    monkeypatch.setattr(fold_module, "BLOCK_ELEMENTS", 4096)
    monkeypatch.setattr(fold_module, "TILE_ELEMENTS", 2048)


def random_round(seed: int, num_sites: int, size: int):
    rng = np.random.default_rng(seed)
    model_P = rng.standard_normal(size, dtype=np.float32)
    updates_NP = rng.standard_normal((num_sites, size), dtype=np.float32)
    updates_NP[:, rng.random(size) < 0.2] *= 0  # zeros of both signs, whose order is nobody's promise
    return model_P, updates_of(updates_NP, rng.integers(1, 1000, num_sites).tolist())


@pytest.mark.parametrize("name", NAMES)
@given(order=st.permutations(range(7)), seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_order_of_arrival_does_not_change_a_bit(name, order, seed):
    model_P, updates = random_round(seed, 7, 1500)
    one, one_state = fold_all(create(name, {}), model_P, updates)
    other, other_state = fold_all(create(name, {}), model_P, [updates[i] for i in order])
    assert one.tobytes() == other.tobytes()
    assert {k: v.tobytes() for k, v in one_state.items()} == {k: v.tobytes() for k, v in other_state.items()}


@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_threads_does_not_change_a_bit(name, small_blocks):
    model_P, updates = random_round(11, 9, 30_001)
    results = {fold_all(create(name, {}), model_P, updates, threads=threads)[0].tobytes() for threads in (1, 2, 5)}
    assert len(results) == 1


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"geometric_median"}))
@pytest.mark.parametrize("size", [1, 1023, 4096, 30_001])
def test_how_the_vector_is_cut_does_not_change_a_bit(name, size, monkeypatch):
    model_P, updates = random_round(5, 9, size)
    whole, _ = fold_all(create(name, {}), model_P, updates)
    monkeypatch.setattr(fold_module, "BLOCK_ELEMENTS", 5000)
    monkeypatch.setattr(fold_module, "TILE_ELEMENTS", 1024)
    cut, _ = fold_all(create(name, {}), model_P, updates)
    assert whole.tobytes() == cut.tobytes()


@pytest.mark.parametrize("name", NAMES)
def test_many_rounds_with_state_go_on_from_what_the_last_one_left(name, small_blocks):
    model_P, _ = random_round(0, 7, 9000)
    state: dict = {}
    for number in (1, 2, 3):
        _, updates = random_round(number, 7, 9000)
        model_P, state = fold_all(create(name, {}), model_P, updates, state, round=number)
        assert np.isfinite(model_P).all()
        assert set(state) == set(STRATEGIES[name].state_names)


@pytest.mark.parametrize("name", NAMES)
def test_updates_that_agree_move_the_model_by_what_they_say(name):
    # A server optimiser's step has its own length, so only its direction is theirs.
    update_P = np.linspace(-1, 1, 1001, dtype=np.float32)
    folded = folded_update(create(name, {}), updates_of(np.tile(update_P, (6, 1)), [5, 1, 7, 2, 2, 9]))
    if name in ("fedadam", "fedyogi", "fedadagrad"):
        assert (np.sign(folded) == np.sign(update_P)).all()
    else:
        np.testing.assert_allclose(folded, update_P, rtol=1e-6)


def test_inputs_are_left_as_they_were(small_blocks):
    model_P, updates = random_round(3, 7, 10_000)
    state = {"first_moment": np.ones(10_000, np.float32), "second_moment": np.ones(10_000, np.float32)}
    for vector_P in (model_P, *state.values()):
        vector_P.flags.writeable = False
    fold_all(create("fedadam", {}), model_P, updates, state)


def test_mapped_files_fold_like_arrays_and_their_pages_are_given_back(tmp_path, monkeypatch):
    monkeypatch.setattr(fold_module, "RELEASE_BYTES", 1 << 16)
    model_P, updates = random_round(3, 5, 200_000)
    files, mapped, released = [], [], threading.local()
    released = dict.fromkeys((update.site for update in updates), 0)
    for update in updates:
        path = tmp_path / f"{update.site}.safetensors"
        write_arrays(path, Layout((("w", (200_000,)),)), [update.vector_P], durable=False)
        files.append(ArrayFile(path))

        def release(site=update.site, file=files[-1]):
            released[site] += 1
            file.release()

        mapped.append(
            Update(site=update.site, num_examples=update.num_examples, vector_P=files[-1].vector_P, release=release)
        )
    for name in ("fedavg", "median", "krum"):
        assert fold_all(create(name, {}), model_P, mapped)[0].tobytes() == (
            fold_all(create(name, {}), model_P, updates)[0].tobytes()
        )
    assert min(released.values()) >= 3 * 200_000 * 4 * 5 // (1 << 16) // 3
    del mapped
    for file in files:
        file.close()


def test_scratch_memory_and_tiles_are_bounded_for_any_number_of_sites():
    for num_sites in (1, 8, 100, 1000):
        _, updates = random_round(0, num_sites, 4)
        for rows in (0, 1, 3, num_sites + 1):
            _, given_rows, length = fold_module._Reader(updates).scratch(1, rows).shape
            assert given_rows == rows
            assert 4 * rows * length <= max(fold_module.SCRATCH_BYTES, 4 * rows * fold_module.TILE_STEP)
            assert 4 * num_sites * length <= fold_module.RELEASE_BYTES


def test_a_reader_who_stops_early_leaves_no_thread_behind(small_blocks):
    model_P, updates = random_round(0, 3, 100_000)
    blocks = fold(create("fedavg", {}), model_P, updates, {}, round=1, threads=2)
    next(blocks)
    blocks.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fold")]


def test_a_block_stays_as_it_is_until_the_next_is_asked_for(small_blocks):
    model_P, updates = random_round(0, 3, 40_000)
    expected, _ = fold_all(create("fedavg", {}), model_P, updates)
    for block in fold(create("fedavg", {}), model_P, updates, {}, round=1, threads=2):
        time.sleep(0.002)  # long enough for the threads to have used every piece of memory that is free
        assert (block.model == expected[block.start : block.start + block.model.size]).all()


def test_too_few_updates_are_refused_with_both_numbers():
    model_P, updates = random_round(0, 4, 10)
    with pytest.raises(RunError, match="krum with these options needs 5 updates, 4 arrived") as info:
        fold(create("krum", {}), model_P, updates, {}, round=1)
    assert "quorum of 5" in info.value.hint
    with pytest.raises(RunError, match="fedavg with these options needs 1 updates, 0 arrived"):
        fold(create("fedavg", {}), model_P, [], {}, round=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vector_P": np.zeros(9, np.float32)}, r"site-0001 is float32 \(9,\), expected float32 \(10,\)"),
        ({"vector_P": np.zeros(10)}, "site-0001 is float64"),
        ({"site": "site-0000"}, "two updates of site site-0000"),
    ],
)
def test_updates_that_do_not_fit_are_our_own_misuse(change, message):
    model_P, (first, second) = random_round(0, 2, 10)
    fields = {"site": second.site, "num_examples": 1, "vector_P": second.vector_P} | change
    with pytest.raises(ValueError, match=message):
        fold(create("fedavg", {}), model_P, [first, Update(**fields)], {}, round=1)


def test_state_of_another_strategy_is_refused():
    model_P, updates = random_round(0, 2, 10)
    with pytest.raises(ValueError, match=r"state is \['momentum'\], fedadam has \['first_moment', 'second_moment'\]"):
        fold(create("fedadam", {}), model_P, updates, {"momentum": np.zeros(10, np.float32)}, round=1)


def test_an_error_in_a_thread_reaches_the_caller():
    model_P, updates = random_round(0, 2, 10)

    def broken():
        raise OSError("the map is gone")

    gone = Update(site="z", num_examples=1, vector_P=updates[0].vector_P, release=broken)
    with pytest.raises(OSError, match="the map is gone"):
        list(fold(create("fedavg", {}), model_P, [*updates, gone], {}, round=1))
