"""Digits by Flower's own FedAvg: the same model, data and steps as the run file of the benchmark, with its times."""

import itertools
import json
import time
from pathlib import Path

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fl.tasks import registry
from fl.tasks.base import Site
from fl.tasks.loop import evaluate, initial_arrays, train
from fl.tasks.training import TrainingConfig

app = ServerApp()
client = ClientApp()


def task():
    return registry.create("digits", {"network": "cnn"})


def site_of(context: Context) -> Site:
    config = context.node_config
    part = int(config["partition-id"])
    return Site(id=f"site-{part}", data_dir=None, partition_id=part, num_partitions=int(config["num-partitions"]))


def model_of(message: Message):
    return {name: array.numpy() for name, array in message.content["arrays"].items()}


def reply(message: Message, metrics: dict, **records) -> Message:
    return Message(RecordDict({"metrics": MetricRecord(metrics), **records}), reply_to=message)


@client.train()
def on_train(message: Message, context: Context) -> Message:
    arrays = model_of(message)
    training = TrainingConfig(epochs=int(context.run_config["epochs"]), batch_size=32, learning_rate=0.05)
    result = train(task(), arrays, site_of(context), training, seed=1)
    changed = {name: Array(arrays[name] + update) for name, update in result.update.items()}
    return reply(message, {**result.metrics, "num-examples": result.num_examples}, arrays=ArrayRecord(changed))


@client.evaluate()
def on_evaluate(message: Message, context: Context) -> Message:
    measured = task()
    result = evaluate(measured, model_of(message), measured.evaluation_data(site_of(context)), TrainingConfig())
    return reply(message, {**result.metrics, "num-examples": result.num_examples})


@app.main()
def main(grid: Grid, context: Context) -> None:
    sites, rounds = int(context.run_config["sites"]), int(context.run_config["rounds"])
    times: list[float] = []
    counts = {"min_train_nodes": sites, "min_evaluate_nodes": sites, "min_available_nodes": sites}
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=1.0, **counts)
    model = ArrayRecord({name: Array(array) for name, array in initial_arrays(task(), 1).items()})

    def note(round: int, arrays: ArrayRecord) -> None:
        times.append(time.monotonic())

    strategy.start(grid, model, num_rounds=rounds, evaluate_fn=note)
    passed = [after - before for before, after in itertools.pairwise(times)]
    Path(str(context.run_config["out"])).write_text(json.dumps(passed))
