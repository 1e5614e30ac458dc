"""A site's answer to a request: what happens at a site in a round, wherever the site runs."""

from __future__ import annotations

import dataclasses
import logging
from functools import partial

from fl import seeding
from fl.arrays import Arrays, vector_of
from fl.config import load, to_dict
from fl.errors import ConfigError, FLError
from fl.rounds.port import EVALUATION, Failure, Reply, Request
from fl.rounds.secure_site import SecureSite, answer_securely
from fl.secagg.errors import PolicyError
from fl.secagg.local import LocalUpdate
from fl.tasks.base import Site, Task
from fl.tasks.loop import TrainResult, evaluate, initial_arrays, train
from fl.tasks.training import TrainingConfig

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Worker:
    """A site at work on a run.

    Attributes:
        task: What is learned.
        training: How.
        site: Where.
        secure: Its part in secure aggregation, if it has one.
    """

    task: Task
    training: TrainingConfig
    site: Site
    secure: SecureSite | None = None

    def answer(self, request: Request, arrays: Arrays | None, payload: bytes = b"") -> Reply:
        """Train, evaluate or initialise, as asked.

        An error of the task or its data becomes a reply that says so; nothing is raised, because a site's error
        never ends a run.

        Args:
            request: What is asked.
            arrays: The global model; ``None`` where none is needed.
            payload: The server's message of a stage of secure aggregation.
        """
        try:
            return self._answer(request, arrays, payload)
        except PolicyError as err:
            failure = Failure(code="refused", reason=err.message)
        except FLError as err:
            failure = Failure(code="task_failed", reason=err.message)
        except Exception as err:  # a user's task may raise anything
            log.exception("the task failed")
            failure = Failure(code="task_failed", reason=f"{type(err).__name__}: {err}")
        return Reply(site=self.site.id, request=request, failure=failure)

    def _answer(self, request: Request, arrays: Arrays | None, payload: bytes) -> Reply:
        name = self.site.id
        if request.phase == "secagg":
            if self.secure is None:
                raise ConfigError("this site has no keys for secure aggregation")
            return answer_securely(name, self.secure, request, payload, arrays, partial(self._masked, request))
        if request.phase == "initialise":
            return Reply(site=name, request=request, arrays=initial_arrays(self.task, request.seed))
        if self.secure:
            self.secure.policy().check_clear(request.phase)
            if request.phase == "train":
                self.secure.policy().check_cohort(request.cohort)
        assert arrays is not None
        if request.phase == "evaluate":
            evaluated = evaluate(self.task, arrays, self.task.evaluation_data(self.site), self.training)
            return Reply(site=name, request=request, num_examples=evaluated.num_examples, metrics=evaluated.metrics)
        result = self._train(request, arrays)
        return Reply(
            site=name,
            request=request,
            num_examples=result.num_examples,
            metrics=result.metrics,
            arrays=result.update,
            report=dataclasses.asdict(result.report),
        )

    def _train(self, request: Request, arrays: Arrays) -> TrainResult:
        options = {name: value for name, value in request.options.items() if name != "evaluate"}
        training = load(TrainingConfig, {**to_dict(self.training), **options}, table="training")
        return train(self.task, arrays, self.site, training, seed=seeding.derive(request.seed, self.site.id))

    def _masked(self, request: Request, arrays: Arrays) -> LocalUpdate:
        """What is masked: the update, and metrics of the training and, if asked, of the model that came."""
        metrics: dict[str, float] = {}
        if request.options.get("evaluate"):
            data = self.task.evaluation_data(self.site)
            evaluated = evaluate(self.task, arrays, data, self.training)
            metrics = {EVALUATION + name: value for name, value in evaluated.metrics.items()}
        result = self._train(request, arrays)
        vector_P = vector_of(result.update)
        return LocalUpdate(vector_P=vector_P, num_examples=result.num_examples, metrics={**result.metrics, **metrics})
