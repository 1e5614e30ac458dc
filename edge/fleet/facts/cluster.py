"""K3s and MicroK8s on a host, and what the cluster says about its nodes and pods."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import shlex
from typing import Any

import yaml
from pyinfra.api.facts import FactBase


@dataclasses.dataclass(frozen=True, slots=True)
class K3s:
    """An installed K3s."""

    version: str
    role: str
    """``server``, ``agent`` or ``none`` (the program alone)."""
    state: str
    """What systemd says about its unit."""


class K3sState(FactBase[K3s | None]):
    """Version, role and state of K3s; ``None`` if it is not installed."""

    def command(self) -> str:
        """The unit file tells the role."""
        known = '[ -f /etc/systemd/system/$u.service ] && echo "$u $(systemctl is-active $u)"'
        return f"command -v k3s >/dev/null && {{ k3s --version 2>&1; for u in k3s k3s-agent; do {known}; done; }}; true"

    def process(self, output: list[str]) -> K3s | None:
        """From ``k3s version v1.34.1+k3s1 (24fc436e)``."""
        version = next((line.split()[2] for line in output if line.startswith("k3s version ")), None)
        if version is None:
            return None
        for line in output:
            if found := re.fullmatch(r"(k3s|k3s-agent) (\S+)", line.strip()):
                return K3s(version, "server" if found[1] == "k3s" else "agent", found[2])
        return K3s(version, "none", "inactive")


@dataclasses.dataclass(frozen=True, slots=True)
class Snap:
    """An installed snap."""

    version: str
    revision: str
    tracking: str
    is_held: bool
    is_disabled: bool


class SnapState(FactBase[Snap | None]):
    """Version, channel and hold of a snap; ``None`` if it is not installed."""

    def command(self, snap: str) -> str:
        """``snap list`` shows the hold under Notes."""
        return f"snap list {shlex.quote(snap)} 2>/dev/null || true"

    def process(self, output: list[str]) -> Snap | None:
        """The columns of the second line."""
        if len(output) < 2 or not output[0].startswith("Name"):
            return None
        columns = output[1].split()
        notes = columns[-1].split(",")
        return Snap(columns[1], columns[2], columns[3], "held" in notes, "disabled" in notes)


@dataclasses.dataclass(frozen=True, slots=True)
class MicroK8s:
    """A MicroK8s that answers."""

    is_running: bool
    addons: tuple[str, ...]


class MicroK8sState(FactBase[MicroK8s | None]):
    """Whether MicroK8s runs, and its add-ons that are switched on; ``None`` if it is not installed."""

    def command(self) -> str:
        """Its own report; without a cluster that answers, it is text."""
        return "command -v microk8s >/dev/null && microk8s status --format yaml --timeout 15 2>&1; true"

    def process(self, output: list[str]) -> MicroK8s | None:
        """YAML, or the sentence that it does not run."""
        text = "\n".join(output)
        report: Any = None
        with contextlib.suppress(yaml.YAMLError):
            report = yaml.safe_load(text)
        if not isinstance(report, dict) or "microk8s" not in report:
            return MicroK8s(False, ()) if text.strip() else None
        addons = [addon["name"] for addon in report.get("addons") or () if addon.get("status") == "enabled"]
        return MicroK8s(bool((report["microk8s"] or {}).get("running")), tuple(sorted(addons)))


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A Kubernetes node."""

    name: str
    is_ready: bool
    version: str
    gpus: int


class Nodes(FactBase[tuple[Node, ...] | None]):
    """The cluster's nodes; ``None`` when it does not answer."""

    def command(self, kubectl: str) -> str:
        """As JSON."""
        return f"{kubectl} get nodes -o json 2>/dev/null || true"

    def process(self, output: list[str]) -> tuple[Node, ...] | None:
        """GPUs are those that the device plugin offers."""
        items = _items(output)
        if items is None:
            return None
        nodes = []
        for item in items:
            status = item["status"]
            ready = any(it["type"] == "Ready" and it["status"] == "True" for it in status.get("conditions", ()))
            gpus = int(status.get("allocatable", {}).get("nvidia.com/gpu", 0))
            nodes.append(Node(item["metadata"]["name"], ready, status["nodeInfo"]["kubeletVersion"], gpus))
        return tuple(nodes)


@dataclasses.dataclass(frozen=True, slots=True)
class Pod:
    """A pod of the release."""

    name: str
    is_ready: bool
    restarts: int
    reason: str
    """Why it is not ready, in Kubernetes' own word; empty when it is."""
    images: tuple[str, ...]
    """Digests that its containers really run."""


class Pods(FactBase[tuple[Pod, ...] | None]):
    """The pods of a namespace that a label selects; ``None`` when the cluster does not answer."""

    def command(self, kubectl: str, namespace: str, selector: str) -> str:
        """As JSON."""
        chosen = f"-n {shlex.quote(namespace)} -l {shlex.quote(selector)}"
        return f"{kubectl} get pods {chosen} -o json 2>/dev/null || true"

    def process(self, output: list[str]) -> tuple[Pod, ...] | None:
        """A pod that ended well, a hook's for instance, is passed over."""
        items = _items(output)
        if items is None:
            return None
        return tuple(_pod(item) for item in items if item.get("status", {}).get("phase") != "Succeeded")


class Objects(FactBase[dict[str, str]]):
    """Objects that exist, ``kind/name`` by their digest annotation (empty without one).

    A Secret counts when it holds something: the chart makes that of a site's identity empty, and the site keeps the
    keys of a join that is on its way there (``joining.*``).
    """

    def command(self, kubectl: str, namespace: str, names: str) -> str:
        """``names`` are ``kind/name``, separated by blanks; those that do not exist are no error."""
        asked = " ".join(shlex.quote(name) for name in names.split())
        return f"{kubectl} get -n {shlex.quote(namespace)} {asked} --ignore-not-found -o json 2>/dev/null || true"

    @staticmethod
    def default() -> dict[str, str]:
        """None."""
        return {}

    def process(self, output: list[str]) -> dict[str, str]:
        """One object, a list, or nothing."""
        objects = {}
        for item in _items(output) or ():
            if item["kind"] == "Secret" and not _holds(item):
                continue
            annotations = item["metadata"].get("annotations") or {}
            objects[f"{item['kind'].lower()}/{item['metadata']['name']}"] = annotations.get("fedfleet/digest", "")
        return objects


def _holds(secret: dict[str, Any]) -> bool:
    return any(not key.startswith("joining.") for key in secret.get("data") or ())


def _items(output: list[str]) -> list[dict[str, Any]] | None:
    """The objects of ``kubectl``'s JSON; ``None`` for what is none."""
    try:
        document = json.loads("\n".join(output) or "null")
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    if document.get("kind") == "List" or "items" in document:
        return list(document["items"])
    return [document]


def _pod(item: dict[str, Any]) -> Pod:
    status = item["status"]
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    ready = any(it["type"] == "Ready" and it["status"] == "True" for it in status.get("conditions", ()))
    reason = ""
    if not ready:
        states = [state for it in containers for state in (it.get("state") or {}).values() if isinstance(state, dict)]
        reasons = [state["reason"] for state in states if state.get("reason") not in (None, "Completed")]
        scheduled = [
            it for it in status.get("conditions", ()) if it["type"] == "PodScheduled" and it["status"] != "True"
        ]
        reason = reasons[0] if reasons else scheduled[0].get("message", "") if scheduled else status.get("phase", "")
    digests = tuple(sorted({it["imageID"].rpartition("@")[2] for it in containers if it.get("imageID")}))
    restarts = sum(it.get("restartCount", 0) for it in containers)
    return Pod(item["metadata"]["name"], ready, restarts, reason, digests)
