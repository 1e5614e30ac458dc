import contextlib
import hashlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from edge.datagrams import send
from edge.runner.config import Limits, RunnerConfig, command
from fl import processes
from tests.supernode import Node, wait_until


class Site:
    """A SuperNode's parts and a real runner beside them."""

    def __init__(self, home, start=True, **options):
        self.home = home
        self.node = Node(home)
        self.log = home / "runner.log"
        self.config = RunnerConfig(
            home=home, runtime_api=self.node.address, secret_file=self.node.secret, **{"preload": (), **options}
        )
        self.process = None
        if start:
            self.start()

    def start(self, within_s=100):
        """Start the runner; it is at work on return, however slow the machine is."""
        (self.home / "runner.sock").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            env = processes.environment(home=self.home / "flower")
            self.process = subprocess.Popen(command(self.config), env=env, stdout=log, stderr=log)
        wait_until((self.home / "runner.sock").exists, within_s, "the runner did not start")

    def restart(self):
        self.process.wait(20)
        self.start()

    def children(self, pid=None):
        """Process numbers of the base's children: the runner first, then zygotes."""
        base = pid or self.process.pid
        return [int(word) for word in Path(f"/proc/{base}/task/{base}/children").read_text().split()]

    def zygote(self):
        """The process that forks the tasks of the app used last."""
        return self.children()[-1]

    def deliver(self, fab, *arguments, run_id=None, **options):
        """Deliver a message and tell the runner of it, as the link does."""
        run_id = run_id or int(hashlib.sha256(fab).hexdigest()[:12], 16)
        send(self.home / "runner.sock", {"mail": "a message", "run": run_id})
        return self.node.deliver(fab, *arguments, run_id=run_id, **options)

    def ask(self, *arguments, **options):
        """Deliver a message and take the reply."""
        self.deliver(*arguments, **options)
        return self.node.take()

    def close(self):
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
        self.node.stop()


@contextlib.contextmanager
def sites(directory):
    """Makes sites, and ends them all."""
    made = []

    def make(**options):
        limits = {key: options.pop(key) for key in ("memory_mib", "time_s", "cpu_s") if key in options}
        made.append(Site(directory / f"site-{len(made)}", limits=Limits(**limits), **options))
        return made[-1]

    try:
        yield make
    finally:
        for site in made:
            site.close()
        left = [pid for pid in _all_processes() for site in made if str(site.home) in _command(pid)]
    assert left == []


@pytest.fixture
def make_site(tmp_path):
    with sites(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """One site for the tests of a file, with a policy file that is not there yet."""
    home = tmp_path_factory.mktemp("shared")
    with sites(home) as make:
        yield make(warm_apps=2, threads=3, policy=home / "policy.toml")


def _all_processes():
    return [name for name in os.listdir("/proc") if name.isdigit()]


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
