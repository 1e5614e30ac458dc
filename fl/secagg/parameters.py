"""Thresholds as functions of the number of sites, which every site computes itself.

Letters: n sites that advertised keys, n_c of them possibly corrupt, t shares needed to unmask, D_max dropouts
allowed after keys were advertised, min_agg inputs that a sum must cover at least.
"""

from __future__ import annotations

import dataclasses
import math

from fl.secagg.errors import TooFewSurvivorsError

MIN_SITES = 3
"""With two, each site subtracts its own update from the sum and has the other's."""


@dataclasses.dataclass(frozen=True, slots=True)
class Thresholds:
    """What holds for a session of ``n`` sites."""

    n: int
    """Sites that advertised keys: |U1|."""

    corrupt: int
    """n_c: how many may collude with the server."""

    threshold: int
    """t: shares, and signatures, that unmasking takes."""

    max_dropouts: int
    """D_max: how many sites may drop after keys were advertised."""

    min_aggregate: int
    """min_agg: how many inputs a sum covers at least."""


def thresholds(n: int, *, max_dropout_fraction: float = 1.0) -> Thresholds:
    """The thresholds of a session.

    Args:
        n: |U1|, at least 3.
        max_dropout_fraction: A cap on dropouts as a fraction of ``n``, besides ``n - t``.

    Raises:
        TooFewSurvivorsError: If ``n`` is below 3.

    Guarantees:
        ``2 t > n + n_c``: two different sets of survivors cannot both collect ``t`` signatures, because each
        honest site signs once. A revealed sum holds at least ``min_agg - n_c >= 2`` honest inputs.

    Example:
        >>> thresholds(10)
        Thresholds(n=10, corrupt=3, threshold=7, max_dropouts=3, min_aggregate=7)
    """
    if n < MIN_SITES:
        raise TooFewSurvivorsError(f"{n} sites advertised keys, secure aggregation needs {MIN_SITES}")
    corrupt = max(1, (n - 1) // 3)
    threshold = (n + corrupt) // 2 + 1
    return Thresholds(
        n=n,
        corrupt=corrupt,
        threshold=threshold,
        max_dropouts=min(n - threshold, math.floor(max_dropout_fraction * n)),
        min_aggregate=max(MIN_SITES, corrupt + 2, threshold),
    )
