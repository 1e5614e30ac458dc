"""Flower's private parts that we use exist and take what we pass: what breaks first when flwr is upgraded."""

import importlib
import inspect

import pytest
from google.protobuf.message import Message

from edge.link import fleet as link
from edge.runner import clientapp
from edge.runner import flower as runtime
from fl.flower import private as border
from server import bundle, control
from server.gateway import fleet as gateway

TABLES = (
    gateway.PRIVATE,
    control.PRIVATE,
    bundle.PRIVATE,
    border.PRIVATE,
    runtime.PRIVATE,
    clientapp.PRIVATE,
    link.PRIVATE,
)
ENTRIES = sorted({entry for table in TABLES for entry in table.items()})


def private(name):
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for attribute in path.split("."):
        found = getattr(found, attribute)
    return found


def is_message(found):
    return isinstance(found, type) and issubclass(found, Message)


@pytest.mark.parametrize(
    ("name", "taken"),
    [(name, taken) for name, taken in ENTRIES if callable(private(name)) and not is_message(private(name))],
)
def test_a_private_function_takes_what_we_pass(name, taken):
    wanted = [word.strip() for word in taken.strip("()").split(",") if word.strip() not in ("", "*")]
    parameters = inspect.signature(private(name)).parameters
    assert set(wanted) <= set(parameters)
    required = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    assert required <= set(wanted)


@pytest.mark.parametrize(("name", "fields"), [entry for entry in ENTRIES if is_message(private(entry[0]))])
def test_a_message_has_the_fields_that_we_use(name, fields):
    assert set(fields.split()) <= {field.name for field in private(name).DESCRIPTOR.fields}


@pytest.mark.parametrize(
    ("program", "options"),
    [
        (
            "flower_superlink",
            "--host --port --isolation --database --ssl-ca-certfile --ssl-certfile --ssl-keyfile "
            "--enable-supernode-auth --superexec-auth-secret-file --disable-runtime-dependency-installation",
        ),
        (
            "flower_supernode",
            "--superlink --root-certificates --auth-supernode-private-key --isolation --host --port "
            "--superexec-auth-secret-file --node-config",
        ),
        ("flower_superexec", "--runtime-api-address --root-certificates --insecure --superexec-auth-secret-file"),
    ],
)
def test_programs_have_the_options_that_we_give(program, options, monkeypatch, capsys):
    places = {"flower_superlink": "superlink", "flower_supernode": "supernode", "flower_superexec": "supercore"}
    module = importlib.import_module(f"flwr.{places[program]}.cli.{program}")
    monkeypatch.setattr("sys.argv", [program, "--help"])
    with pytest.raises(SystemExit):
        getattr(module, program)()
    shown = capsys.readouterr().out
    assert [option for option in options.split() if option not in shown] == []


def test_the_grid_of_a_deployed_server_has_the_client_that_we_call():
    """Flower gives a ServerApp an ``HttpGrid``; its client and node are attributes that ``fl.flower.private`` uses."""
    grid = private("flwr.superlink.grid.http_grid:HttpGrid")
    assert isinstance(inspect.getattr_static(grid, "_runtime_client"), property)
    assert "self.node" in inspect.getsource(grid.__init__)


def test_a_process_without_a_task_is_given_an_identity_to_make_messages():
    border.ensure_identity()
    identity = private("flwr.supercore.task_identity:TaskIdentity")
    assert isinstance(identity.run_id, int)
    assert isinstance(identity.task_id, int)
    assert isinstance(identity.node_id, int)


def test_tasks_of_a_supernode_are_of_the_types_that_the_runner_asks_for():
    types = private("flwr.supercore.constant:TaskType")
    assert {types.CLIENT_APP, types.AGENT_APP} <= set(types)
    assert private("flwr.supercore.constant:TASK_TOKEN_HEADER") == "flwr-task-token"
