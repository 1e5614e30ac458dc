"""A process that has imported what its children need, runs nothing, and forks when it is told to.

The base has Flower and torch; an app's zygote, forked from it, has the app's modules too; a task is forked from that.
A zygote has one thread and no context on a GPU, because neither survives a fork: the runner is told about both, and
gives up a zygote that has one, whose app is then imported in each task, as Flower would do it. It ends, and so do its
children, when the runner's end of its channel closes.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import functools
import gc
import importlib
import os
import random
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from edge.runner import clientapp, limits, threads
from edge.runner.channel import Channel
from edge.runner.config import Limits

MOST_MODULES = 6000


class Zygote:
    """Serves the runner until that closes the channel.

    Args:
        control: What orders come through, and what happened goes back.
        given: What the environment said about threads before they were held back.
    """

    def __init__(self, control: Channel, given: Mapping[str, str]) -> None:
        self._control = control
        self._given = given
        self._children: dict[int, int] = {}
        """Process numbers and what is readable when they end."""

    def serve(self) -> None:
        """Do what is ordered, one thing after the other."""
        limits.adopt_orphans()
        gc.freeze()  # a collection would write to, and so copy, every page that is shared
        orders: dict[str, Callable[[dict[str, Any], list[int]], None]] = {
            "import": self._import,
            "app": self._fork_app,
            "task": self._fork_task,
            "kill": self._kill,
        }
        try:
            while True:
                ready, _, _ = select.select([self._control.fileno(), *self._children.values()], [], [])
                for pid in [pid for pid, ended in self._children.items() if ended in ready]:
                    self._bury(pid)
                if self._control.fileno() in ready:
                    order = self._control.receive()
                    if order is None:
                        return
                    orders[order[0]["do"]](*order)
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)
            self._end_strays()

    def watch(self, pid: int) -> None:
        """Count a process among our children."""
        self._children[pid] = os.pidfd_open(pid)

    def _import(self, order: dict[str, Any], _: list[int]) -> None:
        import_all(order["modules"])
        gc.collect()
        gc.freeze()
        self._control.send({"imported": True} | facts())

    def _fork_app(self, order: dict[str, Any], files: list[int]) -> None:
        self._fork(functools.partial(_live_as_app, order, files[0], self._given), files)

    def _fork_task(self, order: dict[str, Any], files: list[int]) -> None:
        pid = self._fork(functools.partial(_live_as_task, order, files[0], self._given), files)
        self._control.send({"started": pid})

    def _kill(self, order: dict[str, Any], _: list[int]) -> None:
        if order["pid"] in self._children:
            os.kill(order["pid"], signal.SIGKILL)

    def _fork(self, life: Callable[[], None], files: Iterable[int]) -> int:
        flush()  # or each process would print it again
        pid = os.fork()
        if pid == 0:
            limits.die_with_parent()
            self._control.close()
            for ended in self._children.values():
                os.close(ended)
            live(life)
        for file in files:
            os.close(file)
        self.watch(pid)
        return pid

    def _bury(self, pid: int) -> None:
        os.close(self._children.pop(pid))
        _, status, usage = os.wait4(pid, 0)
        self._end_strays()
        cpu_s = usage.ru_utime + usage.ru_stime
        self._control.send({"ended": pid, "status": status, "cpu_s": cpu_s, "peak_mib": usage.ru_maxrss // 1024})

    def _end_strays(self) -> None:
        """End what a child has left behind; processes of ours that are no children of a child any more."""
        while strays := set(_children_of_ours()) - set(self._children):
            for pid in strays:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)


def live(life: Callable[[], None]) -> NoReturn:
    """Run a forked process to its end, without what the process it was forked from would do at exit."""
    status = 1
    try:
        life()
        status = 0
    except SystemExit as err:
        status = err.code if isinstance(err.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        flush()
        os._exit(status)


def flush() -> None:
    """Write out what was printed."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def import_all(modules: Iterable[str]) -> None:
    """Import modules, as far as they are there; one that fails will fail again where it is needed."""
    for name in modules:
        if name not in sys.modules:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def facts() -> dict[str, Any]:
    """What decides whether this process may be forked."""
    return {"threads": len(os.listdir("/proc/self/task")), "gpu": limits.holds_gpu(os.getpid())}


def generators(modules: Iterable[ModuleType], directory: Path) -> list[str]:
    """Names of random generators that an app's modules hold: forked, they would repeat themselves in every task.

    Of the global generators, ``random`` has a new state after each fork, NumPy is given one, and torch begins with the
    same one in every process anyway.
    """
    known = ("Generator", "RandomState", "Random")
    found = []
    for module in list(modules):
        if str(getattr(module, "__file__", None) or "").startswith(f"{directory}{os.sep}"):
            for name, value in list(vars(module).items()):
                kind = type(value)
                if kind.__name__ in known and kind.__module__.partition(".")[0] in ("numpy", "torch", "random"):
                    found.append(f"{module.__name__}.{name}")
    return found


def _live_as_app(order: dict[str, Any], control: int, given: Mapping[str, str]) -> None:
    channel = Channel.of(control)
    directory = Path(order["directory"])
    channel.send({"alive": os.getpid()})
    try:
        clientapp.load(order["reference"], directory)
        import_all(order["modules"])
        channel.send({"ready": True, "generators": generators(sys.modules.values(), directory)} | facts())
    except BaseException as err:
        channel.send({"ready": False, "reason": f"{type(err).__name__}: {err}"[:1000]})
        return
    Zygote(channel, given).serve()


def _live_as_task(order: dict[str, Any], result: int, given: Mapping[str, str]) -> None:
    channel = Channel.of(result)
    faulthandler.enable()
    limits.apply(Limits(**order["limits"]))
    threads.let_go(given, order["threads"])
    if "numpy.random" in sys.modules:  # which NumPy imports when it is first used
        sys.modules["numpy.random"].seed()
    random.seed()
    known = set(sys.modules)
    failure = clientapp.answer(
        order["reference"], Path(order["directory"]), Path(order["received"]), Path(order["answered"])
    )
    new = [name for name in list(sys.modules) if name not in known][:MOST_MODULES]
    channel.send({"failure": failure, "modules": new, "gpu": limits.holds_gpu(os.getpid())})
    # What the app has asked to be done at its exit; what it has left running after that is killed.
    atexit._run_exitfuncs()


def _children_of_ours() -> list[int]:
    own = os.getpid()
    return [int(pid) for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split()]
