"""The server's last step: rebuild the secrets that the survivors revealed shares of, and take the masks off the sum."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from fl.secagg import keys, shamir
from fl.secagg.config import RoundConfig
from fl.secagg.errors import UnmaskError
from fl.secagg.messages import SharesHeader
from fl.secagg.session import Cohort, Neighbours


class Shares:
    """Revealed shares of one session, checked one by one against what their dealers committed to.

    Args:
        cohort: U1.
        sharers: U2, in order.
        survivors: U3: their self masks are rebuilt, of the other sharers the mask keys.
        commitments: For each sharer, its commitments: 64 bytes for each site of the cohort.
    """

    def __init__(
        self, cohort: Cohort, sharers: Sequence[str], survivors: Sequence[str], commitments: Mapping[str, bytes]
    ) -> None:
        self._cohort, self._sharers, self._survivors = cohort, sharers, frozenset(survivors)
        self._commitments = commitments
        self._points = {site: index for index, site in enumerate(cohort.sites, start=1)}
        self._by_dealer: dict[str, dict[int, bytes]] = {dealer: {} for dealer in sharers}
        self._factors: dict[tuple[int, ...], dict[int, int]] = {}

    def add(self, holder: str, revealed: Iterable[bytes]) -> list[str]:
        """Take a holder's shares; returns the dealers whose share was not the one that they committed to."""
        wrong, point = [], self._points[holder]
        for dealer, share in zip(self._sharers, revealed, strict=True):
            kind, offset = ("self", 0) if dealer in self._survivors else ("key", 32)
            start = 64 * (point - 1) + offset
            commitment = self._commitments[dealer][start : start + 32]
            if keys.share_commitment(self._cohort.sid, kind, dealer, holder, share) == commitment:
                self._by_dealer[dealer][point] = share
            else:
                wrong.append(dealer)
        return wrong

    def secret(self, dealer: str, header: SharesHeader) -> bytes:
        """A dealer's secret: of its self mask if it survived, else its mask key.

        Raises:
            UnmaskError: If too few good shares came, or they do not rebuild what the dealer published.
        """
        need, good = self._cohort.thresholds.threshold, self._by_dealer[dealer]
        if len(good) < need:
            raise UnmaskError(f"{len(good)} good shares of site {dealer}, {need} are needed")
        points = tuple(sorted(good)[:need])
        if points not in self._factors:
            self._factors[points] = dict(zip(points, shamir.lagrange_at_zero(points), strict=True))
        secret = shamir.secret_bytes(shamir.combine({point: good[point] for point in points}, self._factors[points]))
        if secret is not None and dealer in self._survivors:
            right = keys.self_hash(self._cohort.sid, dealer, secret) == header.self_hash
        else:
            right = secret is not None and keys.public_key(secret) == self._cohort.members[dealer].mask_key
        if secret is None or not right:
            raise UnmaskError(
                f"the site {dealer} dealt shares that do not rebuild its secret",
                hint="the next attempt goes without that site",
            )
        return secret


def masks_of_sum(
    config: RoundConfig,
    cohort: Cohort,
    headers: Mapping[str, SharesHeader],
    survivors: Sequence[str],
    shares: Shares,
    sid2: bytes,
) -> tuple[list[bytes], list[bytes]]:
    """Seeds of the streams to add to the sum, and of those to subtract from it.

    Raises:
        UnmaskError: If a secret cannot be rebuilt.
    """
    plus: list[bytes] = []
    minus: list[bytes] = []
    neighbours = Neighbours(config, cohort, headers)
    for site in survivors:
        minus.append(keys.self_seed(shares.secret(site, headers[site]), config.suite, sid2, site))
    for dropped in sorted(set(headers) - set(survivors)):
        private = keys.private_key(shares.secret(dropped, headers[dropped]))
        for site in sorted(neighbours.of(dropped) & set(survivors)):
            secret = keys.exchange(private, cohort.members[site].mask_key, site)
            seed = keys.pair_seed(secret, config.suite, sid2, site, dropped)
            # The survivor added this mask if its id is the lower one.
            (minus if site < dropped else plus).append(seed)
    return plus, minus
