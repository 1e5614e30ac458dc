"""The numbers of secure aggregation: masks, quantisation, a site, the server, the key plane, bytes on the wire.

python -m benchmarks.secagg [--quick] [--json] [NAME …]

Baselines are Flower's own SecAgg+ functions, limits what the machine does without the rest of the work; both are
measured in the same run, in turns, and the best of each counts, so that a busy machine disturbs all alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    factor_combine,
    parameters_addition,
    parameters_mod,
    parameters_multiply,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.quantization import quantize
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

from benchmarks._table import Row, main
from fl.arrays import F32
from fl.secagg import keys, shamir
from fl.secagg.ciphers import BLOCK_BYTES, cipher, fill
from fl.secagg.keystream import Stream, add_streams
from fl.secagg.masked_sum import MaskedSum
from fl.secagg.messages import STAGES
from fl.secagg.profiles import AES_SUITE, PROFILES
from fl.secagg.quantise import quantise
from fl.secagg.unmask import Shares
from fl.secagg.vectors import vector_digest
from tests.fl.secagg.federation import Federation

NEIGHBOURS = 16


def masks(quick: bool) -> list[Row]:
    """Expanding and adding mask streams, as a share of what cipher and adder do on their own."""
    parameters, turns = 10_000_000, 3 if quick else 10
    rows = []
    vector = np.ones(parameters, np.uint32)
    for threads, wanted in ((1, 0.9), (2, 0.8)):
        best, ceiling, alone = 0.0, 0.0, ""
        for _ in range(turns):
            expand, add = _on_threads(threads, _expand), _on_threads(threads, _add)
            if 1 / (1 / expand + 1 / add) > ceiling:
                ceiling = 1 / (1 / expand + 1 / add)
                alone = f"{ceiling:.2f} GB/s (keystream {expand:.2f}, add {add:.2f})"
            streams = [Stream(bytes([number]) * 32, "vector") for number in range(NEIGHBOURS)]
            clock = _cpu_s if threads == 1 else _wall_s  # what others do on the machine does not count on one thread
            seconds = clock(lambda: add_streams(vector, streams[:8], streams[8:], threads=threads))  # noqa: B023
            best = max(best, NEIGHBOURS * vector.nbytes / seconds / 1e9)
        share = best / ceiling
        words = f"≥ {wanted:g} of the limit"
        rows.append(Row(f"mask_ceiling_share_{threads}t", share, "of limit", "-", alone, words, share >= wanted))
    return rows


def quantisation(quick: bool) -> list[Row]:
    """Clip, weight and random rounding of one element, into memory that is used again from round to round."""
    update = _update(10_000_000)
    ours, flower, copy = 1e9, 1e9, 1e9
    out, memory = np.zeros(update.size, np.uint32), np.zeros(update.size + 3, np.uint32)
    for _ in range(3 if quick else 10):
        ours = min(ours, _cpu_s(lambda: _quantise(update, memory)))
        copy = min(copy, _cpu_s(lambda: np.copyto(out, update, casting="unsafe")))
    flower = _cpu_s(lambda: quantize([update], 1.0, 2**22))
    ns = 1e9 / update.size
    baseline, limit = f"Flower {flower * ns:.1f} ns", f"{copy * ns:.2f} ns to cast and copy"
    return [Row("quantise_ns", ours * ns, "ns", baseline, limit, "≤ 2.5", ours * ns <= 2.5)]


def site(quick: bool) -> list[Row]:
    """A site's work on its vector with 16 neighbours, beside that of Flower's client."""
    update = _update(10_000_000)
    seeds = [bytes([number]) * 32 for number in range(NEIGHBOURS + 1)]
    streams = [Stream(seed, "vector") for seed in seeds]

    def ours() -> None:
        add_streams(_quantise(update), streams[:9], streams[9:], threads=1)

    ours_s = min(_cpu_s(ours) for _ in range(2 if quick else 5))
    flower_s = min(_cpu_s(lambda: _flower_site(update, seeds)) for _ in range(1 if quick else 2))
    ratio = flower_s / ours_s
    limit = f"{(NEIGHBOURS + 1) * 4 * update.size / _on_threads(1, _expand) / 1e9:.3f} s of keystream"
    return [
        Row("site_ratio_flower", ratio, "× faster", f"Flower {flower_s:.2f} CPU-s", limit, "≥ 8", ratio >= 8),
        Row("site_cpu_s", ours_s, "CPU-s", f"Flower {flower_s:.2f} CPU-s", limit, "≤ 0.17", ours_s <= 0.17),
    ]


def server(quick: bool) -> list[Row]:
    """Unmasking the sum of 100 sites on one thread, and, apart from it, taking in their vectors."""
    count, parameters = 100, 10_000_000
    session = Federation(count, parameters=8)
    session.play("advertise")
    cohort = session.server._session()
    draw = session.sites[session.names[0]]._attempt.random
    headers, commitments, revealed = {}, {}, {name: [] for name in session.names}
    for dealer in session.names:
        secret = draw(32)
        dealt = shamir.split(secret, cohort.thresholds.threshold, count, draw)
        headers[dealer] = keys.self_hash(cohort.sid, dealer, secret)
        commitments[dealer] = b"".join(
            keys.share_commitment(cohort.sid, "self", dealer, holder, share) + bytes(32)
            for holder, share in zip(session.names, dealt, strict=True)
        )
        for holder, share in zip(session.names, dealt, strict=True):
            revealed[holder].append(share)
    config = session.config(sizes=(parameters,), weight_cap=0, metrics=())
    total = MaskedSum(config)
    piece = np.zeros(config.length, np.uint32)
    digest = vector_digest(piece)
    receive_s = _wall_s(lambda: [total.add(piece, digest, "site") for _ in range(5)]) * count / 5

    def unmask() -> None:
        shares = Shares(cohort, session.names, session.names, commitments)
        for holder, held in revealed.items():
            assert not shares.add(holder, held)
        seeds = [
            keys.self_seed(_secret(shares, dealer, headers[dealer]), AES_SUITE, bytes(32), dealer)
            for dealer in session.names
        ]
        add_streams(piece, [], [Stream(seed, "vector") for seed in seeds], threads=1)

    ours_s = min(_wall_s(unmask) for _ in range(1 if quick else 2))
    flower = create_shares(bytes(32), cohort.thresholds.threshold, count)
    flower_s = _wall_s(lambda: combine_shares(flower[: cohort.thresholds.threshold])) * count
    expand = _on_threads(1, _expand)
    limit = f"{count * parameters * 4 / expand / 1e9:.2f} s of keystream"
    return [
        Row("server_100_sites_s", ours_s, "s", f"Flower {flower_s:.0f} s for its secrets alone", limit, "≤ 1.5",
            ours_s <= 1.5),
        Row("server_receive_100_sites_s", receive_s, "s", "-", "SHA-256 and one addition a vector", "none", True),
    ]  # fmt: skip


def key_plane(quick: bool) -> list[Row]:
    """Everything that one of 100 sites does in a round with a model of 10,000 parameters."""
    federation = Federation(30 if quick else 100, parameters=10_000)
    watched, spent_s = federation.names[0], 0.0
    handle = federation.site_handles

    def watching(name: str, payload: bytes) -> object:
        nonlocal spent_s
        before = time.process_time()
        reply = handle(name, payload)
        spent_s += time.process_time() - before if name == watched else 0
        return reply

    federation.site_handles = watching  # type: ignore[method-assign,assignment]
    for stage in STAGES:
        federation.play(stage)
    threshold = federation.server._session().thresholds.threshold
    flower_s = _cpu_s(lambda: [create_shares(bytes(32), threshold, federation.count) for _ in range(2)])
    one = keys.private_key(b"k" * 32)
    public = keys.public_key(b"p" * 32)
    exchanges_s = _cpu_s(lambda: [keys.exchange(one, public, "x") for _ in range(3 * federation.count)])
    limit = f"{exchanges_s * 1e3:.0f} ms of key exchanges"
    baseline = f"Flower {flower_s * 1e3:.0f} ms to split its secrets alone"
    return [Row("key_plane_ms", spent_s * 1e3, "ms", baseline, limit, "≤ 150 at 100 sites", spent_s <= 0.15)]


def wire(quick: bool) -> list[Row]:
    """Bytes that a site sends in a round of ten, as a multiple of its update in float32."""
    parameters = 200_000 if quick else 1_000_000
    rows = []
    for profile, wanted in (("standard", 1.01), ("packed16", 0.51)):
        federation = Federation(10, parameters=parameters, settings={"profile": profile})
        federation.run()
        name = federation.names[0]
        size = federation.vectors[name].nbytes + sum(len(replies[name]) for replies in federation.replies.values())
        ratio = size / (4 * parameters)
        bits = PROFILES[profile].ring_bits
        rows.append(Row(f"wire_ratio_{bits}", ratio, "× float32", "Flower 2.00, CKKS 14.4", f"{bits / 32:g}",
                        f"≤ {wanted}", ratio <= wanted))  # fmt: skip
    return rows


def _quantise(update: F32, memory: np.ndarray | None = None) -> np.ndarray:
    return quantise(
        update,
        [update.size],
        [1.0],
        weight=0.5,
        profile=PROFILES["standard"],
        n_max=10,
        dither_key=b"d" * 32,
        out=memory,
    ).vector


def _flower_site(update: F32, seeds: list[bytes]) -> None:
    """What ``_collect_masked_vectors`` of Flower's client does with the vector, in its order."""
    modulus, target = 2**32, 2**22
    quantised = quantize(parameters_multiply([update], 0.5), 8.0, target)
    quantised = factor_combine(target // 2, quantised)
    shapes = [array.shape for array in quantised]
    quantised = parameters_addition(quantised, pseudo_rand_gen(seeds[0], modulus, shapes))
    for number, seed in enumerate(seeds[1:]):
        operation = parameters_addition if number % 2 else parameters_subtraction
        quantised = operation(quantised, pseudo_rand_gen(seed, modulus, shapes))
    parameters_mod(quantised, modulus)


def _secret(shares: Shares, dealer: str, digest: bytes) -> bytes:
    """The dealer's rebuilt secret, against the hash that it published."""

    class Header:
        self_hash = digest

    return shares.secret(dealer, Header)  # type: ignore[arg-type]


def _update(parameters: int) -> F32:
    return np.random.default_rng(1).standard_normal(parameters, dtype=np.float32) * np.float32(0.1)


def _expand() -> None:
    whole = 1000 * BLOCK_BYTES
    context, view = cipher(b"k" * 32, 0, AES_SUITE, length_bytes=whole), memoryview(bytearray(BLOCK_BYTES))
    for _ in range(1000):
        fill(context, view)


def _add() -> None:
    one, other = np.zeros(BLOCK_BYTES // 4, np.uint32), np.ones(BLOCK_BYTES // 4, np.uint32)
    for _ in range(1000):
        np.add(one, other, out=one)


def _on_threads(threads: int, work: Callable[[], None]) -> float:
    """GB/s of 1,000 blocks on each of so many threads; of CPU time if it is one."""
    if threads == 1:
        return 1000 * BLOCK_BYTES / _cpu_s(work) / 1e9
    workers = [threading.Thread(target=work) for _ in range(threads)]

    def together() -> None:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return threads * 1000 * BLOCK_BYTES / _wall_s(together) / 1e9


def _wall_s(work: Callable[[], object]) -> float:
    before = time.perf_counter()
    work()
    return time.perf_counter() - before


def _cpu_s(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return time.process_time() - before


if __name__ == "__main__":
    main(str(__doc__), [masks, quantisation, site, server, key_plane, wire])
