"""A real PostgreSQL for tests: Debian's, in a temporary directory, run by a user who is not root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from fl import ports

READY_S = 30.0


def programs() -> Path | None:
    """The newest one's programs; ``None`` where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


class PostgresServer:
    """Runs until ``end``; databases are made with ``database``.

    Args:
        host: Where it listens; from elsewhere than this machine, private networks may connect.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        self._host = host
        bin_ = programs()
        assert bin_ is not None
        self._bin = bin_
        self._uid, self._gid = os.getuid(), os.getgid()
        if self._uid == 0:  # it refuses to be root
            entry = pwd.getpwnam("nobody")
            self._uid, self._gid = entry.pw_uid, entry.pw_gid
        self.folder = Path(tempfile.mkdtemp(prefix="fl-postgres-"))
        os.chown(self.folder, self._uid, self._gid)
        self.port = ports.free_port()
        self._made = 0
        argv = ["-D", f"{self.folder}/data", "-U", "fl", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        self._run("initdb", *argv)
        if host != "127.0.0.1":
            with (self.folder / "data/pg_hba.conf").open("a") as rules:
                rules.write("host all all 10.0.0.0/8 trust\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def address(self) -> str:
        """URL without a database."""
        return f"postgresql://fl@{self._host}:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        argv = [str(self._bin / "postgres"), "-D", f"{self.folder}/data", "-p", str(self.port), "-k", str(self.folder)]
        argv += ["-c", f"listen_addresses=127.0.0.1,{self._host}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, user=self._uid, group=self._gid)
        deadline = time.monotonic() + READY_S
        probe = [str(self._bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(probe).returncode:
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it at once, as a crash does; what was committed stays."""
        assert self._process is not None
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(20)

    def database(self) -> str:
        """Make an empty database. Returns its URL."""
        self._made += 1
        name = f"fedfleet{self._made}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "fl", name)
        return f"{self.address}/{name}"

    def end(self) -> None:
        """Stop it and take its directory away."""
        if self._process is not None and self._process.poll() is None:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *argv: str) -> None:
        done = subprocess.run(
            [str(self._bin / program), *argv], user=self._uid, group=self._gid, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
