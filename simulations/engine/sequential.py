"""One site after the other, each through the code that a deployed site runs: the same bits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fl.rounds.port import Reply
from fl.rounds.site import Worker
from fl.tasks.base import Site
from simulations.engine.memory import Gaps
from simulations.engine.work import Job, Model


class Sequential:
    """See ``simulations.engine.work.Executor``.

    Args:
        worker_of: Gives a site at work.
    """

    name = "sequential"
    chunk = 1

    def __init__(self, worker_of: Callable[[Site], Worker]) -> None:
        self._worker_of = worker_of
        self._gaps = Gaps()

    def execute(self, jobs: Sequence[Job], model: Model | None) -> Iterator[Reply]:
        """One job is done when its reply is taken."""
        arrays = model.arrays() if model else None
        for job in jobs:
            self._gaps.left(model.layout.size_bytes if model else 0)
            yield self._worker_of(job.site).answer(job.request, arrays, job.payload)

    def close(self) -> None:
        """Nothing was started."""
