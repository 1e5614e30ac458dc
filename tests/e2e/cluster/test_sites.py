"""Sites installed with their chart into a genuine Kubernetes, a centre beside it: enrolled, at work, broken, healed."""

import json
import os
import re
import signal
import subprocess
import time

import pytest
import yaml

from edge.runner.pod_spec import MANAGED_BY
from fl import processes
from helm.tools import program
from tests.e2e.cluster.conftest import load_images
from tests.e2e.cluster.kube import KUBECONFIG, OUTER, ROOT

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SITES = ("berlin", "lyon", "turin")
PORT = 18443
RUN = """
[run]
name = "cluster"
rounds = {rounds}
[task]
name = "digits"
network = "mlp"
[training]
epochs = 1
learning_rate = 0.05
[round]
min_online = 3
quorum = 3
[evaluation]
sites_every = {rounds}
[secagg]
weight_cap = 500
"""


def fl(*arguments, home, timeout_s=300, check=True):
    """Run the command as an operator does; what it printed."""
    done = subprocess.run(
        [processes.program("fl"), *arguments, "--home", str(home)], capture_output=True, text=True, timeout=timeout_s,
        check=False, env={**os.environ, "NO_COLOR": "1"},
    )  # fmt: skip
    assert not check or done.returncode == 0, f"fl {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def helm(*arguments, check=True, timeout_s=300):
    done = subprocess.run(
        [str(program()), *arguments, "--kubeconfig", str(KUBECONFIG)], capture_output=True, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, f"helm {' '.join(arguments)}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


class Fleet:
    """A centre as a process here, and sites in the cluster."""

    def __init__(self, kube, directory, images):
        self.kube = kube
        self.directory = directory
        self.home = directory / "server"
        self.site_image, self.task_image = images
        self.centre = None
        self.log = directory / "centre.log"

    def start_centre(self):
        argv = ["server", "init", "--address", f"{OUTER}:{PORT}", "--listen", f"{OUTER}:{PORT}", "--roster-key-here"]
        fl(*argv, "--approval", "automatic", home=self.home)
        env = processes.environment(home=self.directory / "flower")
        with self.log.open("ab") as log:
            self.centre = subprocess.Popen(
                [processes.program("fl"), "server", "up", "--home", str(self.home)], env=env, stdout=log, stderr=log
            )

    def values(self, site, **more):
        number = SITES.index(site)
        (repository, digest), (tasks, tasks_digest) = (image.split("@") for image in (self.site_image, self.task_image))
        return {
            "site": {"id": site, "partitionId": number, "numPartitions": len(SITES), "threads": 1},
            "gateway": {"addresses": [f"{OUTER}:{PORT}"]},
            "image": {"repository": repository, "digest": digest, "pullPolicy": "Never"},
            "tasks": {
                "namespace": {"name": f"fl-tasks-{site}"},
                "image": {"repository": tasks, "digest": tasks_digest, "pullPolicy": "Never"},
                "resources": {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1500Mi"}},
                "idleSeconds": 300,
            },
            "resources": {"requests": {"cpu": "50m", "memory": "200Mi"}, "limits": {"memory": "1Gi"}},
            **more,
        }

    def install(self, site, *options, **more):
        """Install or upgrade a site with its chart."""
        file = self.directory / f"{site}.yaml"
        file.write_text(yaml.safe_dump(self.values(site, **more)))
        chart = str(ROOT / "helm/fl-site")
        namespace = f"fl-system-{site}"
        return helm("upgrade", "--install", "site", chart, "-n", namespace, "-f", str(file), *options)

    def invite(self, site):
        """A namespace with a join token in its Secret."""
        token = self.directory / f"{site}.token"
        fl("site", "add", site, "--out", str(token), home=self.home)
        self.kube.apply(f"{{apiVersion: v1, kind: Namespace, metadata: {{name: fl-system-{site}}}}}")
        self.kube.apply(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": "fl-site-join", "namespace": f"fl-system-{site}"},
                    "stringData": {"token": token.read_text()},
                }
            )
        )

    @property
    def namespaces(self):
        return [f"fl-{kind}-{site}" for site in SITES for kind in ("system", "tasks")]

    def pod(self, site):
        """The site's pod."""
        found = self.kube.pods(f"fl-system-{site}", "app.kubernetes.io/component=site")
        return found[0] if found else None

    def is_ready(self, site):
        pod = self.pod(site)
        conditions = (pod or {}).get("status", {}).get("conditions", [])
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def wait_ready(self, *sites, timeout_s=240):
        for site in sites:
            self.kube.wait(lambda site=site: self.is_ready(site), f"{site} is ready", timeout_s, self.namespaces)

    def start_run(self, rounds):
        file = self.directory / "run.toml"
        file.write_text(RUN.format(rounds=rounds))
        with (self.directory / "run.log").open("wb") as log:
            return subprocess.Popen(
                [processes.program("fl"), "run", "start", str(file), "--home", str(self.home)],
                stdout=log, stderr=log, env={**os.environ, "NO_COLOR": "1"},
            )  # fmt: skip

    def finish_run(self, process, timeout_s=500):
        """Wait for a run's end; what it printed."""
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = "no end"
        text = (self.directory / "run.log").read_text()
        assert status == 0, f"{text}\n{self.log.read_text()[-3000:]}\n{self.tell()}"
        return text

    def round_done(self, number):
        return f"round {number + 1}:" in (self.directory / "run.log").read_text()

    def tell(self):
        return self.kube.describe(*self.namespaces)

    def close(self):
        for site in SITES:
            helm("uninstall", "site", "-n", f"fl-system-{site}", "--wait=false", check=False)
            for kind in ("system", "tasks"):
                self.kube.delete("Namespace", f"fl-{kind}-{site}")
        if self.centre is not None:
            self.centre.send_signal(signal.SIGINT)
            try:
                self.centre.wait(60)
            except subprocess.TimeoutExpired:
                self.centre.kill()
                self.centre.wait()


@pytest.fixture(scope="module")
def fleet(kube, tmp_path_factory):
    """Three sites that have joined and are ready."""
    made = Fleet(kube, tmp_path_factory.mktemp("fleet"), load_images("site", "site-torch"))
    try:
        made.start_centre()
        began = time.monotonic()
        for site in SITES:
            made.invite(site)
            made.install(site)
        made.wait_ready(*SITES)
        made.ready_s = time.monotonic() - began
        yield made
    finally:
        made.close()


def test_a_run_with_secure_aggregation_ends_in_task_pods(fleet):
    text = fleet.finish_run(fleet.start_run(2))
    assert re.search(r"^round 2: 3 sites\n", text, re.MULTILINE), text
    assert "run completed: 2 " in text
    for site in SITES:
        pods = fleet.kube.list("Pod", f"fl-tasks-{site}", selector=f"app.kubernetes.io/managed-by={MANAGED_BY}")
        assert len(pods) == 1, [pod["metadata"]["name"] for pod in pods]
        assert pods[0]["metadata"]["ownerReferences"][0]["kind"] == "ServiceAccount"


def test_the_join_token_is_needed_once_and_a_new_pod_is_the_same_site(fleet):
    fleet.kube.delete("Secret", "fl-site-join", "fl-system-berlin")
    old = fleet.pod("berlin")["metadata"]["name"]
    node = fleet.kube.get("Secret", "fl-site-identity", "fl-system-berlin")["data"]["node.key"]
    fleet.kube.delete("Pod", old, "fl-system-berlin")
    fleet.kube.wait(
        lambda: (fleet.pod("berlin") or {"metadata": {"name": old}})["metadata"]["name"] != old, "a new pod"
    )
    fleet.wait_ready("berlin")
    assert fleet.kube.get("Secret", "fl-site-identity", "fl-system-berlin")["data"]["node.key"] == node


def test_a_run_survives_the_death_of_each_pod_in_turn(fleet):
    run = fleet.start_run(4)
    for number, site in enumerate(SITES, 1):
        fleet.kube.wait(lambda number=number: fleet.round_done(number - 1) or run.poll() is not None, "a round", 300)
        for namespace in (f"fl-tasks-{site}", f"fl-system-{site}"):
            for pod in fleet.kube.pods(namespace):
                fleet.kube.delete("Pod", pod["metadata"]["name"], namespace, grace_s=0)
    text = fleet.finish_run(run)
    assert "run completed: 4 " in text, text


def test_an_upgrade_and_a_rollback_during_a_run_lose_no_round(fleet):
    run = fleet.start_run(4)
    fleet.kube.wait(lambda: fleet.round_done(1) or run.poll() is not None, "the first round", 300)
    fleet.install("lyon", podAnnotations={"example.org/upgrade": "1"})
    fleet.wait_ready("lyon")
    helm("rollback", "site", "-n", "fl-system-lyon")
    fleet.wait_ready("lyon")
    assert "run completed: 4 " in fleet.finish_run(run)


def test_a_drained_node_gets_its_sites_back(fleet):
    fleet.kube.patch("Node", "n1", {"spec": {"unschedulable": True}})
    try:
        for site in SITES:
            evict = {"apiVersion": "policy/v1beta1", "kind": "Eviction"}
            name, namespace = fleet.pod(site)["metadata"]["name"], f"fl-system-{site}"
            body = evict | {"metadata": {"name": name, "namespace": namespace}}
            fleet.kube.core.create_namespaced_pod_eviction(name, namespace, body)
        fleet.kube.wait(
            lambda: all((fleet.pod(site) or {}).get("status", {}).get("phase") == "Pending" for site in SITES),
            "pods that wait for a node",
            120,
            fleet.namespaces,
        )
    finally:
        fleet.kube.patch("Node", "n1", {"spec": {"unschedulable": False}})
    fleet.wait_ready(*SITES)


def test_a_helm_that_was_killed_is_rolled_back(fleet):
    chart = str(ROOT / "helm/fl-site")
    argv = [str(program()), "upgrade", "site", chart, "-n", "fl-system-turin", "--kubeconfig", str(KUBECONFIG)]
    argv += ["-f", str(fleet.directory / "turin.yaml"), "--set", "podAnnotations.killed=yes", "--wait"]
    upgrade = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def state():
        said = helm("status", "site", "-n", "fl-system-turin", "-o", "json", check=False)
        return json.loads(said)["info"]["status"] if said.startswith("{") else ""

    fleet.kube.wait(lambda: state() == "pending-upgrade" or upgrade.poll() is not None, "an upgrade on its way", 60)
    upgrade.kill()
    upgrade.wait()
    assert state() == "pending-upgrade"
    with pytest.raises(AssertionError, match="another operation"):
        fleet.install("turin")
    helm("rollback", "site", "-n", "fl-system-turin")
    fleet.wait_ready("turin")
    fleet.install("turin")
    fleet.wait_ready("turin")


def test_nothing_is_left_after_uninstall_but_the_identity(fleet):
    helm("uninstall", "site", "-n", "fl-system-lyon")
    fleet.kube.wait(lambda: not fleet.kube.list("Pod", "fl-system-lyon"), "the end of the site's pod", 120)
    fleet.kube.wait(
        lambda: not (fleet.kube.get("Namespace", "fl-tasks-lyon") and fleet.kube.list("Pod", "fl-tasks-lyon")),
        "the end of its task pods", 120,
    )  # fmt: skip
    assert fleet.kube.get("Secret", "fl-site-identity", "fl-system-lyon")["data"]["node.key"]
