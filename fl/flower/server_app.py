"""The ServerApp of every run file: opens the journal that the submitter made, and runs the engine on Flower's Grid.

The run config has the key ``journal``, the journal's directory, where everything about the run stands; and
``secagg``, the directory with the server's part in secure aggregation (``fl.rounds.secure.Credentials``), or nothing.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl.flower.folding import folding_for
from fl.flower.grid import GridSites
from fl.rounds.centre import centre_evaluation
from fl.rounds.config import RunConfig
from fl.rounds.engine import Engine
from fl.rounds.journal import Journal, load_config
from fl.rounds.secure import Credentials

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run or resume the journal named in the run config."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    directory = Path(str(context.run_config["journal"]))
    config = RunConfig.from_dict(load_config(directory))
    tables = config.to_dict()
    sites = GridSites(grid, tables["task"], tables["training"])
    with Journal(directory) as journal:
        Engine(
            journal,
            config,
            sites,
            folding_for(config.strategy),
            evaluate_centre=centre_evaluation(config),
            credentials=_credentials(config, str(context.run_config.get("secagg", ""))),
        ).run()


def _credentials(config: RunConfig, directory: str) -> Credentials | None:
    return Credentials.from_directory(Path(directory)) if config.secagg and directory else None
