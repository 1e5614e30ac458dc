"""The runner's side of the zygotes: which app has one, what it has learnt to import, and which cannot have one."""

from __future__ import annotations

import dataclasses
import select
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from edge.runner.channel import Channel
from edge.runner.clientapp import App

TICK_S = 0.2


class ZygoteGoneError(Exception):
    """A zygote ended that was to do something."""


@dataclasses.dataclass(slots=True)
class _Kept:
    """An app's zygote."""

    channel: Channel
    is_importing: bool = False
    """Whether it has been told to import, and has not said yet that it did."""


class Warm:
    """Zygotes of the apps that were used last, all forked from the base.

    Args:
        base: Channel of the base.
        preload: What the base imports before anything else.
        most: How many apps have a zygote at the same time.
        say: Called with a line for everything worth telling.
    """

    def __init__(self, base: Channel, preload: Sequence[str], most: int, say: Callable[[str], None]) -> None:
        self.base = base
        self._preload = list(preload)
        self._most = most
        self._say = say
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._learnt: dict[str, list[str]] = {}
        self._cold: dict[str, str] = {}

    def preload(self) -> None:
        """Have the base import its modules now; it does so while we go on."""
        if self._preload:
            self.base.send({"do": "import", "modules": self._preload})
            self._preload = []

    def zygote(self, app: App, tick: Callable[[int], None]) -> Channel:
        """Who forks the app's next task: its own zygote, or the base if it cannot have one.

        Args:
            app: The app.
            tick: Called again and again while we wait, with the number of the process that we wait for or 0; what it
                raises ends the wait, and that process.

        Raises:
            ZygoteGoneError: If the base has ended.
        """
        self.preload()
        if self._most == 0 or app.digest in self._cold:
            return self.base
        kept = self._kept.get(app.digest)
        if kept is not None and kept.is_importing:
            try:
                kept.is_importing = False
                trouble = _trouble(expect(kept.channel, "imported", lambda: tick(0)))
            except ZygoteGoneError:
                trouble = "it ended"
            if trouble:
                self._forget(app.digest, f"what its last task imported cannot be imported beforehand: {trouble}")
                self._learnt[app.digest] = []
                kept = None
        if kept is None:
            kept = self._start(app, tick)
        if kept is None:
            return self.base
        self._kept.move_to_end(app.digest)
        return kept.channel

    def learn(self, app: App, modules: Sequence[str]) -> None:
        """Have the app's zygote import what a task of it had to import, so that the next one hasn't."""
        kept = self._kept.get(app.digest)
        if kept is None or not modules or self._learnt.get(app.digest) == []:
            return
        self._learnt.setdefault(app.digest, []).extend(modules)
        try:
            kept.channel.send({"do": "import", "modules": list(modules)})
            kept.is_importing = True
        except OSError:
            self._forget(app.digest, "it ended")

    def drop(self, channel: Channel) -> None:
        """A zygote has ended; the base's end is its owner's."""
        for digest, kept in list(self._kept.items()):
            if kept.channel is channel:
                self._forget(digest, "it ended")

    def _start(self, app: App, tick: Callable[[int], None]) -> _Kept | None:
        ours, theirs = Channel.pair()
        order = {"do": "app", "directory": str(app.directory), "reference": app.reference}
        try:
            self.base.send(order | {"modules": self._learnt.get(app.digest, [])}, [theirs])
        except OSError as err:
            raise ZygoteGoneError("the fork server ended") from err
        finally:
            theirs.close()
        pid = 0
        try:
            pid = int(expect(ours, "alive", lambda: tick(0))["alive"])
            said = expect(ours, "ready", lambda: tick(pid))
            trouble = "" if said["ready"] else str(said["reason"])
            trouble = trouble or _trouble(said)
        except ZygoteGoneError:
            trouble = "its import ended the process"
        except BaseException:
            ours.close()
            self.base.send({"do": "kill", "pid": pid})
            raise
        if trouble:
            ours.close()
            if self._learnt.get(app.digest):
                self._learnt[app.digest] = []
                return self._start(app, tick)
            self._say(f"app {app.digest[:8]} is imported anew in each task: {trouble}")
            self._cold[app.digest] = trouble
            return None
        kept = self._kept[app.digest] = _Kept(ours)
        while len(self._kept) > self._most:
            _, oldest = self._kept.popitem(last=False)
            oldest.channel.close()
        return kept

    def _forget(self, digest: str, why: str) -> None:
        self._say(f"the zygote of app {digest[:8]} is given up: {why}")
        self._kept.pop(digest).channel.close()


def expect(channel: Channel, key: str, tick: Callable[[], None]) -> dict[str, Any]:
    """Wait for the message that has this key; others are passed over.

    Raises:
        ZygoteGoneError: If the channel closes before.
    """
    while True:
        tick()
        if not select.select([channel], [], [], TICK_S)[0]:
            continue
        said = channel.receive()
        if said is None:
            raise ZygoteGoneError("a zygote ended")
        if key in said[0]:
            return said[0]


def _trouble(said: dict[str, Any]) -> str:
    """Why a process may not be forked, in words; empty if it may."""
    if said["gpu"]:
        return "it uses the GPU when it is imported"
    if said["threads"] > 1:
        return f"it starts threads when it is imported ({said['threads'] - 1})"
    if said.get("generators"):
        return f"it holds a random generator, which would repeat itself: {', '.join(said['generators'][:3])}"
    return ""
