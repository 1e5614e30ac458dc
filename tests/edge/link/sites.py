"""Real sites, ``fl site run``, before a real centre."""

import contextlib
import json
import os
import sys
import time

import psutil

from fl.processes import Restart
from server import bundle

APP = "tests/server/gateway/echo_app"


class RunningSite:
    """A site's processes, started by its command.

    Args:
        group: Who starts it.
        home: Its home; the site has joined.
        prefix: What runs the command: ``ip netns exec …``, say.
        keys: Of ``site.toml``.
    """

    def __init__(self, group, home, gateways, prefix=(), **keys):
        lines = {"id": home.name, "gateways": gateways, "num_partitions": 1, "longest_backoff_s": 2.0, **keys}
        (home / "site.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items()))
        self.home = home
        argv = [*prefix, sys.executable, "-m", "fl.cli", "site", "run", "--home", str(home)]
        self.child = group.start(home.name, argv, env=os.environ, log=home / "site.log", restart=Restart())

    def processes(self, words):
        """Its processes whose command line has these words."""
        found = []
        for process in psutil.Process(self.child.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if words in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill(self, words):
        """SIGKILL to the first of them: the one that started the others."""
        first = min(self.processes(words), key=lambda process: process.create_time())
        first.kill()

    def status(self):
        try:
            return json.loads((self.home / "status.json").read_text())
        except FileNotFoundError:
            return {}

    def logs(self):
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.home.glob("*.log")))


class Echo:
    """A run of the app that sends an array to every node and gets it back, round by round."""

    def __init__(self, centre, directory, **config):
        self.centre, self.out = centre, directory / f"rounds-{time.monotonic_ns()}"
        self.run_id = centre.control.start_run(bundle.from_directory(app()), {"out": str(self.out), **config})

    @property
    def rounds(self):
        return [json.loads(line) for line in self.out.read_text().splitlines()] if self.out.exists() else []

    def until(self, rounds, seconds=180):
        """Wait for so many rounds."""
        wait(self.centre, lambda: len(self.rounds) >= rounds, seconds)

    def end(self, seconds=180):
        """Wait for its end; how it was."""
        wait(self.centre, lambda: self.centre.control.run(self.run_id).is_finished, seconds)
        return self.centre.control.run(self.run_id)


def app():
    from pathlib import Path

    return Path(__file__).parents[3] / APP


def wait(centre, is_true, seconds=120):
    centre.group.wait(is_true, what="what the test waits for", timeout_s=seconds, say=print)


def online(centre):
    return all(node.status == "online" for node in centre.control.nodes())
