"""How fast updates are folded, as a share of what the machine's memory can copy, and in how much memory.

Updates are memory-mapped files in the page cache, as they are when a round ends; the folded blocks are looked at and
not written. A fold of N updates counts N times their bytes; the limit is ``np.copyto`` of as many bytes on as many
threads. The baseline is what Flower's strategies do with the same updates: mean of records, and median and trimmed
mean of NumPy on stacked arrays. Fold and copy take turns, and the best of each counts, so that a busy machine
disturbs both alike.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.fedtrimmedavg import trim_mean
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from benchmarks._memory import resident_bytes
from benchmarks._table import Row
from fl.arrays import F32, ArrayFile, Layout, write_arrays
from fl.strategies import Update, create, fold
from fl.strategies.fold import usable_threads

SITES = 8
TARGETS = {"fedavg": 0.60, "median": 0.10, "trimmed_mean": 0.10}
FLOWER_ELEMENTS = 2_500_000
"""Flower's way is timed on a part of the vector: slow, but larger than the processor's cache."""


def fold_bandwidth_share(quick: bool) -> list[Row]:
    """Fold bandwidth over copy bandwidth for FedAvg, median and trimmed mean."""
    size, repetitions = 25_000_000, 3 if quick else 9
    model_P, target_P = np.ones(size, np.float32), np.ones(size, np.float32)
    rows = []
    with _files(size, SITES) as paths, _updates(paths, SITES) as updates:
        for name, target in TARGETS.items():
            copy_s, fold_s = [], []
            for _ in range(repetitions):
                copy_s.append(_seconds(lambda: _copy(model_P, target_P)))
                fold_s.append(_seconds(functools.partial(_fold, name, model_P, updates)))
            copy_rate = 4 * size * SITES / min(copy_s) / 1e9
            share = 4 * size * SITES / min(fold_s) / 1e9 / copy_rate
            flower_share = _flower_rate(name, updates) / copy_rate
            rows.append(
                Row(
                    "fold_bandwidth_share" if name == "fedavg" else f"fold_bandwidth_share_{name}",
                    share,
                    f"of the copy bandwidth, {SITES} updates of {4 * size // 10**6} MB",
                    f"flwr: {flower_share:.3f}",
                    f"1 ({copy_rate:.1f} GB/s on {usable_threads()} threads)",
                    f"≥ {target:.2f}",
                    share >= target,
                )
            )
    return rows


def fold_memory_models(quick: bool) -> list[Row]:
    """Peak memory of a fold, mapped files included, over what was there before, for growing numbers of sites."""
    size, counts = 25_000_000, (2, 32) if quick else (2, 8, 32, 128)
    peaks: dict[int, float] = {}
    fresh = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1)
    with _files(size, SITES) as paths, fresh:
        for count in counts:
            used = [
                fresh.submit(_peak_bytes, name, size, paths, count).result() for name in ("fedavg", "fedadam", "median")
            ]
            peaks[count] = max(used) / (4 * size)
    value = max(peaks.values())
    return [
        Row(
            "fold_memory_models",
            value,
            f"models of {4 * size // 10**6} MB, most of {', '.join(map(str, counts))} sites",
            "one a site, mapped and never given back",
            "0",
            "≤ 1.5, the largest not with the most sites",
            value <= 1.5 and peaks[max(counts)] <= 1,
        )
    ]


def _peak_bytes(name: str, size: int, paths: list[Path], num_sites: int) -> int:
    """Peak of the resident memory during a fold over what it was just before, in a process of its own."""
    model_P = np.ones(size, np.float32)
    with _updates(paths, num_sites) as updates:
        idle_bytes = resident_bytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
        _fold(name, model_P, updates)
        return resident_bytes("VmHWM") - idle_bytes


@contextlib.contextmanager
def _files(size: int, count: int) -> Iterator[list[Path]]:
    """Files of random updates, written a moment ago."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.safetensors" for i in range(count)]
        for i, path in enumerate(paths):
            vector_P = np.random.default_rng(i).standard_normal(size, dtype=np.float32)
            write_arrays(path, Layout((("weight", (size,)),)), [vector_P], durable=False)
        yield paths


@contextlib.contextmanager
def _updates(paths: list[Path], num_sites: int) -> Iterator[list[Update]]:
    """Mapped updates; more sites than files share files, each with a map of its own."""
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(ArrayFile(paths[i % len(paths)])) for i in range(num_sites)]
        yield [
            Update(site=f"site-{i:03}", num_examples=100 + i, vector_P=file.vector_P, release=file.release)
            for i, file in enumerate(files)
        ]


def _fold(name: str, model_P: F32, updates: list[Update]) -> None:
    for block in fold(create(name, {}), model_P, updates, {}, round=1):
        assert np.isfinite(block.model[0])


def _copy(source_P: F32, target_P: F32) -> None:
    """Copy the vector as often as there are updates."""
    threads = usable_threads()
    pieces = zip(np.array_split(target_P, threads), np.array_split(source_P, threads), strict=True)

    def copy_piece(piece: tuple[F32, F32]) -> None:
        for _ in range(SITES):
            np.copyto(*piece)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(copy_piece, pieces))


def _flower_rate(name: str, updates: list[Update]) -> float:
    """Gigabytes of updates a second that Flower's own aggregation takes."""
    parts = [update.vector_P[:FLOWER_ELEMENTS].copy() for update in updates]
    records = [
        RecordDict({"arrays": ArrayRecord({"w": Array(part)}), "metrics": MetricRecord({"num-examples": 1})})
        for part in parts
    ]
    ways: dict[str, Callable[[], object]] = {
        "fedavg": lambda: aggregate_arrayrecords(records, "num-examples"),
        "median": lambda: np.median(np.stack(parts), axis=0),
        "trimmed_mean": lambda: trim_mean(np.stack(parts), 0.2),
    }
    return len(updates) * parts[0].nbytes / min(_seconds(ways[name]) for _ in range(3)) / 1e9


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
