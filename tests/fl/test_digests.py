from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.arrays import Layout, write_arrays
from fl.digests import Crc32, file_digest, is_intact
from fl.errors import JournalError


def test_crc_32_is_that_of_the_standard() -> None:
    digest = Crc32()
    digest.update(b"1234")
    digest.update(b"56789")
    assert digest.hexdigest() == "crc32:cbf43926"  # the check value of CRC-32/ISO-HDLC


@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_a_digest_does_not_depend_on_how_the_bytes_are_cut(data: bytes, cut: int) -> None:
    digest = Crc32()
    digest.update(data[:cut])
    digest.update(data[cut:])
    assert digest.hexdigest() == f"crc32:{zlib.crc32(data):08x}"


@pytest.mark.parametrize("algorithm", ["sha256", "crc32"])
@pytest.mark.parametrize("size", [0, 3, 700_000])
def test_what_a_writer_says_is_what_the_file_has(tmp_path: Path, algorithm: str, size: int) -> None:
    layout = Layout((("w", (size,)),))
    path = tmp_path / "m"
    digest = write_arrays(path, layout, [np.arange(size, dtype=np.float32)], algorithm=algorithm)  # type: ignore[arg-type]
    assert digest == file_digest(path, algorithm)  # type: ignore[arg-type]
    assert is_intact(path, digest)
    if algorithm == "sha256":
        assert digest == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("algorithm", ["sha256", "crc32"])
def test_a_flipped_bit_is_found_wherever_it_is(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "m"
    layout = Layout((("w", (50,)),))
    digest = write_arrays(path, layout, [np.ones(50, np.float32)], algorithm=algorithm)  # type: ignore[arg-type]
    whole = path.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(flipped)
        assert not is_intact(path, digest)


def test_a_missing_file_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="cannot read"):
        is_intact(tmp_path / "m", "crc32:00000000")
