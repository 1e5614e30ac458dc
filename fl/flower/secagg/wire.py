"""What both ends say of a message between ``SecAggWorkflow`` and ``secagg_mod``."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from fl.arrays import F32
from fl.secagg.errors import UpdateError

RECORD = "fedfleet.secagg"
"""Name of the record with the protocol's messages, beside those of the app."""

VECTOR = "fedfleet.vector"
"""Name of the record with the masked vector."""

TRAIN = "train"
"""What the type of a message that asks for training begins with."""


def is_training(message_type: str) -> bool:
    """Whether a message of this type (``train``, ``train.<action>``) asks for training."""
    return message_type.partition(".")[0] == TRAIN


def model_of(content: RecordDict, what: str) -> tuple[str, ArrayRecord]:
    """The one model in a message, and its name.

    Raises:
        UpdateError: If there is none, or more than one.
    """
    found = list(content.array_records.items())
    if len(found) != 1:
        raise UpdateError(f"{what} has {len(found)} ArrayRecords, secure aggregation needs exactly one")
    return found[0]


def float32(model: ArrayRecord) -> dict[str, F32]:
    """A model as what both ends hash and count, whatever its own types are."""
    return {name: np.asarray(array.numpy(), np.float32) for name, array in model.items()}
