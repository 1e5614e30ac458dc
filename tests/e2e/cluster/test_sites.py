"""Sites installed with their chart into a genuine Kubernetes: enrolled, at work, broken, healed."""

import json
import re
import subprocess

import pytest

from edge.runner.pod_spec import MANAGED_BY
from helm.tools import program
from tests.e2e.cluster.kube import KUBECONFIG, ROOT
from tests.e2e.cluster.sites import SITES, helm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


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
