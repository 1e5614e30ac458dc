"""Isolated hosts with SSH from which the cluster is worked on, as a rollout does: real kubectl, Helm, ctr."""

import contextlib
import os
import shutil
import subprocess

import yaml

from edge.fleet import bundle
from helm.tools import program
from tests.e2e.cluster.centre import HOME, NAMESPACE
from tests.e2e.cluster.kube import CACHE, KUBECONFIG, ROOT, STATE
from tests.e2e.cluster.sites import by_digest
from tests.edge.fleet import hosts

NAMES = ("oslo", "riga", "bonn")
AT_HOST = "/etc/fedfleet-test.kubeconfig"
FL = str(ROOT / ".venv/bin/fl")


class HostFleet:
    """Three hosts, their bundle and their fleet file. Each host's site has a namespace of the one cluster.

    Args:
        kube: The cluster.
        centre: The centre in it.
        folder: For files.
        version: Of the release.
        task_image: What tasks run in; it is in the cluster.
    """

    def __init__(self, kube, centre, folder, version, task_image):
        self.kube, self.centre, self.folder, self.version = kube, centre, folder, version
        self._task_image = task_image
        self._done = contextlib.ExitStack()
        self.hosts = {}

    def open(self):
        """Make everything; nothing is installed yet."""
        for namespace in self.namespaces:
            self.kube.wait_gone("Namespace", namespace)
        forwards = subprocess.run(
            ["sysctl", "-n", "net.ipv4.ip_forward"], capture_output=True, text=True, check=True
        ).stdout.strip()
        self._done.callback(hosts.run, "sysctl", "-qw", f"net.ipv4.ip_forward={forwards}")
        hosts.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        net = self._done.enter_context(hosts.Net(self.folder))
        self.hosts = dict(zip(NAMES, net.add(len(NAMES)), strict=True))
        for host in self.hosts.values():
            for name, path in (("kubectl", program("kubectl")), ("ctr", shutil.which("ctr"))):
                shutil.copy(path, host.root / "usr/local/bin" / name)
            shutil.copy(KUBECONFIG, host.file(AT_HOST))
            host.file(AT_HOST).chmod(0o600)
            # Its containerd is the node's.
            (host.root / "run/containerd").mkdir()
            hosts.run("mount", "--bind", STATE / "containerd", host.root / "run/containerd")
            host.reboot()
        for host in self.hosts.values():
            host.wait()
        self.key = net.key
        known = "".join(host.known_hosts_line for host in self.hosts.values())
        (self.folder / "known_hosts").write_text(known)
        self.bundle()

    def bundle(self):
        """The bundle: the chart, Helm, and the site's image under a name that the cluster does not know yet."""
        hosts.run(program(), "package", ROOT / "helm/fl-site", "-d", self.folder)
        chart = next(self.folder.glob("fl-site-*.tgz"))
        helm = {
            "version": hosts.run(program(), "version", "--template", "{{.Version}}").stdout,
            "binary": str(program()),
        }
        image = {"reference": f"registry.test/fl-site:{self.version}", "archive": str(CACHE / "images/site.tar"),
                 "value": "image"}  # fmt: skip
        source = {"version": self.version, "chart": str(chart), "images": [image], "helm": helm}
        (self.folder / "bundle.yaml").write_text(yaml.safe_dump(source))
        bundle.build(self.folder / "bundle.yaml", self.folder / "bundle")

    def write(self, *, release_s=180, smoke=None, **values):
        """The fleet file; further values for the chart are the canary's and everybody's."""
        kubectl = [str(program("kubectl")), "--kubeconfig", str(KUBECONFIG), "-n", NAMESPACE, "exec", "-i"]
        defaults = {"distro": "existing", "kubernetes": {"kubeconfig": AT_HOST}, "release_s": release_s}
        rollout = {"soak_s": 3, "gate_s": 120, "waves": [{"name": "canary", "select": {"ring": "canary"}}]}
        sites = []
        for number, (name, host) in enumerate(self.hosts.items()):
            tasks = {
                "namespace": {"name": f"fl-tasks-{name}"},
                "image": by_digest(self._task_image),
                "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1500Mi"}},
            }
            chart = {
                "site": {"partitionId": number, "numPartitions": len(NAMES), "threads": 1},
                "image": {"pullPolicy": "Never"},
                "tasks": tasks,
                "resources": {"requests": {"cpu": "50m", "memory": "200Mi"}, "limits": {"memory": "1Gi"}},
            }
            labels = {"ring": "canary"} if number == 0 else {}
            namespace, merged = f"fl-system-{name}", {**chart, **values}
            sites.append({"id": name, "host": host.address, "namespace": namespace, "labels": labels, "values": merged})
        ssh = {"user": "fleet", "key_file": str(self.key), "known_hosts": "known_hosts"}
        document = {
            "fleet": {"name": "cluster"},
            "gateway": {"addresses": [self.centre.gateway]},
            "centre": {"command": [*kubectl, "deployment/fl-server", "-c", "server", "--", "fl"], "home": HOME},
            "release": {"version": self.version, "bundle": "bundle"},
            "defaults": defaults | {"ssh": ssh},
            "rollout": rollout | ({"smoke": smoke} if smoke else {}),
            "sites": sites,
        }
        (self.folder / "fleet.yaml").write_text(yaml.safe_dump(document))

    def start(self, *words):
        """``fl fleet …``, on its way."""
        with (self.folder / "fleet.log").open("wb") as log:
            return subprocess.Popen(
                [FL, "fleet", *words, "--home", str(self.folder / "home")], cwd=self.folder, stdout=log, stderr=log,
                env={**os.environ, "NO_COLOR": "1"},
            )  # fmt: skip

    def fl(self, *words, timeout_s=400):
        """``fl fleet …`` to its end: its status and what it printed."""
        process = self.start(*words)
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.terminate()
            process.wait(30)
            status = "no end"
        return status, (self.folder / "fleet.log").read_text() + self.worker_log()

    def worker_log(self):
        """The end of what the rollout's worker wrote, for a failure."""
        log = self.folder / "home/cluster/worker.log"
        return f"\n--- worker\n{log.read_text()[-1500:]}" if log.exists() else ""

    @property
    def namespaces(self):
        return [f"fl-{kind}-{name}" for name in NAMES for kind in ("system", "tasks")]

    def close(self):
        """End the hosts and take away what is left in the cluster."""
        self._done.close()
        for namespace in self.namespaces:
            self.kube.delete("Namespace", namespace)
