"""What a simulation asks of whatever trains its sites: the jobs of a phase in, their replies out.

Three executors do it: one site after the other (``sequential``), forked processes that do the same side by side
(``pool``), and all sites of a chunk in one batched computation (``vectorised``). ``choose`` picks one by a short
measured trial.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from fl.arrays import F32, Arrays, Layout
from fl.rounds.port import Reply, Request
from fl.tasks.base import Site


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    """A global model as one vector.

    Attributes:
        layout: Names and shapes.
        vector_P: All parameters, float32, shape ``(P,)``, C-contiguous; not written to.
    """

    layout: Layout
    vector_P: F32

    def arrays(self) -> Arrays:
        """Named views."""
        return self.layout.split(self.vector_P)


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """One site's part in a phase.

    Attributes:
        site: Whose data.
        request: What is asked: ``initialise``, ``train`` or ``evaluate``.
        payload: The server's message of a stage of secure aggregation, else empty.
    """

    site: Site
    request: Request
    payload: bytes = b""


BLOCK = 8
"""How many groups are divided evenly at a time."""


def groups(jobs: Sequence[Job], width: int) -> list[Sequence[Job]]:
    """Jobs in groups that are done at once: at most ``width`` in each, and as even as can be.

    They are the same ones whoever does them, as long as calls bring whole blocks of ``BLOCK * width`` jobs.
    """
    found: list[Sequence[Job]] = []
    for start in range(0, len(jobs), BLOCK * width):
        some = jobs[start : start + BLOCK * width]
        number = -(-len(some) // width)
        found += [some[len(some) * i // number : len(some) * (i + 1) // number] for i in range(number)]
    return found


GROUP_SITES = 0.5
"""What a group takes beside its sites, in sites."""


def even_width(sites: int, widest: int, processes: int) -> int:
    """How many sites to a group, at most ``widest``, so that the busiest process has the least to do.

    Of 50 sites two processes get five groups of 5 each: with groups of 6 and 7, one process would get two sites more.
    """

    def busiest(number: int) -> float:
        return -(-number // processes) * (-(-sites // number) + GROUP_SITES)

    fewest = -(-sites // widest)
    return -(-sites // min(range(fewest, sites + 1), key=busiest))


class Executor(Protocol):
    """Does the jobs of simulated sites.

    Attributes:
        name: ``sequential``, ``pool`` or ``vectorised``, with what matters beside it, for the log.
        chunk: How many jobs are best given at once.
    """

    @property
    def name(self) -> str: ...  # noqa: D102  # described above

    @property
    def chunk(self) -> int: ...  # noqa: D102

    def execute(self, jobs: Sequence[Job], model: Model | None) -> Iterable[Reply] | Iterator[Reply]:
        """The replies, in the order of the jobs.

        A site's error is a reply with its failure, as ``fl.rounds.site.Worker.answer`` makes it; nothing is raised
        for it. A reply's arrays are valid until the next reply is taken. The result doesn't depend on how jobs are
        grouped into calls or processes, beyond the tolerance that the executor states.
        """
        ...

    def close(self) -> None:
        """End what was started."""
        ...
