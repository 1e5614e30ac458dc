"""The centre of the tests, installed into the cluster with its chart."""

import os
import shutil
import ssl
import subprocess

import httpx
import yaml

from fl import processes
from tests.e2e.cluster.kube import INNER, ROOT, STATE
from tests.e2e.cluster.sites import by_digest, helm

NAMESPACE = "fl-centre"
NODE_PORT = 30443
HOME = "/var/lib/fedfleet/server"
USER = 10001
"""What the images run as."""


class Centre:
    """The release ``fl-server``: a volume of the node, the gateway on a port of the node, the control room inside.

    Args:
        kube: The cluster.
        directory: For files.
        image: The centre's image, by digest.
    """

    gateway = f"{INNER}:{NODE_PORT}"

    def __init__(self, kube, directory, image):
        self.kube, self.directory, self.image = kube, directory, image
        self.ca, self.token = directory / "centre.ca", directory / "centre.token"
        self.url = ""
        self._volume = STATE / "volumes/centre"

    def values(self, **more):
        return {
            "addresses": [self.gateway],
            "image": by_digest(self.image),
            "service": {"type": "NodePort", "nodePort": NODE_PORT},
            "enrolment": {"approval": "automatic"},
            "rosterAuthority": {"keyHere": True},
            "resources": {"requests": {"cpu": "200m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
            # People reach the control room through its Service: its certificate is made for that address.
            "settings": {"control": {"public_url": self.url}} if self.url else {},
            **more,
        }

    def install(self, *options, **more):
        """Install or upgrade the chart."""
        file = self.directory / "centre.yaml"
        file.write_text(yaml.safe_dump(self.values(**more)))
        preset = ROOT / "helm/fl-server/presets/values-kubernetes-1.20.yaml"
        chart = ROOT / "helm/fl-server"
        return helm("upgrade", "--install", "fl-server", chart, "-n", NAMESPACE, "-f", preset, "-f", file, *options)

    def start(self):
        """Install it, wait until it is ready, and make an operator."""
        self.kube.wait_gone("Namespace", NAMESPACE)
        self.kube.wait_gone("PersistentVolume", "centre")
        shutil.rmtree(self._volume, ignore_errors=True)
        self._volume.mkdir(parents=True)
        os.chown(self._volume, USER, USER)
        self.kube.apply(f"""
apiVersion: v1
kind: PersistentVolume
metadata: {{name: centre}}
spec:
  capacity: {{storage: 20Gi}}
  accessModes: [ReadWriteOnce]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {{path: {self._volume}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
""")
        self.install()
        self.url = f"https://{self.address('fl-server')}:8444"
        self.wait_ready()
        first = self.pod()["metadata"]["name"]
        self.install()
        self.wait_ready(other_than=first)
        # Ready is the gateway; the control room comes a moment later.
        file = f"{HOME}/control/authorities.pem"
        self.ca.write_text(self.inside("sh", "-c", f"until [ -s {file} ]; do sleep 0.2; done; cat {file}"))
        self.inside("fl", "user", "add", "operator", "--role", "admin", "--out", "/tmp/operator.token")
        token = self.inside("cat", "/tmp/operator.token")
        self.token.touch(mode=0o600)
        self.token.write_text(token)
        self.kube.wait(self._answers, "the control room answers", 60, [NAMESPACE])

    @property
    def asked(self):
        """Options of ``fl`` by which it asks this centre."""
        return ["--server", self.url, "--token-file", str(self.token), "--ca", str(self.ca)]

    def api(self, path, **more):
        """What the control room answers."""
        headers = {"Authorization": f"Bearer {self.token.read_text().strip()}"}
        trust = ssl.create_default_context(cafile=str(self.ca))
        with httpx.Client(verify=trust, headers=headers, timeout=20) as client:
            return client.get(f"{self.url}{path}", **more)

    def _answers(self):
        try:
            return self.api("/api/v1/me").status_code == 200
        except httpx.HTTPError:
            return False

    def address(self, service):
        """The cluster's address of a Service."""
        return self.kube.get("Service", service, NAMESPACE)["spec"]["clusterIP"]

    def pod(self):
        """Its pod."""
        found = self.kube.pods(NAMESPACE, "app.kubernetes.io/component=server")
        return found[0] if found else None

    def is_ready(self, other_than=""):
        pod = self.pod()
        conditions = (pod or {}).get("status", {}).get("conditions", [])
        is_other = bool(pod) and pod["metadata"]["name"] != other_than
        return is_other and any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def wait_ready(self, other_than="", timeout_s=240):
        """Until its pod is ready: a new one, if one is named that was there before."""
        self.kube.wait(lambda: self.is_ready(other_than), "the centre is ready", timeout_s, [NAMESPACE])

    def inside(self, *command, timeout_s=120):
        """What a command prints in the centre's pod."""
        return self.kube.run(
            NAMESPACE, self.pod()["metadata"]["name"], *command, container="server", timeout_s=timeout_s
        )

    def invite(self, site):
        """A join token."""
        return self.inside("fl", "site", "add", site).strip().splitlines()[-1]

    def start_run(self, file, log):
        """Submit a run file and follow it; the process."""
        with log.open("wb") as out:
            return subprocess.Popen(
                [processes.program("fl"), "run", "start", str(file), *self.asked],
                stdout=out, stderr=out, env={**os.environ, "NO_COLOR": "1"},
            )  # fmt: skip

    def tell(self):
        """What is to be known about it, for a failure."""
        return self.kube.describe(NAMESPACE)

    def close(self):
        """Take everything away."""
        helm("uninstall", "fl-server", "-n", NAMESPACE, "--wait=false", check=False)
        self.kube.delete("Namespace", NAMESPACE)
        self.kube.delete("PersistentVolume", "centre")
