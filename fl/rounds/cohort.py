"""Who is asked in a round, how many must answer, and by when: pure functions of the journal and the configuration."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence

import numpy as np

from fl import seeding
from fl.config import share_or_count
from fl.rounds.config import RoundConfig
from fl.rounds.state import RoundState

ROUNDS_REMEMBERED = 5
"""How many rounds back an automatic deadline looks."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One attempt at a round.

    Attributes:
        cohort: Who is asked, sorted.
        wanted: The round closes when so many have answered.
        quorum: With fewer at the deadline it is abandoned.
    """

    cohort: tuple[str, ...]
    wanted: int
    quorum: int


def needed(config: RoundConfig, online: int, *, minimum: int = 1) -> int:
    """How many sites must be online before a round opens: ``min_online``, and enough for its quorum."""
    wanted = share_or_count(config.cohort, max(online, config.min_online))
    return max(minimum, config.min_online, share_or_count(config.quorum, wanted))


def plan(config: RoundConfig, online: Sequence[str], landed: Iterable[str], *, seed: int, minimum: int = 1) -> Plan:
    """Choose the cohort of an attempt.

    Args:
        config: The ``[round]`` table.
        online: Sites that can be asked, sorted; a sequence of any length, of which only the chosen are looked at.
        landed: Sites whose update already landed in an earlier attempt; they count, and stay in the cohort.
        seed: Of the attempt; the same seed and sites give the same cohort.
        minimum: The fewest updates that the strategy can fold.
    """
    landed = set(landed)
    candidates = sorted(landed | set(online)) if landed else online
    wanted = min(len(candidates), max(minimum, share_or_count(config.cohort, len(candidates))))
    quorum = max(minimum, share_or_count(config.quorum, wanted))
    asked = min(len(candidates), math.ceil(wanted * (1 + config.over_selection) - 1e-9))
    others = [site for site in candidates if site not in landed] if landed else candidates
    cohort = tuple(sorted(landed.union(draw(others, max(0, asked - len(landed)), seed=seed))))
    return Plan(cohort=cohort, wanted=wanted, quorum=quorum)


def draw(sites: Sequence[str], number: int, *, seed: int) -> tuple[str, ...]:
    """So many of the sites, at random without replacement, in their order; all of them if there are not more.

    Time and memory are those of the number drawn, however many sites there are.
    """
    if number >= len(sites):
        return tuple(sites)
    chosen = seeding.generator(seed).choice(len(sites), number, replace=False, shuffle=False)
    return tuple(sites[int(i)] for i in np.sort(chosen))


def deadline_s(config: RoundConfig, earlier: Iterable[RoundState]) -> float:
    """How long an attempt may last, given earlier rounds, the newest first.

    Fixed by the configuration, or a multiple of the slowest survivor's time in the median of the last rounds. The
    result is recorded when the round opens, so a resumed round keeps it.
    """
    if config.deadline_s != "auto":
        return float(config.deadline_s)
    known = (_slowest_s(entry, entry.closed.survivors) for entry in earlier if entry.closed)
    slowest = list(itertools.islice((waited_s for waited_s in known if waited_s is not None), ROUNDS_REMEMBERED))
    if not slowest:
        return config.deadline_max_s
    expected = config.deadline_factor * statistics.median(slowest)
    return min(config.deadline_max_s, max(config.deadline_min_s, math.ceil(expected)))


def _slowest_s(entry: RoundState, survivors: Sequence[str]) -> float | None:
    """How long the slowest survivor trained; with secure aggregation, until the last masked update was there."""
    if entry.sum:
        return next((closed.waited_s for closed in entry.stages if closed.stage == "mask"), None)
    if not survivors or not set(survivors) <= entry.landed.keys():
        return None
    return max(entry.landed[site].waited_s for site in survivors)
