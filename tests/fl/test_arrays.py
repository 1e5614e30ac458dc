from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from fl import arrays as module
from fl import digests
from fl.arrays import ArrayFile, ArrayWriter, Layout, VectorArrays, flat_blocks, vector_of, write_arrays
from fl.digests import file_digest
from fl.errors import JournalError, StorageError

LAYOUT = Layout((("weight", (3, 4)), ("bias", (4,)), ("scale", ()), ("nothing", (0, 2))))


def hasher_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sha256")]


def a_model(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.standard_normal(shape), np.float32) for name, shape in LAYOUT.entries}


# --- layouts ---


def test_a_layout_counts_and_splits_without_copying():
    assert (LAYOUT.size, LAYOUT.size_bytes) == (17, 68)
    vector_P = np.arange(17, dtype=np.float32)
    parts = LAYOUT.split(vector_P)
    assert {name: part.shape for name, part in parts.items()} == dict(LAYOUT.entries)
    parts["bias"][0] = -1
    assert vector_P[12] == -1
    assert Layout.of(parts) == LAYOUT


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        (LAYOUT.entries, None),
        (LAYOUT.entries[1:], "weight is missing"),
        ((("weight", (4, 3)), *LAYOUT.entries[1:]), "weight has shape [4, 3], expected [3, 4]"),
        ((*LAYOUT.entries, ("more", (1,))), "more is not a parameter of the model"),
        (LAYOUT.entries[::-1], "the parameters are in another order"),
    ],
)
def test_the_first_difference_of_two_layouts_is_said_in_words(entries, words):
    assert LAYOUT.difference(Layout(entries)) == words


# --- files ---


def test_the_safetensors_library_reads_what_we_write(tmp_path):
    model = a_model()
    path = tmp_path / "model.safetensors"
    write_arrays(path, LAYOUT, flat_blocks(model), metadata={"round": "3"})
    theirs = safetensors.numpy.load_file(path)
    assert theirs.keys() == model.keys()
    for name, array in model.items():
        assert theirs[name].dtype == np.float32
        np.testing.assert_array_equal(theirs[name], array)
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"round": "3"}


def test_we_read_what_the_safetensors_library_writes(tmp_path):
    model = a_model()
    safetensors.numpy.save_file(model, tmp_path / "m", metadata={"who": "they"})
    with ArrayFile(tmp_path / "m") as file:
        assert file.metadata == {"who": "they"}
        for name, array in file.arrays().items():
            np.testing.assert_array_equal(array, model[name])


def test_a_file_is_one_vector_and_its_arrays(tmp_path):
    model = a_model()
    digest = write_arrays(tmp_path / "m", LAYOUT, flat_blocks(model))
    assert digest == file_digest(tmp_path / "m")
    with ArrayFile(tmp_path / "m") as file:
        assert file.layout == LAYOUT
        assert file.metadata == {}
        np.testing.assert_array_equal(file.vector_P, np.concatenate([a.reshape(-1) for a in model.values()]))
        assert file.vector_P.ctypes.data % 8 == 0
        with pytest.raises(ValueError, match="read-only"):
            file.vector_P[0] = 1
        file.release()
        np.testing.assert_array_equal(file.arrays()["bias"], model["bias"])


def test_a_model_without_parameters_is_a_file_too(tmp_path):
    write_arrays(tmp_path / "m", Layout(()), [])
    with ArrayFile(tmp_path / "m") as file:
        assert file.vector_P.shape == (0,)
    assert safetensors.numpy.load_file(tmp_path / "m") == {}


def test_a_view_outlives_the_file_it_came_from(tmp_path):
    write_arrays(tmp_path / "m", LAYOUT, flat_blocks(a_model()))
    with ArrayFile(tmp_path / "m") as file:
        bias = file.arrays()["bias"]
    np.testing.assert_array_equal(bias, a_model()["bias"])


def test_other_types_and_strides_become_flat_float32():
    model = {"a": np.arange(6).reshape(2, 3).T, "b": np.float64(1.5), "c": np.float16([[2]])}
    blocks = list(flat_blocks(model))
    assert [block.dtype for block in blocks] == [np.float32] * 3
    assert [block.tolist() for block in blocks] == [[0, 3, 1, 4, 2, 5], [1.5], [2]]


def test_a_vector_passes_for_its_arrays_and_is_copied_as_a_whole():
    model = a_model()
    vector = vector_of(model)
    arrays = VectorArrays(LAYOUT, vector)
    assert Layout.of(arrays) == Layout.of(model)
    assert list(arrays) == list(model)
    assert len(arrays) == len(model)
    assert all(np.array_equal(arrays[name], model[name]) for name in model)
    assert np.shares_memory(arrays["weight"], vector)
    copied = vector_of(arrays)
    assert np.array_equal(copied, vector)
    assert not np.shares_memory(copied, vector)
    with pytest.raises(KeyError):
        arrays["other"]


# --- writing ---


@given(pieces=st.lists(st.integers(0, 700_000), max_size=8), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_any_way_to_cut_the_vector_makes_the_same_file(tmp_path_factory, pieces, seed):
    path = tmp_path_factory.mktemp("cut") / "m"
    size = sum(pieces)
    vector_P = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
    with ArrayWriter(path, Layout((("w", (size,)),)), durable=False) as writer:
        block, start = np.empty(max(pieces, default=0), np.float32), 0
        for piece in pieces:
            block[:piece] = vector_P[start : start + piece]
            writer.write(block[:piece])
            block.fill(np.nan)  # the block is the caller's again
            start += piece
        digest = writer.finish()
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    with ArrayFile(path) as file:
        assert file.vector_P.tobytes() == vector_P.tobytes()
    assert hasher_threads() == []


def test_bytes_and_other_floats_are_written_as_float32(tmp_path):
    with ArrayWriter(tmp_path / "m", Layout((("w", (6,)),))) as writer:
        writer.write(np.float64([1, 2]))
        writer.write(np.float32([3, 4]).tobytes())
        writer.write(memoryview(np.arange(5, 9, dtype=np.float32)[::2].copy()))
        writer.finish()
    with ArrayFile(tmp_path / "m") as file:
        assert file.vector_P.tolist() == [1, 2, 3, 4, 5, 7]


def test_nothing_is_visible_before_the_file_is_whole(tmp_path):
    (tmp_path / "m.part").write_bytes(b"left by a crash, and longer than what comes" * 100)
    with ArrayWriter(tmp_path / "m", LAYOUT) as writer:
        writer.write(np.zeros(17, np.float32))
        assert [path.name for path in tmp_path.iterdir()] == ["m.part"]
        writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert ArrayFile(tmp_path / "m").layout == LAYOUT


def test_a_file_is_replaced_as_a_whole(tmp_path):
    write_arrays(tmp_path / "m", LAYOUT, [np.zeros(17)])
    with ArrayFile(tmp_path / "m") as before:
        write_arrays(tmp_path / "m", LAYOUT, [np.ones(17)])
        assert before.vector_P.sum() == 0
        with ArrayFile(tmp_path / "m") as after:
            assert after.vector_P.sum() == 17


def test_a_writer_left_by_an_exception_leaves_nothing(tmp_path):
    def blocks():
        yield np.zeros(1 << 20, np.float32)
        raise RuntimeError("the fold failed")

    with pytest.raises(RuntimeError, match="the fold failed"):
        write_arrays(tmp_path / "m", Layout((("w", (1 << 21,)),)), blocks())
    assert list(tmp_path.iterdir()) == []
    assert hasher_threads() == []


@pytest.mark.parametrize("size", [16, 18])
def test_too_little_and_too_much_are_refused(tmp_path, size):
    with pytest.raises(ValueError, match="4 of 68 bytes are missing" if size == 16 else "more than the 68 bytes"):
        write_arrays(tmp_path / "m", LAYOUT, [np.zeros(size)])
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    (tmp_path / "m.part").symlink_to("/dev/full")  # where the kernel says that there is no room
    with pytest.raises(StorageError, match=r"cannot write .*m: No space left on device, \d+ MiB left") as info:
        write_arrays(tmp_path / "m", LAYOUT, [np.zeros(17)])
    assert "fl run resume" in info.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_in_the_middle_is_said_and_leaves_nothing(tmp_path):
    # A limit on the size of files makes the kernel cut a write short and refuse the next, as a full disk does.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, hard))
    try:
        with pytest.raises(StorageError, match=r"cannot write .*m: File too large"):
            write_arrays(tmp_path / "m", Layout((("w", (1 << 20,)),)), [np.zeros(1 << 20)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
    assert hasher_threads() == []


def test_a_folder_that_is_not_there_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        ArrayWriter(tmp_path / "no" / "m", LAYOUT)


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    write_arrays(tmp_path / "m", LAYOUT, [np.zeros(17)])
    program = (
        "import os, signal, sys, pathlib, numpy\n"
        "from fl.arrays import ArrayWriter, Layout\n"
        "writer = ArrayWriter(pathlib.Path(sys.argv[1]), Layout((('w', (1 << 21,)),)))\n"
        "writer.write(numpy.ones(1 << 20, numpy.float32))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    child = subprocess.run([sys.executable, "-c", program, str(tmp_path / "m")], check=False)
    assert child.returncode == -signal.SIGKILL
    assert file_digest(tmp_path / "m") == write_arrays(tmp_path / "same", LAYOUT, [np.zeros(17)])


def test_a_file_cut_short_by_others_while_it_is_written_is_a_storage_error(tmp_path):
    with ArrayWriter(tmp_path / "m", Layout((("w", (100,)),))) as writer:
        writer.write(np.ones(100, np.float32))
        os.truncate(tmp_path / "m.part", 50)
        with pytest.raises(StorageError, match="became shorter"):
            writer.finish()
    assert list(tmp_path.iterdir()) == []


# --- files that cannot be trusted ---


def header(table: object, data: bytes = b"") -> bytes:
    text = json.dumps(table).encode()
    return struct.pack("<Q", len(text)) + text + data


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a whole safetensors file"),
        (b"short", "not a whole safetensors file"),
        (struct.pack("<Q", 1 << 60) + b"{}", "the header is cut short"),
        (header([]), "not a whole safetensors file"),
        (b"\x04" + b"\0" * 7 + b"nope", "not a whole safetensors file"),
        (header({"w": ENTRY}, b"\0" * 7), "7 bytes of data, the header describes 8"),
        (header({"w": ENTRY}, b"\0" * 9), "9 bytes of data, the header describes 8"),
        (header({"w": ENTRY | {"dtype": "F16"}}, b"\0" * 8), "w is F16, expected F32"),
        (header({"w": ENTRY | {"shape": [3]}}, b"\0" * 8), "w does not start where the one before it ends"),
        (header({"w": ENTRY | {"data_offsets": [4, 12]}}, b"\0" * 12), "w does not start where"),
        (header({"w": {}}, b"\0" * 8), "not a whole safetensors file"),
        (header({"w": 5}, b"\0" * 8), "not a whole safetensors file"),
        (header({"w": ENTRY | {"data_offsets": "08"}}, b"\0" * 8), "not a whole safetensors file"),
    ],
)
def test_a_file_that_is_not_whole_is_refused_with_its_name(tmp_path, content, words):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=words) as info:
        ArrayFile(path)
    assert str(path) in str(info.value)


@given(position=st.integers(0, 10_000), bit=st.integers(0, 7), cut=st.booleans())
@settings(max_examples=200, deadline=None)
def test_damage_is_refused_or_changes_the_digest(tmp_path_factory, position, bit, cut):
    path = tmp_path_factory.mktemp("damage") / "m"
    digest = write_arrays(path, LAYOUT, flat_blocks(a_model()), metadata={"round": "3"}, durable=False)
    content = bytearray(path.read_bytes())
    position %= len(content)
    if cut:
        del content[position:]
    else:
        content[position] ^= 1 << bit
    path.write_bytes(content)
    assert file_digest(path) != digest
    try:
        ArrayFile(path).close()
    except JournalError:
        return
    assert not cut


def test_a_missing_file_is_a_journal_error(tmp_path):
    for read in (ArrayFile, file_digest):
        with pytest.raises(JournalError, match=r"cannot read .*No such file"):
            read(tmp_path / "m")


def test_the_largest_pieces_are_written_in_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WRITE_BLOCK_BYTES", 12)
    monkeypatch.setattr(digests, "HASH_AHEAD_BYTES", 20)
    monkeypatch.setattr(digests, "READ_BACK_BYTES", 7)
    digest = write_arrays(tmp_path / "m", LAYOUT, [np.arange(17)])
    assert digest == hashlib.sha256((tmp_path / "m").read_bytes()).hexdigest()
