"""FedAvg, as Flower has it, over a Grid that shows it the mean of the sites and nothing else."""

from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from fl.flower.secagg import Credentials, SecAggSection, SecureGrid

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds that the run config asks for, and print what came out."""
    config = context.run_config
    credentials = Credentials.from_directory(Path(str(config["secagg"])))
    receipts = Path(str(config["receipts"])) if config["receipts"] else None
    grid = SecureGrid(grid, credentials, SecAggSection(clip=5.0, metrics=("loss",)), receipts=receipts)  # the change
    strategy = FedAvg(fraction_evaluate=0.0)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord([np.array(0.0), np.array(0.0)]),
        num_rounds=int(config["rounds"]),
        train_config=ConfigRecord({"examples": config["examples"], "pause-s": config["pause-s"]}),
    )
    slope, offset = result.arrays.to_numpy_ndarrays()
    print(f"the line has slope {slope:.2f} and offset {offset:.2f}")
