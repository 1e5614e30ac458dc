"""What a site's driver hands to a session, and what it gets back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from fl.arrays import F32
from fl.secagg.errors import SecAggError
from fl.secagg.profiles import Vector


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LocalUpdate:
    """What a site's training made."""

    vector_P: F32
    """Local minus global parameters, float32, shape ``(P,)``."""

    num_examples: int
    """Examples behind it."""

    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Means over those examples."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """The global model as this site received it, and how to train from it."""

    digest: bytes
    """Its ``vector_digest``, computed here."""

    schema: bytes
    """``schema_hash`` of its names and shapes."""

    train: Callable[[], LocalUpdate]
    """Called once, after every check of the stage has passed."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A site's answer.

    Attributes:
        payload: The message.
        vector: The masked vector beside it, at the mask stage: shape ``(P + trailer,)``.
        receipt: What the site keeps of the round, at the last stage: a signed JSON document.
        refused: Whether the message is a refusal.
    """

    payload: bytes
    vector: Vector | None = None
    receipt: bytes | None = None
    refused: SecAggError | None = None
