"""Updates on disk: each is written as it lands and its memory freed; the strategy reads them back as maps.

What cannot be folded is refused here, before it is on disk: parameters of another shape, numbers that are not finite.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fl.arrays import F32, ArrayFile, Arrays, Layout, flat_blocks, vector_of, write_arrays
from fl.digests import Algorithm, is_intact
from fl.errors import FLError, JournalError
from fl.rounds.journal import Journal, round_directory
from fl.rounds.port import EVALUATION, Failure
from fl.strategies.base import Update

CHECK_BLOCK = 1 << 18
"""Elements that are checked for being finite at a time; a block stays in the cache until it is written."""


SUM = "_sum"
"""Stands for a site's name where secure aggregation leaves one update for all; no site's id begins with ``_``."""


class UnusableError(FLError):
    """Arrays that cannot take part in the round.

    Attributes:
        failure: What to record of it.
    """

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.failure = Failure(code=code, reason=reason)


def spool(
    path: Path, arrays: Arrays, layout: Layout | None, *, algorithm: Algorithm = "sha256", durable: bool = True
) -> tuple[Layout, str]:
    """Write arrays to a file, checking them on the way.

    Args:
        path: Where to.
        arrays: What a site sent.
        layout: What it must look like; ``None`` takes it as it is.
        algorithm: Of the digest. An update lives for a round and needs no more than to be found damaged.
        durable: Wait until the disk has it.

    Returns:
        The layout and the file's digest.

    Raises:
        UnusableError: If a parameter is missing, superfluous, of another shape, or not finite.
        StorageError: If the disk is full or refuses.
    """
    found = Layout.of(arrays)
    if layout is not None and (difference := layout.difference(found)):
        raise UnusableError("wrong_shape", difference)
    if not found.size:
        raise UnusableError("no_parameters", "there are no parameters in it")
    return found, write_arrays(path, found, _finite_blocks(arrays), algorithm=algorithm, durable=durable)


def land(journal: Journal, number: int, site: str, arrays: Arrays, layout: Layout) -> str:
    """Keep a site's update until its round is committed, on disk or, as far as the journal allows, in memory.

    Returns:
        Its digest; empty where it is in memory, with nothing to be compared with.

    Raises:
        UnusableError: As ``spool`` does.
        StorageError: If the disk is full or refuses.
    """
    if layout.size_bytes * (1 + len(journal.held)) > journal.held_limit_bytes:
        journal.round_directory(number)
        path = update_path(journal.directory, number, site)
        return spool(path, arrays, layout, algorithm="crc32", durable=journal.durable)[1]
    found = Layout.of(arrays)
    if found != layout and (difference := layout.difference(found)):
        raise UnusableError("wrong_shape", difference)
    vector_P = vector_of(arrays)
    if not _is_finite(vector_P):
        list(_finite_blocks(arrays))  # says which of them it is
    journal.held[site] = vector_P
    return ""


def drop_unnamed(journal: Journal) -> None:
    """Remove files that no event names: what a crash left half-done."""
    for path in (journal.directory / "rounds").rglob("*.part"):
        path.unlink()
    number = journal.state.committed_rounds + 1
    named = {update.site for update in _updates(journal, number)}
    for path in update_files(journal.directory, number):
        if site_of(path) not in named:
            path.unlink()


def damaged(journal: Journal, number: int) -> Iterator[tuple[Landed, str]]:
    """Landed updates of a round whose file is missing or no longer matches its digest, and what is wrong."""
    for landed in _updates(journal, number):
        path = update_path(journal.directory, number, landed.site)
        if journal.held_limit_bytes and not path.exists():
            yield landed, "it was in memory when the process ended"
            continue
        try:
            if is_intact(path, landed.digest):
                continue
            yield landed, "its digest does not match"
        except JournalError as err:
            yield landed, err.message


def survivors(journal: Journal, number: int) -> list[Landed]:
    """What a closed round folds, in site order, whoever came first; the one sum where there is nothing else."""
    entry = journal.state.round(number)
    assert entry.closed is not None
    folded = {*entry.closed.survivors, SUM}
    return [landed for landed in _updates(journal, number) if landed.site in folded]


def open_updates(journal: Journal, number: int, folded: Sequence[Landed], stack: contextlib.ExitStack) -> list[Update]:
    """The updates that a closed round folds: maps, closed with the stack, or arrays in memory."""
    opened = []
    for landed in folded:
        if (held := journal.held.get(landed.site)) is not None:
            opened.append(Update(site=landed.site, num_examples=landed.num_examples, vector_P=held))
            continue
        file = ArrayFile(update_path(journal.directory, number, landed.site))
        stack.callback(file.close)
        opened.append(
            Update(site=landed.site, num_examples=landed.num_examples, vector_P=file.vector_P, release=file.release)
        )
    return opened


@dataclasses.dataclass(frozen=True, slots=True)
class Landed:
    """An update on disk, of a site or of all."""

    site: str
    digest: str
    num_examples: int
    metrics: Mapping[str, float]


def _updates(journal: Journal, number: int) -> list[Landed]:
    entry = journal.state.round(number)
    found = [
        Landed(site, landed.digest, landed.num_examples, landed.metrics)
        for site, landed in sorted(entry.landed.items())
    ]
    if entry.sum:
        metrics = {name: value for name, value in entry.sum.metrics.items() if not name.startswith(EVALUATION)}
        found.append(Landed(SUM, entry.sum.digest, entry.sum.num_examples, metrics))
    return found


def update_path(directory: Path, number: int, site: str) -> Path:
    """Where a site's update of a round is."""
    return round_directory(directory, number) / f"update-{site}.safetensors"


def update_files(directory: Path, number: int) -> list[Path]:
    """All updates of a round that are on disk."""
    return sorted(path for path in round_directory(directory, number).glob("*") if is_update(path.name))


def is_update(name: str) -> bool:
    """Whether a file of this name is an update."""
    return name.startswith("update-") and name.endswith(".safetensors")


def site_of(path: Path) -> str:
    """Whose update a file is."""
    return path.name.removeprefix("update-").removesuffix(".safetensors")


def _finite_blocks(arrays: Arrays) -> Iterator[F32]:
    names = iter(arrays)
    for vector in flat_blocks(arrays):
        name = next(names)
        if not _is_finite(vector):
            raise UnusableError("not_finite", f"{name} contains NaN or infinity")
        yield vector


def _is_finite(vector: F32) -> bool:
    if len(vector) <= CHECK_BLOCK:
        return bool(np.isfinite(vector).all())
    blocks = (vector[start : start + CHECK_BLOCK] for start in range(0, len(vector), CHECK_BLOCK))
    return all(np.isfinite(block).all() for block in blocks)
