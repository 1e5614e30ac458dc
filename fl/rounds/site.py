"""A site's answer to a request: what happens at a site in a round, wherever the site runs."""

from __future__ import annotations

import dataclasses
import logging

from fl import seeding
from fl.arrays import Arrays
from fl.config import load, to_dict
from fl.errors import FLError
from fl.rounds.port import Failure, Reply, Request
from fl.tasks.base import Site, Task
from fl.tasks.loop import evaluate, initial_arrays, train
from fl.tasks.training import TrainingConfig

log = logging.getLogger(__name__)


def answer(task: Task, training: TrainingConfig, site: Site, request: Request, arrays: Arrays | None) -> Reply:
    """Train, evaluate or initialise, as asked.

    An error of the task or its data becomes a reply that says so; nothing is raised, because a site's error never
    ends a run.

    Args:
        task: What is learned.
        training: How.
        site: Where.
        request: What is asked.
        arrays: The global model; ``None`` to initialise one.
    """
    try:
        return _answer(task, training, site, request, arrays)
    except FLError as err:
        failure = Failure(code="task_failed", reason=err.message)
    except Exception as err:  # a user's task may raise anything
        log.exception("the task failed")
        failure = Failure(code="task_failed", reason=f"{type(err).__name__}: {err}")
    return Reply(site=site.id, request=request, failure=failure)


def _answer(task: Task, training: TrainingConfig, site: Site, request: Request, arrays: Arrays | None) -> Reply:
    if request.phase == "initialise":
        return Reply(site=site.id, request=request, arrays=initial_arrays(task, request.seed))
    assert arrays is not None
    if request.phase == "evaluate":
        evaluated = evaluate(task, arrays, task.evaluation_data(site), training)
        return Reply(site=site.id, request=request, num_examples=evaluated.num_examples, metrics=evaluated.metrics)
    training = load(TrainingConfig, {**to_dict(training), **request.options}, table="training")
    result = train(task, arrays, site, training, seed=seeding.derive(request.seed, site.id))
    return Reply(
        site=site.id,
        request=request,
        num_examples=result.num_examples,
        metrics=result.metrics,
        arrays=result.update,
        report=dataclasses.asdict(result.report),
    )
