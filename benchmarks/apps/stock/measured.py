"""Flower's own FedAvg, with its peak memory over its idle."""

import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, Context
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()
client = ClientApp()
LAYERS = 10


def resident_bytes(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


@app.main()
def main(grid: Grid, context: Context) -> None:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    idle = resident_bytes("VmRSS")
    sites = int(context.run_config["sites"])
    size = int(context.run_config["model-mb"]) * 250_000 // LAYERS
    model = ArrayRecord({f"layer-{i}": Array(np.full(size, i, np.float32)) for i in range(LAYERS)})
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
    strategy.start(grid, model, num_rounds=1)
    peak = resident_bytes("VmHWM")
    Path(str(context.run_config["out"])).write_text(json.dumps({"idle": idle, "peak": peak}))
