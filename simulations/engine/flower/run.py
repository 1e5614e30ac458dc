"""One run of an app: its ServerApp in this process, its clients here, in workers, or with Ray."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl.errors import BusyError, ConfigError, RunError
from fl.seeding import derive
from simulations.app import AppResult
from simulations.engine.flower import private, project
from simulations.engine.flower.client import Client
from simulations.engine.flower.contexts import Contexts
from simulations.engine.flower.forked import Forked
from simulations.engine.flower.grid import InProcessGrid
from simulations.engine.flower.here import Here
from simulations.engine.flower.private import SUPERLINK_NODE_ID, Run
from simulations.engine.flower.project import App
from simulations.engine.flower.turn import put_back, seed_all

_one_at_a_time = threading.Lock()  # whose messages a process makes is a fact of the whole process

log = logging.getLogger("flwr")


def run_app(
    app: Path | tuple[ServerApp, ClientApp],
    *,
    sites: int,
    run_config: Mapping[str, Any],
    workers: int,
    threads: int,
    seed: int,
    backend: str,
) -> AppResult:
    """What ``simulations.app.simulate_app`` does, on the same arguments."""
    with_ray = backend == "ray"
    with _alone(), contextlib.ExitStack() as stack:
        if isinstance(app, Path):
            found = stack.enter_context(project.loaded(app, run_config, allow_deprecated=with_ray))
        else:
            found = project.given(app, run_config)
        if with_ray:
            return _run_with_ray(found, run_config, sites=sites, workers=workers, seed=seed)
        project.refuse_deprecated(found)
        return _run(found, run_config, sites=sites, workers=workers, threads=threads, seed=seed)


def _run(app: App, overrides: Mapping[str, Any], *, sites: int, workers: int, threads: int, seed: int) -> AppResult:
    run = _describe(app, overrides, seed)
    # Neither small enough to pass for a partition's number, nor a list of a million random ones.
    first = 2**62 + 2**40 * derive(seed, "nodes") % 2**61
    node_ids = range(first, first + sites)
    client = Client(app.client, seed, threads)
    contexts = Contexts(run.run_id, node_ids, app.run_config)
    carrier = Here(client, contexts) if workers == 1 else Forked(client, contexts, min(workers, sites))
    grid = InProcessGrid(run, node_ids, carrier)
    began = time.perf_counter()
    with contextlib.closing(carrier):
        context = _serve(app, grid, run, seed)
    return AppResult(context.state, time.perf_counter() - began, grid.answered, grid.errors)


def _serve(app: App, grid: Grid, run: Run, seed: int) -> Context:
    """Run the ServerApp to its end, and return its context."""
    context = Context(run.run_id, SUPERLINK_NODE_ID, {}, RecordDict(), dict(app.run_config))
    with private.identity(run.run_id, SUPERLINK_NODE_ID), put_back():
        seed_all(derive(seed, "server"))
        try:
            app.server(grid, context)
        except Exception as err:
            log.exception("the ServerApp raised:")
            raise RunError(f"the ServerApp raised {type(err).__name__}: {err}") from err
    return context


def _run_with_ray(app: App, overrides: Mapping[str, Any], *, sites: int, workers: int, seed: int) -> AppResult:
    _check_ray()
    if app.project is None and app.run_config:
        raise ConfigError("Ray's clients get no run config from apps given as objects", hint="give the app's directory")
    began = time.perf_counter()
    context = private.run_with_ray(
        (app.server, app.client),
        sites=sites,
        run=_describe(app, overrides, seed),
        project=(app.directory, app.project) if app.directory and app.project else None,
        config=app.run_config,
        workers=workers,
    )
    return AppResult(context.state, time.perf_counter() - began)


def _check_ray() -> None:
    """Raise a ``ConfigError`` that names the extra if Ray isn't installed."""
    import importlib.util

    if importlib.util.find_spec("ray") is None:
        raise ConfigError("backend 'ray' needs Ray, which is not installed", hint="pip install 'fedfleet[ray]'")


def _describe(app: App, overrides: Mapping[str, Any], seed: int) -> Run:
    run = Run.create_empty(derive(seed, "run"))
    if app.project:
        run.fab_id, run.fab_version = app.project.name, app.project.version
        run.override_config = dict(overrides)
    return run


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    if not _one_at_a_time.acquire(blocking=False):
        raise BusyError("an app is already simulated in this process", hint="start another process")
    try:
        yield
    finally:
        _one_at_a_time.release()
