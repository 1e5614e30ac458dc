"""``pods.toml``: how a site's tasks run as Kubernetes pods, one at a time, each with the GPU that it asks for."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fl.config import check_range, load, read_toml
from fl.errors import ConfigError

DEFAULT_IDLE_S = 60.0
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_GPU = re.compile(r"nvidia\.com/|amd\.com/|gpu", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PodConfig:
    """``pods.toml``."""

    image: str
    """Image of a task's pod, with a digest or a tag other than `latest`; it holds fedfleet and what apps import."""

    namespace: str = "fl-tasks"
    """Namespace in which task pods are made; the runner needs its rights there and nowhere else."""

    owner: str = ""
    """ServiceAccount in that namespace that owns the pods, so that they go when it goes; empty: the runner's own pod,
    which must then be in the same namespace."""

    service_account: str = "default"
    """ServiceAccount that pods run as, which brings pull secrets; no token of it is mounted."""

    host: str = ""
    """Address at which pods reach the runner; empty takes the environment's `FEDFLEET_POD_IP`."""

    port: int = 9443
    """Port at which pods reach the runner over TLS."""

    idle_s: float | None = None
    """How long a pod waits for the next task of the same app; unset: 60 without a GPU, 0 with one, which is then held
    only while a task runs."""

    start_within_s: float = 600.0
    """Longest that a task waits for its pod to start: for a free node or GPU, and for the image."""

    pull_within_s: float = 120.0
    """Longest of it that the image may fail to be pulled."""

    retries: int = 2
    """How often a task is run anew whose pod was taken away: evicted, preempted, drained, its node lost."""

    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """As Kubernetes means it."""

    image_pull_secrets: tuple[str, ...] = ()
    """Names of Secrets in the namespace with which the image is pulled."""

    runtime_class: str = ""
    """RuntimeClass of the pod, `nvidia` on K3s; empty takes the node's."""

    priority_class: str = ""
    """PriorityClass of the pod; empty takes the cluster's."""

    queue: str = ""
    """Kueue's LocalQueue that the pod waits in; empty uses none."""

    node_selector: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Labels that a node must have."""

    tolerations: tuple[Mapping[str, Any], ...] = ()
    """Taints that the pod tolerates, as Kubernetes writes them."""

    requests: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"cpu": "1", "memory": "1Gi"})
    """Resources that are kept free for the pod."""

    limits: Mapping[str, str] = dataclasses.field(default_factory=lambda: {"memory": "4Gi"})
    """Resources that it may use at most; GPUs are asked for here: `"nvidia.com/gpu" = "1"`."""

    claims: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Devices by dynamic resource allocation (Kubernetes 1.34 and later): name = ResourceClaimTemplate."""

    volumes: tuple[Mapping[str, Any], ...] = ()
    """The site's data, as Kubernetes writes volumes; mounted read-only."""

    mounts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Where each volume is mounted: name = path. `data_dir` of `site.toml` must be one of them or in one."""

    scratch_mib: int = 2048
    """Room on the node's disk for what a task writes, with the model that comes in and the update that goes out."""

    shared_memory_mib: int = 256
    """Memory for `/dev/shm`, which data loaders with workers need; it counts as the pod's."""

    user: int = 10001
    """User and group that the pod runs as; not root."""

    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """More labels of the pod."""

    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Annotations of the pod."""

    env: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Environment of the pod; no secrets, everybody who may see pods can read it."""

    allow_without_rbac: bool = False
    """Run although the cluster lets everybody do everything, as MicroK8s does before `microk8s enable rbac`."""

    def __post_init__(self) -> None:
        check_image("image", self.image)
        for key in ("namespace", "owner", "service_account"):
            value = getattr(self, key)
            if not _NAME.fullmatch(value) and (value or key == "namespace"):
                raise ConfigError(f"{key} is {value!r}, must be a name as Kubernetes has them")
        check_range("port", self.port, at_least=1, at_most=65535)
        check_range("idle_s", self.idle_s, at_least=0)
        check_range("start_within_s", self.start_within_s, above=0)
        check_range("pull_within_s", self.pull_within_s, above=0)
        check_range("retries", self.retries, at_least=0)
        check_range("scratch_mib", self.scratch_mib, at_least=16)
        check_range("shared_memory_mib", self.shared_memory_mib, at_least=1)
        check_range("user", self.user, at_least=1)
        names = [volume.get("name") for volume in self.volumes]
        if missing := set(self.mounts) - set(names):
            raise ConfigError(f"mounts names {min(missing)!r}, which is none of the volumes")
        if forgotten := [name for name in names if name not in self.mounts]:
            raise ConfigError(f"the volume {forgotten[0]!r} is mounted nowhere", hint="name its path in mounts")

    @property
    def has_gpu(self) -> bool:
        """Whether the pod asks for a GPU, or for a device by a claim."""
        return bool(self.claims) or any(_GPU.search(name) for name in {**self.requests, **self.limits})

    @property
    def keeps_s(self) -> float:
        """How long a pod is kept for the next task."""
        if self.idle_s is not None:
            return self.idle_s
        return 0.0 if self.has_gpu else DEFAULT_IDLE_S

    @classmethod
    def from_file(cls, path: Path) -> PodConfig:
        """The file's.

        Raises:
            ConfigError: If it cannot be used.
        """
        return load(cls, read_toml(path))


def check_image(key: str, image: str) -> None:
    """Refuse an image that may be another one tomorrow.

    Raises:
        ConfigError: If it has neither a digest nor a tag, or the tag is ``latest``.
    """
    name, _, digest = image.partition("@")
    if digest:
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
            raise ConfigError(f"{key} is {image!r}, whose digest is none", hint="@sha256: and 64 hexadecimal digits")
        return
    tag = name.rpartition("/")[2].partition(":")[2]
    if not name or not tag or tag == "latest":
        hint = "name its digest, or a tag that always means the same image"
        raise ConfigError(f"{key} is {image!r}, which may be another image tomorrow", hint=hint)
