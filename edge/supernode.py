"""One site's processes: a node key that never leaves, Flower's SuperNode and its executor, restarted if they die.

The SuperNode authenticates itself at the SuperLink with its own key, over TLS, and runs with process
isolation: every message is handled by a process of its own that the executor starts. SuperNode and executor
talk over plain HTTP on 127.0.0.1, because nothing leaves the machine there; a shared secret keeps other
users of the machine from being handed a task and its data.

A SuperNode that was killed is refused for up to a minute after it starts again, until its former life
counts as offline (Flower ends it with code 305, as it does a node that is not registered yet). That is
expected, said once, and tried again.
"""

from __future__ import annotations

import dataclasses
import json
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl import ports, processes
from fl.config import check_range
from fl.errors import ConfigError
from fl.files import Lock, write_atomic
from fl.processes import Group, Restart
from fl.rounds import secure_site
from fl.secagg.storage import read_identity, read_public_key, write_private_key

SUPERNODE = "supernode"
EXECUTOR = "executor"
HOST = "127.0.0.1"
NOT_LET_IN = "Exit Code: 305"
WAITS = "not let in yet: the node is not registered, or its former life is not over; trying again"
# Longer than the SuperNode needs to say goodbye, so that the SuperLink knows at once that it is gone.
GRACE_S = 5.0
SUPERNODE_RESTART = Restart(expected={NOT_LET_IN: WAITS}, expected_delay_s=2.0)
READY_WITHIN_S = 120.0
TICK_S = 0.2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SiteConfig:
    """One site of a federation."""

    name: str
    """Name of the site: letters, digits, dots, dashes and underscores."""

    superlink: str
    """Where the SuperLink listens, ``host:port``."""

    ca: Path
    """Certificate authority that the SuperLink's certificate must come from."""

    home: Path
    """Directory of the site's key, logs and Flower's files; made if needed."""

    data_dir: Path | None = None
    """Where the site's own data lies; tasks find it in the node's config."""

    partition_id: int = 0
    """Without a ``data_dir``: which part of the task's common data is this site's, counted from 0."""

    num_partitions: int = 1
    """Without a ``data_dir``: into how many parts the common data is cut."""

    authority: Path | None = None
    """Public key of the roster authority, pinned for secure aggregation; without it the site takes no part in it."""

    threads: int | None = None
    """Compute threads of each of the site's processes; ``None`` leaves the choice to them."""

    def __post_init__(self) -> None:
        check_range("num-partitions", self.num_partitions, at_least=1)
        check_range("partition-id", self.partition_id, at_least=0, below=self.num_partitions)
        check_range("threads", self.threads, at_least=1)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ConfigError(f"site name {self.name!r} has other characters than letters, digits, . - and _")
        host, _, port = self.superlink.rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"superlink is {self.superlink!r}, must be host:port")
        if not self.ca.is_file():
            raise ConfigError(f"no such file: {self.ca}", hint="--ca names the SuperLink's certificate authority")
        if self.data_dir is not None and not self.data_dir.is_dir():
            raise ConfigError(f"no such directory: {self.data_dir}")
        if self.authority is not None and not self.authority.is_file():
            raise ConfigError(f"no such file: {self.authority}", hint="--authority names the roster authority's key")
        for path in (self.data_dir, self.home):
            if "'" in str(path) or '"' in str(path):
                raise ConfigError(f"directory {path} has a quote in its name, which Flower cannot take")

    @property
    def keys(self) -> Path:
        """Directory of what must stay at the site; only the owner can read it."""
        return self.home / "keys"

    @property
    def public_key(self) -> Path:
        """The node's public key, PEM, to be registered at the SuperLink."""
        return self.home / "node.pub"

    @property
    def secagg(self) -> Path:
        """Directory of the site's part in secure aggregation: ``fl.rounds.secure_site.SecureSite``."""
        return self.home / "secagg"

    @property
    def public_identity(self) -> Path:
        """The identity's public key, in hexadecimal, to be signed into the roster."""
        return self.home / "identity.pub"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the SuperLink."""
        host, _, port = self.superlink.rpartition(":")
        return host.strip("[]"), int(port)


def run(config: SiteConfig, *, say: Callable[[str], None]) -> None:
    """Run one site until interrupted; its processes end with us, also when we are killed.

    Args:
        config: The site.
        say: Called with a line for everything worth telling.

    Raises:
        BusyError: If another process runs this site.
        ProcessError: If the SuperNode or its executor cannot be kept alive.
        StorageError: If the home cannot be written.
    """

    def tell(line: str) -> None:
        say(f"{config.name}: {line}")

    config.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    with Lock(config.home / "lock", hint="another process runs this site") as lock:
        make_keys(config)
        with Group(grace_s=GRACE_S, hold=[lock.fileno()]) as group:
            _start(group, config, tell)
            while True:
                for line in group.poll():
                    tell(line)
                time.sleep(TICK_S)


def _start(group: Group, config: SiteConfig, say: Callable[[str], None]) -> None:
    """Start both processes, each when the one that it calls answers: Flower waits longer after each failed call."""
    if not ports.accepts_connections(*config.address):
        say(f"waiting for the SuperLink at {config.superlink}")
        group.wait(
            lambda: ports.accepts_connections(*config.address),
            what=f"waiting for the SuperLink at {config.superlink}",
            timeout_s=float("inf"),
            say=say,
            tick_s=TICK_S,
        )
    port = ports.free_port()
    _start_supernode(group, config, port)
    group.wait(
        lambda: ports.accepts_connections(HOST, port),
        what="the start of the SuperNode",
        timeout_s=READY_WITHIN_S,
        say=say,
        tick_s=TICK_S,
    )
    _start_executor(group, config, port)


def make_keys(config: SiteConfig) -> None:
    """Make the node's key, if it is not there, and a new executor secret; write the public key for registration.

    Guarantees:
        The private key is written here only, readable by its owner only.

    Raises:
        StorageError: If they cannot be written.
        ConfigError: If the key that is there is no usable one.
    """
    config.keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.keys.chmod(0o700)
    path = config.keys / "node.key"
    if not path.exists():
        # Flower takes EC keys on NIST curves, in OpenSSH's format.
        made = ec.generate_private_key(ec.SECP384R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        )
        write_atomic(path, made, mode=0o600)
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except ValueError as err:
        raise ConfigError(f"{path} is no private key: {err}", hint="remove it to have a new one made") from err
    if config.authority is not None:
        _make_identity(config, config.authority)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_atomic(config.public_key, public)
    write_atomic(config.keys / "executor.secret", secrets.token_bytes(32), mode=0o600)


def _make_identity(config: SiteConfig, authority: Path) -> None:
    """Make the key that signs for this site in secure aggregation, if it is not there, and pin the authority's.

    Raises:
        ConfigError: If another authority was pinned before.
    """
    config.secagg.mkdir(mode=0o700, exist_ok=True)
    key, pinned = config.secagg / secure_site.IDENTITY, config.secagg / secure_site.AUTHORITY
    if not key.exists():
        write_private_key(key, Ed25519PrivateKey.generate())
    named = read_public_key(str(authority)).hex()
    if pinned.exists() and read_public_key(str(pinned)).hex() != named:
        raise ConfigError(
            f"{authority} is not the roster authority that this site has pinned",
            hint=f"compare both with the operator's before you remove {pinned}",
        )
    write_atomic(pinned, named + "\n")
    write_atomic(config.public_identity, read_identity(key, config.name).public.hex() + "\n")


def node_config(config: SiteConfig) -> str:
    """What the SuperNode tells every app about the site, as ``--node-config`` takes it."""
    values: dict[str, str | int] = {
        "site": config.name,
        "partition-id": config.partition_id,
        "num-partitions": config.num_partitions,
    }
    if config.data_dir is not None:
        values["data-dir"] = str(config.data_dir.resolve())
    if config.authority is not None:
        values["secagg-dir"] = str(config.secagg.resolve())
    return " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())


def _start_supernode(group: Group, config: SiteConfig, port: int) -> None:
    argv = [
        processes.program("flower-supernode"),
        *("--superlink", config.superlink),
        *("--root-certificates", str(config.ca)),
        *("--auth-supernode-private-key", str(config.keys / "node.key")),
        *("--isolation", "process"),
        *("--host", HOST, "--port", str(port)),
        *("--superexec-auth-secret-file", str(config.keys / "executor.secret")),
        *("--node-config", node_config(config)),
    ]
    log = config.home / "supernode.log"
    group.start(SUPERNODE, argv, env=_env(config), log=log, restart=SUPERNODE_RESTART)


def _start_executor(group: Group, config: SiteConfig, port: int) -> None:
    argv = [
        processes.program("flower-superexec"),
        *("--runtime-api-address", f"{HOST}:{port}", "--insecure"),
        *("--superexec-auth-secret-file", str(config.keys / "executor.secret")),
    ]
    group.start(EXECUTOR, argv, env=_env(config), log=config.home / "executor.log", restart=Restart())


def _env(config: SiteConfig) -> dict[str, str]:
    return processes.environment(home=config.home / "flower", threads=config.threads)
