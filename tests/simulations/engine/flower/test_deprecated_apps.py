"""An app of Flower's deprecated API is refused in one line that says where and what to do."""

from __future__ import annotations

import pytest

from fl.errors import InputError
from simulations.app import simulate_app

NEW = "@app.train()\ndef train(message, context):\n    return Message(RecordDict(), reply_to=message)\n"


@pytest.mark.parametrize(
    ("code", "line", "name"),
    [
        ("from flwr.client import NumPyClient", 2, "flwr.client"),
        ("from flwr.client.mod import fixedclipping_mod", 2, "flwr.client.mod"),
        ("from flwr import client", 2, "flwr.client"),
        ("import flwr.client as c", 2, "flwr.client"),
        ("import flwr as fl\nclass C(fl.client.NumPyClient):\n    pass", 3, "flwr.client"),
        ("from flwr.server import ServerAppComponents", 2, "flwr.server"),
        ("def late():\n    from flwr.server.strategy import FedAvg", 3, "flwr.server.strategy"),
        ("from flwr.simulation import run_simulation", 2, "flwr.simulation"),
    ],
)
def test_an_import_of_the_deprecated_api_is_found_before_anything_runs(make_app, tmp_path, code, line, name):
    ran = tmp_path / "ran"
    app = make_app("pass", f"from written import part\nPath({str(ran)!r}).touch()\n{NEW}", part=f"\n{code}\n")
    with pytest.raises(InputError) as raised:
        simulate_app(app, sites=2)
    package = ".".join(name.split(".")[:2])
    assert raised.value.message.startswith(f"written/part.py:{line} uses {name}, of ")
    assert raised.value.hint is not None
    assert f"instead of {package}, use " in raised.value.hint
    assert "--backend ray" in raised.value.hint
    assert not ran.exists()


def test_relative_imports_are_followed_and_what_the_app_does_not_import_is_left_alone(make_app):
    fine = make_app("pass", NEW, legacy="from flwr.client import NumPyClient")
    assert simulate_app(fine, sites=1).answered == 0
    (fine / "written" / "client.py").write_text("from . import legacy\n")
    with pytest.raises(InputError, match=r"written/legacy\.py:1 uses flwr\.client, of Flower's deprecated API"):
        simulate_app(fine, sites=1)
    (fine / "written" / "client.py").write_text("from .legacy import NumPyClient\n")
    with pytest.raises(InputError, match=r"written/legacy\.py:1"):
        simulate_app(fine, sites=1)


def test_objects_made_in_the_deprecated_way_are_refused(make_app):
    from flwr.app import Context
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    def client_fn(context: Context):
        raise AssertionError

    server = ServerApp()
    server.main()(lambda grid, context: None)
    for apps in ((server, ClientApp(client_fn=client_fn)), (ServerApp(server_fn=client_fn), ClientApp())):
        with pytest.raises(InputError, match="made with server_fn, client_fn or a strategy, Flower's deprecated API"):
            simulate_app(apps, sites=2)
