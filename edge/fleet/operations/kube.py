"""Objects of a cluster: namespace, Secret, manifest."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from typing import Any

from pyinfra.api.operation import operation
from pyinfra.context import host

from edge.fleet import tools
from edge.fleet.facts.cluster import Nodes, Objects
from edge.fleet.facts.release import InstalledParts
from edge.fleet.operations.command import Commands, command, look, note


@operation()
def ready(kubectl: str, nodes: int = 1, timeout_s: int = 300) -> Commands:
    """A cluster that answers, with nodes that are ready."""
    there = look(Nodes, kubectl=kubectl) or ()
    if len(there) >= nodes and all(node.is_ready for node in there):
        host.noop("the cluster is ready")
        return
    asked = f"{kubectl} wait --for=condition=Ready node --all --timeout=20s"
    yield command(f"until {asked}; do sleep 3; done", timeout_s=timeout_s)


@operation()
def manifest(kubectl: str, content: Mapping[str, Any], namespace: str = "default") -> Commands:
    """An object as in this manifest; its digest is kept in an annotation.

    Args:
        kubectl: kubectl's command line (``edge.fleet.tools.kubectl``).
        content: The manifest.
        namespace: Where to look for it, for an object that has a namespace.
    """
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    name = f"{str(content['kind']).lower()}/{content['metadata']['name']}"
    if look(Objects, kubectl=kubectl, namespace=namespace, names=name).get(name) == digest:
        host.noop(f"{name} is as wanted")
        return
    metadata = dict(content["metadata"])
    metadata["annotations"] = {**metadata.get("annotations", {}), "fedfleet/digest": digest}
    document = json.dumps({**content, "metadata": metadata}, sort_keys=True)
    yield command(f"{kubectl} apply -f -", timeout_s=60, stdin=f"{document}\n")


@operation()
def config_map(kubectl: str, namespace: str, config_map: str, key: str, value: str) -> Commands:
    """A ConfigMap with one key, if there is none: one that is there belongs to the site's owner."""
    known = f"configmap/{config_map}"
    if known in look(Objects, kubectl=kubectl, namespace=namespace, names=known):
        host.noop(f"{known} is there")
        return
    into = f"{shlex.quote(config_map)} -n {shlex.quote(namespace)} --from-file={shlex.quote(key)}=/dev/stdin"
    yield command(f"{kubectl} create configmap {into}", timeout_s=60, stdin=value)


@operation()
def absent(kubectl: str, namespace: str, object_: str) -> Commands:
    """No such object, ``kind/name``."""
    if object_ not in look(Objects, kubectl=kubectl, namespace=namespace, names=object_):
        host.noop(f"{object_} is not there")
        return
    yield command(f"{kubectl} delete {shlex.quote(object_)} -n {shlex.quote(namespace)} --timeout=120s", timeout_s=150)


@operation()
def namespace(kubectl: str, name_: str, level: str = "restricted") -> Commands:
    """A namespace that lets in pods of one Pod Security level; noted as ours if it was not there."""
    known = f"namespace/{name_}"
    if known in look(Objects, kubectl=kubectl, namespace="default", names=known):
        host.noop(f"{known} is there")
        return
    labels = {f"pod-security.kubernetes.io/{mode}": level for mode in ("enforce", "audit", "warn")}
    document = json.dumps(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name_, "labels": labels}}, sort_keys=True
    )
    yield command(note(f"namespace-{name_}"), f"{kubectl} apply -f -", timeout_s=60, stdin=f"{document}\n")


@operation()
def namespace_removed(kubectl: str, name_: str) -> Commands:
    """No such namespace, if it is one of ours."""
    if f"namespace-{name_}" not in look(InstalledParts):
        host.noop(f"namespace {name_} is not ours")
        return
    gone = f"{kubectl} delete namespace {shlex.quote(name_)} --ignore-not-found --timeout=240s"
    yield command(f"{gone} && rm -f {tools.INSTALLED}/namespace-{name_}", timeout_s=270)
