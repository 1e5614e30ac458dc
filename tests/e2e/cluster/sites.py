"""Sites of the tests, installed into the cluster with their chart."""

import subprocess

import yaml

from helm.tools import program
from tests.e2e.cluster.kube import KUBECONFIG, ROOT

SITES = ("berlin", "lyon", "turin")
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
sites = ["berlin", "lyon", "turin"]
[evaluation]
sites_every = {rounds}
[secagg]
weight_cap = 500
"""


def helm(*arguments, check=True, timeout_s=300):
    done = subprocess.run(
        [str(program()), *map(str, arguments), "--kubeconfig", str(KUBECONFIG)], capture_output=True, text=True,
        timeout=timeout_s, check=False,
    )  # fmt: skip
    assert not check or done.returncode == 0, f"helm {arguments}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def by_digest(image, **more):
    """An image as charts take it."""
    repository, digest = image.split("@")
    return {"repository": repository, "digest": digest, "pullPolicy": "Never", **more}


class Fleet:
    """Sites in the cluster.

    Args:
        kube: The cluster.
        directory: For files.
        images: A site's, and the one that its tasks run in.
        centre: Theirs (``tests.e2e.cluster.centre``); it has started.
    """

    def __init__(self, kube, directory, images, centre):
        self.kube = kube
        self.directory = directory
        self.site_image, self.task_image = images
        self.centre = centre

    def values(self, site, **more):
        number = SITES.index(site)
        return {
            "site": {"id": site, "partitionId": number, "numPartitions": len(SITES), "threads": 1},
            "gateway": {"addresses": [self.centre.gateway]},
            "image": by_digest(self.site_image),
            "tasks": {
                "namespace": {"name": f"fl-tasks-{site}"},
                "image": by_digest(self.task_image),
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
        for kind in ("system", "tasks"):
            self.kube.wait_gone("Namespace", f"fl-{kind}-{site}")
        token = self.centre.invite(site)
        self.kube.apply(f"{{apiVersion: v1, kind: Namespace, metadata: {{name: fl-system-{site}}}}}")
        self.kube.apply(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": "fl-site-join", "namespace": f"fl-system-{site}"},
                    "stringData": {"token": token},
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
        return self.centre.start_run(file, self.directory / "run.log")

    def finish_run(self, process, timeout_s=500):
        """Wait for a run's end; what it printed."""
        try:
            status = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = "no end"
        text = (self.directory / "run.log").read_text()
        assert status == 0, f"{text}\n{self.centre.tell()}\n{self.tell()}"
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
