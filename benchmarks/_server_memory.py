"""Peak memory of the server process over its idle: ours and Flower's own loop, on a real SuperLink.

The sites are real Fleet connections of Flower's, held by this process and served one after the other, so that 32 of
them fit on a small machine; they download the model and answer with an update of their own, without training.
What is measured is the ServerApp process that Flower starts, by itself: its peak resident set, mapped files included.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supernode.fleet_http_connection import http_request_response

from benchmarks._table import Row
from fl.arrays import Layout, write_arrays
from fl.flower import records
from fl.ports import free_port
from fl.processes import environment, program
from fl.rounds.journal import Journal
from fl.rounds.port import Reply, Request

APPS = Path(__file__).parent / "apps"
LAYERS = 10


def server_memory_models(quick: bool) -> list[Row]:
    """Peak over idle in models, for growing numbers of sites."""
    model_mb, counts = 100, ((2,) if quick else (2, 8, 32))
    ours = {sites: _measure("ours", sites, model_mb) for sites in counts}
    stock = {sites: _measure("stock", sites, model_mb) for sites in counts if sites <= 8}
    flat = max(ours.values()) - min(ours.values())
    baseline = ", ".join(f"{value:.1f} with {sites}" for sites, value in stock.items())
    rows = [
        Row(
            "server_memory_models",
            max(ours.values()),
            f"models of {model_mb} MB, most of {', '.join(map(str, counts))} sites",
            f"flwr: {baseline} sites",
            "1 (the model itself)",
            "≤ 3, flat",
            max(ours.values()) <= 3 and flat <= 0.5,
        )
    ]
    for sites, value in ours.items():
        theirs = f"flwr: {stock[sites]:.1f}" if sites in stock else "flwr: not run, about 2 models a site"
        rows.append(Row(f"server_memory_models_{sites}", value, "models", theirs, "1", "≤ 3", value <= 3))
    return rows


def _measure(app: str, sites: int, model_mb: int) -> float:
    """Models of memory that the ServerApp takes over its idle in one round."""
    with tempfile.TemporaryDirectory(prefix="fedfleet-bench-") as name:
        home = Path(name)
        with _superlink(home) as address, contextlib.ExitStack() as stack:
            connections = [stack.enter_context(http_request_response(address, insecure=True)) for _ in range(sites)]
            done = threading.Event()
            serving = threading.Thread(target=_serve, args=(app, connections, model_mb, done), daemon=True)
            serving.start()
            out = home / "memory.json"
            _submit(home, address, app, out, sites, model_mb)
            end = time.monotonic() + 900
            while not out.exists() and time.monotonic() < end:
                time.sleep(0.2)
            done.set()
            serving.join(60)
            if not out.exists():
                raise RuntimeError((home / "superlink.log").read_text()[-2000:])
            measured = json.loads(out.read_text())
    return float(measured["peak"] - measured["idle"]) / (model_mb * 1e6)


def _submit(home: Path, address: str, app: str, out: Path, sites: int, model_mb: int) -> None:
    journal = home / "run"
    if app == "ours":
        model = home / "model.safetensors"
        size = model_mb * 250_000 // LAYERS
        layout = Layout(tuple((f"layer-{i}", (size,)) for i in range(LAYERS)))
        write_arrays(model, layout, (np.full(size, i, np.float32) for i in range(LAYERS)))
        config = {
            "run": {"name": "memory", "rounds": 1, "seed": 1, "initial_model": str(model)},
            "task": {"name": "digits"},
            "evaluation": {"sites_every": 0},
            "round": {"deadline_s": 900.0},
        }
        Journal.create(journal, config).close()
    (home / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "{address}"\ninsecure = true\n'
    )
    command = [program("flwr"), "run", str(APPS / app), "bench", "--run-config"]
    command += [f'journal="{journal}" out="{out}" sites={sites} model-mb={model_mb}']
    env = environment(home=home)
    subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def _superlink(home: Path) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    env = environment(home=home)
    command = [program("flower-superlink"), "--insecure", "--port", address.partition(":")[2]]
    command += ["--disable-runtime-dependency-installation"]
    with (home / "superlink.log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, process_group=0)
    try:
        wait_for(address)
        yield address
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)


def wait_for(address: str) -> None:
    import socket

    host, _, port = address.partition(":")
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"no SuperLink at {address}")


def _serve(app: str, connections: list[Any], model_mb: int, done: threading.Event) -> None:
    """Answer each message as a site would that doesn't train."""
    while not done.is_set():
        for number, connection in enumerate(connections):
            _, receive, send, _, _, pull_object, push_object, confirm = connection
            received = receive()
            if received is None:
                continue
            message, tree = received
            run_id = message.metadata.run_id
            pull_objects(
                [entry.object_id for entry in iterate_object_tree(tree)],
                partial(pull_object, run_id),
                max_time=None,
                max_tries_per_object=None,
            )
            confirm(run_id, message.metadata.message_id)
            reply = Message(_content(app, number, model_mb), reply_to=message)
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects = get_all_nested_objects(reply)
            wanted, session = send(reply, get_object_tree(reply), 0.0)
            for object_id, item in objects.items():
                if object_id in wanted:
                    push_object(run_id, session, object_id, item.deflate())
        done.wait(0.1)


def _content(app: str, number: int, model_mb: int) -> RecordDict:
    size = model_mb * 250_000 // LAYERS
    rng = np.random.default_rng(number)
    arrays = {f"layer-{i}": rng.random(size, np.float32) for i in range(LAYERS)}
    if app == "ours":
        request = Request(phase="train", round=1, attempt=1, seed=0)
        return records.encode_reply(Reply(site="", request=request, num_examples=10 + number, arrays=arrays))
    return RecordDict(
        {
            "arrays": ArrayRecord({name: Array(array) for name, array in arrays.items()}),
            "metrics": MetricRecord({"num-examples": 10 + number}),
        }
    )
