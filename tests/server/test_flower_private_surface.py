"""Flower's private parts that we use exist and take what we pass: what breaks first when flwr is upgraded."""

import importlib
import inspect

import pytest
from google.protobuf.message import Message

from fl.flower import private as border
from server import bundle, control

TABLES = {**control.PRIVATE, **bundle.PRIVATE, **border.PRIVATE}


def private(name):
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for attribute in path.split("."):
        found = getattr(found, attribute)
    return found


def is_message(found):
    return isinstance(found, type) and issubclass(found, Message)


@pytest.mark.parametrize("name", [name for name in TABLES if callable(private(name)) and not is_message(private(name))])
def test_a_private_function_takes_what_we_pass(name):
    wanted = [word.strip() for word in TABLES[name].strip("()").split(",") if word.strip() not in ("", "*")]
    parameters = inspect.signature(private(name)).parameters
    assert set(wanted) <= set(parameters)
    required = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    assert required <= set(wanted)


@pytest.mark.parametrize("name", [name for name in TABLES if is_message(private(name))])
def test_a_message_has_the_fields_that_we_use(name):
    assert set(TABLES[name].split()) <= {field.name for field in private(name).DESCRIPTOR.fields}


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
