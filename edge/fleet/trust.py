"""Pins the SSH keys of hosts: read from the host, shown to a person, kept in the fleet's known_hosts file."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import subprocess

from edge.fleet.site_config import Site
from fl.errors import ProcessError, StorageError, UnreachableError
from fl.files import write_atomic

TYPES = "ed25519,ecdsa,rsa"


@dataclasses.dataclass(frozen=True, slots=True)
class HostKey:
    """A host's key."""

    name: str
    """As known_hosts has it: ``host`` or ``[host]:port``."""
    kind: str
    key: str
    """Base64."""

    @property
    def fingerprint(self) -> str:
        """As ``ssh-keygen -l`` shows it."""
        digest = hashlib.sha256(base64.b64decode(self.key)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    @property
    def line(self) -> str:
        """Of known_hosts."""
        return f"{self.name} {self.kind} {self.key}"


def scan(site: Site, *, timeout_s: int = 10) -> list[HostKey]:
    """The keys that a host shows now. Whether they are its own, only a person can say.

    Raises:
        UnreachableError: If it shows none.
    """
    words = ["ssh-keyscan", "-T", str(timeout_s), "-p", str(site.ssh.port), "-t", TYPES, "--", site.host]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=6 * timeout_s, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise ProcessError(f"cannot run ssh-keyscan: {err}", hint="install OpenSSH's client") from err
    keys = []
    for line in done.stdout.splitlines():
        parts = line.split()
        if len(parts) == 3 and not line.startswith("#"):
            keys.append(HostKey(_name(site), parts[1], parts[2]))
    if not keys:
        raise UnreachableError(f"{site.host} port {site.ssh.port} shows no SSH key: site {site.id} cannot be pinned")
    return sorted(keys, key=lambda key: (key.kind != "ssh-ed25519", key.kind))


def pinned(site: Site) -> list[HostKey]:
    """The keys that are pinned for a host."""
    try:
        lines = site.ssh.known_hosts.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except OSError as err:
        raise StorageError(f"cannot read {site.ssh.known_hosts}: {err.strerror}") from err
    parts = [line.split() for line in lines]
    return [HostKey(part[0], part[1], part[2]) for part in parts if len(part) >= 3 and part[0] == _name(site)]


def pin(site: Site, keys: list[HostKey]) -> None:
    """Keep these keys for a host, instead of those that were kept before."""
    path = site.ssh.known_hosts
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except OSError as err:
        raise StorageError(f"cannot read {path}: {err.strerror}") from err
    kept = [line for line in lines if line.split()[:1] != [_name(site)]]
    write_atomic(path, "\n".join([*kept, *(key.line for key in keys)]) + "\n")


def _name(site: Site) -> str:
    return site.host if site.ssh.port == 22 else f"[{site.host}]:{site.ssh.port}"
