"""The whole training of a chain of linear layers as one native function, and the order of its examples as another.

A small network's step takes less time than it takes to tell torch of its dozen operations. Here nothing is told: one
call trains a site from its first batch to its last, its weights in the processor's cache, and no site waits for
another. Importing this module has Numba compile, once on a computer: the result is kept beside the module, or in the
user's cache.

A weight lies in memory with its longer side consecutive, so that every loop inside is a long one: as ``(out, in)``, as
torch has it, or turned, as ``(in, out)``. All weights and biases of a site are one vector, in torch's order.

Letters: K sites, E epochs, S steps, B examples of a batch, F features that come in, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
from numba import njit

from fl.arrays import F32

F = TypeVar("F", bound=Callable[..., Any])
I64 = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

OPTIONS: dict[str, Any] = {
    # Sums in any order, as everywhere in torch; but what is not a number stays none, and is reported.
    "fastmath": {"reassoc", "contract", "arcp", "nsz"},
    "error_model": "numpy",
    "nogil": True,
}

inlined: Callable[[F], F] = njit(forceinline=True, **OPTIONS)
"""Into its only caller: else what is compiled now and what is read back would differ in last digits, because a process
that compiles also has each of these by itself, and calls that."""

ZERO, ONE = np.float32(0), np.float32(1)


@inlined
def _add_product(c: F32, a: F32, m: F32) -> None:
    """``c += a @ m``, eight rows of ``m`` at a time."""
    columns, inner = m.shape[1], len(m)
    k = 0
    while k + 8 <= inner:
        m0, m1, m2, m3, m4, m5, m6, m7 = m[k], m[k + 1], m[k + 2], m[k + 3], m[k + 4], m[k + 5], m[k + 6], m[k + 7]
        for b in range(len(c)):
            row, by = c[b], a[b, k : k + 8]
            a0, a1, a2, a3, a4, a5, a6, a7 = by[0], by[1], by[2], by[3], by[4], by[5], by[6], by[7]
            for n in range(columns):
                row[n] += (
                    a0 * m0[n] + a1 * m1[n] + a2 * m2[n] + a3 * m3[n]
                    + a4 * m4[n] + a5 * m5[n] + a6 * m6[n] + a7 * m7[n]
                )  # fmt: skip
        k += 8
    while k < inner:
        last = m[k]
        for b in range(len(c)):
            row, one = c[b], a[b, k]
            for n in range(columns):
                row[n] += one * last[n]
        k += 1


@inlined
def _add_turned_product(c: F32, a: F32, d: F32, scale: np.float32) -> None:
    """``c += scale * a.T @ d``, four examples at a time."""
    columns = d.shape[1]
    b = 0
    while b + 4 <= len(d):
        d0, d1, d2, d3 = d[b], d[b + 1], d[b + 2], d[b + 3]
        for i in range(len(c)):
            row = c[i]
            a0, a1, a2, a3 = scale * a[b, i], scale * a[b + 1, i], scale * a[b + 2, i], scale * a[b + 3, i]
            for n in range(columns):
                row[n] += a0 * d0[n] + a1 * d1[n] + a2 * d2[n] + a3 * d3[n]
        b += 4
    while b < len(d):
        last = d[b]
        for i in range(len(c)):
            row, one = c[i], scale * a[b, i]
            for n in range(columns):
                row[n] += one * last[n]
        b += 1


@inlined
def _product_by_rows(c: F32, a: F32, m: F32) -> None:
    """``c = a @ m.T``, four rows of ``a`` at a time."""
    inner = m.shape[1]
    b = 0
    while b + 4 <= len(a):
        a0, a1, a2, a3 = a[b], a[b + 1], a[b + 2], a[b + 3]
        for n in range(len(m)):
            row = m[n]
            s0 = s1 = s2 = s3 = ZERO
            for k in range(inner):
                s0 += a0[k] * row[k]
                s1 += a1[k] * row[k]
                s2 += a2[k] * row[k]
                s3 += a3[k] * row[k]
            c[b, n], c[b + 1, n], c[b + 2, n], c[b + 3, n] = s0, s1, s2, s3
        b += 4
    while b < len(a):
        last = a[b]
        for n in range(len(m)):
            row = m[n]
            s = ZERO
            for k in range(inner):
                s += last[k] * row[k]
            c[b, n] = s
        b += 1


@inlined
def _turn(sizes: I64, biased: Flags, from_P: F32, to_P: F32, is_back: bool) -> None:
    """Copy parameters from torch's order to ours, or back."""
    at = 0
    for layer in range(len(biased)):
        wide, high = sizes[layer], sizes[layer + 1]
        if high >= wide:
            rows, columns = (wide, high) if is_back else (high, wide)
            for row in range(rows):
                for column in range(columns):
                    to_P[at + column * rows + row] = from_P[at + row * columns + column]
        else:
            for place in range(at, at + wide * high):
                to_P[place] = from_P[place]
        at += wide * high
        if biased[layer]:
            for place in range(at, at + high):
                to_P[place] = from_P[place]
            at += high


@inlined
def _loss(outputs: F32, targets: I64, gradient: F32) -> tuple[float, int]:
    """Cross entropy: its sum and the number of hits; the gradient of its mean is written."""
    loss, hits, classes, part = 0.0, 0, outputs.shape[1], ONE / np.float32(len(outputs))
    for b in range(len(outputs)):
        row, out, target = gradient[b], outputs[b], targets[b]
        most, best = out[0], 0
        for n in range(1, classes):
            if out[n] > most:
                most, best = out[n], n
        total = ZERO
        for n in range(classes):
            row[n] = np.exp(out[n] - most)
            total += row[n]
        loss += np.log(total) + most - out[target]
        hits += best == target
        scale = part / total
        for n in range(classes):
            row[n] *= scale
        row[target] -= part
    return loss, hits


@inlined
def _slow_down(w: F32, start: F32, v: F32, momentum: np.float32, decay: np.float32, pull: np.float32) -> None:
    """What a velocity becomes before the gradient of the loss is added: of weight decay and FedProx's term, too."""
    for n in range(len(v)):
        v[n] = momentum * v[n] + decay * w[n] + pull * (w[n] - start[n])


@inlined
def _move(w: F32, v: F32, rate: np.float32) -> None:
    for n in range(len(w)):
        w[n] -= rate * v[n]


@inlined
def _site(
    sizes: I64, biased: Flags, rectified: Flags, start_P: F32, w_P: F32, v_P: F32,
    inputs_NF: F32, targets_N: I64, at_SB: I64, counts_S: I64, measured: int,
    rate: np.float32, momentum: np.float32, decay: np.float32, pull: np.float32,
) -> tuple[float, int, bool]:  # fmt: skip
    """Train one site; ``w_P`` moves. Its loss and hits from step ``measured`` on; and whether its targets exist."""
    is_plain = momentum == ZERO and decay == ZERO and pull == ZERO
    layers, width = len(biased), at_SB.shape[1]
    outputs = np.empty(width * sizes.sum(), np.float32)  # of every layer, the first of which are the inputs
    here, there = np.empty(width * sizes.max(), np.float32), np.empty(width * sizes.max(), np.float32)
    targets = np.empty(width, np.int64)
    loss, hits = 0.0, 0
    for step in range(len(counts_S)):
        count = counts_S[step]
        for b in range(count):
            outputs[b * sizes[0] : (b + 1) * sizes[0]] = inputs_NF[at_SB[step, b]]
            targets[b] = targets_N[at_SB[step, b]]
            if not 0 <= targets[b] < sizes[-1]:
                return loss, hits, False
        at = made = 0
        for turn in range(2 * layers):  # forward through the layers, then back
            is_forward = turn < layers
            layer = turn if is_forward else 2 * layers - 1 - turn
            wide, high = sizes[layer], sizes[layer + 1]
            if not is_forward:
                at -= wide * high + biased[layer] * high
                made -= width * wide
            is_turned, end = high >= wide, at + wide * high
            w = w_P[at:end].reshape(wide, high) if is_turned else w_P[at:end].reshape(high, wide)
            bias = w_P[end : end + high] if biased[layer] else w_P[:0]
            x = outputs[made : made + count * wide].reshape(count, wide)
            y = outputs[made + width * wide : made + width * wide + count * high].reshape(count, high)
            dy, dx = here[: count * high].reshape(count, high), there[: count * wide].reshape(count, wide)
            if not is_forward and rectified[layer]:
                for b in range(count):
                    for n in range(high):
                        dy[b, n] = ZERO if y[b, n] <= ZERO else dy[b, n]
            into, from_ = (y, x) if is_forward else (dx, dy)
            if is_forward or layer:
                if is_turned == is_forward:
                    into[:] = ZERO
                    _add_product(into, from_, w)
                else:
                    _product_by_rows(into, from_, w)
            if is_forward:
                for b in range(count):
                    for n in range(len(bias)):
                        y[b, n] += bias[n]
                if rectified[layer]:
                    for b in range(count):
                        for n in range(high):
                            y[b, n] = ZERO if y[b, n] < ZERO else y[b, n]
                at, made = end + len(bias), made + width * wide
                if layer == layers - 1:
                    more = _loss(y, targets[:count], dy)
                    if step >= measured:
                        loss, hits = loss + more[0], hits + more[1]
                continue
            # Plain steps move the parameters at once; others the velocity, and that the parameters.
            last = end + len(bias)
            v, scale = (w, -rate) if is_plain else (v_P[at:end].reshape(w.shape), ONE)
            v_bias = bias if is_plain else v_P[end:last]
            if not is_plain:
                _slow_down(w_P[at:last], start_P[at:last], v_P[at:last], momentum, decay, pull)
            left, right = (x, dy) if is_turned else (dy, x)
            _add_turned_product(v, left, right, scale)
            for b in range(count):
                for n in range(len(bias)):
                    v_bias[n] += scale * dy[b, n]
            if not is_plain:
                _move(w_P[at:last], v_P[at:last], rate)
            here, there = there, here
    return loss, hits, True


def _train(
    sizes: I64, biased: Flags, rectified: Flags, start_P: F32,
    inputs_NF: F32, targets_N: I64, at_SKB: I64, counts_SK: I64, steps_K: I64, measured_K: I64,
    rate: np.float32, momentum: np.float32, decay: np.float32, pull: np.float32,
    first: int, stride: int, moved_KP: F32, losses_K: F64, hits_K: I64,
) -> bool:  # fmt: skip
    """Train every ``stride``-th site from the first one on: sites, and so processors, have nothing in common.

    Args:
        sizes: Of the inputs, then of each layer's outputs.
        biased: Which layers have a bias.
        rectified: Which have a ReLU behind them.
        start_P: What each site begins with, in torch's order.
        inputs_NF: Examples of all sites.
        targets_N: Their classes.
        at_SKB: Which of them are in the batch of a step at a site.
        counts_SK: How many those are; the others are padding.
        steps_K: How many steps a site has.
        measured_K: The step from which on loss and hits count.
        rate: The learning rate.
        momentum: Of SGD.
        decay: Of the weights.
        pull: FedProx's mu.
        first: The first site to train.
        stride: Which ones after it.
        moved_KP: How far each site's parameters moved goes here.
        losses_K: The sum of its losses.
        hits_K: The number of its hits.

    Returns:
        Whether all targets are classes of the model; if not, nothing that was written counts.
    """
    ready_P, w_P, v_P = np.empty_like(start_P), np.empty_like(start_P), np.empty_like(start_P)
    _turn(sizes, biased, start_P, ready_P, False)
    for k in range(first, len(steps_K), stride):
        for place in range(len(w_P)):
            w_P[place] = ready_P[place]
            v_P[place] = ZERO
        at_SB, counts_S = np.ascontiguousarray(at_SKB[:, k]), np.ascontiguousarray(counts_SK[: steps_K[k], k])
        losses_K[k], hits_K[k], is_good = _site(
            sizes, biased, rectified, ready_P, w_P, v_P,
            inputs_NF, targets_N, at_SB, counts_S, measured_K[k], rate, momentum, decay, pull,
        )  # fmt: skip
        if not is_good:
            return False
        for place in range(len(w_P)):
            w_P[place] -= ready_P[place]
        _turn(sizes, biased, w_P, moved_KP[k], True)
    return True


def _draw(seeds_K: I64, orders_KEN: I64) -> None:
    """The order of each site's examples in each epoch, as ``torch.randperm`` draws it from a generator of that seed.

    Torch's generator is the Mersenne Twister (Matsumoto and Nishimura 1998), seeded with 32 bits, as Numba's is; and it
    shuffles from the front (``randperm_cpu`` in ATen). Whoever uses this compares the two first.
    """
    size = orders_KEN.shape[2]
    for k in range(len(seeds_K)):
        np.random.seed(seeds_K[k] & 0xFFFFFFFF)
        for epoch in range(orders_KEN.shape[1]):
            order = orders_KEN[k, epoch]
            for i in range(size):
                order[i] = i
            for i in range(size - 1):
                other = i + np.random.randint(0, 1 << 32) % (size - i)
                order[i], order[other] = order[other], order[i]


def _compiled(function: F, signature: str) -> F:
    """A function compiled and kept; where there is no place to keep it, compiled for this process."""
    compiled: Any
    try:
        compiled = njit(signature, cache=True, **OPTIONS)(function)
    except RuntimeError:
        compiled = njit(signature, **OPTIONS)(function)
    return cast(F, compiled)


train = _compiled(
    _train,
    "boolean(int64[::1], boolean[::1], boolean[::1], float32[::1],"
    " float32[:,::1], int64[::1], int64[:,:,::1], int64[:,::1], int64[::1], int64[::1],"
    " float32, float32, float32, float32, int64, int64, float32[:,::1], float64[::1], int64[::1])",
)
draw = _compiled(_draw, "void(int64[::1], int64[:,:,::1])")
