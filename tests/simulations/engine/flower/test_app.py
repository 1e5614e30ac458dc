"""Unmodified Flower apps find in the simulator what Flower gives them: config, contexts, mods, lifespan, errors."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fl.errors import BusyError, ConfigError, InputError, RunError
from simulations.app import simulate_app

ECHO = """
@app.train()
def train(message: Message, context: Context) -> Message:
    return Message(message.content, reply_to=message)
"""

COUNT = """
@app.train()
def train(message: Message, context: Context) -> Message:
    seen = context.state.get("seen", MetricRecord({"times": 0}))
    context.state["seen"] = MetricRecord({"times": seen["times"] + 1})
    told = {**context.node_config, **context.state["seen"]}
    return Message(RecordDict({"told": ConfigRecord(told)}), reply_to=message)
"""


def test_both_sides_find_the_run_config_with_the_overrides(make_app):
    app = make_app(
        """
        (reply,) = grid.send_and_receive(ask(nodes=grid.get_node_ids()[:1]))
        context.state["server"] = ConfigRecord(context.run_config)
        context.state["client"] = reply.content["config"]
        """,
        """
        @app.train()
        def train(message: Message, context: Context) -> Message:
            return Message(RecordDict({"config": ConfigRecord(context.run_config)}), reply_to=message)
        """,
        "rate = 0.5\nwords = 'as they are'\n[tool.flwr.app.config.model]\nwidth = 8",
    )
    result = simulate_app(app, sites=2, run_config={"model.width": 16})
    expected = {"rate": 0.5, "words": "as they are", "model.width": 16}
    assert dict(result.state["server"]) == expected
    assert dict(result.state["client"]) == expected


def test_a_key_that_the_app_does_not_have_is_refused_with_the_nearest(make_app):
    with pytest.raises(ConfigError, match="unknown key of the app's run config ruonds") as raised:
        simulate_app(make_app("pass", ECHO, "rounds = 3"), sites=2, run_config={"ruonds": 2})
    assert raised.value.hint == "did you mean rounds?"


def test_a_directory_that_is_no_app_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no pyproject\.toml in"):
        simulate_app(tmp_path, sites=2)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'other'")
    with pytest.raises(ConfigError, match=r"Missing \[tool\.flwr\.app\] section"):
        simulate_app(tmp_path, sites=2)
    (tmp_path / "pyproject.toml").write_text("[project")
    with pytest.raises(ConfigError, match="cannot use"):
        simulate_app(tmp_path, sites=2)


def test_an_app_that_cannot_be_imported_says_why(make_app):
    app = make_app("pass", "import no_such_package")
    with pytest.raises(ConfigError, match=r"cannot load written\.client:app .*No module named 'no_such_package'"):
        simulate_app(app, sites=2)
    (app / "written" / "client.py").write_text("app = 1")
    with pytest.raises(ConfigError, match="is of type int, not ClientApp"):
        simulate_app(app, sites=2)
    (app / "written" / "client.py").write_text("")
    with pytest.raises(ConfigError, match="Unable to load attribute app"):
        simulate_app(app, sites=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_node_keeps_its_context_and_only_its_own(make_app, workers):
    app = make_app(
        """
        nodes = grid.get_node_ids()
        for asked in (nodes[:2], nodes[1:], nodes[1:2]):
            for reply in grid.send_and_receive(ask(nodes=asked)):
                told = reply.content["told"]
                context.state[str(told["partition-id"])] = ConfigRecord(dict(told))
        """,
        COUNT,
    )
    result = simulate_app(app, sites=3, workers=workers)
    times = {name: dict(record) for name, record in result.state.items()}
    assert times == {
        "0": {"partition-id": 0, "num-partitions": 3, "times": 1},
        "1": {"partition-id": 1, "num-partitions": 3, "times": 3},
        "2": {"partition-id": 2, "num-partitions": 3, "times": 1},
    }


def test_mods_and_lifespans_wrap_what_they_should(make_app):
    app = make_app(
        """
        (reply,) = grid.send_and_receive(ask("train.slowly"))
        context.state["path"] = reply.content["path"]
        """,
        """
        def noting(name):
            def mod(message, context, call_next):
                message.content["path"] = ConfigRecord({"names": [*message.content["path"]["names"], name]})
                reply = call_next(message, context)
                reply.content["path"]["names"].append(f"{name} again")
                return reply
            return mod

        def begin(message, context, call_next):
            message.content["path"] = ConfigRecord({"names": list(context.state["life"]["names"])})
            return call_next(message, context)

        app = ClientApp(mods=[begin, noting("outer")])

        @app.lifespan()
        def lifespan(context):
            context.state["life"] = ConfigRecord({"names": ["born"]})
            yield

        @app.train("slowly", mods=[noting("inner")])
        def train(message: Message, context: Context) -> Message:
            return Message(message.content, reply_to=message)
        """,
    )
    server = app / "written" / "server.py"
    lifespan = "def lifespan(context):\n    yield\n    context.state['end'] = MetricRecord({'reached': 1})\n"
    server.write_text(f"{server.read_text()}\n@app.lifespan()\n{lifespan}")
    result = simulate_app(app, sites=1)
    assert result.state["path"]["names"] == ["born", "outer", "inner", "inner again", "outer again"]
    assert result.metrics == {"end.reached": 1}


RAISING = """
@app.train()
def train(message: Message, context: Context) -> Message:
    context.state["seen"] = MetricRecord({"times": 1})
    if context.node_config["partition-id"] % 2:
        raise ValueError(f"nothing in partition {context.node_config['partition-id']}")
    return Message(RecordDict(), reply_to=message)

@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    return Message(RecordDict({"told": MetricRecord({"size": len(context.state)})}), reply_to=message)
"""


@pytest.mark.parametrize("workers", [1, 3])
def test_a_client_that_raises_is_an_error_reply_and_a_traceback_that_is_shown_once(make_app, flower_log, workers):
    app = make_app(
        """
        replies = [*grid.send_and_receive(ask()), *grid.send_and_receive(ask())]
        codes = [reply.error.code if reply.has_error() else -1 for reply in replies]
        context.state["codes"] = ConfigRecord({"codes": codes, "reason": replies[1].error.reason})
        sizes = [reply.content["told"]["size"] for reply in grid.send_and_receive(ask("evaluate"))]
        context.state["sizes"] = MetricRecord({"sizes": sizes})
        """,
        RAISING,
    )
    result = simulate_app(app, sites=5, workers=workers)
    assert result.state["codes"]["codes"] == [-1, 2, -1, 2, -1] * 2
    assert result.state["codes"]["reason"] == "<class 'ValueError'>:<'nothing in partition 1'>"
    assert result.state["sizes"]["sizes"] == [1, 0, 1, 0, 1], "an error leaves a node's context as it was"
    assert sorted(result.errors) == [1, 3]
    assert result.answered == 15
    assert flower_log.text.count("Traceback (most recent call last)") == 1
    assert "in train" in flower_log.text


def test_what_is_no_reply_is_an_error_reply(make_app):
    app = make_app(
        """
        for kind in ("train", "evaluate", "query", "train.unheard_of"):
            (reply,) = grid.send_and_receive(ask(kind))
            context.state[kind] = ConfigRecord({"reason": reply.error.reason})
        """,
        """
        @app.train()
        def train(message, context):
            return None

        @app.evaluate()
        def evaluate(message, context):
            return Message(RecordDict(), 1, "train")

        @app.query()
        def query(message, context):
            raise SystemExit(3)
        """,
    )
    result = simulate_app(app, sites=1)
    assert "returned NoneType, not a Message" in result.state["train"]["reason"]
    assert "is no reply" in result.state["evaluate"]["reason"]
    assert "SystemExit" in result.state["query"]["reason"]
    assert "No train function registered with name 'unheard_of'" in result.state["train.unheard_of"]["reason"]


def test_what_the_server_raises_ends_the_run_with_one_line_and_its_traceback_in_the_log(make_app, flower_log):
    with pytest.raises(RunError, match="the ServerApp raised ZeroDivisionError: division by zero") as raised:
        simulate_app(make_app("1 / 0", ECHO), sites=1)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert "in main" in flower_log.text


def test_two_apps_may_have_modules_of_the_same_names(make_app):
    results = []
    for number in (1, 2):
        main = "from written.more import NUMBER\ncontext.state['it'] = MetricRecord({'number': NUMBER})"
        results.append(simulate_app(make_app(main, ECHO, more=f"NUMBER = {number}"), sites=1))
    assert [result.metrics for result in results] == [{"it.number": 1}, {"it.number": 2}]
    assert not [name for name in sys.modules if name.partition(".")[0] == "written"]
    assert not [path for path in sys.path if "app-" in path]


def test_an_app_can_be_two_objects():
    from flwr.app import ConfigRecord, Message, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

    server, client = ServerApp(), ClientApp()

    @server.main()
    def main(grid, context):
        message = Message(RecordDict(), next(iter(grid.get_node_ids())), "query")
        (reply,) = grid.send_and_receive([message])
        context.state["config"] = reply.content["config"]

    @client.query()
    def query(message, context):
        return Message(RecordDict({"config": ConfigRecord(context.run_config)}), reply_to=message)

    result = simulate_app((server, client), sites=4, run_config={"rate": 0.5}, workers=2)
    assert dict(result.state["config"]) == {"rate": 0.5}
    with pytest.raises(InputError, match="a ServerApp and a ClientApp, not ClientApp, ServerApp"):
        simulate_app((client, server), sites=4)


def test_it_works_inside_a_running_event_loop_for_apps_with_a_loop_of_their_own(make_app):
    app = make_app(
        """
        import asyncio
        (reply,) = grid.send_and_receive(ask())
        context.state["it"] = MetricRecord({"server": asyncio.run(asyncio.sleep(0, 1)), **reply.content["it"]})
        """,
        """
        @app.train()
        def train(message, context):
            import asyncio
            told = MetricRecord({"client": asyncio.run(asyncio.sleep(0, 2))})
            return Message(RecordDict({"it": told}), reply_to=message)
        """,
    )

    async def cell():
        result = simulate_app(app, sites=1)
        await asyncio.sleep(0)
        with pytest.raises(ConfigError):
            simulate_app(app, sites=0)
        with pytest.raises(ConfigError, match="unknown key"):
            simulate_app(app, sites=1, run_config={"rate": 1})
        return result

    assert asyncio.run(cell()).metrics == {"it.server": 1, "it.client": 2}


def test_a_process_simulates_one_app_at_a_time(make_app):
    inner = make_app("pass", ECHO)
    main = f"""
    from fl.errors import BusyError
    from simulations.app import simulate_app
    try:
        simulate_app({str(inner)!r}, sites=1)
    except BusyError:
        context.state["busy"] = MetricRecord({{"was": 1}})
    """
    assert simulate_app(make_app(main, ECHO), sites=1).metrics == {"busy.was": 1}
    assert issubclass(BusyError, Exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": 0}, "sites is 0, must be at least 1"),
        ({"sites": 2, "workers": 0}, "workers is 0"),
        ({"sites": 2, "backend": "spark"}, "unknown backend 'spark'"),
    ],
)
def test_impossible_options_are_refused(make_app, options, message):
    with pytest.raises(ConfigError, match=message):
        simulate_app(make_app("pass", ECHO), **options)


def test_without_the_extra_the_ray_backend_names_it(make_app, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="needs Ray, which is not installed") as raised:
        simulate_app(make_app("pass", ECHO), sites=2, backend="ray")
    assert raised.value.hint == "pip install 'fedfleet[ray]'"


def test_importing_the_function_imports_neither_flower_nor_torch():
    code = "import sys, simulations.app; print(sorted({'flwr', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


FEDAVG = """
import torch
torch.manual_seed(1)
from written.digits import Net
strategy = FedAvg(fraction_train=0.5, fraction_evaluate=1.0)
result = strategy.start(grid=grid, initial_arrays=ArrayRecord(Net().state_dict()), num_rounds=2)
context.state["model"] = result.arrays
context.state["accuracy"] = result.evaluate_metrics_clientapp[2]
"""

DIGITS = """
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

X, Y = load_digits(return_X_y=True)
X, Y = torch.tensor(X, dtype=torch.float32) / 16, torch.tensor(Y)

class Net(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(32, 10))

def loader(partition, partitions):
    return DataLoader(TensorDataset(X[partition::partitions], Y[partition::partitions]), 16, shuffle=True)
"""

TRAINING = """
import torch
from written.digits import Net, loader

def prepared(message, context):
    net = Net()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return net, loader(context.node_config["partition-id"], context.node_config["num-partitions"])

@app.train()
def train(message: Message, context: Context) -> Message:
    net, batches = prepared(message, context)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.5)
    for _ in range(2):
        for x, y in batches:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    metrics = MetricRecord({"num-examples": len(batches.dataset)})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)

@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    net, batches = prepared(message, context)
    net.eval()
    right = sum(int((net(x).argmax(1) == y).sum()) for x, y in batches)
    size = len(batches.dataset)
    metrics = MetricRecord({"accuracy": right / size, "num-examples": size})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
"""


def test_an_app_that_shuffles_without_a_seed_gives_the_same_model_twice_and_with_any_number_of_workers(make_app):
    app = make_app(FEDAVG, TRAINING, digits=DIGITS)
    results = [simulate_app(app, sites=4, workers=workers) for workers in (1, 1, 3)]
    first = [array.data for array in results[0].state["model"].values()]
    for result in results[1:]:
        assert [array.data for array in result.state["model"].values()] == first
    assert results[0].metrics["accuracy.accuracy"] > 0.7
    other = simulate_app(app, sites=4, seed=1)
    assert [array.data for array in other.state["model"].values()] != first


def test_the_generators_of_the_caller_go_on_as_if_nothing_had_been(make_app):
    import random

    import torch

    app = make_app("random.random(); np.random.rand(); import torch; torch.rand(1); grid.send_and_receive(ask())", ECHO)
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    simulate_app(app, sites=2)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected


@pytest.mark.slow
def test_the_same_app_through_flowers_own_simulation_gives_the_same_model(make_app):
    pytest.importorskip("ray", reason="the ray extra is not installed")
    main = """
    strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord([np.zeros(3)]), num_rounds=2)
    context.state["model"] = result.arrays
    """
    client = """
    @app.train()
    def train(message: Message, context: Context) -> Message:
        (model,) = message.content["arrays"].to_numpy_ndarrays()
        seen = context.state.get("seen", MetricRecord({"times": 0}))["times"] + context.run_config["step"]
        context.state["seen"] = MetricRecord({"times": seen})
        model = model + seen * (context.node_config["partition-id"] + 1)
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": ArrayRecord([model]), "metrics": metrics}), reply_to=message)
    """
    app = make_app(main, client, "step = 1")
    ours, theirs = (
        simulate_app(app, sites=2, run_config={"step": 2}, workers=2, backend=backend)
        for backend in ("in-process", "ray")
    )
    np.testing.assert_array_equal(ours.state["model"]["0"].numpy(), theirs.state["model"]["0"].numpy())
    assert Path(app).exists()
