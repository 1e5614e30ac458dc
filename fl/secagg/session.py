"""What both ends of a session compute from the same messages: who is in it, its ids, thresholds and mask graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from fl.secagg import graph
from fl.secagg.config import RoundConfig
from fl.secagg.encoding import H
from fl.secagg.errors import CohortError, DuplicateError, MessageError, TooFewSurvivorsError
from fl.secagg.messages import Advertisement, SharesHeader, names_hash, ordered_names
from fl.secagg.parameters import Thresholds
from fl.secagg.roster import Roster


@dataclasses.dataclass(frozen=True, slots=True)
class Cohort:
    """U1: the sites whose keys are in a session.

    Attributes:
        sites: Their ids, sorted; a site's share index is its place here, from 1.
        members: Their advertisements.
        sid: The session's id: a hash of the configuration and of all their keys.
        thresholds: For their number.
    """

    sites: tuple[str, ...]
    members: Mapping[str, Advertisement]
    sid: bytes
    thresholds: Thresholds

    def index(self, site: str) -> int:
        """A site's share index, from 1."""
        return self.sites.index(site) + 1


def read_cohort(
    config: RoundConfig, config_digest: bytes, roster: Roster, messages: Sequence[bytes], *, check: bool = True
) -> Cohort:
    """Check all advertisements of a session.

    Args:
        config: The proposal.
        config_digest: ``config_hash`` of its bytes.
        roster: Says which key is whose.
        messages: The advertisements, in the order of ids.
        check: Whether signatures are checked; only the server, which checked them one by one before, says no.

    Raises:
        SignatureError: If one is not signed by its site's roster key over this configuration.
        RosterSiteError: If a site is not in the roster.
        DuplicateError: If a site or a key comes twice.
        CohortError: If there are more sites than were invited.
        TooFewSurvivorsError: If there are too few.
    """
    if len(messages) > config.n_max:
        raise CohortError(f"{len(messages)} sites advertised keys, {config.n_max} were announced")
    if len(messages) < config.n_min:
        raise TooFewSurvivorsError(f"{len(messages)} sites advertised keys, {config.n_min} are needed")
    members = [Advertisement.decode(message) for message in messages]
    sites = ordered_names([member.site for member in members], "advertisements")
    keys = [key for member in members for key in (member.mask_key, member.channel_key)]
    if len(set(keys)) != len(keys):
        raise DuplicateError("one key was advertised twice")
    for member in members:
        key = roster.key_of(member.site)
        if check:
            member.check(key, config_digest)
    sid = H(
        "sid",
        config_digest,
        *(part for member in members for part in (member.site, member.mask_key, member.channel_key, member.commitment)),
    )
    return Cohort(sites, dict(zip(sites, members, strict=True)), sid, config.thresholds(len(sites)))


def check_sharers(cohort: Cohort, sharers: Sequence[str]) -> tuple[str, ...]:
    """Check U2, the sites that dealt shares: a subset of the cohort, large enough.

    Raises:
        CohortError: If a site is not of the cohort.
        TooFewSurvivorsError: If too many dropped.
    """
    return check_remaining(cohort, ordered_names(sharers, "sharers"), set(cohort.sites), "sharers")


def check_remaining(cohort: Cohort, names: tuple[str, ...], allowed: set[str], what: str) -> tuple[str, ...]:
    """Check that sites are among ``allowed`` and enough are left of the cohort.

    Raises:
        CohortError: If one is not.
        TooFewSurvivorsError: If there are too few, or more dropped than the session allows.
    """
    foreign = sorted(set(names) - allowed)
    if foreign:
        raise CohortError(f"the site {foreign[0]} is among the {what} but was not before")
    limits = cohort.thresholds
    need = max(limits.threshold, limits.min_aggregate)
    if len(names) < need:
        raise TooFewSurvivorsError(f"{len(names)} {what} of {limits.n} sites, {need} are needed")
    if limits.n - len(names) > limits.max_dropouts:
        raise TooFewSurvivorsError(
            f"{limits.n - len(names)} of {limits.n} sites dropped, at most {limits.max_dropouts} may"
        )
    return names


def session_model_id(sid: bytes, model: bytes) -> bytes:
    """sid2: the session with the model that its updates are relative to."""
    return H("sid2", sid, model)


def sharers_hash(sharers: Sequence[str]) -> bytes:
    """H(U2)."""
    return names_hash("sharers", sharers)


def check_nonce(member: Advertisement, header: SharesHeader) -> None:
    """Check that a revealed nonce is the one that was committed to.

    Raises:
        MessageError: If not.
    """
    if H("nonce", member.site, header.nonce) != member.commitment:
        raise MessageError(f"the site {member.site} revealed another nonce than it committed to")


def check_graph(config: RoundConfig, cohort: Cohort) -> int:
    """How many sites each one masks with; refused before anybody trains if no sparse graph stands the dropouts.

    Raises:
        NeighboursError: If none does.
    """
    limits = cohort.thresholds
    if not config.is_sparse(limits.n):
        return limits.n - 1
    return graph.neighbour_count(limits.n, limits.corrupt, limits.max_dropouts, config.ring.graph_bits)


class Neighbours:
    """Who masks with whom in a session.

    Args:
        config: The proposal.
        cohort: U1.
        headers: Of the sites that shared, by id; with a sparse graph these must be all of them.
    """

    def __init__(self, config: RoundConfig, cohort: Cohort, headers: Mapping[str, SharesHeader]) -> None:
        self._sites = frozenset(headers)
        self._circle: list[str] | None = None
        if config.is_sparse(len(cohort.sites)):
            if self._sites != frozenset(cohort.sites):
                missing = sorted(set(cohort.sites) - self._sites)
                raise CohortError(f"the sparse mask graph needs every site, {missing[0]} is missing")
            self._half = check_graph(config, cohort) // 2
            seed = graph.graph_seed(cohort.sid, {site: header.nonce for site, header in headers.items()})
            self._circle = graph.order(sorted(headers), seed)

    def of(self, site: str) -> frozenset[str]:
        """The sites that a site masks with."""
        if self._circle is None:
            return self._sites - {site}
        return graph.ring_neighbours(self._circle, site, self._half)
