"""Recorded cases: one JSON file a case, no code in any.

A fact's case has ``arguments``, ``command``, ``output`` and the ``fact`` that is read from it. An operation's has
``arguments``, the output of each fact it may ask for, and the ``commands`` it then runs: none where all is right.
``from`` says where the output comes from.
"""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from pathlib import Path

from pyinfra.api.command import FunctionCommand
from pyinfra.api.config import Config
from pyinfra.api.inventory import Inventory
from pyinfra.api.state import State
from pyinfra.context import ctx_host, ctx_state

from edge.fleet.facts import certificates, cluster, gpu, network, release, runtime, system
from edge.fleet.facts.survey import name_of
from edge.fleet.operations.command import ASKED

CASES = Path(__file__).parent / "cases"
MODULES = (certificates, cluster, gpu, network, release, runtime, system)


def cases(kind):
    return [(path.parent.name, path.stem) for path in sorted((CASES / kind).glob("*/*.json"))]


def read(kind, name, case):
    return json.loads((CASES / kind / name / f"{case}.json").read_text())


def fact_class(name):
    module, _, attribute = name.partition(".")
    return getattr(importlib.import_module(f"edge.fleet.facts.{module}"), attribute)


def operation(name):
    module, _, attribute = name.partition(".")
    return getattr(importlib.import_module(f"edge.fleet.operations.{module}"), attribute)


def plain(value):
    """A fact as JSON has it."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, frozenset)):
        return [plain(item) for item in (sorted(value) if isinstance(value, frozenset) else value)]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


class Known(dict):
    """Answers; a fact that the case does not have is an error, not a question to nobody."""

    def __contains__(self, name):
        if not super().__contains__(name):
            raise AssertionError(f"the operation asks for {name}, which the case does not have")
        return True

    def __bool__(self):
        return True


def answers(facts):
    """Facts read from their outputs, under the names by which operations ask for them."""
    known = Known()
    for name, output in facts.items():
        cls = next(
            getattr(module, name.partition("(")[0]) for module in MODULES if hasattr(module, name.partition("(")[0])
        )
        dict.__setitem__(known, name, cls().process(output) if output else cls().default())
    return known


def run_case(name, case):
    """The commands that an operation yields on a host with these facts."""
    inventory = Inventory(([("@fake/host", {})], {}))
    state = State(inventory, Config())
    host = next(iter(inventory))
    with ctx_state.use(state), ctx_host.use(host):
        host.connector_data[ASKED] = answers(case["facts"])
        found = list(operation(name)._inner(**case["arguments"]))
    return [_shown(command) for command in found]


def _shown(command):
    if isinstance(command, FunctionCommand):
        return {"function": command.function.__name__, "arguments": [*command.args]}
    shown = {"run": command.get_raw_value(), "timeout_s": command.connector_arguments["_timeout"]}
    if "_stdin" in command.connector_arguments:
        shown["stdin"] = command.connector_arguments["_stdin"]
    return shown


__all__ = ["answers", "cases", "fact_class", "name_of", "operation", "plain", "read", "run_case"]
