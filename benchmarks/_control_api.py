"""What the control room's hub, metrics and ingest cost. A store filled by ``tests/server/seeds.py``."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from benchmarks._table import Row

VIEWERS, VIEWERS_CORE = 200, 0.25
METRICS_MS, EVENTS_S = 50.0, 5000.0


@contextlib.contextmanager
def room(sites: int, rounds: int, cohort: int) -> Iterator[tuple[Any, Any]]:
    """A control room over a filled store, and a client of it."""
    from tests.server import seeds
    from tests.server.api import kit

    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(open(os.devnull, "w")):
        made = kit.open_room(Path(name))
        seeds.fill(made.store, Path(name), time.time(), seeds.Size(sites=sites, rounds=rounds, cohort=cohort, runs=3))
        yield made, made.client()


def metrics_ms(quick: bool) -> Iterable[Row]:
    """One scrape with 1,000 sites: the page, as Prometheus asks for it."""
    with room(1000, 50 if quick else 500, 100) as (_, client):
        client.get("/metrics")  # what grows with history is summed at the first scrape
        took = []
        for _ in range(5 if quick else 20):
            begun = time.perf_counter()
            answer = client.get("/metrics")
            took.append(1000 * (time.perf_counter() - begun))
            assert answer.status_code == 200
        empty = []
        for _ in range(10):
            begun = time.perf_counter()
            client.get("/api/v1/me")
            empty.append(1000 * (time.perf_counter() - begun))
    value = statistics.median(took)
    yield Row(
        "metrics_ms",
        value,
        "ms",
        f"{statistics.median(empty):.1f} ms for a request that reads nothing",
        f"{len(answer.content) / 1024:.0f} KiB of text",
        f"≤ {METRICS_MS:.0f} ms with 1,000 sites",
        value <= METRICS_MS,
    )


def viewers_cpu(quick: bool) -> Iterable[Row]:
    """Live viewers in another process, 20 changes a second, half of them of the run that they watch."""
    from tests.server.api import kit

    watch_s = 5.0 if quick else 20.0
    with room(10, 2, 5) as (made, _):
        config = uvicorn.Config(made.app, host="127.0.0.1", port=0, log_level="error", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}/api/v1/events"
        headers = {"Authorization": f"Bearer {kit.LOCAL_TOKEN}"}
        names = [run["name"] for run in httpx.get(url[:-6] + "runs", headers=headers).json()["items"]]
        argv = [sys.executable, "-m", "benchmarks._control_viewers", url, kit.LOCAL_TOKEN, names[0], str(VIEWERS)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as viewers:
            while made.live.watching < VIEWERS:
                time.sleep(0.05)
            cpu = time.process_time()
            time.sleep(watch_s / 2)
            idle = (time.process_time() - cpu) / (watch_s / 2)
            cpu, begun, number = time.process_time(), time.perf_counter(), 0
            while time.perf_counter() - begun < watch_s:
                made.live.publish("round", names[number % 2], project="default", round=number, state="closed")
                number += 1
                time.sleep(0.05)
            used = (time.process_time() - cpu) / (time.perf_counter() - begun)
            time.sleep(1.0)
            heard = json.loads(viewers.communicate("stop\n")[0])
        made.live.close()
        server.should_exit = True
        thread.join(10)
    assert heard == VIEWERS * ((number + 1) // 2), (heard, number)  # nobody missed anything
    yield Row(
        "viewers_cpu",
        used,
        "cores",
        f"{idle:.3f} cores while nothing changes",
        "1 core, which the hub's loop has",
        f"≤ {VIEWERS_CORE:g} with {VIEWERS} viewers",
        used <= VIEWERS_CORE,
    )


def ingest_events_s(quick: bool) -> Iterable[Row]:
    """Lines of a journal into the tables, on SQLite, a transaction at most every 2,000 lines."""
    from fl.config import load
    from fl.rounds import events
    from fl.rounds.config import RunConfig
    from fl.rounds.journal import Journal, read
    from server import runs
    from server.controller.ingest import AT_ONCE, Ingest
    from server.store import Store
    from server.store.runs import Run
    from tests.server.api import kit

    rounds, cohort = (20 if quick else 200), tuple(f"site-{number:03d}" for number in range(100))
    report = {"device": "cuda", "wall_s": 1.0, "energy_j": 100.0, "samples_per_s": 1e3, "precision": "float32"}
    opened = {"attempt": 1, "seed": 1, "online": 100, "wanted": 100, "quorum": 50, "deadline_s": 60.0}
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        config = load(RunConfig, {"task": {"name": "digits"}, "run": {"name": "bench", "rounds": rounds}})
        directory = runs.create(home / "runs", config)
        with Journal(directory, durable=False) as journal:
            for number in range(1, rounds + 1):
                journal.append(events.RoundOpened(round=number, cohort=cohort, model_digest="0", **opened))
                for site in cohort:
                    landed = {"digest": "0", "num_examples": 10, "metrics": {"loss": 0.5}, "report": report}
                    journal.append(
                        events.UpdateLanded(round=number, attempt=1, site=site, size_bytes=1000, waited_s=1.0, **landed)
                    )
                closed = {"attempt": 1, "because": "all answered", "survivors": cohort, "missing": ()}
                journal.append(events.RoundClosed(round=number, **closed))
                committed = {"model_digest": "0", "state_digests": {}, "num_examples": 1000, "fold_s": 0.1}
                journal.append(events.RoundCommitted(round=number, metrics={"loss": 0.5}, **committed))
        begun = time.perf_counter()
        count = len(read(directory))
        only_read = count / (time.perf_counter() - begun)
        store = Store(home / "store.db")
        with store.write() as session:
            session.add(kit.a_run(directory.name, rounds_done=0))
        ingest, begun = Ingest(1, directory, 0, is_secure=False), time.perf_counter()
        while records := ingest.more()[:AT_ONCE]:
            with store.write() as session:
                ingest.write(session, records)
            ingest.done(records)
        value = count / (time.perf_counter() - begun)
        with store.read() as session:
            assert session.get_one(Run, 1).lines == count
        store.close()
    yield Row(
        "ingest_events_s",
        value,
        "events/s",
        f"{only_read:,.0f} events/s read from the journal and thrown away",
        "reading the journal",
        f"≥ {EVENTS_S:,.0f} events/s",
        value >= EVENTS_S,
    )
