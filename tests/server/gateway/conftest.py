import contextlib
import json
import time
from pathlib import Path

import pytest

from server import bundle
from tests.centre import centre

APP = Path(__file__).with_name("echo_app")


class Run:
    """A run of the app that sends an array to each node that is online, round after round."""

    def __init__(self, centre, **config):
        self.out = centre.home / f"rounds-{time.monotonic_ns()}.jsonl"
        self._read, self.nodes = 0, None
        bundled = bundle.from_directory(APP)
        self.run_id = centre.control.start_run(bundled, {"out": str(self.out), **config})

    def rounds(self, count=1, timeout_s=180):
        """What the next rounds came to, once they are over."""
        until(lambda: len(self._lines()) >= self._read + count, timeout_s)
        lines = self._lines()[self._read : self._read + count]
        self._read += count
        return [json.loads(line) for line in lines]

    def only(self, nodes):
        """Look at the rounds of these nodes, which no earlier test had."""
        self._read, self.nodes = 0, set(nodes)

    def _lines(self):
        lines = self.out.read_text().split("\n")[:-1] if self.out.exists() else []
        return [line for line in lines if self.nodes is None or self.nodes & set(json.loads(line)["nodes"])]


def until(condition, timeout_s=180):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One centre for the tests of a module; each test has sites of its own."""
    with centre(tmp_path_factory.mktemp("centre") / "home", sites=(), executor=True, lost_after_s=5.0) as it:
        yield it


@pytest.fixture(scope="module")
def endless(shared, request):
    """A run that sends to whom it finds online, for as long as the module's tests last: its start takes seconds."""
    return Run(shared, rounds=1_000_000, nodes=request.module.NODES, **{"size-mib": 6.0, "timeout-s": 600.0})


@pytest.fixture
def running(shared):
    """The shared centre with two new sites, whose nodes are gone after the test."""
    number = len(shared.registry.sites)
    shared.pair = [f"site-{number + 1}", f"site-{number + 2}"]
    for name in shared.pair:
        shared.add_site(name)
    yield shared
    for name in shared.pair:
        shared.registry.refused[name] = "the test is over"
        with contextlib.suppress(Exception):
            shared.control.unregister_node(shared.sites[name].node_id)


@pytest.fixture
def run(running, endless):
    """The endless run, from its next round on."""
    endless.only(running.sites[name].node_id for name in running.pair)
    return endless
