"""The programs of a host by distribution, and where things lie there."""

from __future__ import annotations

import shlex
from typing import Final

HOME: Final = "/var/lib/fedfleet"
"""What the fleet keeps on a host: blobs, the chart, the record of what it installed."""

INSTALLED: Final = f"{HOME}/installed"
BLOBS: Final = f"{HOME}/blobs"
BUNDLE: Final = f"{HOME}/bundle"
SIGNERS: Final = "/etc/fedfleet/allowed_signers"

K3S_KUBECONFIG: Final = "/etc/rancher/k3s/k3s.yaml"
MICROK8S_KUBECONFIG: Final = "/var/snap/microk8s/current/credentials/client.config"

HELM_LOCK: Final = "/run/lock/fedfleet-helm"


def kubeconfig(distro: str, given: str | None = None) -> str:
    """The cluster's administrator file on the host."""
    if distro == "existing":
        assert given is not None
        return given
    return MICROK8S_KUBECONFIG if distro == "microk8s" else K3S_KUBECONFIG


def kubectl(distro: str, given: str | None = None) -> str:
    """``kubectl`` of that cluster; a question waits 20 seconds at most."""
    program = {"k3s": "k3s kubectl", "microk8s": "microk8s kubectl"}.get(distro)
    if program is None:
        program = f"kubectl --kubeconfig {shlex.quote(kubeconfig(distro, given))}"
    return f"{program} --request-timeout=20s"


def helm(distro: str, given: str | None = None) -> str:
    """The bundle's Helm, for that cluster."""
    return f"helm --kubeconfig {shlex.quote(kubeconfig(distro, given))}"


def ctr(distro: str) -> str:
    """Containerd's client, in the namespace of Kubernetes."""
    program = {"k3s": "k3s ctr", "microk8s": "microk8s ctr"}.get(distro, "ctr")
    return f"{program} -n k8s.io"
