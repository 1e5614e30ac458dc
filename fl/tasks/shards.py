"""Which examples are a site's, and which of them it keeps for evaluation."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from fl import seeding
from fl.errors import TaskError
from fl.tasks.base import Site

I64 = npt.NDArray[np.int64]
Part = Literal["training", "evaluation"]

EVALUATION_SHARE = 0.2
"""How much of its examples a site keeps for evaluation."""


def partition(num_examples: int, site: Site) -> I64:
    """A site's part of common data: the examples that it names, or, where nobody has divided it, an equal part.

    Returns:
        Indices, ascending; equal parts of different sites have none in common and together cover all examples.

    Raises:
        TaskError: If there is no such part, or the site names examples that there are not.

    Guarantees:
        A site that names examples has what ``Task.write_shard`` would have put into its own directory, in the same
        order.
    """
    if site.examples is not None:
        return _given(site.examples, num_examples, site.id)
    if not 0 <= site.partition_id < site.num_partitions:
        raise TaskError(
            f"site {site.id} asks for part {site.partition_id} of {site.num_partitions}",
            hint=f"parts are counted from 0 to {site.num_partitions - 1}",
        )
    order = seeding.generator(0, "partition").permutation(num_examples)
    return np.sort(np.array_split(order, site.num_partitions)[site.partition_id])


def _given(examples: I64, num_examples: int, name: str) -> I64:
    """The examples that a site names, checked: a task that lists files gives them in this order only if it ascends."""
    if len(examples) and not 0 <= examples[0] <= examples[-1] < num_examples:
        raise TaskError(
            f"site {name} is given the examples {examples[0]} to {examples[-1]}, and there are {num_examples}"
        )
    if (np.diff(examples) < 0).any():
        raise ValueError(f"the examples of site {name} are not ascending")
    return examples


def divide(num_examples: int, site: Site, part: Part, *, where: object = None) -> I64:
    """The site's examples for training or for evaluation: the same ones in every round and run.

    Args:
        num_examples: How many the site has.
        site: Whose they are; its name decides which are kept.
        part: Which of the two is wanted.
        where: Where the examples lie, for the message when there are none.

    Returns:
        Indices, sorted. A single example is trained on; of two or more, at least one is kept for evaluation.

    Raises:
        TaskError: Naming the site, if it has no examples at all.
    """
    if num_examples == 0:
        place = f" in {where}" if where else ""
        raise TaskError(
            f"site {site.id} has no examples{place}", hint="look at its data directory, or leave the site out"
        )
    order = seeding.generator(0, "evaluation", site.id).permutation(num_examples)
    kept = max(1, round(EVALUATION_SHARE * num_examples)) if num_examples > 1 else 0
    return np.sort(order[:kept] if part == "evaluation" else order[kept:])
