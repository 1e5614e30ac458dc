from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.arrays import ArrayFile, Layout, write_arrays
from fl.errors import RunError
from fl.strategies import Update, create, fold
from fl.strategies.base import Tiles
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


def test_mapped_files_fold_like_arrays_and_give_their_pages_back(tmp_path, small_blocks):
    size = 100_000
    model_P, updates = random_round(3, 5, size)
    with contextlib.ExitStack() as stack:
        mapped = []
        for update in updates:
            path = tmp_path / f"{update.site}.safetensors"
            write_arrays(path, Layout((("w", (size,)),)), [update.vector_P], durable=False)
            file = stack.enter_context(ArrayFile(path))
            mapped.append(dataclasses.replace(update, vector_P=file.vector_P, release=file.release))
        for name in NAMES:
            expected, _ = fold_all(create(name, {}), model_P, updates)
            assert fold_all(create(name, {}), model_P, mapped)[0].tobytes() == expected.tobytes()
            maps = Path("/proc/self/smaps").read_text().split(str(tmp_path))[1:]
            resident_kib = [int(text.split("Rss:")[1].split()[0]) for text in maps]
            assert len(resident_kib) == 5
            assert max(resident_kib) == 0


def test_an_update_is_given_back_before_the_next_is_read():
    touched = []

    def update_of(site: str) -> Update:
        release = functools.partial(touched.append, f"release {site}")
        return Update(site=site, num_examples=1, vector_P=np.ones(4, np.float32), release=release)

    for tile_T in Tiles([update_of(site) for site in "abc"], slice(1, 3)).read([0, 2]):
        touched.append(f"read {tile_T.size}")
    assert touched == ["read 2", "release a", "read 2", "release c"]


@pytest.mark.parametrize("rows", [0, 1, 3, 9, 65, 1001])
def test_scratch_memory_is_bounded(rows):
    slots, given_rows, length = fold_module._scratch(4, rows).shape
    assert (slots, given_rows) == (4, rows)
    assert 4 * rows * length <= max(fold_module.SCRATCH_BYTES, 4 * rows * fold_module.TILE_STEP)
    assert length % fold_module.TILE_STEP == 0


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
