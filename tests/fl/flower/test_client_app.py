from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from fl.flower import records
from fl.flower.client_app import app
from fl.flower.node import site_of
from fl.flower.private import ensure_identity
from fl.rounds.port import Reply, Request


@pytest.fixture(autouse=True)
def _identity() -> None:
    ensure_identity()


def context(**node_config: object) -> Context:
    return Context(run_id=1, node_id=7, node_config=node_config, state=RecordDict(), run_config={})  # type: ignore[arg-type]


def ask(request: Request, model: dict[str, np.ndarray] | None, task: dict[str, object] | None = None) -> Reply:
    """Send a message through the ClientApp, as a SuperNode does."""
    job = records.Job(
        request=request,
        task=task or {"name": "digits", "network": "mlp"},
        training={"epochs": 1, "learning_rate": 0.05},
    )
    kind = {"initialise": "query", "train": "train", "evaluate": "evaluate"}[request.phase]
    message = Message(records.encode_job(job, records.pack(model) if model else None), 7, kind)
    reply = app(message, context(site="ward-7", **{"partition-id": 0, "num-partitions": 3}))
    return records.decode_reply("ward-7", request, reply.content)


def test_a_site_initialises_trains_and_evaluates() -> None:
    begun = ask(Request(phase="initialise", round=0, attempt=1, seed=3), None)
    assert begun.arrays
    model = {name: array.copy() for name, array in begun.arrays.items()}
    trained = ask(Request(phase="train", round=1, attempt=1, seed=4), model)
    assert trained.failure is None
    assert trained.arrays
    assert trained.num_examples > 300
    assert {"loss", "accuracy"} <= trained.metrics.keys()
    assert trained.report["device"] == "cpu"
    evaluated = ask(Request(phase="evaluate", round=1, attempt=1, seed=4), model)
    assert evaluated.arrays is None
    assert 0 <= evaluated.metrics["accuracy"] <= 1


def test_the_same_request_gives_the_same_update_to_the_bit() -> None:
    begun = ask(Request(phase="initialise", round=0, attempt=1, seed=3), None)
    assert begun.arrays
    request = Request(phase="train", round=1, attempt=1, seed=4)
    first, second = (ask(request, dict(begun.arrays)).arrays for _ in range(2))
    assert first
    assert second
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"name": "digitss"}, "unknown task digitss"),
        ({"name": "digits", "netwrk": "cnn"}, "unknown key task.netwrk"),
        ({"name": "tabular", "target": "y", "columns": ["x"]}, "ward-7"),
    ],
)
def test_a_task_that_cannot_be_made_is_a_reply_with_the_reason(task: dict[str, object], words: str) -> None:
    reply = ask(Request(phase="initialise", round=0, attempt=1, seed=3), None, task)
    if reply.failure is None:  # the model alone can be made; it is the data that is not there
        assert reply.arrays
        reply = ask(Request(phase="train", round=1, attempt=1, seed=3), dict(reply.arrays), task)
    assert reply.failure is not None
    assert words in reply.failure.reason


def test_a_model_of_another_shape_is_a_reply_with_the_parameter() -> None:
    reply = ask(Request(phase="train", round=1, attempt=1, seed=3), {"nonsense": np.zeros(3, "f4")})
    assert reply.failure is not None
    assert reply.failure.code == "task_failed"


def test_a_site_is_what_its_node_config_says() -> None:
    site = site_of(context(site="ward-7", **{"data-dir": "/data", "partition-id": 2, "num-partitions": 5}))
    assert (site.id, site.data_dir, site.partition_id, site.num_partitions) == ("ward-7", Path("/data"), 2, 5)
    assert site_of(context()).id == "node-7"
