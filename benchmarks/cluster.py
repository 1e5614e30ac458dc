"""The numbers of a site in a cluster: how fast a task starts in a pod, what a site costs that waits, images.

Needs root, and the test cluster (tests/e2e/cluster/up.sh), which is started if it is not up and stays up.

    python -m benchmarks.cluster [--quick] [--json] [NAME …]
"""

from __future__ import annotations

import os
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import tomli_w

from benchmarks._table import Row, main
from edge.runner.config import Limits
from tests.e2e.cluster.centre import Centre
from tests.e2e.cluster.conftest import load_images
from tests.e2e.cluster.kube import CACHE, OUTER, Kube, script
from tests.e2e.cluster.sites import Fleet
from tests.e2e.cluster.test_pods import RIGHTS, SYSTEM, TASKS
from tests.edge.runner.conftest import Site
from tests.supernode import app_of

APP = """
@app.train()
def train(message, context):
    return reply(message, done=True)
"""
STARTED = re.compile(r"the task started in the (warm|new) pod \S+ after ([0-9.]+) s")


def task_start(quick: bool) -> list[Row]:
    """From the call of the executor to the message in the pod; a new pod still imports torch after that."""
    kube, images = _cluster("site-torch")
    kube.apply(RIGHTS)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KUBECONFIG"] = str(kube.account_kubeconfig("fl-runner", SYSTEM, Path(folder) / "kubeconfig"))
        os.environ["FEDFLEET_POD_IP"] = OUTER
        home = Path(folder) / "home"
        home.mkdir()
        (home / "site.toml").write_text('id = "probe"\ngateways = ["gateway.invalid:443"]\n')
        pods: dict[str, Any] = {"image": images[0], "namespace": TASKS, "owner": "fl-task", "idle_s": 60}
        pods |= {"service_account": "fl-task", "requests": {"cpu": "100m", "memory": "256Mi"}}
        (home / "pods.toml").write_text(tomli_w.dumps(pods))
        site = Site(home, pods=home / "pods.toml", limits=Limits())
        try:
            for number in range(2 if quick else 6):
                fab = app_of(f"{APP}\n# {number}")
                for _ in range(3):
                    site.deliver(fab)
                    assert not site.node.take(180).has_error()
            found = STARTED.findall(site.log.read_text())
        finally:
            site.close()
            for namespace in (TASKS, SYSTEM):
                kube.delete("Namespace", namespace)
    rows = []
    for kind, name, target_s in (("warm", "task_start_warm_s", 1.5), ("new", "task_start_cold_s", 6.0)):
        times = [float(took) for how, took in found if how == kind]
        value = statistics.median(times)
        limit = f"longest of {len(times)}: {max(times):.2f} s"
        rows.append(Row(name, value, "s", "none", limit, f"≤ {target_s} s", value <= target_s))
    return rows


def site(quick: bool) -> list[Row]:
    """A site from its chart: how soon it is ready, and what its pod takes while it waits."""
    kube, (server, *images) = _cluster("server", "site", "site-torch")
    with tempfile.TemporaryDirectory() as folder:
        centre = Centre(kube, Path(folder), server)
        fleet = Fleet(kube, Path(folder), images, centre)
        try:
            centre.start()
            fleet.invite("berlin")
            began = time.monotonic()
            fleet.install("berlin")
            fleet.wait_ready("berlin")
            ready_s = time.monotonic() - began
            time.sleep(10 if quick else 60)
            pod = fleet.pod("berlin")["metadata"]["name"]
            words = "cat /sys/fs/cgroup/memory/memory.stat /sys/fs/cgroup/cpuacct/cpuacct.usage"
            readings = []
            for _ in range(2):
                said = kube.run("fl-system-berlin", pod, "sh", "-c", words, container="site")
                readings.append((time.monotonic(), int(said.split()[-1]) / 1e9, said))
                time.sleep(10 if quick else 30)
            used_s = (readings[1][1] - readings[0][1]) / (readings[1][0] - readings[0][0])
            stat = dict(line.split() for line in readings[1][2].splitlines() if line.count(" ") == 1)
            mib = int(stat["total_rss"]) / 2**20
        finally:
            fleet.close()
            centre.close()
    return [
        Row("site_ready_s", ready_s, "s", "none", "images present", "≤ 30 s", ready_s <= 30),
        Row("site_idle_mib", mib, "MiB", "none", "anonymous memory of the pod", "≤ 350 MiB", mib <= 350),
        Row("site_idle_cpu", 100 * used_s, "%", "none", "of one core", "≤ 1 %", used_s <= 0.01),
    ]


def image_mb(quick: bool) -> list[Row]:
    """What a node fetches of an image (compressed), and what it takes on its disk."""
    rows = []
    for name, target in (("server", 250), ("site", 300), ("site-torch", 0)):
        if quick and not (CACHE / "images" / f"{name}.tar").exists():
            continue
        script("images/build.sh", name, BASE="own", UNPACKED="1")
        fetched = (CACHE / "images" / f"{name}.tar").stat().st_size / 1e6
        on_disk = (CACHE / "images" / f"{name}.mb").read_text().strip()
        words = f"≤ {target} MB" if target else "stated"
        met = not target or fetched <= target
        rows.append(Row(f"image_mb.{name}", fetched, "MB", f"{on_disk} MiB on disk", "none", words, met))
    return rows


def _cluster(*names: str) -> tuple[Kube, list[str]]:
    script("up.sh")
    return Kube(), load_images(*names)


if __name__ == "__main__":
    main(str(__doc__), [task_start, site, image_mb])
