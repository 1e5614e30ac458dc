"""One site of the fleet file: its host, its cluster, its GPUs, its data."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from edge import windows
from fl.config import check_range, check_site_name
from fl.errors import ConfigError

Distro = Literal["k3s", "microk8s", "existing"]

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,51}[a-z0-9])?")
"""What Kubernetes and Helm take as a name."""

SECRET = re.compile(r"(?i)(password|passwd|passphrase|token|private_?key|api_?key|credential)")
PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----|^fl1\.")


def check_name(key: str, value: str) -> None:
    """Refuse what Kubernetes would not take as a name."""
    if not NAME.fullmatch(value):
        raise ConfigError(f"{key} is {value!r}, must be small letters, digits and -")


def split_address(key: str, address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[v6]:port``."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536 or "/" in host:
        raise ConfigError(f"{key} has {address!r}, must be host:port")
    return host, int(port)


def refuse_secrets(where: str, value: Any, key: str = "") -> None:
    """Refuse a table with what looks like a secret: it would lie in a file that is kept and shared."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            refuse_secrets(where, item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            refuse_secrets(where, item, f"{key}[{number}]")
    elif isinstance(value, str) and value and (PEM.search(value) or SECRET.search(key.rpartition(".")[2])):
        raise ConfigError(
            f"{where}: {key} looks like a secret", hint="put it into a Secret of the cluster and name that"
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SshConfig:
    """The ``ssh`` key of a site."""

    user: str | None = None
    """User to log in as; unset: what ``~/.ssh/config`` or ssh itself says."""

    port: int = 22
    """Port of its sshd."""

    key_file: Path | None = None
    """Private key to log in with; unset: the agent's, or the user's own."""

    known_hosts: Path = Path("known_hosts")
    """File with the pinned keys of hosts; ``fl fleet trust`` writes it. A host that is not in it is refused."""

    jump: str | None = None
    """Host to go through, ``user@host:port``, as ssh's ``ProxyJump``."""

    connect_timeout_s: float = 15.0
    """How long a connection may take to come about."""

    def __post_init__(self) -> None:
        check_range("ssh.port", self.port, at_least=1, at_most=65535)
        check_range("ssh.connect_timeout_s", self.connect_timeout_s, at_least=1, at_most=300)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KubernetesConfig:
    """The ``kubernetes`` key of a site: its cluster."""

    channel: str = "1.34/stable"
    """Track of the snap that MicroK8s is pinned to; refreshes are held. K3s has the version of the bundle."""

    role: Literal["server", "agent"] = "server"
    """What K3s is on this host; an agent joins another host's server, and has no release of its own."""

    server: str | None = None
    """For an agent: the server's address, ``https://host:6443``."""

    agent_token_file: str | None = None
    """For an agent: file on the host with the server's token, put there by who runs that cluster."""

    kubeconfig: str | None = None
    """For ``distro: existing``: the kubeconfig file on the host."""

    registries: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Content of K3s' ``registries.yaml``: mirrors of the site's own."""

    encrypt_secrets: bool = True
    """Have K3s encrypt Secrets at rest."""

    hardened: bool = True
    """Kernel settings, audit policy and Pod Security as K3s' hardening guide has them."""

    low_write: bool = False
    """For slow disks and SD cards: fewer events and fewer syncs of K3s' database."""

    addons: tuple[str, ...] = ("rbac", "dns", "hostpath-storage")
    """MicroK8s add-ons to switch on."""

    def __post_init__(self) -> None:
        if self.role == "agent" and not (self.server and self.agent_token_file):
            raise ConfigError("kubernetes.role is agent, which needs kubernetes.server and kubernetes.agent_token_file")
        if "rbac" not in self.addons:
            raise ConfigError("kubernetes.addons lacks rbac: without it every pod may do everything")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class GpuConfig:
    """The ``gpu`` key of a site."""

    count: int = 0
    """GPUs that the host has; 0: none is set up."""

    sharing: Literal["none", "time-slicing"] = "none"
    """Whether pods share a GPU in turns; memory is then not kept apart."""

    replicas: int = 1
    """With time slicing: how many pods share one GPU."""

    min_driver: str = "550"
    """Oldest NVIDIA driver that will do."""

    def __post_init__(self) -> None:
        check_range("gpu.count", self.count, at_least=0, at_most=64)
        check_range("gpu.replicas", self.replicas, at_least=1, at_most=48)
        if (self.sharing == "time-slicing") != (self.replicas > 1):
            raise ConfigError(
                f"gpu.sharing is {self.sharing} and gpu.replicas {self.replicas}: one contradicts the other"
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MountConfig:
    """One entry of a site's ``data``."""

    name: str
    """Name under which tasks find the data."""

    path: str
    """Directory on the host."""

    read_only: bool = True
    """Always true: tasks cannot change a site's data."""

    def __post_init__(self) -> None:
        check_name("data.name", self.name)
        if not self.read_only:
            raise ConfigError(f"data.read_only of {self.name} is false: tasks only read data", hint="remove it")
        if not self.path.startswith("/") or ".." in Path(self.path).parts:
            raise ConfigError(f"data.path is {self.path!r}, must be an absolute path")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NeedsConfig:
    """The ``needs`` key of a site: what its task asks of the host; the doctor compares."""

    memory_mib: int = 2048
    """Memory that the site's pods need."""

    disk_free_mib: int = 10_240
    """Room that must be free for images and the outbox."""

    disk_mib_per_s: float = 20.0
    """Slowest disk that will do, written with syncs."""

    def __post_init__(self) -> None:
        check_range("needs.memory_mib", self.memory_mib, at_least=1)
        check_range("needs.disk_free_mib", self.disk_free_mib, at_least=0)
        check_range("needs.disk_mib_per_s", self.disk_mib_per_s, at_least=0)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One entry of ``sites``; every key but ``id`` and ``host`` can stand under ``defaults``, too."""

    id: str
    """The site's id, as the centre knows it."""

    host: str
    """Name or address of its host."""

    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Labels for waves and for ``--label``."""

    distro: Distro = "k3s"
    """Its Kubernetes: ``k3s`` and ``microk8s`` are installed, ``existing`` is used as it is."""

    ssh: SshConfig = dataclasses.field(default_factory=SshConfig)
    """How to log in."""

    kubernetes: KubernetesConfig = dataclasses.field(default_factory=KubernetesConfig)
    """Its cluster."""

    gpu: GpuConfig = dataclasses.field(default_factory=GpuConfig)
    """Its GPUs."""

    data: tuple[MountConfig, ...] = ()
    """Directories with the site's data."""

    needs: NeedsConfig = dataclasses.field(default_factory=NeedsConfig)
    """What the host must have."""

    window: str | None = None
    """When the site may be changed: ``Sat 01:00-05:00 Europe/Berlin``, ``Mon-Fri 22:00-04:00 UTC``; unset: always."""

    namespace: str = "fl-system"
    """Namespace of the release."""

    release_name: str = "fl-site"
    """Name of the Helm release."""

    release_s: float = 300.0
    """How long the pods of a new release may take to be ready, before Helm goes back by itself."""

    policy: Path | None = None
    """A policy file to put in place where the site has none; one that is there is the owner's, and stays."""

    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """More values for the chart ``fl-site``; they win over those made from this file."""

    def __post_init__(self) -> None:
        check_site_name(self.id)
        if not self.host or self.host.startswith("-") or any(letter.isspace() for letter in self.host):
            raise ConfigError(f"host of site {self.id} is {self.host!r}, must be a name or an address")
        if self.window is not None:
            windows.parse(self.window)
        if self.distro == "existing" and not self.kubernetes.kubeconfig:
            raise ConfigError(f"site {self.id} has an existing cluster, but no kubernetes.kubeconfig")
        check_range("release_s", self.release_s, at_least=10, at_most=3600)
        check_name("namespace", self.namespace)
        check_name("release_name", self.release_name)
        refuse_secrets(f"values of site {self.id}", self.values)
