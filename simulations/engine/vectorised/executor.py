"""The sites of a group trained side by side: see ``simulations.engine.work.Executor``."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fl import seeding
from fl.arrays import F32, Layout, VectorArrays
from fl.config import load, to_dict
from fl.rounds.port import Reply
from fl.tasks.base import Task
from fl.tasks.device import choose, choose_precision
from fl.tasks.loop import LoopReport
from fl.tasks.meter import peak_memory_bytes
from fl.tasks.training import TrainingConfig
from simulations.engine.memory import Gaps, keep
from simulations.engine.vectorised import lanes
from simulations.engine.vectorised.lanes import Lanes, Shelf
from simulations.engine.vectorised.means import Means
from simulations.engine.vectorised.optimisers import Optimiser, is_plain
from simulations.engine.vectorised.parameters import Parameters
from simulations.engine.vectorised.program import Program
from simulations.engine.work import BLOCK, Executor, Job, Model, groups

log = logging.getLogger(__name__)

COPIES_BYTES = 16 << 20
"""What the parameters, gradients and optimiser states of all copies may take on a CPU: memory stays flat, whatever
the cohort."""

GPU_SHARE = 0.25
"""The same as a share of a GPU's memory."""

EXAMPLES_BYTES = 256 << 20
"""What kept examples may take on a CPU."""

TRIM_BYTES = 128 << 20
"""After so many bytes of updates, what is free is given back. They leave no gaps, as they are made where those before
them were; but what else comes and goes does."""

TOLERANCE = 1e-4
"""How far an update may be from the sequential one, as a share of its length (L2): only the order of sums differs."""

VECTORS = 5
"""Vectors of the parameters' size a copy: values, gradients, two of the optimiser, the update."""


class Vectorised:
    """Trains the sites of a group side by side.

    Its updates equal those of the sequential path but for the order in which float32 sums are added: their distance
    is below ``TOLERANCE`` of their length (L2), unless training is so unstable that differences of rounding grow from
    step to step, as they then do between two computers, too. What cannot be done side by side (a site whose data cannot
    be read, a phase other than training) goes the sequential way.

    Args:
        task: What is learned.
        training: How.
        trained_by: What computes the steps.
        alone: The sequential way.
        width: How many sites side by side at most.

    Attributes:
        width: How many sites side by side at most: fewer than was asked for once memory ran out.
        program: What computes the steps.
        threads: How many may train sites that have nothing in common; it changes no bit.
        problem: Why some sites could not be trained side by side, if that happened.
    """

    def __init__(
        self, task: Task, training: TrainingConfig, trained_by: Program, alone: Executor, *, width: int
    ) -> None:
        self._task, self._training, self._alone = task, training, alone
        self._device = choose(training.device)
        self.program, self.width = trained_by, width
        self._precision = choose_precision(training.precision, self._device)
        self._shelf = Shelf(
            task,
            self._device,
            is_channels_last=trained_by.is_channels_last,
            limit_bytes=EXAMPLES_BYTES if self._device.type == "cpu" else _gpu_bytes(self._device),
        )
        self._rooms: dict[int, Parameters] = {}
        self._gaps = Gaps(TRIM_BYTES)
        self._helpers: ThreadPoolExecutor | None = None
        self.threads = 1
        if self._device.type == "cpu":
            keep()
        self.problem: str | None = None

    @property
    def name(self) -> str:
        """For the log."""
        return f"vectorised, {self.width} sites at once ({self.program.name})"

    @property
    def chunk(self) -> int:
        """As ``Executor`` says."""
        return BLOCK * self.width

    def execute(self, jobs: Sequence[Job], model: Model | None) -> Iterator[Reply]:
        """As ``Executor`` says."""
        if model is None or not jobs or jobs[0].request.phase != "train":
            yield from self._alone.execute(jobs, model)
            return
        waiting = deque(groups(jobs, self.width))
        while waiting:
            some = waiting.popleft()
            self._gaps.left(len(some) * model.layout.size_bytes)
            try:
                with _threads(self._training.cpu_threads), torch.no_grad():
                    replies = self._train(some, model)
            except torch.OutOfMemoryError:
                if self.width == 1:
                    replies = _kept(self._alone.execute(some, model))
                else:
                    self.width = max(1, self.width // 2)
                    self._rooms.clear()
                    log.warning("out of memory on the GPU: from now on %d sites side by side", self.width)
                    left = [job for group in (some, *waiting) for job in group]
                    waiting = deque(groups(left, self.width))
                    continue
            except Exception as err:  # what a user's task raises; alone, each site says so for itself
                if self.problem is None:
                    self.problem = _in_one_line(err)
                    log.warning("sites cannot be trained side by side (%s), so one after the other", self.problem)
                replies = _kept(self._alone.execute(some, model))
            yield from replies

    def close(self) -> None:
        """Nothing was started; what was kept for the next time is forgotten."""
        self._rooms.clear()
        self._shelf.clear()
        if self._helpers:
            self._helpers.shutdown()
            self._helpers = None

    def _train(self, jobs: Sequence[Job], model: Model) -> list[Reply]:
        """The replies of sites that are trained together."""
        found = [self._examples(job) for job in jobs]
        first = next((it for it in found if it is not None), None)
        together = [
            (job, it) for job, it in zip(jobs, found, strict=True) if it is not None and first and it.kind == first.kind
        ]
        replies: dict[str, Reply] = {}
        if together and first:
            replies = self._side_by_side([job for job, _ in together], [it for _, it in together], model)
        if len(together) < len(jobs):
            rest = [job for job in jobs if job.site.id not in replies]
            with torch.enable_grad():
                replies |= {reply.site: reply for reply in _kept(self._alone.execute(rest, model))}
        return [replies[job.site.id] for job in jobs]

    def _examples(self, job: Job) -> lanes.Examples | None:
        """A site's examples; ``None`` where they cannot be had, which it will explain itself."""
        try:
            return self._shelf.get(job.site)
        except torch.OutOfMemoryError:
            raise
        except Exception:
            return None

    def _side_by_side(self, jobs: Sequence[Job], examples: Sequence[lanes.Examples], model: Model) -> dict[str, Reply]:
        started_s = time.perf_counter()
        request = jobs[0].request
        options = {name: value for name, value in request.options.items() if name != "evaluate"}
        training = self._training
        if options:
            training = load(TrainingConfig, {**to_dict(training), **options}, table="training")
        seeds = [seeding.derive(request.seed, job.site.id) for job in jobs]
        chain, done = self.program.chain, None
        lined_up = Lanes(examples, seeds, training, self._device, chain.draw if chain else None)
        start_P = self._start(model)
        if chain:
            done = chain.train(lined_up, start_P, training, self._on_threads)
        if not done:
            done = self._step_by_step(lined_up, seeds, torch.tensor(start_P, device=self._device), training)
        moved_KP, metrics_K = done
        moved_KP = _spread(moved_KP, self.program.layout, model.layout)
        wall_s = time.perf_counter() - started_s
        report = self._report(training, wall_s / len(jobs), lined_up.samples / wall_s)
        replies = {}
        for lane, (place, metrics) in enumerate(zip(lined_up.order, metrics_K, strict=True)):
            replies[jobs[place].site.id] = Reply(
                site=jobs[place].site.id,
                request=jobs[place].request,
                num_examples=examples[place].number,
                metrics=metrics,
                arrays=VectorArrays(model.layout, moved_KP[lane]),
                report=report,
            )
        return replies

    def _step_by_step(
        self, lined_up: Lanes, seeds: Sequence[int], start_P: Tensor, training: TrainingConfig
    ) -> tuple[F32, list[dict[str, float]]]:
        """How far each lane moves, ``(K, P)``, valid until the next time; and what it measures."""
        number = len(lined_up.order)
        parameters = self._room(number)
        parameters.fill(start_P)
        optimiser = Optimiser(parameters, training)
        parameters.rate = training.learning_rate
        parameters.descending = self.program.descends if is_plain(training) else frozenset()
        others = len(self.program.layout.entries) - len(parameters.descending)
        generators = [torch.Generator().manual_seed(seeds[i]) for i in lined_up.order] if self.program.draws else []
        means = Means(self._task, number, self._device)
        for batch, is_last_K in lined_up.batches():
            if generators:
                batch.generators = generators[: len(batch.counts)]
            outputs, losses_K = self.program.gradients(parameters, batch)
            if is_last_K is not None:
                means.add(batch, outputs, losses_K, is_last_K)
            if others:
                optimiser.step(len(batch.counts))
        return parameters.minus(start_P), means.of_lanes()

    def _on_threads(self, work: Callable[[int, int], bool]) -> list[bool]:
        """Share something out: ``work(0, n)`` here, ``work(1, n)`` and so on on helpers."""
        number = self.threads
        if number == 1:
            return [work(0, 1)]
        if self._helpers is None:
            self._helpers = ThreadPoolExecutor(number - 1)
        others = [self._helpers.submit(work, first, number) for first in range(1, number)]
        return [work(0, number), *(other.result() for other in others)]

    def _room(self, number: int) -> Parameters:
        """Vectors for so many copies; those of an earlier time if there were as many: groups differ by one in size."""
        if number not in self._rooms:
            if len(self._rooms) == 2:
                del self._rooms[next(iter(self._rooms))]
            self._rooms[number] = Parameters(self.program.layout, number, self._device)
        return self._rooms[number]

    def _start(self, model: Model) -> F32:
        """The trained parameters of the global model, shape ``(P,)``."""
        arrays = model.arrays()
        self.program.load(arrays)
        mine = self.program.layout
        vector_P: F32 = (
            model.vector_P
            if mine.entries == model.layout.entries
            else np.concatenate([arrays[name].ravel() for name, _ in mine.entries])
        )
        if mine.size != len(vector_P):
            raise ValueError("these parameters are not of this model")
        return vector_P

    def _report(self, training: TrainingConfig, wall_s: float, samples_per_s: float) -> dict[str, Any]:
        report = LoopReport(
            device=self._device.type,
            precision=self._precision,
            micro_batch_size=training.batch_size,
            out_of_memory=0,
            peak_memory_bytes=peak_memory_bytes(self._device),
            samples_per_s=samples_per_s,
            wall_s=wall_s,
            energy_j=None,
            cpu_s=None,
        )
        return {name: getattr(report, name) for name in LoopReport.__slots__}


def _spread(moved_KP: F32, trained: Layout, whole: Layout) -> F32:
    """Movements of what is trained as such of the whole model, the rest of which stays where it is."""
    if trained == whole:
        return moved_KP
    moved = dict(_columns(moved_KP, trained))
    everything_KP = np.zeros((len(moved_KP), whole.size), np.float32)
    for name, part_KN in _columns(everything_KP, whole):
        if name in moved:
            part_KN[:] = moved[name]
    return everything_KP


def _columns(vectors_KP: F32, layout: Layout) -> Iterator[tuple[str, F32]]:
    """Views of each parameter in several vectors."""
    at = 0
    for name, shape in layout.entries:
        yield name, vectors_KP[:, at : (at := at + math.prod(shape))]


def _kept(replies: Iterable[Reply]) -> list[Reply]:
    """Replies whose arrays outlast the next one."""
    return [
        dataclasses.replace(reply, arrays=reply.arrays and {name: array.copy() for name, array in reply.arrays.items()})
        for reply in replies
    ]


def _in_one_line(err: Exception) -> str:
    """What an exception says, without the pages that torch may add."""
    return f"{type(err).__name__}: {str(err).strip().partition(chr(10))[0][:200]}"


def width_for(layout_bytes: int, device: torch.device) -> int:
    """How many copies of a model there is room for side by side."""
    room = COPIES_BYTES if device.type == "cpu" else _gpu_bytes(device)
    return max(1, room // (VECTORS * max(1, layout_bytes)))


def _gpu_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(GPU_SHARE * torch.cuda.mem_get_info()[0])
    return 1 << 30


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    kept = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(kept)
