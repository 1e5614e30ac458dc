"""A federation on one computer: a SuperLink, N sites with data and keys of their own, all ended together.

Its home directory::

    lock              held while it runs
    federation.json   how to reach it; there only while it runs
    keys/             certificates and secrets of this life; erased when it ends, also after a crash
    superlink/        Flower's database and logs; runs of earlier lives stay listed
    sites/site-1/     a site's home: data, logs, public key; its private key is erased as well
    runs/             a journal for each run

Other terminals find it through ``connect``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fl import ports, processes
from fl.config import check_range
from fl.errors import BusyError, JournalError, UnreachableError
from fl.files import Lock, write_atomic
from fl.processes import Group, Restart
from server import certificates, secure, shards, superlink

if TYPE_CHECKING:
    from server.control import Control

DEFAULT_HOME = Path(".fedfleet")
HOME_VARIABLE = "FEDFLEET_HOME"
# A site gives its own processes 5 s to say goodbye.
GRACE_S = 8.0
READY_WITHIN_S = 120.0
TICK_S = 0.1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FederationConfig:
    """What to start."""

    home: Path
    """Directory of the federation; made if needed."""

    sites: int = 3
    """Number of sites."""

    port: int | None = None
    """Port of the SuperLink on 127.0.0.1; a free one is chosen without it."""

    data: shards.ShardsConfig | None = None
    """What data the sites get; without it, apps see only the number of the site."""

    def __post_init__(self) -> None:
        check_range("sites", self.sites, at_least=1, at_most=256)
        check_range("port", self.port, at_least=1, at_most=65535)


@dataclasses.dataclass(frozen=True, slots=True)
class SiteStatus:
    """One site, at one moment."""

    name: str
    node_id: int
    status: str
    """``online``, ``offline`` or ``registered``, as the SuperLink sees it."""
    lives: int
    """How often its process was started."""
    examples: int | None
    """How many examples its data holds; ``None`` if it was given none."""


class LocalFederation:
    """A running federation, for a ``with`` block; at its end no process and no key is left.

    Args:
        config: What to start.
        say: Called with a line for everything worth telling.

    Raises (on entering):
        BusyError: If the home is in use, or the port.
        ProcessError: If a process cannot be kept alive, or the sites do not come online in time.
        TaskError, ConfigError: If the data cannot be divided among the sites.
    """

    def __init__(self, config: FederationConfig, *, say: Callable[[str], None]) -> None:
        self.config = config
        self.home = config.home.resolve()
        self.control: Control
        self.sites: dict[str, int] = {}
        """Node id of each site, by name."""
        self._say = say
        self._ends = contextlib.ExitStack()
        self._group: Group
        self._examples: list[int] | None = None

    @property
    def runs(self) -> Path:
        """Directory of the runs' journals."""
        return self.home / "runs"

    @property
    def secagg(self) -> Path:
        """Directory of the server's part in secure aggregation."""
        return self.home / "keys" / "secagg"

    def __enter__(self) -> LocalFederation:
        with contextlib.ExitStack() as ends:
            self._start(ends)
            self._ends = ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def poll(self) -> None:
        """Look after the processes; call it in every loop.

        Raises:
            ProcessError: If one died too often.
        """
        for line in self._group.poll():
            self._say(line)

    def status(self) -> list[SiteStatus]:
        """How the sites are now.

        Raises:
            UnreachableError: If the SuperLink does not answer, as while it is started again.
        """
        nodes = {node.node_id: node.status for node in self.control.nodes()}
        return [
            SiteStatus(
                name=name,
                node_id=node_id,
                status=nodes.get(node_id, "unregistered"),
                lives=self._group.children[name].lives,
                examples=self._examples[number] if self._examples else None,
            )
            for number, (name, node_id) in enumerate(self.sites.items())
        ]

    def _start(self, ends: contextlib.ExitStack) -> None:
        home = self.home
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        port = ports.check_port(self.config.port) if self.config.port else ports.free_port()
        lock = _take(home / "lock")
        ends.callback(lock.release)
        (home / "federation.json").unlink(missing_ok=True)
        self.runs.mkdir(exist_ok=True)
        self._group = ends.enter_context(Group(grace_s=GRACE_S, hold=[lock.fileno()]))
        for path in (home / "keys", home / "federation.json"):
            self._group.erase(path)
        files = certificates.create(home / "keys")
        env = processes.environment(home=home / "flower")
        superlink.start(self._group, home=home / "superlink", port=port, files=files, env=env)
        names = [f"site-{number}" for number in range(1, self.config.sites + 1)]
        authority = secure.begin(self.secagg)
        for number, name in enumerate(names):
            self._start_site(name, number, port, files, authority)
        if self.config.data is not None:  # while the processes start
            directories = [self._site_home(name) / "data" for name in names]
            self._examples = shards.write(self.config.data, directories)
        self._wait(lambda: superlink.is_healthy(port, files.ca), "the start of the SuperLink")
        self._register(names, f"{superlink.HOST}:{port}", files.ca, ends)
        secure.sign(self.secagg, {name: self._site_home(name) / "identity.pub" for name in names})
        superlink.start_executor(self._group, home=home / "superlink", port=port, files=files, env=env)
        self._wait(self._all_online, "bringing all sites online", tick_s=0.3)
        write_atomic(home / "federation.json", json.dumps(self.as_dict(), indent=2), mode=0o600)

    def as_dict(self) -> dict[str, object]:
        """How to reach the federation, and what it is, as in ``federation.json``."""
        return {
            "version": 1,
            "pid": os.getpid(),
            "home": str(self.home),
            "address": self.control.address,
            "ca": str(self.home / "keys" / "ca.crt"),
            "secagg": str(self.secagg),
            "task": self.config.data.task if self.config.data else None,
            "sites": [{"name": name, "node_id": node_id} for name, node_id in self.sites.items()],
        }

    def _start_site(self, name: str, number: int, port: int, files: certificates.Files, authority: Path) -> None:
        """A process that knows only what a site may know: it makes its own key and runs its SuperNode."""
        home = self._site_home(name)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for public in ("node.pub", "identity.pub"):
            (home / public).unlink(missing_ok=True)
        for earlier in ("keys", "secagg", "data"):
            shutil.rmtree(home / earlier, ignore_errors=True)
        self._group.erase(home / "keys")
        self._group.erase(home / "secagg" / "identity.key")
        argv = [
            *(sys.executable, "-m", "fl.cli", "site", "run", "--name", name, "--home", str(home)),
            *("--superlink", f"{superlink.HOST}:{port}", "--ca", str(files.ca)),
            *("--authority", str(authority)),
            *("--partition-id", str(number), "--num-partitions", str(self.config.sites)),
            *("--threads", str(max(1, (os.cpu_count() or 1) // self.config.sites))),
        ]
        if self.config.data is not None:
            (home / "data").mkdir()
            argv += ["--data-dir", str(home / "data")]
        self._group.start(name, argv, env=os.environ, log=home / "site.log", restart=Restart())

    def _register(self, names: list[str], address: str, ca: Path, ends: contextlib.ExitStack) -> None:
        """Let the keys that the sites made take part, and no others."""
        from server.control import Control

        self.control = ends.enter_context(Control(address, ca))
        # Nodes of earlier lives cannot come back, because their keys are gone; runs of earlier lives would start
        # again from nothing, because their ServerApps are gone.
        for node in self.control.nodes():
            self.control.unregister_node(node.node_id)
        for run in self.control.runs():
            if not run.is_finished:
                self.control.stop(run.run_id)
        keys = {name: self._site_home(name) / "node.pub" for name in names}  # written after identity.pub
        self._wait(lambda: all(key.exists() for key in keys.values()), "making the sites' keys")
        for name, key in keys.items():
            self.sites[name] = self.control.register_node(key.read_bytes(), name=name)

    def _all_online(self) -> bool:
        return all(node.status == "online" for node in self.control.nodes())

    def _wait(self, until: Callable[[], bool], what: str, tick_s: float = TICK_S) -> None:
        self._group.wait(until, what=what, timeout_s=READY_WITHIN_S, say=self._say, tick_s=tick_s)

    def _site_home(self, name: str) -> Path:
        return self.home / "sites" / name


def choose_home(option: Path | None) -> Path:
    """The federation's home: the option, else ``FEDFLEET_HOME``, else ``.fedfleet`` here."""
    return option or Path(os.environ.get(HOME_VARIABLE) or DEFAULT_HOME)


def read(home: Path) -> Mapping[str, Any]:
    """The content of ``federation.json``.

    Raises:
        UnreachableError: If no federation runs in this home.
        JournalError: If the file is of a newer version.
    """
    not_running = UnreachableError(f"no federation runs in {home}", hint=f"fl up --home {home}")
    try:
        facts = json.loads((home / "federation.json").read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise not_running from err
    if facts["version"] != 1:
        raise JournalError(f"{home}/federation.json has version {facts['version']}, this fl knows version 1")
    if not _is_alive(facts["pid"]):
        raise not_running
    return dict(facts)


def secagg_of(home: Path) -> Path:
    """Where the federation of a home has its part in secure aggregation.

    Raises:
        UnreachableError: If no federation runs there.
    """
    return Path(str(read(home)["secagg"]))


def connect(home: Path) -> Control:
    """A client of the federation that runs in this home.

    Raises:
        UnreachableError: If none runs there.
    """
    from server.control import Control

    facts = read(home)
    return Control(facts["address"], Path(facts["ca"]))


def _take(path: Path) -> Lock:
    """The lock of the home, after the processes of a crashed life have been cleared away."""
    lock = Lock(path, hint="another fl up runs in this home; end it, or give --home another directory")
    deadline = time.monotonic() + 2 * GRACE_S
    while True:
        try:
            lock.acquire()
        except BusyError:
            # The watchdog of a life whose fl was killed holds the lock until its last process is gone.
            if _is_alive(_holder(path)) or time.monotonic() > deadline:
                raise
            time.sleep(TICK_S)
        else:
            return lock


def _holder(path: Path) -> int:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return os.getpid()  # it is just being taken or given back


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
