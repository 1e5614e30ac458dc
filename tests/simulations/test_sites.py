"""The port to simulated sites: time, order, lateness, and who is not asked to work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from fl.arrays import ArrayFile, Layout, write_arrays
from fl.rounds.port import Failure, Reply, Request
from fl.tasks.base import Site
from simulations.clock import VirtualTime
from simulations.engine.work import Job, Model
from simulations.sites import SimulatedSites, Trip

TRAIN = Request(phase="train", round=1, attempt=1, seed=7)
NEXT = Request(phase="train", round=2, attempt=1, seed=8)


class Working:
    """Answers with the number of the job, and notes who worked."""

    name, chunk = "noting", 2

    def __init__(self) -> None:
        self.worked: list[str] = []

    def execute(self, jobs: Sequence[Job], model: Model | None) -> Iterator[Reply]:
        for job in jobs:
            self.worked.append(job.site.id)
            yield Reply(site=job.site.id, request=job.request, num_examples=1, report={"worked": True})

    def close(self) -> None:
        self.worked.append("closed")


class Timetable:
    """A world in which each site's reply takes so many seconds."""

    def __init__(self, seconds: dict[str, float], failing: tuple[str, ...] = ()) -> None:
        self.seconds, self.failing = seconds, failing

    def online(self, now_s: float) -> Sequence[str]:
        return sorted(self.seconds)

    def site(self, name: str) -> Site:
        return Site(name)

    def trip(self, name: str, request: Request, *, down_bytes: int, up_bytes: int, now_s: float) -> Trip:
        failure = Failure(code="task_failed", reason="broken") if name in self.failing else None
        return Trip(seconds=self.seconds[name], failure=failure, facts={"down_bytes": down_bytes, "up_bytes": up_bytes})

    def disguise(self, reply: Reply) -> Reply:
        return reply


@pytest.fixture
def model(tmp_path: Path) -> Iterator[ArrayFile]:
    layout = Layout((("weight", (3,)),))
    write_arrays(tmp_path / "model.safetensors", layout, [np.arange(3, dtype=np.float32)])
    with ArrayFile(tmp_path / "model.safetensors") as file:
        yield file


def port_of(world: Timetable, time: VirtualTime | None) -> tuple[SimulatedSites, Working]:
    working = Working()
    return SimulatedSites(world, working, lambda jobs, model: working, time), working


def test_replies_land_in_the_order_of_their_times_and_time_goes_on_to_each(model: ArrayFile) -> None:
    time = VirtualTime(100.0)
    port, _ = port_of(Timetable({"a": 30.0, "b": 10.0, "c": 20.0}), time)
    port.ask(["a", "b", "c"], TRAIN, model)
    landed = [(reply.site, time.now_s) for reply in port.replies(60.0)]
    assert landed == [("b", 110.0), ("c", 120.0), ("a", 130.0)]


def test_a_time_out_in_which_nothing_lands_passes(model: ArrayFile) -> None:
    time = VirtualTime()
    port, working = port_of(Timetable({"a": 90.0}), time)
    port.ask(["a"], TRAIN, model)
    assert list(port.replies(60.0)) == []
    assert time.now_s == 60.0
    assert working.worked == []
    assert [reply.site for reply in port.replies(60.0)] == ["a"]
    assert time.now_s == 90.0


def test_what_nobody_waits_for_any_more_lands_late_and_was_never_made(model: ArrayFile) -> None:
    time = VirtualTime()
    port, working = port_of(Timetable({"a": 1.0, "b": 2.0, "c": 50.0, "d": 60.0}), time)
    port.ask(["a", "b", "c", "d"], TRAIN, model)
    replies = iter(port.replies(10.0))
    assert [next(replies).site, next(replies).site] == ["a", "b"]
    port.ask(["a"], NEXT, model)
    late = [(reply.site, reply.request.round) for reply in port.replies(100.0)]
    assert late == [("a", 2), ("c", 1), ("d", 1)]
    assert working.worked == ["a", "b", "a"]


def test_a_silent_site_never_answers_and_never_works(model: ArrayFile) -> None:
    time = VirtualTime()
    port, working = port_of(Timetable({"a": float("inf"), "b": 1.0}), time)
    port.ask(["a", "b"], TRAIN, model)
    assert [reply.site for reply in port.replies(1e6)] == ["b"]
    assert list(port.replies(1e6)) == []
    assert working.worked == ["b"]


def test_a_crash_is_a_failure_in_its_place_among_the_replies(model: ArrayFile) -> None:
    port, working = port_of(Timetable({"a": 1.0, "b": 2.0, "c": 3.0}, failing=("b",)), VirtualTime())
    port.ask(["a", "b", "c"], TRAIN, model)
    replies = [(reply.site, reply.failure is None) for reply in port.replies(10.0)]
    assert replies == [("a", True), ("b", False), ("c", True)]
    assert working.worked == ["a", "c"]


def test_without_simulated_time_replies_come_in_the_order_of_the_asked(model: ArrayFile) -> None:
    port, _ = port_of(Timetable({"b": 0.0, "a": 0.0, "c": 0.0}), None)
    port.ask(["a", "b", "c"], TRAIN, model)
    replies = list(port.replies(1.0))
    assert [reply.site for reply in replies] == ["a", "b", "c"]
    assert replies[0].report == {"worked": True, "down_bytes": 12, "up_bytes": 12}


def test_closing_ends_what_does_the_work(model: ArrayFile) -> None:
    port, working = port_of(Timetable({"a": 0.0}), None)
    port.ask(["a"], TRAIN, model)
    list(port.replies(1.0))
    port.close()
    assert working.worked[-1] == "closed"
