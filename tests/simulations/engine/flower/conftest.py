"""Whole apps, as files in a directory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent, indent
from typing import Any

import pytest

IMPORTS = """\
import os, random, time
from pathlib import Path
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
"""

SERVER = """\
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
app = ServerApp()

@app.main()
def main(grid: Grid, context: Context) -> None:
    def ask(kind="train", content=None, nodes=None, **options):
        content = RecordDict() if content is None else content
        return [Message(content, node, kind, **options) for node in (nodes or grid.get_node_ids())]

"""

CLIENT = """\
from flwr.clientapp import ClientApp
app = ClientApp()
"""

PYPROJECT = """\
[project]
name = "written"
version = "1.2.3"
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "written.server:app"
clientapp = "written.client:app"
[tool.flwr.app.config]
"""

MakeApp = Callable[..., Path]


@pytest.fixture
def make_app(tmp_path: Path) -> MakeApp:
    """Write an app: the body of its ``main(grid, context)``, with ``ask(…)`` for messages to all nodes; its client."""
    made = 0

    def write(main: str, client: str, config: str = "", **modules: str) -> Path:
        nonlocal made
        made += 1
        directory = tmp_path / f"app-{made}"
        package = directory / "written"
        package.mkdir(parents=True)
        (directory / "pyproject.toml").write_text(PYPROJECT + dedent(config))
        (package / "__init__.py").touch()
        (package / "server.py").write_text(IMPORTS + SERVER + indent(dedent(main), "    "))
        (package / "client.py").write_text(IMPORTS + CLIENT + dedent(client))
        for name, text in modules.items():
            (package / f"{name}.py").write_text(dedent(text))
        return directory

    return write


@pytest.fixture(autouse=True)
def flower_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Flower's log; not on the terminal of the tests."""
    logger = logging.getLogger("flwr")
    handlers, logger.handlers = logger.handlers, []
    with caplog.at_level(logging.INFO, logger="flwr"):
        yield caplog
    logger.handlers = handlers


def state(result: Any, name: str) -> dict[str, Any]:
    """A record of a result's state, as a dictionary."""
    return dict(result.state[name])
