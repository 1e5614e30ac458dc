"""The cluster for the tests of this folder: started for them and taken away after them.

``FEDFLEET_KEEP_CLUSTER=1`` uses the one that is up already, and leaves it up; ``FEDFLEET_KEEP_IMAGES=1`` takes the
images as they were built last, whatever has changed since. With both, two groups of tests run side by side: those of
one federation, and those of single pods.
"""

import os
import tomllib

import pytest

from tests.e2e.cluster.centre import Centre
from tests.e2e.cluster.kube import CACHE, ROOT, Kube, script
from tests.e2e.cluster.sites import SITES, Fleet

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def image(name):
    """An image of the cluster by its digest, as a chart names it."""
    digest = (CACHE / "images" / f"{name}.digest").read_text().strip()
    return f"localhost/fl-{name}@{digest}"


@pytest.fixture(scope="session")
def kube():
    if os.geteuid() != 0:
        pytest.skip("the test cluster needs root: control groups, network namespaces, mounts")
    script("up.sh")
    try:
        yield Kube()
    finally:
        if not os.environ.get("FEDFLEET_KEEP_CLUSTER"):
            script("down.sh")


@pytest.fixture(scope="session")
def task_image(kube):
    """The image that task pods run."""
    return load_images("site-torch")[0]


@pytest.fixture(scope="session")
def server_image(kube):
    """The image of the centre."""
    return load_images("server")[0]


@pytest.fixture(scope="session")
def centre(kube, server_image, tmp_path_factory):
    """The centre in the cluster."""
    made = Centre(kube, tmp_path_factory.mktemp("centre"), server_image)
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture(scope="session")
def fleet(kube, centre, tmp_path_factory):
    """Three sites that have joined and are ready."""
    made = Fleet(kube, tmp_path_factory.mktemp("fleet"), load_images("site", "site-torch"), centre)
    try:
        for site in SITES:
            made.invite(site)
            made.install(site)
        made.wait_ready(*SITES)
        yield made
    finally:
        made.close()


def load_images(*names):
    """Build images, unless their sources have not changed, and put them into the cluster."""
    for name in names if not os.environ.get("FEDFLEET_KEEP_IMAGES") else ():
        script("images/build.sh", name, BASE="own", UNPACKED="1")
    script("images.sh", *(str(CACHE / "images" / f"{name}.tar") for name in names))
    return [image(name) for name in names]
