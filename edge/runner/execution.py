"""One task's process: forked from its app's zygote, watched while it runs, told in words how it ended."""

from __future__ import annotations

import dataclasses
import itertools
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.runner.channel import Channel
from edge.runner.clientapp import App
from edge.runner.config import Limits
from edge.runner.limits import Watch
from edge.runner.outcome import Outcome
from edge.runner.warm import Warm, ZygoteGoneError, expect

LOOK_S = 0.1
EXIT_GRACE_S = 5.0
MOST_STARTS = 3


@dataclasses.dataclass(frozen=True, slots=True)
class _Ending:
    """A task that has answered and is about to end."""

    app: App
    zygote: Channel
    pid: int
    modules: list[str]


class _OverError(Exception):
    """A task is over a limit."""


class Executor:
    """Runs one task at a time.

    Args:
        warm: Who forks.
        base: The base's channel, among them.
        limits: What a task may use.
        threads: Its compute threads.
    """

    def __init__(self, warm: Warm, base: Channel, limits: Limits, threads: int) -> None:
        self._warm = warm
        self._base = base
        self._limits = limits
        self._threads = threads
        self._ending: _Ending | None = None

    def prepare(self) -> None:
        """Import now what tasks need; it goes on while we do."""
        self._warm.preload()

    def fileno(self) -> int:
        """What is readable when something happened to the base."""
        return self._base.fileno()

    def idle(self) -> None:
        """Between tasks: see whether the base is still there.

        Raises:
            ZygoteGoneError: If it is not.
        """
        if select.select([self._base], [], [], 0)[0] and self._base.receive() is None:
            raise ZygoteGoneError("the fork server ended")

    def run(
        self, app: App, received: Path, answered: Path, *, beat: Callable[[], None], gpu_left_s: float | None = None
    ) -> Outcome:
        """Have an app answer; return as soon as the answer lies ready, or there will be none.

        Args:
            app: The app.
            received: Parcel of the message.
            answered: Parcel of the reply, to be written.
            beat: Called again and again; what it raises ends the task, and comes as it is.
            gpu_left_s: For how long the task may hold a GPU.

        Raises:
            ZygoteGoneError: If the base has ended.
        """
        began = time.monotonic()
        watch = Watch(self._limits, gpu_left_s)

        def tick(pid: int) -> None:
            beat()
            if over := watch.look(pid, time.monotonic() - began):
                raise _OverError(over)

        ours, theirs = Channel.pair()
        try:
            failure, raised = self._run(app, received, answered, ours, theirs, tick, watch)
        finally:
            ours.close()
            theirs.close()
        return Outcome(failure, raised, time.monotonic() - began, watch.peak_mib, watch.used_gpu)

    def _run(
        self,
        app: App,
        received: Path,
        answered: Path,
        ours: Channel,
        theirs: Channel,
        tick: Callable[[int], None],
        watch: Watch,
    ) -> tuple[str, str]:
        """Why there is no answer, and what the app raised; each empty if it isn't so."""
        order: dict[str, Any] = {"do": "task", "directory": str(app.directory), "reference": app.reference}
        order |= {"received": str(received), "answered": str(answered)}
        order |= {"limits": dataclasses.asdict(self._limits), "threads": self._threads}
        pid = 0
        zygote = self._base
        try:
            zygote, pid = self._start(app, order, theirs, tick)
            theirs.close()
            said = self._attend(ours, zygote, pid, tick)
        except _OverError as err:
            self._kill(zygote, pid)
            return str(err), ""
        except (ZygoteGoneError, OSError) as err:
            self._warm.drop(zygote)
            if zygote is self._base:
                raise ZygoteGoneError("the fork server ended") from err
            return "the app's process and the one that forked it were ended by somebody at the site", ""
        except BaseException:
            self._kill(zygote, pid)
            raise
        if "ended" in said:
            return watch.describe(said["status"]), ""
        watch.used_gpu = watch.used_gpu or bool(said["gpu"])
        self._ending = _Ending(app, zygote, pid, said["modules"])
        return "", str(said["failure"])

    def _start(
        self, app: App, order: dict[str, Any], result: Channel, tick: Callable[[int], None]
    ) -> tuple[Channel, int]:
        """Fork a task; who forked it, and its number."""
        for attempt in itertools.count(1):
            zygote = self._warm.zygote(app, tick)
            try:
                zygote.send(order, [result])
                return zygote, int(expect(zygote, "started", lambda: None)["started"])
            except (ZygoteGoneError, OSError):
                # It has ended since its last task; the app, whose task had not begun, gets a new one.
                self._warm.drop(zygote)
                if zygote is self._base or attempt == MOST_STARTS:
                    raise
        raise AssertionError

    def _attend(self, ours: Channel, zygote: Channel, pid: int, tick: Callable[[int], None]) -> dict[str, Any]:
        """Wait until a task says that it has answered, or its zygote that it has ended."""
        waiting = [ours, zygote]
        while True:
            tick(pid)
            ready, _, _ = select.select(waiting, [], [], LOOK_S)
            for channel in ready:
                said = channel.receive()
                if said is None and channel is zygote:
                    raise ZygoteGoneError("a zygote ended")
                if said is None:
                    waiting = [zygote]  # it ends without an answer: how, is to come
                elif channel is ours or said[0].get("ended") == pid:
                    return said[0]

    def settle(self) -> None:
        """Wait until the last task's process is gone, and so its memory, also the GPU's; keep what it has taught us.

        Raises:
            ZygoteGoneError: If the base has ended.
        """
        if self._ending is None:
            return
        ending, self._ending = self._ending, None
        try:
            self._wait_for_end(ending.zygote, ending.pid, EXIT_GRACE_S)
        except (ZygoteGoneError, OSError) as err:
            self._warm.drop(ending.zygote)
            if ending.zygote is self._base:
                raise ZygoteGoneError("the fork server ended") from err
        self._warm.learn(ending.app, ending.modules)

    def _kill(self, zygote: Channel, pid: int) -> None:
        try:
            if pid:
                self._wait_for_end(zygote, pid, 0.0)
        except (ZygoteGoneError, OSError):
            self._warm.drop(zygote)

    def _wait_for_end(self, zygote: Channel, pid: int, grace_s: float) -> None:
        deadline = time.monotonic() + grace_s

        def kill_late() -> None:
            if time.monotonic() >= deadline:
                zygote.send({"do": "kill", "pid": pid})

        while int(expect(zygote, "ended", kill_late)["ended"]) != pid:
            pass
