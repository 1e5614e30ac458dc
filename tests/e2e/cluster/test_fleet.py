"""A fleet file, hosts over SSH, a genuine Kubernetes: from nothing to a federation, through bad releases and back."""

import json
import os
import signal
import subprocess

import pytest

from tests.e2e.cluster.conftest import VERSION
from tests.e2e.cluster.sites import RUN, helm
from tests.e2e.cluster.ssh_hosts import NAMES, HostFleet
from tests.edge.fleet import hosts

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(hosts.missing()), reason=hosts.missing()),
]

SMOKE = """
[run]
name = "smoke"
rounds = 1
[task]
name = "digits"
[round]
min_online = 1
"""


@pytest.fixture(scope="module")
def fleet(kube, centre, task_image, tmp_path_factory):
    """Hosts and a fleet file, and nothing in the cluster yet."""
    made = HostFleet(kube, centre, tmp_path_factory.mktemp("fleet"), VERSION, task_image)
    try:
        made.open()
        yield made
    finally:
        made.close()


def history(name):
    """Revisions of a site's release, oldest first: status and what made it."""
    found = json.loads(helm("history", "fl-site", "-n", f"fl-system-{name}", "-o", "json"))
    return [(entry["status"], entry["description"].split()[0]) for entry in found]


def run_with_all(fleet, centre, rounds):
    """A run with secure aggregation, on its way, asked of the fleet's sites."""
    file = fleet.folder / "run.toml"
    file.write_text(RUN.format(rounds=rounds).replace('"berlin", "lyon", "turin"', ", ".join(f'"{n}"' for n in NAMES)))
    return centre.start_run(file, fleet.folder / "run.log")


def finished(fleet, centre, run, rounds):
    try:
        run.wait(400)
    finally:
        run.kill()
    text = (fleet.folder / "run.log").read_text()
    assert f"run completed: {rounds} " in text, f"{text}\n{centre.tell()}\n{fleet.kube.describe(*fleet.namespaces)}"


def test_a_fleet_file_becomes_a_federation(fleet, centre):
    (fleet.folder / "smoke.toml").write_text(SMOKE)
    fleet.write(smoke="smoke.toml")
    status, said = fleet.fl("apply", "fleet.yaml")
    assert status == 0, said + fleet.kube.describe(*fleet.namespaces)
    for name in NAMES:
        assert [status for status, _ in history(name)] == ["deployed"]
        assert fleet.kube.get("Secret", "fl-site-join", f"fl-system-{name}") is None
    # The smoke run asked the canary alone, before the others were there.
    assert "smoke run smoke.toml with oslo" in said
    finished(fleet, centre, run_with_all(fleet, centre, 2), 2)
    assert fleet.fl("plan", "fleet.yaml")[0] == 0


def test_an_image_that_cannot_be_had_stops_at_the_canary_and_goes_back(fleet):
    fleet.write(release_s=40, image={"digest": f"sha256:{0:064}", "pullPolicy": "Never"})
    status, said = fleet.fl("apply", "fleet.yaml")
    assert status == 1, said
    assert [status for status, _ in history("oslo")][-1] == "deployed", history("oslo")
    assert history("oslo")[-1][1] == "Rollback"
    assert [len(history(name)) for name in NAMES[1:]] == [1, 1]
    pod = fleet.kube.wait(lambda: fleet.kube.pods("fl-system-oslo", "app.kubernetes.io/component=site"), "its pod")[0]
    assert f"{0:064}" not in json.dumps(pod)


def test_a_helm_that_is_killed_in_the_middle_is_recovered(fleet):
    fleet.write(podAnnotations={"example.org/release": "2"})
    rollout = fleet.start("apply", "fleet.yaml")
    found = fleet.kube.wait(lambda: helm_of("oslo") or rollout.poll() is not None, "Helm at work at the canary", 120)
    assert found is not True, (fleet.folder / "fleet.log").read_text()
    fleet.kube.wait(lambda: history("oslo")[-1][0] == "pending-upgrade", "a release on its way", 60)
    for pid in found:
        os.kill(pid, signal.SIGKILL)
    assert rollout.wait(300) == 1, (fleet.folder / "fleet.log").read_text()
    assert history("oslo")[-1] == ("deployed", "Rollback"), history("oslo")


def test_an_upgrade_of_all_sites_during_a_run_loses_no_round(fleet, centre):
    run = run_with_all(fleet, centre, 8)
    log = fleet.folder / "run.log"
    fleet.kube.wait(lambda: "round 1:" in log.read_text() or run.poll() is not None, "the first round", 200)
    fleet.write(podAnnotations={"example.org/release": "3"})
    rollout, said = fleet.start("apply", "fleet.yaml"), fleet.folder / "fleet.log"
    fleet.kube.wait(lambda: "wave others" in said.read_text() or rollout.poll() is not None, "the canary", 300)
    assert run.poll() is None, "the run was over before the canary was upgraded"
    assert rollout.wait(300) == 0, said.read_text() + fleet.worker_log()
    finished(fleet, centre, run, 8)
    assert [history(name)[-1][0] for name in NAMES] == ["deployed"] * 3


def test_a_fleet_that_is_removed_leaves_nothing_in_the_cluster(fleet):
    status, said = fleet.fl("remove", "fleet.yaml", "--yes")
    assert status == 0, said
    for namespace in fleet.namespaces:
        fleet.kube.wait_gone("Namespace", namespace)


def helm_of(name):
    """Processes of Helm that upgrade a site."""
    found = subprocess.run(["pgrep", "-x", "helm", "-a"], capture_output=True, text=True, check=False).stdout
    return [int(line.split()[0]) for line in found.splitlines() if f"fl-system-{name}" in line and "upgrade" in line]
