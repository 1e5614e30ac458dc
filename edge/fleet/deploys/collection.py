"""Logs of a site, with nothing in them that is secret: pods, events, release, units of the host."""

from __future__ import annotations

import shlex

from edge.fleet.wanted import Wanted

UNITS = {"k3s": ("k3s", "k3s-agent"), "microk8s": ("snap.microk8s.daemon-kubelite", "snap.microk8s.daemon-containerd")}


def commands(wanted: Wanted, *, since: str, lines: int) -> dict[str, str]:
    """What to ask for, by the name of the file that takes the answer.

    Args:
        wanted: The site.
        since: How far back, as ``kubectl logs --since`` has it: ``1h``.
        lines: Lines of each log at most.
    """
    at, kubectl = wanted.site, wanted.kubectl
    namespace = f"-n {shlex.quote(at.namespace)}"
    selector = f"-l app.kubernetes.io/instance={shlex.quote(at.release_name)}"
    asked = {
        "pods.txt": f"{kubectl} get pods {namespace} -o wide",
        "events.txt": f"{kubectl} get events {namespace} --sort-by=.lastTimestamp",
        "pods.log": f"{kubectl} logs {namespace} {selector} --all-containers --prefix --since={shlex.quote(since)} "
        f"--tail={lines}",
        "release.txt": f"{wanted.helm} history {shlex.quote(at.release_name)} {namespace}",
    }
    for unit in UNITS.get(at.distro, ()):
        asked[f"{unit}.log"] = f"journalctl -u {unit} -n {lines} --no-pager"
    return asked
