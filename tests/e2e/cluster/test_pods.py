"""A real runner beside a SuperNode's own parts, its tasks in pods of a genuine Kubernetes: how they end, what stays."""

import re
import time

import pytest
import tomli_w

from edge.runner.config import Limits
from edge.runner.pod_spec import SITE
from tests.e2e.cluster.kube import KUBECONFIG, OUTER
from tests.edge.runner.conftest import Site
from tests.supernode import app_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

SYSTEM, TASKS = "fl-system-probe", "fl-tasks-probe"
RIGHTS = f"""
apiVersion: v1
kind: Namespace
metadata: {{name: {SYSTEM}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: {TASKS}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: fl-runner, namespace: {SYSTEM}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: fl-task, namespace: {TASKS}}}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: fl-runner, namespace: {TASKS}}}
rules:
  - {{apiGroups: [""], resources: [pods], verbs: [create, get, list, delete]}}
  - {{apiGroups: [""], resources: [secrets], verbs: [create]}}
  - {{apiGroups: [""], resources: [events], verbs: [list]}}
  - {{apiGroups: [""], resources: [serviceaccounts], resourceNames: [fl-task], verbs: [get]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: fl-runner, namespace: {TASKS}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: fl-runner}}
subjects: [{{kind: ServiceAccount, name: fl-runner, namespace: {SYSTEM}}}]
"""
ECHO = """
import os, pathlib
@app.train()
def train(message, context):
    print("the app says hello")
    token = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
    try:
        pathlib.Path("/opt/fedfleet/written").write_text("")
        wrote = True
    except OSError:
        wrote = False
    return reply(message, host=os.uname().nodename, pid=os.getpid(), uid=os.getuid(), account=token.exists(),
                 wrote=wrote, data=context.node_config.get("data-dir", ""))
"""
SLEEP = """
import time
@app.train()
def train(message, context):
    print("begun", flush=True)
    time.sleep(600)
"""
SLOW = """
import os, time
@app.train()
def train(message, context):
    print("begun", flush=True)
    time.sleep(8)
    return reply(message, host=os.uname().nodename)
"""
GREEDY = """
@app.train()
def train(message, context):
    hoard = [b"x" * 2**20 for _ in range(4000)]
    return reply(message, n=len(hoard))
"""
SECAGG = """
import pathlib
@app.train()
def train(message, context):
    home = pathlib.Path("DIRECTORY")
    key = home / "identity.key"
    found = dict(key=key.read_text(), mode=oct(key.stat().st_mode & 0o777), ledger=(home / "ledger.json").read_text(),
                 old=len(list(home.glob("receipts/*"))))
    (home / "ledger.json").write_text("new")
    (home / "receipts").mkdir(exist_ok=True)
    (home / "receipts" / "1-round-2.json").write_text("receipt")
    (home / "strange").write_text("left behind")
    return reply(message, **found)
"""


def answer_of(message):
    assert not message.has_error(), message.error
    return dict(message.content["answer"])


def reason_of(message):
    assert message.has_error(), message.content
    return message.error.reason


@pytest.fixture(scope="module")
def rights(kube, tmp_path_factory):
    """Two namespaces, and a kubeconfig of the runner's account."""
    kube.apply(RIGHTS)
    path = tmp_path_factory.mktemp("kube") / "runner.kubeconfig"
    yield kube.account_kubeconfig("fl-runner", SYSTEM, path)
    for namespace in (TASKS, SYSTEM):
        kube.delete("Namespace", namespace)
    for namespace in (TASKS, SYSTEM):
        kube.wait(lambda namespace=namespace: kube.get("Namespace", namespace) is None, f"end of {namespace}", 120)


@pytest.fixture
def make_site(kube, rights, task_image, tmp_path, monkeypatch):
    """Makes sites whose runner is a process here, with the account's rights, and whose tasks are pods there."""
    monkeypatch.setenv("KUBECONFIG", str(rights))
    monkeypatch.setenv("FEDFLEET_POD_IP", OUTER)
    made = []

    def make(start=True, task=None, id="probe", **pods):
        home = tmp_path / f"site-{len(made)}"
        home.mkdir()
        (home / "site.toml").write_text(f'id = "{id}"\ngateways = ["gateway.invalid:443"]\n')
        file = home / "pods.toml"
        file.write_text(tomli_w.dumps({
            "image": task_image, "namespace": TASKS, "owner": "fl-task", "service_account": "fl-task", "idle_s": 30,
            "requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "1Gi"},
            # Other tests, beside these, drain the node for a moment.
            "tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}], **pods,
        }))  # fmt: skip
        site = Site(home, start=False, pods=file, limits=Limits(**(task or {})))
        made.append(site)
        if start:
            site.start()
        return site

    try:
        yield make
        for site in made:
            site.close()
        made.clear()
        kube.wait(lambda: not kube.list("Pod", TASKS), "the end of all task pods", 90, [TASKS])
        # The cluster's garbage collector takes them when it has seen that their owner is gone.
        kube.wait(
            lambda: not [one for one in kube.list("Secret", TASKS) if one["type"] == "Opaque"],
            "the end of their Secrets",
            90,
        )
    except BaseException:
        for site in made:
            print(site.log.read_text()[-6000:])
            site.close()
        print(kube.describe(TASKS))
        raise


def task_pod(kube):
    """The one task pod that runs."""
    return kube.wait(lambda: kube.pods(TASKS, f"{SITE}=probe"), "a task's pod", 60, [TASKS])[0]


def test_a_task_runs_in_a_pod_and_the_next_of_its_app_in_the_same(make_site, kube):
    site = make_site()
    fab = app_of(ECHO)
    site.deliver(fab)
    first = answer_of(site.node.take(180))
    second = answer_of(site.ask(fab))
    assert first["host"] == second["host"] == task_pod(kube)["metadata"]["name"]
    assert first["pid"] != second["pid"]
    assert (first["uid"], first["account"], first["wrote"]) == (10001, False, False)
    assert "the app says hello" in kube.logs(TASKS, first["host"])
    # Another app has a pod of its own, and the former one's is gone.
    third = answer_of(site.ask(app_of(ECHO + "\n# another")))
    assert third["host"] != first["host"]
    kube.wait(lambda: kube.get("Pod", first["host"], TASKS) is None, "the end of the former app's pod", 60, [TASKS])


def test_a_pod_that_waits_too_long_ends(make_site, kube):
    site = make_site(idle_s=1)
    site.deliver(app_of(ECHO))
    assert answer_of(site.node.take(180))
    kube.wait(lambda: not kube.list("Pod", TASKS), "the end of the idle pod", 60, [TASKS])


def test_a_task_whose_pod_is_taken_away_runs_anew(make_site, kube):
    site = make_site()
    site.deliver(app_of(SLOW))
    pod = task_pod(kube)["metadata"]["name"]
    kube.wait(lambda: "begun" in kube.logs(TASKS, pod), "the start of the task", 120, [TASKS])
    kube.delete("Pod", pod, TASKS, grace_s=0)
    assert answer_of(site.node.take(180))["host"] != pod
    assert "its pod was deleted" in site.log.read_text()


def test_a_task_that_loses_its_pod_again_and_again_is_answered_in_words(make_site, kube):
    site = make_site(retries=1)
    site.deliver(app_of(SLEEP))
    seen = set()
    for _ in range(2):
        pod = kube.wait(
            lambda: [one for one in kube.pods(TASKS) if one["metadata"]["name"] not in seen], "a pod", 60, [TASKS]
        )[0]["metadata"]["name"]
        seen.add(pod)
        kube.delete("Pod", pod, TASKS, grace_s=0)
    assert reason_of(site.node.take(120)) == "its pod was taken away 2 times; the last time, its pod was deleted"


def test_an_image_that_is_missing_is_answered_in_words(make_site):
    site = make_site(image="localhost/no-such:1", pull_within_s=1, image_pull_policy="Never")
    site.deliver(app_of(ECHO))
    assert reason_of(site.node.take(120)).startswith("the image cannot be had (ErrImageNeverPull)")


def test_a_pod_that_fits_nowhere_is_answered_in_words(make_site):
    site = make_site(requests={"cpu": "64"}, start_within_s=4)
    site.deliver(app_of(ECHO))
    reason = reason_of(site.node.take(120))
    assert reason.startswith("no pod for the task within 4 s: no node can take its pod: 0/1 nodes are available")
    assert "Insufficient cpu" in reason


def test_a_gpu_that_another_holds_is_waited_for(make_site, kube):
    """The device is made up at the level of the API: a resource of the node, as a device plugin would report it."""
    kube.core.patch_node_status("n1", {"status": {"capacity": {"nvidia.com/gpu": "1"}}})
    kube.wait(lambda: kube.get("Node", "n1")["status"]["allocatable"].get("nvidia.com/gpu"), "the made-up GPU", 60)
    asked = {"requests": {"cpu": "100m"}, "limits": {"memory": "1Gi", "nvidia.com/gpu": "1"}, "idle_s": 0}
    first = make_site(**asked)
    second = make_site(**asked, port=9444, id="second")
    first.deliver(app_of(SLOW))
    task_pod(kube)
    second.deliver(app_of(ECHO))
    waiting = kube.wait(lambda: kube.pods(TASKS, f"{SITE}=second"), "the second site's pod", 60, [TASKS])[0]
    assert answer_of(first.node.take(180))
    # With a GPU nothing is kept warm: the first pod is gone, and the second has what it held.
    assert answer_of(second.node.take(180))["host"] == waiting["metadata"]["name"]
    assert waiting["status"]["phase"] == "Pending"


def test_a_task_that_needs_more_memory_than_its_pod_has_is_answered_in_words(make_site):
    site = make_site(limits={"memory": "400Mi"}, requests={"cpu": "100m", "memory": "100Mi"})
    site.deliver(app_of(GREEDY))
    reason = reason_of(site.node.take(180))
    assert "memory ran out" in reason


def test_a_task_that_takes_too_long_is_ended_in_its_pod(make_site):
    site = make_site(task={"time_s": 40})
    site.deliver(app_of(SLEEP))
    assert re.fullmatch(r"the app ran longer than the [0-9.]+ s that the site allows", reason_of(site.node.take(180)))


def test_a_quota_that_is_exhausted_is_waited_for_and_then_told(make_site, kube):
    kube.apply(f"""
apiVersion: v1
kind: ResourceQuota
metadata: {{name: none, namespace: {TASKS}}}
spec: {{hard: {{pods: "0"}}}}
""")
    kube.wait(lambda: (kube.get("ResourceQuota", "none", TASKS).get("status") or {}).get("hard"), "the quota", 60)
    try:
        site = make_site(start_within_s=3)
        site.deliver(app_of(ECHO))
        assert "the namespace's quota is exhausted: pods" in reason_of(site.node.take(120))
        # With room again, the next task runs.
        site.deliver(app_of(ECHO))
        time.sleep(1)
        kube.delete("ResourceQuota", "none", TASKS)
        assert answer_of(site.node.take(180))
    finally:
        kube.delete("ResourceQuota", "none", TASKS)


def test_a_runner_that_is_killed_leaves_no_pod_and_its_next_life_answers(make_site, kube):
    site = make_site()
    site.deliver(app_of(SLEEP))
    pod = task_pod(kube)["metadata"]["name"]
    kube.wait(lambda: "begun" in kube.logs(TASKS, pod), "the start of the task", 120, [TASKS])
    site.process.kill()
    site.process.wait()
    site.start()
    assert "the site's runner ended while it had this message" in reason_of(site.node.take(120))
    kube.wait(lambda: kube.get("Pod", pod, TASKS) is None, "the end of the former life's pod", 60, [TASKS])
    assert answer_of(site.ask(app_of(ECHO)))


def test_a_pod_without_its_runner_ends_by_itself(make_site, kube):
    site = make_site()
    site.deliver(app_of(ECHO))
    assert answer_of(site.node.take(180))
    pod = task_pod(kube)["metadata"]["name"]
    site.process.kill()
    site.process.wait()
    kube.wait(lambda: kube.get("Pod", pod, TASKS)["status"]["phase"] == "Succeeded", "the pod's own end", 150, [TASKS])
    # What is left is an object; the next life sweeps it.
    site.start()
    kube.wait(lambda: kube.get("Pod", pod, TASKS) is None, "the end of what is left", 60, [TASKS])


def test_pods_and_their_secrets_go_with_their_owner(make_site, kube):
    site = make_site()
    site.deliver(app_of(ECHO))
    host = answer_of(site.node.take(180))["host"]
    assert kube.get("Secret", host, TASKS) is not None
    site.process.kill()
    site.process.wait()
    kube.delete("ServiceAccount", "fl-task", TASKS)
    kube.wait(lambda: kube.get("Pod", host, TASKS) is None, "the end of the pod", 90, [TASKS])
    kube.wait(lambda: kube.get("Secret", host, TASKS) is None, "the end of its Secret", 90, [TASKS])
    kube.apply(RIGHTS)
    kube.wait(lambda: kube.get("ServiceAccount", "fl-task", TASKS), "the account again")


def test_keys_for_secure_aggregation_visit_the_pod_and_the_ledger_comes_back(make_site):
    site = make_site()
    secagg = site.home / "secagg"
    secagg.mkdir()
    for name, content in (("identity.key", "private"), ("authority.pub", "public"), ("ledger.json", "old")):
        (secagg / name).write_text(content)
    site.deliver(app_of(SECAGG.replace("DIRECTORY", str(secagg))))
    assert answer_of(site.node.take(180)) == {"key": "private", "mode": "0o600", "ledger": "old", "old": 0}
    assert (secagg / "ledger.json").read_text() == "new"
    assert (secagg / "receipts" / "1-round-2.json").read_text() == "receipt"
    assert not (secagg / "strange").exists()
    # The next task in the same pod has what the site has now, and nothing that the former one left.
    (secagg / "identity.key").write_text("changed")
    assert answer_of(site.ask(app_of(SECAGG.replace("DIRECTORY", str(secagg)))))["key"] == "changed"


def test_the_runner_has_the_rights_that_it_needs_and_no_more(kube, rights):
    cluster_of = kube.as_account(rights)
    for verb, resource, namespace in (
        ("create", "pods", SYSTEM),
        ("create", "pods", "kube-system"),
        ("get", "secrets", TASKS),
        ("list", "secrets", TASKS),
        ("delete", "secrets", TASKS),
        ("get", "secrets", SYSTEM),
        ("create", "pods/exec", TASKS),
        ("patch", "pods", TASKS),
        ("get", "nodes", ""),
    ):
        assert not cluster_of.may(verb, resource, namespace=namespace), (verb, resource, namespace)
    assert cluster_of.may("create", "pods", namespace=TASKS)


def test_a_cluster_that_holds_nobody_back_is_refused(make_site, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(KUBECONFIG))
    site = make_site(start=False)
    with pytest.raises(AssertionError, match="the runner did not start"):
        site.start(within_s=15)
    assert "its RBAC is off, and rights hold nobody back" in site.log.read_text()
    assert "hint: microk8s enable rbac" in site.log.read_text()
