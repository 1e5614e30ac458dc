"""GPUs for containers: NVIDIA's toolkit, the RuntimeClass, and a runtime that knows them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pyinfra.api.operation import operation
from pyinfra.context import host

from edge.fleet import tools
from edge.fleet.facts.gpu import ContainerToolkit
from edge.fleet.facts.release import InstalledParts
from edge.fleet.facts.system import FileOf
from edge.fleet.operations.command import Commands, blob, command, look, note

K3S_CONTAINERD = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml"
MICROK8S_CONTAINERD = "/var/snap/microk8s/current/args/containerd-template.toml"
KNOWN = f"{tools.HOME}/gpu-runtime"
PACKAGE = "nvidia-container-toolkit"

RUNTIME_CLASS: Mapping[str, Any] = {
    "apiVersion": "node.k8s.io/v1",
    "kind": "RuntimeClass",
    "metadata": {"name": "nvidia"},
    "handler": "nvidia",
}


@operation()
def toolkit(packages: Sequence[str] = ()) -> Commands:
    """The NVIDIA container toolkit.

    Args:
        packages: Blobs of its Debian packages, in the order of installation; without any, apt is asked.
    """
    there = look(ContainerToolkit)
    if there:
        host.noop(f"toolkit {there} is there")
        return
    apt = "apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends"
    if packages:
        files = [f"{tools.HOME}/{number:02}.deb" for number in range(len(packages))]
        copies = " && ".join(f"cp {blob(name)} {file}" for name, file in zip(packages, files, strict=True))
        made = f"{copies} && dpkg -i {' '.join(files)} && rm -f {' '.join(files)}"
    else:
        made = f"{apt} {PACKAGE}"
    yield command(note("toolkit"), f"export DEBIAN_FRONTEND=noninteractive; {made}", timeout_s=600)


@operation()
def runtime(distro: str) -> Commands:
    """A containerd that knows the runtime ``nvidia``: K3s looks for it at its start only, MicroK8s is told."""
    if look(FileOf, path=KNOWN) is not None:
        host.noop("the runtime is known")
        return
    if distro == "k3s":
        there = f"grep -q nvidia {K3S_CONTAINERD}"
        known = f"{there} || {{ systemctl restart k3s && sleep 5 && {there}; }}"
    else:
        told = f"nvidia-ctk runtime configure --runtime=containerd --config={MICROK8S_CONTAINERD}"
        known = f"grep -q nvidia {MICROK8S_CONTAINERD} || {{ {told} && microk8s stop && microk8s start; }}"
    yield command(f"{{ {known}; }} && mkdir -p {tools.HOME} && touch {KNOWN}", timeout_s=300)


@operation()
def toolkit_removed() -> Commands:
    """No toolkit of ours."""
    if "toolkit" not in look(InstalledParts):
        host.noop("the toolkit is not ours")
        return
    gone = f"DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 remove -y --autoremove {PACKAGE}"
    yield command(f"{gone} && rm -f {KNOWN} {tools.INSTALLED}/toolkit", timeout_s=600)


def plugin_values(sharing: str, replicas: int) -> str:
    """Values of NVIDIA's device plugin chart, as YAML: with time slicing each GPU is offered several times."""
    values: dict[str, Any] = {"runtimeClassName": "nvidia"}
    if sharing == "time-slicing":
        resources = [{"name": "nvidia.com/gpu", "replicas": replicas}]
        config = {"version": "v1", "sharing": {"timeSlicing": {"resources": resources}}}
        values["config"] = {"map": {"default": yaml.safe_dump(config, sort_keys=True)}}
    text: str = yaml.safe_dump(values, sort_keys=True)
    return text


def plugin_digest(chart: str, values: str) -> str:
    """Digest of the device plugin's release."""
    return hashlib.sha256(f"{chart}{values}".encode()).hexdigest()[:16]
