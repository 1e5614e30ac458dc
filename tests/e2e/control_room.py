"""A centre as ``fl server up`` runs it, and sites that joined it, for tests that kill parts of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import tomli_w

from fl import ports
from fl.files import write_atomic
from fl.processes import Group, Restart, program
from server import shards, tokens
from server.centre import Centre, found
from server.client import Client
from server.gateway.config import GatewayConfig
from server.home import ControlConfig, EnrolmentConfig, Home, ServerConfig

READY_S = 240.0


class Room:
    """Runs until ``end``.

    Args:
        folder: Where everything lies.
        sites: How many.
        control: Keys of ``[control]``.
    """

    def __init__(self, folder: Path, *, sites: int = 2, control: dict[str, Any] | None = None) -> None:
        self.home, self.folder = Home(folder / "server"), folder
        address = f"127.0.0.1:{ports.free_port()}"
        config = ServerConfig(
            addresses=(address,),
            enrolment=EnrolmentConfig(approval="automatic"),
            gateway=GatewayConfig(listen=(address,)),
            control=ControlConfig(**{"listen": "127.0.0.1:0", **(control or {})}),
        )
        found(self.home, config, roster_authority=None)
        self.log = folder / "up.log"
        self.up: subprocess.Popen[bytes]
        self.sites = Group()
        try:
            self._begin(sites)
        except BaseException:
            self.end()
            raise

    def _begin(self, sites: int) -> None:
        folder = self.folder
        self.start()
        registry = Centre(self.home)
        names = [f"site-{number + 1}" for number in range(sites)]
        for name in names:
            (folder / name / "data").mkdir(parents=True)
        shards.write(
            shards.ShardsConfig(task="digits"),
            [folder / name / "data" for name in names],
        )
        for name in names:
            self._start_site(name, tokens.invite(registry.enrolment, name).encode())
        registry.close()

    def start(self) -> None:
        """Start the centre, and wait until its control room answers."""
        with self.log.open("ab") as log:
            argv = [program("fl"), "server", "up", "--home", str(self.home.path), "--log", "json"]
            self.up = subprocess.Popen(argv, stdout=log, stderr=log, env={**os.environ, "COLUMNS": "4000"})
        self.wait(lambda: (self.home.path / "control.json").exists(), "the control room")

    def kill(self) -> None:
        """Kill the supervisor; its watchdog ends the others."""
        self.up.kill()
        self.up.wait()
        self.wait(lambda: not (self.home.path / "control.json").exists(), "the end of all processes")

    def client(self) -> Client:
        """A client of the control room, as the local operator."""
        return Client.of_home(self.home.path)

    def pids(self, *words: str) -> list[int]:
        """Processes of this centre whose command line has all these words."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    argv = (entry / "cmdline").read_bytes().decode(errors="replace")
                    env = (entry / "environ").read_bytes()
                except OSError:
                    continue
                if str(self.home.path).encode() in env + argv.encode() and all(word in argv for word in words):
                    found.append(int(entry.name))
        return [pid for pid in found if pid != os.getpid()]

    def kill_part(self, *words: str) -> int:
        """Kill a part by its command line. Returns how many processes that were."""
        pids = self.pids(*words)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return len(pids)

    def wait(self, until: Any, what: str, *, timeout_s: float = READY_S) -> Any:
        """Wait for something, looking after the sites."""
        deadline = time.monotonic() + timeout_s
        while not (found := until()):
            self.sites.poll()
            assert self.up.poll() is None or "end" in what, self.log.read_text()[-4000:]
            assert time.monotonic() < deadline, f"{what} took too long: {self.log.read_text()[-4000:]}"
            time.sleep(0.2)
        return found

    def end(self) -> None:
        """End everything."""
        self.sites.close()
        if hasattr(self, "up"):
            self.up.terminate()
            self.up.wait(30)

    def _start_site(self, name: str, token: str) -> None:
        site = self.folder / name
        facts = {
            "id": name,
            "gateways": list(self.home.config().addresses),
            "threads": 1,
            "data_dir": str(site / "data"),
        }
        write_atomic(site / "site.toml", tomli_w.dumps(facts))
        write_atomic(site / "token", token, mode=0o600)
        argv = [sys.executable, "-m", "fl.cli", "site", "run", "--home", str(site), "--token", f"@{site}/token"]
        self.sites.start(name, argv, env=os.environ, log=site / "site.log", restart=Restart())
