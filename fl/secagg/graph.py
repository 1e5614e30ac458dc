"""Who masks with whom: everybody up to 256 sites, a ring with k neighbours above.

Sites stand on a circle in an order that nobody could choose: each commits to a nonce before anyone's nonce is known,
and the order hangs on all of them. A site masks with the h sites before and the h sites behind it. The argument
for h is our own derivation from Bell et al. (CCS 2020) for dropouts that the server chooses, and was not reviewed:
see docs/secagg/sparse-graph.md.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

from fl.secagg.encoding import H
from fl.secagg.errors import NeighboursError


def order(sites: Sequence[str], seed: bytes) -> list[str]:
    """The sites on the circle: sorted by a hash of seed and name, a uniformly random order if the seed is one."""
    return sorted(sites, key=lambda site: H("graph-order", seed, site))


def graph_seed(sid: bytes, nonces: Mapping[str, bytes]) -> bytes:
    """The seed of the order, from the session and every site's revealed nonce."""
    return H("graph", sid, *(part for site in sorted(nonces) for part in (site.encode(), nonces[site])))


def ring_neighbours(circle: Sequence[str], site: str, half: int) -> frozenset[str]:
    """The ``half`` sites on either side of a site."""
    here, n = circle.index(site), len(circle)
    return frozenset(circle[(here + step) % n] for step in range(-half, half + 1) if step) - {site}


@functools.lru_cache(maxsize=64)
def neighbour_count(n: int, corrupt: int, max_dropouts: int, bits: int) -> int:
    """K = 2 h for a session: the smallest even number that stands the worst choice of dropouts.

    With c* the smallest c for which ``n P[Hyp(n, corrupt, h) > c] <= 2**-bits``, no h consecutive sites hold more
    than c* corrupt ones except with that probability, so two neighbouring windows cannot become all corrupt or
    dropped while ``2 h - 2 c* > max_dropouts``.

    Raises:
        NeighboursError: If no sparse graph stands that many dropouts.
    """
    total = math.comb
    for half in range(1, (n - 1) // 2 + 1):
        everything = total(n, half)
        # n * tail <= 2**-bits, in integers: tail counts windows with more than c corrupt sites.
        tail, worst = 0, min(half, corrupt)
        while worst >= 0:
            tail += total(corrupt, worst) * total(n - corrupt, half - worst)
            if n * tail * 2**bits > everything:
                break
            worst -= 1
        # ``worst`` is now the largest count that is too likely to exclude: c*.
        if 2 * half - 2 * max(worst, 0) > max_dropouts:
            return 2 * half
    raise NeighboursError(
        f"no sparse mask graph of {n} sites stands {max_dropouts} dropouts",
        hint="lower secagg.max_dropout_fraction",
    )
