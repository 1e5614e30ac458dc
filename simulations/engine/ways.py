"""The ways in which a task's sites can be trained on this computer, each made when it is asked for."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

from fl.arrays import Layout
from fl.errors import TaskError
from fl.tasks.base import Task
from fl.tasks.training import TrainingConfig
from simulations.engine.memory import give_back
from simulations.engine.pool import Pool
from simulations.engine.work import Executor

if TYPE_CHECKING:
    import torch

    from simulations.engine.vectorised.executor import Vectorised
    from simulations.engine.vectorised.program import Program

WIDEST = 64
"""Sites in one computation on a CPU: more of them fill no processor better."""

WIDEST_GPU = 256

WIDEST_CONVOLVED = 8
"""The same with convolutions on a CPU, of which each site's is computed apart: few enough to stay in its caches."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """One way to train sites.

    Attributes:
        side_by_side: Whether several sites are trained in one computation.
        workers: Processes; with 1, sites are trained in this one.
        width: How many sites in one computation.
        is_compiled: Whether that is compiled.
    """

    side_by_side: bool = False
    workers: int = 1
    width: int = 1
    is_compiled: bool = False

    @property
    def mode(self) -> str:
        """As the ``[engine]`` table calls it."""
        if self.side_by_side:
            return "vectorised"
        return "pool" if self.workers > 1 else "sequential"


class Ways:
    """The ways to train the sites of a run.

    Args:
        task: What is learned.
        training: How.
        alone: One site after the other in this process.
        layout: Of the model.

    Attributes:
        alone: As above.
        threads: How many train sites side by side where one process does it all and its work can be divided.
    """

    def __init__(self, task: Task, training: TrainingConfig, alone: Executor, layout: Layout) -> None:
        self._task, self._training, self._layout = task, training, layout
        self.alone, self.threads = alone, 1
        self._made: dict[tuple[int, bool], Vectorised] = {}
        self._programs: dict[bool, Program] = {}

    def executor(self, plan: Plan) -> Executor:
        """What trains so; a compiled one keeps what was compiled from one call to the next.

        Raises:
            TaskError: If the task cannot be trained side by side, with the reason.
        """
        if plan.workers == 1:
            return self.vectorised(plan.width, plan.is_compiled) if plan.side_by_side else self.alone
        if not plan.side_by_side:
            return Pool(lambda: self.alone, plan.workers, self._layout, self.alone)
        made = None if self.device.type != "cpu" else self.vectorised(plan.width, plan.is_compiled)
        return Pool(
            lambda: self._in_a_worker(plan),
            plan.workers,
            self._layout,
            self.alone,
            group=plan.width,
            name=made.name if made else f"{plan.width} sites at once",
        )

    def vectorised(self, width: int, is_compiled: bool) -> Vectorised:
        """Side by side in this process.

        Raises:
            TaskError: If that cannot be, with the reason.
        """
        from simulations.engine.vectorised.executor import Vectorised
        from simulations.engine.vectorised.program import program_for

        made = self._made.get((width, is_compiled))
        if made is None:
            program = self._programs.get(is_compiled)
            if program is None:
                program, why = program_for(self._task, self._training, self.device)
                if program is None:
                    raise TaskError(why)
                if is_compiled and program.can_compile:
                    program.compile()
                self._programs[is_compiled] = program
            made = Vectorised(self._task, self._training, program, self.alone, width=width)
            self._made[width, is_compiled] = made
        made.threads = self.threads
        return made

    def _in_a_worker(self, plan: Plan) -> Vectorised:
        self.threads = 1  # the others have the processors
        return self.vectorised(plan.width, plan.is_compiled)

    def tidy(self) -> None:
        """Forget what trials left in memory; what was compiled stays."""
        for made in self._made.values():
            made.close()
        give_back()

    def widest(self) -> int:
        """How many sites in one computation pay."""
        from torch import nn

        from simulations.engine.vectorised.executor import width_for

        if self.device.type == "cuda":
            most = WIDEST_GPU
        else:
            is_convolved = any(isinstance(module, nn.modules.conv._ConvNd) for module in self._task.model().modules())
            most = WIDEST_CONVOLVED if is_convolved else WIDEST
        return min(most, width_for(self._layout.size_bytes, self.device))

    @property
    def device(self) -> torch.device:
        """Where sites train."""
        from fl.tasks.device import choose

        return choose(self._training.device)

    def processors(self) -> int:
        """How many processes can train at once without being in each other's way."""
        if self.device.type == "cuda":
            import torch

            return torch.cuda.device_count()
        if self.device.type != "cpu":
            return 1
        return max(1, cores() // self._training.cpu_threads)


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
