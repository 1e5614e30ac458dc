"""A whole run inside this process: what a researcher calls, and what a deployed run is compared with.

>>> from simulations import simulate                                            # doctest: +SKIP
>>> state = simulate(RunConfig.from_file(Path("run.toml")), Path("run"), sites=10)  # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

from fl.flower.server_app import centre_evaluation
from fl.flower.strategy import folding_for
from fl.rounds.config import RunConfig, options
from fl.rounds.engine import Engine
from fl.rounds.journal import Journal
from fl.rounds.site import Worker
from fl.rounds.state import RunState
from fl.tasks import registry
from fl.tasks.base import Site
from simulations.engine.in_process import InProcessSites
from simulations.secure import secure_federation


def simulate(
    config: RunConfig, directory: Path, *, sites: int = 3, data: Path | None = None, search_path: Path | None = None
) -> RunState:
    """Run a run file on so many sites in this process, or go on with its journal.

    Args:
        config: The run file.
        directory: The journal's; begun if it does not exist, resumed if it does.
        sites: How many; they are called ``site-1`` and so on, as in a local federation.
        data: A directory with one directory of data a site, by the sites' names; without it each site takes its
            part of the task's common data.
        search_path: Where to look for a task that is named by an import path.

    Raises:
        FLError: As ``Engine.run`` does.
    """
    task = registry.create(config.task["name"], options(config.task), search_path=search_path)
    names = [f"site-{i}" for i in range(1, sites + 1)]
    places = {
        name: Site(id=name, data_dir=data / name if data else None, partition_id=number, num_partitions=sites)
        for number, name in enumerate(names)
    }
    if not directory.exists():
        Journal.create(directory, config.to_dict()).close()
    with contextlib.ExitStack() as stack:
        credentials, secure = (
            secure_federation(Path(stack.enter_context(tempfile.TemporaryDirectory())), names)
            if config.secagg
            else (None, {})
        )
        workers = {name: Worker(task, config.training, place, secure.get(name)) for name, place in places.items()}
        journal = stack.enter_context(Journal(directory))
        return Engine(
            journal,
            config,
            InProcessSites(workers),
            folding_for(config.strategy),
            evaluate_centre=centre_evaluation(config),
            credentials=credentials,
        ).run()
