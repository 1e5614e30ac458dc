"""A centre with PostgreSQL whose API is split off, in a genuine Kubernetes: scaled, replaced, and never silent."""

import os
import shutil
import threading

import pytest
import yaml

from server.client import Client
from tests.e2e.cluster.centre import HOME, USER
from tests.e2e.cluster.kube import OUTER, ROOT, STATE
from tests.e2e.cluster.sites import by_digest, helm
from tests.server.postgres import PostgresServer, programs

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NAMESPACE = "fl-wide"
SMALL = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
API, SERVER = "app.kubernetes.io/component=api", "app.kubernetes.io/component=server"


class Wide:
    """The release, its volume that many pods mount, and an administrator's client of the split-off API."""

    def __init__(self, kube, folder, image, postgres):
        self.kube, self.folder, self.image = kube, folder, image
        self._volume = STATE / "volumes/wide"
        kube.wait_gone("Namespace", NAMESPACE)
        kube.wait_gone("PersistentVolume", "wide")
        shutil.rmtree(self._volume, ignore_errors=True)
        self._volume.mkdir(parents=True)
        os.chown(self._volume, USER, USER)
        kube.apply(f"""
apiVersion: v1
kind: PersistentVolume
metadata: {{name: wide}}
spec:
  capacity: {{storage: 20Gi}}
  accessModes: [ReadWriteMany]
  persistentVolumeReclaimPolicy: Retain
  hostPath: {{path: {self._volume}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: {NAMESPACE}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: postgres, namespace: {NAMESPACE}}}
stringData: {{url: "{postgres.database()}"}}
""")

    def install(self, pods):
        file = self.folder / "wide.yaml"
        file.write_text(yaml.safe_dump({
            "addresses": ["fl.example.org:8443"], "image": by_digest(self.image), "rosterAuthority": {"keyHere": True},
            "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
            "storage": {"accessMode": "ReadWriteMany"}, "store": {"existingSecret": "postgres"},
            "control": {"api": {"enabled": True, "autoscaling": {"minReplicas": pods}, "resources": SMALL}},
        }))  # fmt: skip
        preset = ROOT / "helm/fl-server/presets/values-kubernetes-1.20.yaml"
        chart = ROOT / "helm/fl-server"
        helm("upgrade", "--install", "fl-server", chart, "-n", NAMESPACE, "-f", preset, "-f", file)

    def ready(self):
        """Names of API pods that are ready."""
        return [
            pod["metadata"]["name"]
            for pod in self.kube.pods(NAMESPACE, API)
            for one in pod["status"].get("conditions", [])
            if (one["type"], one["status"]) == ("Ready", "True")
        ]

    def wait_ready(self, count):
        return self.kube.wait(lambda: len(self.ready()) == count and self.ready(), f"{count} APIs", 180, [NAMESPACE])

    def inside(self, *command):
        """What a command prints in the centre's own pod."""
        (pod,) = self.kube.pods(NAMESPACE, SERVER)
        return self.kube.run(NAMESPACE, pod["metadata"]["name"], *command, container="server")

    def sign_in(self):
        self.inside("fl", "user", "add", "ada", "--role", "admin", "--out", "/tmp/ada.token")
        ca = self.folder / "ca.pem"
        ca.write_text(self.inside("cat", f"{HOME}/control/authorities.pem"))
        address = self.kube.get("Service", "fl-server-api", NAMESPACE)["spec"]["clusterIP"]
        token = self.inside("cat", "/tmp/ada.token").strip()
        return lambda: Client(f"https://{address}:8444", token, ca=ca, name="localhost")

    def close(self):
        helm("uninstall", "fl-server", "-n", NAMESPACE, "--wait=false", check=False)
        self.kube.delete("Namespace", NAMESPACE)
        self.kube.delete("PersistentVolume", "wide")


@pytest.fixture
def wide(kube, server_image, tmp_path):
    if programs() is None:
        pytest.skip("no PostgreSQL is installed: apt-get install postgresql")
    postgres = PostgresServer(OUTER)
    made = Wide(kube, tmp_path, server_image, postgres)
    try:
        yield made
    finally:
        made.close()
        kube.wait_gone("Namespace", NAMESPACE)
        postgres.end()


def test_the_api_scales_is_replaced_and_tells_what_happens_elsewhere(wide):
    wide.install(2)
    wide.wait_ready(2)  # no number stands in the Deployment: the scaler makes the second
    connect = wide.sign_in()
    with connect() as client:
        assert (client.me().name, client.me().role) == ("ada", "admin")
        events = client.events(topic="site")
        next(events)
        adding = threading.Thread(target=wide.inside, args=("fl", "site", "add", "oslo"))
        adding.start()
        assert next(event for event in events if event.topic in ("site", "again"))
        adding.join()
        assert [site.id for site in client.fleet().sites.items] == ["oslo"]
    # One goes, another comes, and whoever asks meanwhile is answered.
    gone = wide.ready()[0]
    wide.kube.delete("Pod", gone, NAMESPACE)
    asked = 0
    while gone in wide.ready() or len(wide.ready()) < 2:
        with connect() as client:
            client.me()
        asked += 1
    assert asked > 3
    # The centre's own pod is away, and they go on.
    wide.kube.patch("Deployment", "fl-server", {"spec": {"replicas": 0}}, NAMESPACE, version="apps/v1")
    wide.kube.wait(lambda: not wide.kube.pods(NAMESPACE, SERVER), "the end of the centre's pod", 90, [NAMESPACE])
    with connect() as client:
        assert [site.id for site in client.fleet().sites.items] == ["oslo"]
    wide.kube.patch("Deployment", "fl-server", {"spec": {"replicas": 1}}, NAMESPACE, version="apps/v1")
    wide.install(3)
    wide.wait_ready(3)
