"""Run any Flower app, unmodified, on simulated sites: its own ServerApp, strategy and rounds, without Ray.

An app that brings its own loop has no journal of ours; what it prints, saves and leaves in its context is its result.
For tasks and run files of this project, ``simulations.simulate`` runs the deployed round engine.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from fl.config import check_range
from fl.errors import ConfigError

if TYPE_CHECKING:
    from flwr.app import RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import ServerApp

T = TypeVar("T")

Backend = Literal["in-process", "ray"]


@dataclasses.dataclass(frozen=True, slots=True)
class AppResult:
    """What came of an app's run.

    Attributes:
        state: What the ServerApp left in its context's ``state``.
        seconds: How long it ran, without loading it.
        answered: Messages that nodes have answered.
        errors: Reasons of error replies and expired messages, by the node's partition. With Ray, neither is
            known: Flower's log has them.
    """

    state: RecordDict
    seconds: float
    answered: int = 0
    errors: Mapping[int, Sequence[str]] = dataclasses.field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, Any]:
        """Numbers in ``state``: ``{"record.key": value}``."""
        return {
            f"{name}.{key}": value
            for name, record in self.state.metric_records.items()
            for key, value in record.items()
        }


def simulate_app(
    app: Path | str | tuple[ServerApp, ClientApp],
    *,
    sites: int,
    run_config: Mapping[str, Any] | None = None,
    workers: int = 1,
    threads: int = 1,
    seed: int = 0,
    backend: Backend = "in-process",
) -> AppResult:
    """Run an app of Flower's message API on simulated sites.

    Args:
        app: The directory of its ``pyproject.toml``, or its ServerApp and ClientApp.
        sites: How many nodes there are; a node's ``node_config`` has its ``partition-id`` and ``num-partitions``.
        run_config: Other values for keys of the app's run config; for apps given as objects, all of it.
        workers: Processes that run clients. With 1, they run in this process, when the ServerApp waits for them.
        threads: Of torch, for a client.
        seed: What Python's, NumPy's and torch's global generators start from: once for the ServerApp, and anew for
            each message to a client. Not used by Ray.
        backend: ``in-process``, or ``ray`` for Flower's own simulation, where ``workers`` is the number of CPUs.

    Raises:
        ConfigError: If the directory is no Flower app, a key isn't one of its run config, or a number is impossible.
        InputError: If it is written for Flower's deprecated API.
        RunError: If its ServerApp raises. What a ClientApp raises is an error reply, as with Flower.
        BusyError: If this process simulates an app already.

    Guarantees:
        The same app, seed and ``threads`` give the same result, whatever ``workers``, if it draws from generators that
        it or this function seeds, and doesn't act on the clock or on the order in which ``pull_messages`` finds
        replies. It works in a notebook, inside a running event loop. No worker outlives it.
    """
    check_range("sites", sites, at_least=1)
    check_range("workers", workers, at_least=1)
    check_range("threads", threads, at_least=1)
    check_range("seed", seed, at_least=0)
    if backend not in ("in-process", "ray"):
        raise ConfigError(f"unknown backend {backend!r}", hint="in-process or ray")
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    from simulations.engine.flower.run import run_app

    source = Path(app) if isinstance(app, str | Path) else app
    return _beside_event_loop(
        lambda: run_app(
            source,
            sites=sites,
            run_config=run_config or {},
            workers=workers,
            threads=threads,
            seed=seed,
            backend=backend,
        )
    )


def _beside_event_loop(function: Callable[[], T]) -> T:
    """Call a function; if an event loop runs in this thread, as in a notebook, then in a thread that has none.

    An app may start an event loop of its own, and a thread can have one only.
    """
    if not _is_event_loop_running():
        return function()
    outcome: list[T] = []
    raised: list[BaseException] = []

    def call() -> None:
        try:
            outcome.append(function())
        except BaseException as err:
            raised.append(err)

    # In the context of the caller: a notebook finds the cell to print to there.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(call,), name="simulate-app")
    with _interruptible():
        thread.start()
        try:
            thread.join()
        except KeyboardInterrupt:
            number = ctypes.c_ulong(thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(number, ctypes.py_object(KeyboardInterrupt))
            thread.join()
            raise
    if raised:
        raise raised[0]
    return outcome[0]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C raise here: ``asyncio.run`` would keep it for the next ``await``, which is after the simulation."""
    kept = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(kept):
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, kept)


def _is_event_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
