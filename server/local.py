"""A federation on one computer: a centre and N sites with data and keys of their own, all ended together.

The centre and the sites are those of a deployment: sites join with a token, and reach the centre through the gateway
only. Its home directory::

    lock              held while it runs
    federation.json   how to reach it; there only while it runs
    server/           the centre's home (``server.home``); its keys, certificates and registry are of this life, and
                      erased when it ends, also after a crash; runs of earlier lives stay listed
    sites/site-1/     a site's home (``edge.home``): data, logs; its keys and certificates are erased as well
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

import tomli_w

from fl import ports
from fl.config import check_range
from fl.errors import BusyError, JournalError, UnreachableError
from fl.files import Lock, write_atomic
from fl.link.token import JoinToken
from fl.processes import Group, Restart
from fl.rounds.names import Numbered
from server import shards, supervisor, tokens
from server.centre import Centre, found
from server.gateway.config import GatewayConfig
from server.home import EnrolmentConfig, Home, ServerConfig

if TYPE_CHECKING:
    from server.control import Control

DEFAULT_HOME = Path(".fedfleet")
HOME_VARIABLE = "FEDFLEET_HOME"
FEDERATION = "federation.json"
# A site gives its own processes 5 s to say goodbye.
GRACE_S = 8.0
READY_WITHIN_S = 300.0
TICK_S = 0.1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FederationConfig:
    """What to start."""

    home: Path
    """Directory of the federation; made if needed."""

    sites: int = 3
    """Number of sites."""

    port: int | None = None
    """Port of the gateway on 127.0.0.1; a free one is chosen without it."""

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
        self._facts: dict[str, object] = {}

    @property
    def runs(self) -> Path:
        """Directory of the runs' journals."""
        return self.home / "runs"

    @property
    def secagg(self) -> Path:
        """Directory of the server's part in secure aggregation."""
        return self.server.secagg

    @property
    def server(self) -> Home:
        """The centre's home."""
        return Home(self.home / "server")

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
        lock = take(home / "lock", hint="another fl up runs in this home; end it, or give --home another directory")
        ends.callback(lock.release)
        (home / FEDERATION).unlink(missing_ok=True)
        self.runs.mkdir(exist_ok=True)
        self._group = ends.enter_context(Group(grace_s=GRACE_S, hold=[lock.fileno()]))
        self._group.erase(home / FEDERATION)
        names = list(Numbered(self.config.sites))
        joining = self._found(f"{supervisor.HOST}:{port}", names)
        for number, name in enumerate(names):
            self._start_site(name, number, joining[name])
        if self.config.data is not None:  # while the processes start
            directories = [self._site_home(name) / "data" for name in names]
            self._examples = shards.write(self.config.data, directories)
        self.control = ends.enter_context(supervisor.start(self._group, self.server, say=self._say))
        self._wait(lambda: self._all_online(names), "bringing all sites online", tick_s=0.3)
        task = self.config.data.task if self.config.data else None
        self._facts = write_facts(home, self.control.address, self.server, task=task, sites=self.sites)

    def as_dict(self) -> dict[str, object]:
        """How to reach the federation, and what it is, as in ``federation.json``."""
        return self._facts

    def _found(self, address: str, names: list[str]) -> dict[str, JoinToken]:
        """Make the centre of this life, and a join token for each site."""
        centre = self.server
        for path in (centre.ca, centre.gateway, centre.secagg):
            shutil.rmtree(path, ignore_errors=True)
            self._group.erase(path)
        for name in ("server.toml", "store.db", "store.db-wal", "store.db-shm", "gateway.sock"):
            (centre.path / name).unlink(missing_ok=True)
            self._group.erase(centre.path / name)
        config = ServerConfig(
            addresses=(address,),
            enrolment=EnrolmentConfig(approval="automatic"),
            gateway=GatewayConfig(listen=(address,)),
        )
        found(centre, config, roster_authority=None)
        registry = Centre(centre)
        try:
            return {name: tokens.invite(registry.enrolment, name) for name in names}
        finally:
            registry.close()

    def _start_site(self, name: str, number: int, token: JoinToken) -> None:
        """A process that knows only what a site may know: it makes its own keys, joins, and runs."""
        home = self._site_home(name)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        for earlier in ("keys", "secagg", "certificates", "joining", "outbox", "data"):
            shutil.rmtree(home / earlier, ignore_errors=True)
        for secret in ("keys", "certificates", "joining", "secagg/identity.key", "join.token"):
            self._group.erase(home / secret)
        facts: dict[str, Any] = {
            "id": name,
            "gateways": list(token.gateways),
            "partition_id": number,
            "num_partitions": self.config.sites,
            "threads": max(1, (os.cpu_count() or 1) // self.config.sites),
        }
        if self.config.data is not None:
            (home / "data").mkdir()
            facts["data_dir"] = str(home / "data")
        write_atomic(home / "site.toml", tomli_w.dumps(facts))
        write_atomic(home / "join.token", token.encode(), mode=0o600)
        argv = [sys.executable, "-m", "fl.cli", "site", "run", "--home", str(home), "--token", f"@{home}/join.token"]
        self._group.start(name, argv, env=os.environ, log=home / "site.log", restart=Restart())

    def _all_online(self, names: list[str]) -> bool:
        nodes = {node.name: node for node in self.control.nodes()}
        self.sites = {name: nodes[name].node_id for name in names if name in nodes}
        return len(self.sites) == len(names) and all(nodes[name].status == "online" for name in names)

    def _wait(self, until: Callable[[], bool], what: str, tick_s: float = TICK_S) -> None:
        self._group.wait(until, what=what, timeout_s=READY_WITHIN_S, say=self._say, tick_s=tick_s)

    def _site_home(self, name: str) -> Path:
        return self.home / "sites" / name


def write_facts(
    home: Path, address: str, centre: Home, *, task: str | None = None, sites: Mapping[str, int] | None = None
) -> dict[str, object]:
    """Say in ``federation.json`` how other commands reach the centre that this process runs.

    Args:
        home: Where they look for it.
        address: Of SuperLink.
        centre: The centre's home.
        task: Whose data the sites have, if that is known.
        sites: Node ids of the sites, by name, if they are of this process.

    Returns:
        The content of the file.
    """
    facts: dict[str, object] = {
        "version": 1,
        "pid": os.getpid(),
        "home": str(home.resolve()),
        "address": address,
        "ca": str(centre.superlink.resolve() / "keys" / "ca.crt"),
        "secagg": str(centre.secagg.resolve()),
        "task": task,
        "sites": [{"name": name, "node_id": node_id} for name, node_id in (sites or {}).items()],
    }
    write_atomic(home / FEDERATION, json.dumps(facts, indent=2), mode=0o600)
    return facts


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
        facts = json.loads((home / FEDERATION).read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise not_running from err
    if facts["version"] != 1:
        raise JournalError(f"{home / FEDERATION} has version {facts['version']}, this fl knows version 1")
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


def take(path: Path, *, hint: str) -> Lock:
    """The lock of a home, after the processes of a crashed life have been cleared away.

    Raises:
        BusyError: If somebody holds it who is alive.
    """
    lock = Lock(path, hint=hint)
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
