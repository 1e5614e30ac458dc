"""The pod of a task and its Secret, as Kubernetes takes them: pure functions of the configuration.

The pod holds to Pod Security's *restricted*. It has no token of any service account; its only secret is its own token
for the runner's endpoint, in a file of a Secret that the pod owns, so that the one goes with the other.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from edge.runner.pod_config import PodConfig

MANAGED_BY = "fedfleet-runner"
SITE, APP = "fedfleet.dev/site", "fedfleet.dev/app"
COMPONENT = "task"
SECRET_DIRECTORY = "/run/fedfleet"  # noqa: S105
WORK_DIRECTORY = "/work"
TASK = "task"
STOP_WITHIN_S = 5


@dataclasses.dataclass(frozen=True, slots=True)
class Owner:
    """What the pods go with."""

    kind: str
    name: str
    uid: str

    def reference(self) -> dict[str, Any]:
        """As Kubernetes writes it."""
        return {"apiVersion": "v1", "kind": self.kind, "name": self.name, "uid": self.uid}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What one pod is for."""

    name: str
    site: str
    digest: str
    """Of the app whose tasks it runs."""
    address: str
    """Where the runner's endpoint is, ``host:port``."""
    home: str
    """The site's home, whose path tasks know."""
    life_s: float
    """After this long Kubernetes ends it, whatever it does."""


def selector(site: str) -> str:
    """Which pods are a site's task pods, as a query for the API."""
    return f"app.kubernetes.io/managed-by={MANAGED_BY},{SITE}={site}"


def pod(config: PodConfig, wanted: Wanted, owner: Owner) -> dict[str, Any]:
    """The pod.

    Guarantees:
        It meets Pod Security's *restricted*: no root, no privilege, no capability, the runtime's seccomp profile, a
        read-only root; it mounts no service-account token; it ends by itself after ``life_s``.
    """
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": math.ceil(wanted.life_s),
        "terminationGracePeriodSeconds": STOP_WITHIN_S,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "serviceAccountName": config.service_account,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": config.user,
            "runAsGroup": config.user,
            "fsGroup": config.user,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(config, wanted)],
        "volumes": _volumes(config, wanted),
    }
    if config.runtime_class:
        spec["runtimeClassName"] = config.runtime_class
    if config.priority_class:
        spec["priorityClassName"] = config.priority_class
    if config.node_selector:
        spec["nodeSelector"] = dict(config.node_selector)
    if config.tolerations:
        spec["tolerations"] = [dict(toleration) for toleration in config.tolerations]
    if config.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in config.image_pull_secrets]
    if config.claims:
        spec["resourceClaims"] = [
            {"name": name, "resourceClaimTemplateName": template} for name, template in config.claims.items()
        ]
    metadata = {
        "name": wanted.name,
        "namespace": config.namespace,
        "labels": _labels(config, wanted),
        "ownerReferences": [owner.reference()],
    }
    if config.annotations:
        metadata["annotations"] = dict(config.annotations)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def secret(config: PodConfig, wanted: Wanted, owner: Owner, files: Mapping[str, bytes]) -> dict[str, Any]:
    """The Secret with what the pod needs to reach the runner; its owner is the pod."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {
            "name": wanted.name,
            "namespace": config.namespace,
            "labels": _labels(config, wanted),
            "ownerReferences": [owner.reference()],
        },
        "data": {name: base64.b64encode(content).decode() for name, content in files.items()},
    }


def _labels(config: PodConfig, wanted: Wanted) -> dict[str, str]:
    labels = dict(config.labels) | {
        "app.kubernetes.io/name": "fl-site",
        "app.kubernetes.io/component": COMPONENT,
        "app.kubernetes.io/managed-by": MANAGED_BY,
        SITE: wanted.site,
        APP: wanted.digest[:32],
    }
    return labels | ({"kueue.x-k8s.io/queue-name": config.queue} if config.queue else {})


def _container(config: PodConfig, wanted: Wanted) -> dict[str, Any]:
    resources: dict[str, Any] = {"requests": dict(config.requests), "limits": dict(config.limits)}
    if config.claims:
        resources["claims"] = [{"name": name} for name in config.claims]
    own = {"HOME": WORK_DIRECTORY, "FLWR_HOME": f"{WORK_DIRECTORY}/flower", "TMPDIR": "/tmp"}  # noqa: S108
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    return {
        "name": TASK,
        "image": config.image,
        "imagePullPolicy": config.image_pull_policy,
        "command": ["python", "-m", "edge.runner.pod_agent"],
        "args": ["--address", wanted.address, "--secrets", SECRET_DIRECTORY, "--work", WORK_DIRECTORY],
        "env": [{"name": name, "value": value} for name, value in (own | quiet | dict(config.env)).items()],
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "secrets", "mountPath": SECRET_DIRECTORY, "readOnly": True},
            {"name": "work", "mountPath": WORK_DIRECTORY},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108
            # Where tasks look for the site's part in secure aggregation: memory, so that keys leave no trace on a disk.
            {"name": "home", "mountPath": wanted.home},
            *({"name": name, "mountPath": path, "readOnly": True} for name, path in config.mounts.items()),
        ],
    }


def _volumes(config: PodConfig, wanted: Wanted) -> list[dict[str, Any]]:
    disk = f"{config.scratch_mib}Mi"
    return [
        # What the pod's user may read, and nobody else in the pod.
        {"name": "secrets", "secret": {"secretName": wanted.name, "defaultMode": 0o440}},
        {"name": "work", "emptyDir": {"sizeLimit": disk}},
        {"name": "tmp", "emptyDir": {"sizeLimit": disk}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{config.shared_memory_mib}Mi"}},
        {"name": "home", "emptyDir": {"medium": "Memory", "sizeLimit": "16Mi"}},
        *(dict(volume) for volume in config.volumes),
    ]
