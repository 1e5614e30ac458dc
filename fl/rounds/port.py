"""The port to the sites: the little that the engine needs of whatever carries its messages.

Behind it stand Flower's Grid (``fl.flower.grid``), sites in this process (``simulations``) and, in tests, sites that
fall silent and lie. An implementation may deliver replies in any order, late, or never; the engine copes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

from fl.arrays import ArrayFile, Arrays
from fl.secagg.vectors import Pieces

Phase = Literal["initialise", "train", "evaluate", "secagg"]

EVALUATION = "evaluation_"
"""Prefix of the metrics of the model that came to a site, where they travel with those of its training."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a site is asked for.

    Attributes:
        phase: ``initialise``: initial parameters for the seed; ``train``: an update; ``evaluate``: metrics;
            ``secagg``: a stage of secure aggregation, in the course of which a site trains.
        round: Round number, 0 for ``initialise``.
        attempt: From 1; distinguishes requests of one round.
        seed: Of the round; a site derives its own from it and its id.
        options: What the strategy tells sites, e.g. ``{"proximal_mu": 0.1}``.
        stage: Of secure aggregation, else empty.
        cohort: How many sites are asked in the round, as the server says; 0 if it does not.
    """

    phase: Phase
    round: int
    attempt: int
    seed: int
    options: Mapping[str, float] = dataclasses.field(default_factory=dict)
    stage: str = ""
    cohort: int = 0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a site has no answer.

    Attributes:
        code: One word for programs: ``task_failed``, ``site_lost``, ``refused``, ``malformed``, …
        reason: One line for people.
    """

    code: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What one site answered to one request: arrays and metrics, or a failure.

    Attributes:
        site: Who answers.
        request: To what.
        num_examples: How many examples are behind the metrics and the update.
        metrics: Means over those examples.
        arrays: The update (local minus global), or the initial parameters; ``None`` after ``evaluate``. Valid
            until the next reply is taken, so that one reply at a time is in memory.
        report: Facts for people: device, samples per second, …
        payload: The site's message of this stage of secure aggregation.
        vector: Its masked vector, whole or in pieces of bytes; used like ``arrays``.
        failure: Set if there is no answer; then nothing above ``report`` counts.
    """

    site: str
    request: Request
    num_examples: int = 0
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    arrays: Arrays | None = None
    report: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    payload: bytes = b""
    vector: Pieces | None = None
    failure: Failure | None = None


class Sites(Protocol):
    """The sites of a federation, by id."""

    def online(self) -> Sequence[str]:
        """Sites that could be asked now, sorted."""
        ...

    def ask(
        self,
        sites: Sequence[str],
        request: Request,
        model: ArrayFile | None,
        payloads: Mapping[str, bytes] | None = None,
    ) -> None:
        """Send a request to sites, each with its payload if there are some, and return without waiting for them.

        A site that cannot be reached answers with a failure, sooner or later; nothing is raised for it.
        """
        ...

    def replies(self, timeout_s: float) -> Iterable[Reply]:
        """The replies that landed since the last call, waiting up to ``timeout_s`` for the first, one at a time."""
        ...
