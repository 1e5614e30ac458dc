"""Forked workers: the same answers in the same order, whatever their number and whoever dies."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import nn
from torch.utils.data import TensorDataset

from fl.errors import TaskError
from fl.rounds.port import Reply, Request
from fl.tasks import Site, TrainingConfig
from simulations.engine.pool import ATTEMPTS, Pool
from simulations.engine.work import Executor, Job, Model
from tests.simulations.engine.vectorised import made_up
from tests.simulations.engine.vectorised.made_up import MadeUp, alone, kept, vector

TRAINING = TrainingConfig(batch_size=5, device="cpu")


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))


@dataclasses.dataclass(frozen=True)
class Deadly(MadeUp):
    """One site's data kills who reads it: the first time, or always."""

    once: Path | None = None

    def train_data(self, site: Site) -> TensorDataset:
        if site.partition_id == 2 and not (self.once and self.once.exists()):
            if self.once:
                self.once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if site.partition_id == 4:
            raise TaskError("nothing here")
        return super().train_data(site)


def pool_of(task: MadeUp, workers: int, group: int = 1) -> Pool:
    one = alone(task, TRAINING)
    return Pool(lambda: one, workers, made_up.start_of(task).layout, one, group=group)


@pytest.fixture
def closing() -> Iterator[list[Pool]]:
    pools: list[Pool] = []
    yield pools
    for pool in pools:
        pool.close()


def same(mine: list[Reply], theirs: list[Reply]) -> bool:
    return [reply.site for reply in mine] == [reply.site for reply in theirs] and all(
        np.array_equal(vector(a), vector(b)) and a.metrics == b.metrics for a, b in zip(mine, theirs, strict=True)
    )


@pytest.mark.parametrize(("workers", "group"), [(1, 1), (2, 1), (3, 2), (2, 100)])
def test_any_number_of_workers_gives_the_bits_of_one_process(workers: int, group: int, closing: list[Pool]) -> None:
    task = MadeUp(make=mlp, sizes=(7, 12, 3, 12, 10, 1, 30, 8, 9, 10, 11))
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    closing.append(pool := pool_of(task, workers, group))
    theirs = kept(alone(task, TRAINING).execute(jobs, model))
    for _ in range(2):
        assert same(kept(pool.execute(jobs, model)), theirs)


def test_more_updates_than_there_is_room_for_wait_for_their_turn(
    closing: list[Pool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulations.engine.pool.SLOTS_BYTES", 0)
    task = MadeUp(make=mlp, sizes=(5,) * 12)
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    closing.append(pool := pool_of(task, 2, group=6))
    assert same(kept(pool.execute(jobs, model)), kept(alone(task, TRAINING).execute(jobs, model)))


def test_what_a_killed_worker_had_begun_is_done_again_with_the_same_result(
    tmp_path: Path, closing: list[Pool], caplog: pytest.LogCaptureFixture
) -> None:
    task = Deadly(make=mlp, once=tmp_path / "died", sizes=(7, 12, 3, 12))
    plain = MadeUp(make=mlp, sizes=task.sizes)
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    closing.append(pool := pool_of(task, 2, group=2))
    mine = kept(pool.execute(jobs, model))
    assert same(mine, kept(alone(plain, TRAINING).execute(jobs, model)))
    assert "died (SIGKILL): what it did is done again" in caplog.text


def test_a_worker_that_is_killed_from_outside_is_replaced(
    closing: list[Pool], caplog: pytest.LogCaptureFixture
) -> None:
    task = MadeUp(make=mlp, sizes=(40,) * 8)
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    closing.append(pool := pool_of(task, 2))
    replies = pool.execute(jobs, model)
    mine = kept([next(replies)])
    for pid in pool.pids:
        os.kill(pid, signal.SIGKILL)
    mine += kept(replies)
    assert same(mine, kept(alone(task, TRAINING).execute(jobs, model)))
    assert same(kept(pool.execute(jobs, model)), mine)


def test_a_site_that_kills_every_worker_is_given_up_and_the_others_answer(
    closing: list[Pool], caplog: pytest.LogCaptureFixture
) -> None:
    task = Deadly(make=mlp, sizes=(7, 12, 3, 12, 10))
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    closing.append(pool := pool_of(task, 2))
    mine = kept(pool.execute(jobs, model))
    codes = [reply.failure and reply.failure.code for reply in mine]
    assert codes == [None, None, "site_lost", None, "task_failed"]
    assert caplog.text.count("died (SIGKILL)") == ATTEMPTS


def test_replies_that_nobody_takes_are_dropped_and_the_next_request_is_answered(closing: list[Pool]) -> None:
    task = MadeUp(make=mlp, sizes=(5,) * 20)
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    closing.append(pool := pool_of(task, 2))
    replies = pool.execute(jobs, model)
    next(replies)
    replies.close()  # type: ignore[attr-defined]
    assert same(kept(pool.execute(jobs[:3], model)), kept(alone(task, TRAINING).execute(jobs[:3], model)))


def test_a_new_model_reaches_the_workers(closing: list[Pool]) -> None:
    task = MadeUp(make=mlp)
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    closing.append(pool := pool_of(task, 2))
    kept(pool.execute(jobs, model))
    other = Model(model.layout, model.vector_P * np.float32(0.5))
    assert same(kept(pool.execute(jobs, other)), kept(alone(task, TRAINING).execute(jobs, other)))


def test_evaluation_goes_through_the_workers_too(closing: list[Pool]) -> None:
    task = MadeUp(make=mlp)
    model = made_up.start_of(task)
    request = Request(phase="evaluate", round=1, attempt=1, seed=7)
    jobs = [Job(Site(f"site-{number}", partition_id=number), request) for number in range(5)]
    closing.append(pool := pool_of(task, 2))
    mine, theirs = kept(pool.execute(jobs, model)), kept(alone(task, TRAINING).execute(jobs, model))
    assert [(reply.site, reply.metrics) for reply in mine] == [(reply.site, reply.metrics) for reply in theirs]


def test_what_a_worker_logs_reaches_the_log(closing: list[Pool], caplog: pytest.LogCaptureFixture) -> None:
    @dataclasses.dataclass(frozen=True)
    class Broken(MadeUp):
        def train_data(self, site: Site) -> TensorDataset:
            raise ValueError("what a user's task may raise")

    task = Broken(make=mlp, sizes=(5,))
    closing.append(pool := pool_of(task, 1))
    with caplog.at_level(logging.ERROR):
        (reply,) = kept(pool.execute(made_up.jobs_of(task), made_up.start_of(task)))
    assert reply.failure
    assert "what a user's task may raise" in caplog.text
    assert "Traceback" in caplog.text


def test_workers_end_with_the_pool() -> None:
    task = MadeUp(make=mlp)
    pool = pool_of(task, 2)
    pids = pool.pids
    pool.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_sites_side_by_side_within_workers_are_grouped_alike_whatever_the_number_of_workers(
    closing: list[Pool],
) -> None:
    task = MadeUp(make=mlp, sizes=(7, 12, 3, 12, 10, 8, 9))
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)

    def vectorised() -> Executor:
        return made_up.side_by_side(task, TRAINING, width=3)

    one = alone(task, TRAINING)
    theirs = kept(vectorised().execute(jobs, model))
    for workers in (1, 2, 3):
        closing.append(pool := Pool(vectorised, workers, model.layout, one, group=3))
        assert pool.chunk % 3 == 0
        assert same(kept(pool.execute(jobs, model)), theirs)
