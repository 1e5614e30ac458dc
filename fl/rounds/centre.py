"""Evaluation at the centre, on the task's own held-out data; torch is imported when it first happens."""

from __future__ import annotations

from fl.arrays import Arrays
from fl.errors import ConfigError
from fl.rounds.config import RunConfig, options
from fl.rounds.engine import CentreEvaluation
from fl.tasks import registry
from fl.tasks.base import Task


def centre_evaluation(config: RunConfig, task: Task | None = None) -> CentreEvaluation | None:
    """How the centre evaluates, if the run file asks for it.

    Args:
        config: The run's.
        task: Its task, if that is made already.

    Raises:
        ConfigError: If the task has no data at the centre.
    """
    if not config.evaluation.centre_every:
        return None
    from fl.tasks.loop import evaluate

    task = task or registry.create(config.task["name"], options(config.task))
    data = task.centre_data()
    if data is None:
        raise ConfigError(
            f"task {config.task['name']} has no data at the centre to evaluate on",
            hint="set evaluation.centre_every = 0",
        )

    def evaluation(arrays: Arrays) -> tuple[int, dict[str, float]]:
        result = evaluate(task, arrays, data, config.training)
        return result.num_examples, dict(result.metrics)

    return evaluation
