"""The test cluster as tests see it: objects in and out as plain data, waits that tell on failure what they saw."""

import base64
import json
import os
import subprocess
import time
from pathlib import Path

import yaml
from kubernetes import client, config, dynamic
from kubernetes.client.exceptions import ApiException

from edge.runner.pod_cluster import Cluster

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CACHE = Path(os.environ.get("FEDFLEET_CACHE", Path.home() / ".cache/fedfleet"))
STATE = Path(os.environ.get("FEDFLEET_CLUSTER", "/var/lib/fedfleet-cluster"))
KUBECONFIG = STATE / "pki/admin.kubeconfig"
OUTER = "10.232.0.1"
"""Our address on the wire to the node: pods reach processes of this machine there."""
INNER = "10.232.0.2"
"""The node's."""


class Kube:
    """The cluster, as its administrator."""

    def __init__(self):
        self._api = config.new_client_from_config(str(KUBECONFIG))
        self._dynamic = dynamic.DynamicClient(self._api)
        self.core = client.CoreV1Api(self._api)

    def _resource(self, kind, version=None):
        return self._dynamic.resources.get(kind=kind, **({"api_version": version} if version else {}))

    def apply(self, text):
        """Make the objects of a YAML text, or change them to it."""
        for body in yaml.safe_load_all(text):
            if body is None:
                continue
            resource = self._resource(body["kind"], body["apiVersion"])
            namespace = body["metadata"].get("namespace")
            try:
                resource.create(body=body, namespace=namespace)
            except ApiException as err:
                if err.status != 409:
                    raise
                resource.patch(body=body, namespace=namespace, content_type="application/merge-patch+json")

    def get(self, kind, name, namespace=None, version="v1"):
        """An object as plain data; ``None`` if it is not there."""
        try:
            return self._resource(kind, version).get(name=name, namespace=namespace).to_dict()
        except ApiException as err:
            if err.status == 404:
                return None
            raise

    def list(self, kind, namespace=None, version="v1", selector=None):
        """Objects as plain data."""
        return self._resource(kind, version).get(namespace=namespace, label_selector=selector).to_dict()["items"]

    def delete(self, kind, name, namespace=None, version="v1", grace_s=None):
        """Delete an object; one that is not there is no error."""
        options = {} if grace_s is None else {"body": {"gracePeriodSeconds": grace_s}}
        try:
            self._resource(kind, version).delete(name=name, namespace=namespace, **options)
        except ApiException as err:
            if err.status != 404:
                raise

    def patch(self, kind, name, body, namespace=None, version="v1"):
        """Change an object."""
        self._resource(kind, version).patch(
            name=name, namespace=namespace, body=body, content_type="application/merge-patch+json"
        )

    def pods(self, namespace, selector=None):
        """The pods of a namespace that are not on their way out."""
        return [
            pod
            for pod in self.list("Pod", namespace, selector=selector)
            if not pod["metadata"].get("deletionTimestamp")
        ]

    def logs(self, namespace, pod, container=None, lines=60):
        """The last lines that a pod printed."""
        try:
            more = {"container": container} if container else {}
            return self.core.read_namespaced_pod_log(pod, namespace, tail_lines=lines, **more)
        except ApiException as err:
            return f"(no logs: {err.reason})"

    def run(self, namespace, pod, *command, container=None, timeout_s=120):
        """What a command prints in a pod; it must end with status 0."""
        from kubernetes.stream import stream

        more = {"container": container} if container else {}
        answer = stream(
            self.core.connect_get_namespaced_pod_exec, pod, namespace, command=list(command), stderr=True, stdin=False,
            stdout=True, tty=False, _preload_content=False, **more,
        )  # fmt: skip
        answer.run_forever(timeout=timeout_s)
        out, err = answer.read_stdout(), answer.read_stderr()
        assert answer.returncode == 0, f"{' '.join(command)} in {pod}: {answer.returncode}\n{out}\n{err}"
        return out

    def describe(self, *namespaces):
        """What is to be known about some namespaces, for a failure: pods, what they wait for, events, logs."""
        lines = []
        for namespace in namespaces:
            for pod in self.list("Pod", namespace):
                status = pod["status"]
                name = pod["metadata"]["name"]
                lines.append(f"--- pod {namespace}/{name}: {status.get('phase')} {status.get('reason', '')}")
                for one in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
                    lines.append(f"    {one['name']}: {json.dumps(one.get('state'))} restarts {one['restartCount']}")
                    lines += [f"    | {line}" for line in self.logs(namespace, name, one["name"], 40).splitlines()]
            events = sorted(self.list("Event", namespace), key=lambda one: one.get("lastTimestamp") or "")
            lines += [f"    event: {one.get('reason')}: {one.get('message')}" for one in events[-25:]]
        return "\n".join(lines)

    def wait(self, condition, what, timeout_s=180, namespaces=()):
        """Wait until something is true; on failure tell what the namespaces look like. Returns what was true."""
        deadline = time.monotonic() + timeout_s
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{what}: not within {timeout_s} s\n{self.describe(*namespaces)}")
            time.sleep(0.3)
        return found

    def wait_gone(self, kind, name, namespace=None, timeout_s=180):
        """Wait until an object is not there (any more)."""
        self.wait(lambda: self.get(kind, name, namespace) is None, f"the end of {kind} {name}", timeout_s)

    def account_kubeconfig(self, account, namespace, path):
        """A kubeconfig with a ServiceAccount's token, as a pod of it has one."""
        found = self.wait(lambda: self.get("ServiceAccount", account, namespace), f"account {account}")
        secret = self.wait(
            lambda: (self.get("ServiceAccount", account, namespace) or found).get("secrets"), f"token of {account}"
        )[0]["name"]
        data = self.wait(lambda: (self.get("Secret", secret, namespace) or {}).get("data"), "the token's Secret")
        text = json.loads(KUBECONFIG.read_text())
        text["users"][0]["user"] = {"token": base64.b64decode(data["token"]).decode()}
        path.touch(mode=0o600)
        path.write_text(json.dumps(text))
        return path

    def as_account(self, kubeconfig, namespace="default"):
        """What an account may do, asked of the cluster in its name."""
        before = os.environ.get("KUBECONFIG")
        os.environ["KUBECONFIG"] = str(kubeconfig)
        try:
            return Cluster(namespace)
        finally:
            os.environ.pop("KUBECONFIG")
            if before is not None:
                os.environ["KUBECONFIG"] = before


def script(name, *arguments, **env):
    """Run one of the scripts beside this file."""
    found = HERE / name if (HERE / name).exists() else ROOT / name
    subprocess.run(["bash", str(found), *arguments], check=True, env={**os.environ, **env}, timeout=1800)
