"""Sends a model to every node each time a file says so, and leaves the replies where they are."""

import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl.flower.mail import GatewayLine

app = ServerApp()
client = ClientApp()
LAYERS = 10


@app.main()
def main(grid: Grid, context: Context) -> None:
    out, sites = Path(str(context.run_config["out"])), int(context.run_config["sites"])
    size = int(context.run_config["model-mb"]) * 250_000 // LAYERS
    line = GatewayLine.from_environment(grid.run.run_id)
    for number in range(int(context.run_config["rounds"])):
        while not (out / f"go-{number}").exists():
            time.sleep(0.1)
        while len(nodes := sorted(grid.get_node_ids())) < sites:
            time.sleep(0.1)
        values = np.random.default_rng(number).standard_normal((LAYERS, size), dtype=np.float32)
        model = ArrayRecord({f"layer-{i}": Array(values[i]) for i in range(LAYERS)})
        grid.push_messages([Message(RecordDict({"arrays": model}), node, "query") for node in nodes])
        line.mail(nodes)
    while not (out / "end").exists():
        time.sleep(0.1)
