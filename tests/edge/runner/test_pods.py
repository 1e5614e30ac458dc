"""Task pods without a cluster: what is asked of one, what its fate is read from, its way to the runner and back."""

import hashlib
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest

from edge.runner import clientapp, parcel, pod_failures, pod_files, pod_spec
from edge.runner.pod_config import PodConfig
from edge.runner.pod_endpoint import Endpoint, Job
from edge.runner.pod_spec import Owner, Wanted
from fl.config import load
from fl.errors import ConfigError, StorageError
from tests.supernode import app_of

IMAGE = "registry.example/fl-site@sha256:" + "0" * 64
WANTED = Wanted(
    name="fl-task-berlin-1", site="berlin", digest="a" * 64, address="10.1.2.3:9443", home="/var/lib/site", life_s=99.5
)  # fmt: skip
OWNER = Owner("ServiceAccount", "fl-task", "uid-1")


def made(**keys):
    return pod_spec.pod(load(PodConfig, {"image": IMAGE, **keys}), WANTED, OWNER)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"image": "fl-site"}, "which may be another image tomorrow"),
        ({"image": "registry:5000/fl-site:latest"}, "which may be another image tomorrow"),
        ({"image": "registry:5000/fl-site"}, "which may be another image tomorrow"),
        ({"image": "fl-site@sha256:12"}, "whose digest is none"),
        ({"namespace": "Tasks"}, "must be a name as Kubernetes has them"),
        ({"mounts": {"data": "/data"}}, "which is none of the volumes"),
        ({"volumes": [{"name": "data"}]}, "is mounted nowhere"),
        ({"user": 0}, "user is 0, must be at least 1"),
        ({"idel_s": 3}, "unknown key idel_s"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_words(keys, words):
    with pytest.raises(ConfigError, match=words):
        made(**keys)


def test_a_pod_is_restricted_and_holds_no_account():
    spec = made()["spec"]
    (container,) = spec["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    assert spec["activeDeadlineSeconds"] == 100
    assert spec["restartPolicy"] == "Never"
    assert made()["metadata"]["ownerReferences"][0]["uid"] == "uid-1"


def test_no_secret_is_in_a_pod_but_in_a_file_of_its_own():
    secret = pod_spec.secret(
        load(PodConfig, {"image": IMAGE}), WANTED, Owner("Pod", WANTED.name, "u"), {"token": b"hush"}
    )
    assert "hush" not in json.dumps(made())
    assert secret["metadata"]["ownerReferences"][0] == {
        "apiVersion": "v1", "kind": "Pod", "name": WANTED.name, "uid": "u",
    }  # fmt: skip
    assert {"name": "secrets", "secret": {"secretName": WANTED.name, "defaultMode": 0o440}} in made()["spec"]["volumes"]


def test_what_a_cluster_must_know_is_passed_on_and_the_rest_left_out():
    spec = made(
        runtime_class="nvidia", priority_class="training", queue="gpus", node_selector={"gpu": "a100"},
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}], image_pull_secrets=["registry"],
        limits={"nvidia.com/mig-1g.10gb": "1"}, claims={"gpu": "one-gpu"},
        volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "mri"}}], mounts={"data": "/data"},
    )  # fmt: skip
    assert spec["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    spec = spec["spec"]
    assert (spec["runtimeClassName"], spec["priorityClassName"]) == ("nvidia", "training")
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["resourceClaims"] == [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]
    assert spec["containers"][0]["resources"]["claims"] == [{"name": "gpu"}]
    assert {"name": "data", "mountPath": "/data", "readOnly": True} in spec["containers"][0]["volumeMounts"]
    plain = made()["spec"]
    absent = {
        "runtimeClassName",
        "priorityClassName",
        "nodeSelector",
        "tolerations",
        "imagePullSecrets",
        "resourceClaims",
    }
    assert not absent & set(plain)
    assert "claims" not in plain["containers"][0]["resources"]


@pytest.mark.parametrize(
    ("keys", "kept_s"),
    [
        ({}, 60),
        ({"limits": {"nvidia.com/gpu": "1"}}, 0),
        ({"limits": {"gpu.intel.com/i915": "1"}}, 0),
        ({"claims": {"one": "template"}}, 0),
        ({"limits": {"amd.com/gpu": "1"}, "idle_s": 5}, 5),
    ],
)
def test_a_pod_with_a_gpu_waits_for_no_further_task_unless_told_to(keys, kept_s):
    assert load(PodConfig, {"image": IMAGE, **keys}).keeps_s == kept_s


def state(**status):
    return {"metadata": {}, "status": status}


def container(**now):
    return {"containerStatuses": [{"name": "task", "state": now}]}


@pytest.mark.parametrize(
    ("pod", "words", "kind"),
    [
        (None, "its pod was deleted", "lost"),
        ({"metadata": {"deletionTimestamp": "now"}, "status": {"phase": "Running"}}, "its pod was deleted", "lost"),
        (state(phase="Failed", reason="Evicted", message="low on memory"), "evicted it: low on memory", "lost"),
        (state(phase="Failed", reason="NodeShutdown"), "its node was shut down", "lost"),
        (
            state(conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]),
            "give way to a pod of higher priority",
            "lost",
        ),
        (
            state(conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]),
            "its node was drained",
            "lost",
        ),
        (
            state(phase="Failed", reason="OutOfcpu", message="Node didn't have enough"),
            "no room for it any more",
            "lost",
        ),
        (state(phase="Failed", reason="DeadlineExceeded"), "longer than the site allows", "final"),
        (
            state(phase="Failed", **container(terminated={"reason": "OOMKilled", "exitCode": 137})),
            "its pod's memory ran out",
            "final",
        ),
        (
            state(phase="Failed", **container(terminated={"reason": "Error", "exitCode": 1})),
            "process ended with status 1",
            "final",
        ),
        (
            state(
                phase="Pending",
                conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1"}],
            ),
            "no node can take its pod: 0/1",
            "waiting",
        ),
        (
            state(
                phase="Pending", conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]
            ),
            "waits in a queue",
            "waiting",
        ),
        (
            state(phase="Pending", **container(waiting={"reason": "ImagePullBackOff", "message": "not found"})),
            "the image cannot be had .ImagePullBackOff.: not found",
            "waiting",
        ),
        (
            state(phase="Pending", **container(waiting={"reason": "InvalidImageName"})),
            "the image cannot be had",
            "final",
        ),
    ],
)
def test_what_became_of_a_pod_is_told_in_words_and_a_lost_one_is_tried_again(pod, words, kind):
    trouble = pod_failures.look(pod)
    assert re.search(words, trouble.words)
    assert kind == ("lost" if trouble.is_lost else "waiting" if trouble.is_waiting else "final")


@pytest.mark.parametrize(
    "pod",
    [
        state(phase="Pending"),
        state(phase="Pending", **container(waiting={"reason": "ContainerCreating"})),
        state(phase="Running", **container(running={})),
        state(phase="Unknown"),
    ],
)
def test_a_pod_that_starts_or_runs_is_in_no_trouble(pod):
    assert pod_failures.look(pod) is None


@pytest.fixture
def endpoint(tmp_path):
    found = Endpoint(tmp_path, 0)
    yield found
    found.close()


def ask(endpoint, token, path, data=None, method=None):
    context = ssl.create_default_context(cadata=endpoint.authority.decode())
    request = urllib.request.Request(
        f"https://localhost:{endpoint.port}{path}", data, {"Authorization": f"Bearer {token}"}, method=method
    )
    try:
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as err:
        return err.code, err.read()


def job_of(tmp_path, number=1, **order):
    paths = {}
    for name in ("bundle", "received", "secagg"):
        paths[name] = tmp_path / f"{number}-{name}"
        paths[name].write_bytes(f"{name} {number}".encode())
    outputs = {"answered": tmp_path / f"{number}-answered", "secagg": tmp_path / f"{number}-back"}
    return Job(number=number, order=order, inputs=paths, outputs=outputs)


def test_a_pod_sees_its_own_task_and_no_other(endpoint, tmp_path):
    mine, other = endpoint.seat(), endpoint.seat()
    mine.offer(job_of(tmp_path, 1))
    other.offer(job_of(tmp_path, 2))
    assert json.loads(ask(endpoint, mine.token, "/v1/task")[1]) == {"number": 1}
    assert ask(endpoint, mine.token, "/v1/task/1/received") == (200, b"received 1")
    assert ask(endpoint, mine.token, "/v1/task/2/received")[0] == 410
    assert ask(endpoint, mine.token, "/v1/task/2/answered", b"forged", "PUT")[0] == 410
    assert not (tmp_path / "2-answered").exists()
    for path in ("/v1/task/1/../../endpoint.key", "/v1/task/1/answered", "/endpoint.key", "/v1/task/1/nothing"):
        assert ask(endpoint, mine.token, path)[0] in (404, 410)


@pytest.mark.parametrize("token", ["", "wrong", "é"])
def test_who_has_no_token_gets_nothing(endpoint, tmp_path, token):
    endpoint.seat().offer(job_of(tmp_path))
    assert ask(endpoint, token.encode().decode("latin-1"), "/v1/task") == (410, b"")
    assert ask(endpoint, token.encode().decode("latin-1"), "/v1/task/1/received") == (410, b"")


def test_a_token_is_worth_nothing_when_its_pod_is_gone(endpoint, tmp_path):
    seat = endpoint.seat()
    seat.offer(job_of(tmp_path))
    assert ask(endpoint, seat.token, "/v1/task")[0] == 200
    endpoint.leave(seat)
    assert ask(endpoint, seat.token, "/v1/task")[0] == 410


def test_a_task_that_is_taken_back_takes_no_answer(endpoint, tmp_path):
    seat, job = endpoint.seat(), job_of(tmp_path)
    seat.offer(job)
    assert ask(endpoint, seat.token, "/v1/task/1/alive", b"{}")[0] == 200
    seat.withdraw()
    assert ask(endpoint, seat.token, "/v1/task/1/alive", b"{}")[0] == 410
    assert ask(endpoint, seat.token, "/v1/task/1/answered", b"late", "PUT")[0] == 410
    assert not job.outputs["answered"].exists()


def test_a_pod_that_waits_is_told_at_once(endpoint, tmp_path):
    seat = endpoint.seat()
    threading.Timer(0.3, lambda: seat.offer(job_of(tmp_path, 7))).start()
    assert json.loads(ask(endpoint, seat.token, "/v1/task")[1]) == {"number": 7}
    seat.withdraw()
    threading.Timer(0.3, seat.dismiss).start()
    assert ask(endpoint, seat.token, "/v1/task")[0] == 410


def test_an_answer_that_is_cut_short_is_none(endpoint, tmp_path):
    seat, job = endpoint.seat(), job_of(tmp_path)
    seat.offer(job)
    import socket

    context = ssl.create_default_context(cadata=endpoint.authority.decode())
    with context.wrap_socket(
        socket.create_connection(("localhost", endpoint.port)), server_hostname="localhost"
    ) as raw:
        head = f"PUT /v1/task/1/answered HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {seat.token}\r\n"
        raw.sendall(f"{head}Content-Length: 100\r\n\r\nhalf".encode())
    time.sleep(0.3)
    assert not job.outputs["answered"].exists()
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_a_pods_processes_run_a_task_to_its_answer_and_end_when_sent_away(endpoint, tmp_path):
    """The agent itself, as a process of this machine: what a container does is what is left out."""
    seat = endpoint.seat()
    secrets, work, secagg = tmp_path / "secrets", tmp_path / "work", tmp_path / "home" / "secagg"
    secrets.mkdir()
    (secrets / "token").write_text(seat.token)
    (secrets / "authority.pem").write_bytes(endpoint.authority)
    fab = app_of(LEDGER.replace("DIRECTORY", str(secagg)))
    digest = hashlib.sha256(fab).hexdigest()
    job = job_of(
        tmp_path, 3, digest=digest, threads=1, gpu_left_s=None, secagg=str(secagg),
        limits={"memory_mib": None, "time_s": 60.0, "cpu_s": None},
    )  # fmt: skip
    job.inputs["bundle"].write_bytes(fab)
    write_message(job.inputs["received"], digest)
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "ledger.json").write_text("old")
    (kept / "identity.key").write_text("key")
    pod_files.pack(kept, job.inputs["secagg"])
    argv = [sys.executable, "-m", "edge.runner.pod_agent", "--address", f"127.0.0.1:{endpoint.port}"]
    argv += ["--secrets", str(secrets), "--work", str(work)]
    with subprocess.Popen(argv, env={**os.environ, "FLWR_HOME": str(work)}, stdout=subprocess.DEVNULL) as process:
        try:
            seat.offer(job)
            seat.wait(job, 60)
            assert job.outcome is not None
            assert (job.outcome["failure"], job.outcome["raised"]) == ("", "")
            assert clientapp.read_reply(job.outputs["answered"]).failure == ""
            pod_files.keep(job.outputs["secagg"], kept)
            assert (kept / "ledger.json").read_text() == "old and key"
            assert seat.heard_at is not None
            seat.dismiss()
            assert process.wait(30) == 0
        finally:
            process.kill()
    assert list(secagg.glob("*")) == []


LEDGER = """
import pathlib
@app.train()
def train(message, context):
    home = pathlib.Path("DIRECTORY")
    ledger = home / "ledger.json"
    ledger.write_text(ledger.read_text() + " and " + (home / "identity.key").read_text())
    return reply(message, done=True)
"""


def write_message(path, digest):
    """A message for a task as the runner writes it down."""
    from flwr.app import ConfigRecord, Context, Message, RecordDict
    from flwr.app.message import remove_content_from_message
    from flwr.common.serde import context_to_proto, message_to_proto
    from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

    from edge.runner.flower import Task
    from fl.flower.private import ensure_identity

    ensure_identity()
    message = Message(RecordDict({"question": ConfigRecord({"x": 1})}), dst_node_id=7, message_type="train")
    message.metadata.__dict__["_run_id"] = 5
    message.metadata.__dict__["_message_id"] = message.object_id
    tree = get_object_tree(message)
    pieces = {key: piece.deflate() for key, piece in get_all_nested_objects(message).items()}
    head = message_to_proto(remove_content_from_message(message))
    head.metadata.message_id = message.object_id
    task = Task("", 1, 5, 7, True, digest, head.SerializeToString(), tree.SerializeToString())
    context = Context(run_id=5, node_id=7, node_config={}, state=RecordDict(), run_config={})
    writer = parcel.Writer(path)
    clientapp.write_input(writer, task, context_to_proto(context).SerializeToString())
    for key, piece in pieces.items():
        writer.add(clientapp.OBJECT + key, piece)
    writer.finish()


def test_a_pod_may_bring_a_ledger_and_receipts_and_nothing_else(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "identity.key").write_text("mine")
    for name in ("identity.key", "policy.toml", "../policy.toml", "receipts/../../x.json", "receipts/a.json"):
        writer = parcel.Writer(tmp_path / "forged")
        writer.add(name, b"forged")
        writer.finish()
        with pytest.raises(StorageError, match="is none of its own"):
            pod_files.keep(tmp_path / "forged", home)
    assert (home / "identity.key").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["forged", "home"]
