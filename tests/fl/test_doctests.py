"""Every example in a docstring is what the code does."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import edge
import fl
import server
import simulations

PROGRAMS = ("__main__", "server.store.migrations.env", "edge.fleet.worker")
"""What runs when it is imported: alembic's steps ask for their context, and the worker has gevent patch the process."""

MODULES = [
    name
    for package in (fl, server, edge, simulations)
    for _, name, _ in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if not name.endswith(PROGRAMS)
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
