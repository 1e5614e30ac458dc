"""Forked workers: what comes out doesn't depend on them, nor on one that dies, and none outlives the run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fl.errors import RunError
from simulations.app import simulate_app

DRAWING_SERVER = """
arrays = ArrayRecord([np.zeros(2000)])
for round in range(3):
    nodes = random.sample(grid.get_node_ids(), 4)
    replies = grid.send_and_receive(ask(content=RecordDict({"arrays": arrays}), nodes=nodes))
    models = [reply.content["arrays"].to_numpy_ndarrays()[0] for reply in replies]
    arrays = ArrayRecord([sum(models) + np.random.rand(2000)])
context.state["model"] = arrays
"""

DRAWING_CLIENT = """
@app.train()
def train(message: Message, context: Context) -> Message:
    (model,) = message.content["arrays"].to_numpy_ndarrays()
    model = model + np.random.standard_normal(2000) + random.random()
    if "last" in context.state:
        model = model + context.state["last"]["0"].numpy()
    context.state["last"] = ArrayRecord([model])
    die(context)
    return Message(RecordDict({"arrays": context.state["last"]}), reply_to=message)

def die(context):
    pass
"""

DEATH = """
import signal

def die(context):
    sign = Path(context.run_config["directory"]) / str(context.node_config["partition-id"])
    if context.node_config["partition-id"] in (1, 4) and not sign.exists():
        sign.touch()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def model(result):
    return result.state["model"]["0"].data


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_number_of_workers_changes_no_bit(make_app):
    app = make_app(DRAWING_SERVER, DRAWING_CLIENT)
    alone = model(simulate_app(app, sites=6, seed=11))
    assert [model(simulate_app(app, sites=6, seed=11, workers=workers)) for workers in (2, 3, 9)] == [alone] * 3


def test_what_a_killed_worker_had_is_done_again_with_the_same_result(make_app, tmp_path):
    undisturbed = make_app(DRAWING_SERVER, DRAWING_CLIENT)
    disturbed = make_app(DRAWING_SERVER, DRAWING_CLIENT + DEATH, f"directory = {str(tmp_path)!r}")
    expected = simulate_app(undisturbed, sites=6)
    result = simulate_app(disturbed, sites=6, workers=2)
    assert model(result) == model(expected)
    assert result.errors == {}
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} & {"1", "4"}


def test_a_message_that_kills_every_worker_is_an_error_reply(make_app):
    app = make_app(
        """
        replies = grid.send_and_receive(ask())
        assert [reply.has_error() for reply in replies] == [False, True, False, False]
        assert replies[1].error.code == 8
        assert all(reply.has_content() for reply in grid.send_and_receive(ask("query")))
        """,
        """
        @app.train()
        def train(message, context):
            if context.node_config["partition-id"] == 1:
                os._exit(1)
            return Message(RecordDict(), reply_to=message)

        @app.query()
        def query(message, context):
            return Message(RecordDict(), reply_to=message)
        """,
    )
    result = simulate_app(app, sites=4, workers=2)
    assert result.errors == {1: ["3 worker processes ended in the middle of this message"]}


def test_a_model_is_sent_to_a_worker_once_and_forgotten_when_it_is_old(make_app):
    app = make_app(
        """
        old = RecordDict({"arrays": ArrayRecord([np.ones(50_000)])})
        new = RecordDict({"arrays": ArrayRecord([np.zeros(50_000)])})
        for content in (old, new, old):
            replies = grid.send_and_receive(ask("query", content))
            places = {(reply.content["it"]["worker"], reply.content["it"]["place"]) for reply in replies}
            assert len(places) == len({worker for worker, _ in places}), places
            assert {reply.content["it"]["sum"] for reply in replies} == {content["arrays"]["0"].numpy().sum()}
        """,
        """
        @app.query()
        def query(message, context):
            data = message.content["arrays"]["0"].data
            it = {"worker": os.getpid(), "place": id(data), "sum": message.content["arrays"]["0"].numpy().sum().item()}
            return Message(RecordDict({"it": MetricRecord(it)}), reply_to=message)
        """,
    )
    assert simulate_app(app, sites=20, workers=2).errors == {}


def test_a_node_answers_its_messages_one_after_the_other(make_app):
    app = make_app(
        """
        node = grid.get_node_ids()[:1]
        replies = grid.send_and_receive([message for _ in range(6) for message in ask(nodes=node)])
        assert [reply.content["it"]["times"] for reply in replies] == [1, 2, 3, 4, 5, 6]
        """,
        """
        @app.train()
        def train(message, context):
            seen = context.state.get("it", MetricRecord({"times": 0}))["times"]
            context.state["it"] = MetricRecord({"times": seen + 1})
            return Message(RecordDict({"it": context.state["it"]}), reply_to=message)
        """,
    )
    assert simulate_app(app, sites=2, workers=3).answered == 6


def test_no_process_is_left_when_the_server_raises_while_workers_work(make_app, tmp_path):
    app = make_app(
        """
        grid.push_messages(ask())
        while len(list(Path(context.run_config["directory"]).glob("*.pid"))) < 2:
            grid.pull_messages([])
            time.sleep(0.02)
        raise OSError("no more")
        """,
        """
        @app.train()
        def train(message, context):
            (Path(context.run_config["directory"]) / f"{os.getpid()}.pid").touch()
            time.sleep(60)
        """,
        f"directory = {str(tmp_path)!r}",
    )
    with pytest.raises(RunError, match="the ServerApp raised OSError: no more"):
        simulate_app(app, sites=4, workers=2)
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(workers) == 2
    assert not [pid for pid in workers if is_alive(pid)]


SCRIPT = """
import asyncio, sys
from simulations.app import simulate_app

def run():
    simulate_app({app!r}, sites=3, workers={workers})

async def cell():
    run()

try:
    asyncio.run(cell()) if {inside} else run()
except KeyboardInterrupt:
    print("interrupted")
"""


def _start(app, workers, tmp_path, *, inside=False):
    code = SCRIPT.format(app=str(app), workers=workers, inside=inside)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(pids := [int(path.stem) for path in tmp_path.glob("*.pid")]) < workers:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    return process, pids


SLEEPING = """
@app.train()
def train(message, context):
    (Path(context.run_config["directory"]) / f"{os.getpid()}.pid").touch()
    for _ in range(600):
        time.sleep(0.1)
"""


@pytest.mark.parametrize(("workers", "inside"), [(1, False), (2, False), (2, True)])
def test_ctrl_c_ends_the_run_and_its_workers(make_app, tmp_path, workers, inside):
    app = make_app("grid.send_and_receive(ask())", SLEEPING, f"directory = {str(tmp_path)!r}")
    process, pids = _start(app, workers, tmp_path, inside=inside)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    out, _ = process.communicate(timeout=30)
    assert out.strip() == "interrupted"
    assert not [pid for pid in pids if is_alive(pid)]


def test_workers_end_when_the_simulator_is_killed(make_app, tmp_path):
    app = make_app("grid.send_and_receive(ask())", SLEEPING, f"directory = {str(tmp_path)!r}")
    process, pids = _start(app, 2, tmp_path)
    process.kill()
    process.communicate(timeout=30)
    deadline = time.monotonic() + 20
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
