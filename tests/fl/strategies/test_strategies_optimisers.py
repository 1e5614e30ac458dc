from __future__ import annotations

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fl.errors import ConfigError
from fl.strategies import create
from tests.fl.strategies.helpers import fold_all, updates_of

ROUNDS, SITES, SIZE = 6, 4, 501


def rounds(seed: int):
    """For each round, the updates (some elements never move) and the examples of each site."""
    rng = np.random.default_rng(seed)
    for _ in range(ROUNDS):
        updates_NP = rng.standard_normal((SITES, SIZE), dtype=np.float32)
        updates_NP[:, :10] = 0
        yield updates_NP, rng.integers(1, 500, SIZE)[:SITES].tolist()


@pytest.fixture
def flower_identity(monkeypatch):
    """What Flower wants to know about its process before it makes a message."""
    for part in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, part, 1)


def flower_round(strategy, round, model_P, updates_NP, examples):
    """One round of Flower's own strategy, which takes whole models."""
    strategy.configure_train(round, ArrayRecord([model_P]), ConfigRecord(), None)
    replies = [
        Message(
            RecordDict({"arrays": ArrayRecord([model_P + update_P]), "metrics": MetricRecord({"num-examples": count})}),
            dst_node_id=1,
            message_type="train",
        )
        for update_P, count in zip(updates_NP, examples, strict=True)
    ]
    arrays, _ = strategy.aggregate_train(round, replies)
    return arrays.to_numpy_ndarrays()[0]


@pytest.mark.parametrize(
    ("name", "options", "flowers"),
    [
        ("fedavg", {}, lambda **_: flower.FedAvg(fraction_train=0)),
        ("fedavgm", {"server_momentum": 0.7, "server_learning_rate": 0.5}, flower.FedAvgM),
        ("fedadam", {}, flower.FedAdam),
        ("fedadam", {"beta_1": 0.5, "beta_2": 0.7, "tau": 0.01, "server_learning_rate": 0.3}, flower.FedAdam),
        ("fedyogi", {}, flower.FedYogi),
        ("fedyogi", {"beta_1": 0.5, "beta_2": 0.7, "tau": 0.01, "server_learning_rate": 0.3}, flower.FedYogi),
        ("fedadagrad", {}, flower.FedAdagrad),
    ],
)
def test_six_rounds_end_where_flowers_strategy_ends(name, options, flowers, flower_identity):
    theirs_by_ours = {} if name == "fedavgm" else {"server_learning_rate": "eta"}
    theirs = flowers(fraction_train=0, **{theirs_by_ours.get(key, key): value for key, value in options.items()})
    ours = create(name, options)
    model_P = their_model_P = np.random.default_rng(1).standard_normal(SIZE, dtype=np.float32)
    state: dict = {}
    for number, (updates_NP, examples) in enumerate(rounds(seed=2), start=1):
        their_model_P = flower_round(theirs, number, their_model_P, updates_NP, examples)
        model_P, state = fold_all(ours, model_P, updates_of(updates_NP, examples), state, round=number)
    assert model_P.dtype == np.float32  # where FedAdam of Flower turns the model into float64
    # Elements that never move are noise at Flower, which subtracts models instead of taking updates.
    np.testing.assert_allclose(model_P[10:], their_model_P[10:], rtol=1e-4, atol=1e-4)
    assert np.abs(model_P).max() > 0.1


def paper_adam(x, m, v, delta, lr, b1, b2, tau):
    m = b1 * m + (1 - b1) * delta
    v = b2 * v + (1 - b2) * delta**2
    return x + lr * m / (np.sqrt(v) + tau), m, v


def paper_yogi(x, m, v, delta, lr, b1, b2, tau):
    m = b1 * m + (1 - b1) * delta
    v = v - (1 - b2) * delta**2 * np.sign(v - delta**2)
    return x + lr * m / (np.sqrt(v) + tau), m, v


def paper_adagrad(x, m, v, delta, lr, b1, b2, tau):
    v = v + delta**2
    return x + lr * delta / (np.sqrt(v) + tau), m, v


@pytest.mark.parametrize(
    ("name", "options", "formula"),
    [
        ("fedadam", {"bias_correction": False, "beta_1": 0.8, "beta_2": 0.9}, paper_adam),
        ("fedyogi", {"beta_1": 0.8, "beta_2": 0.9}, paper_yogi),
        ("fedadagrad", {}, paper_adagrad),
    ],
)
def test_the_papers_algorithm_can_be_had(name, options, formula):
    tau, lr = 0.02, 0.05
    strategy = create(name, {**options, "tau": tau, "server_learning_rate": lr, "second_moment_start": tau**2})
    model_P = np.random.default_rng(1).standard_normal(SIZE, dtype=np.float32)
    x, m, v = model_P.astype(np.float64), np.zeros(SIZE), np.full(SIZE, tau**2)
    state: dict = {}
    for number, (updates_NP, examples) in enumerate(rounds(seed=3), start=1):
        delta = np.average(updates_NP.astype(np.float64), axis=0, weights=examples)
        x, m, v = formula(x, m, v, delta, lr, 0.8, 0.9, tau)
        model_P, state = fold_all(strategy, model_P, updates_of(updates_NP, examples), state, round=number)
    np.testing.assert_allclose(model_P, x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state["second_moment"], v, rtol=1e-4)


def test_without_momentum_fedavgm_is_fedavg():
    updates_NP, examples = next(rounds(seed=4))
    model_P = np.ones(SIZE, np.float32)
    plain, _ = fold_all(create("fedavg", {}), model_P, updates_of(updates_NP, examples))
    moving, _ = fold_all(create("fedavgm", {"server_momentum": 0}), model_P, updates_of(updates_NP, examples))
    assert plain.tobytes() == moving.tobytes()


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("fedavgm", "server_momentum", 1.0),
        ("fedavgm", "server_learning_rate", 0),
        ("fedadam", "beta_1", 1),
        ("fedadam", "beta_2", -0.1),
        ("fedadam", "tau", 0),
        ("fedyogi", "server_learning_rate", -1),
        ("fedadagrad", "second_moment_start", -1e-9),
    ],
)
def test_a_value_out_of_its_range_is_refused(name, key, value):
    with pytest.raises(ConfigError, match=f"strategy.{key} is "):
        create(name, {key: value})
