"""What the presets make, kept as files: ``python helm/golden.py`` writes them anew, ``--check`` says which differ.

A change of a template shows as a change of ``tests/helm/golden``, where a reviewer reads what clusters will get.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import tools

HELM = Path(__file__).resolve().parent
GOLDEN = HELM.parent / "tests" / "helm" / "golden"
VERSIONS = {"kubernetes-1.20": "1.20.2", "kubernetes": "1.37.0", "k3s": "1.34.1", "microk8s": "1.34.1"}


def presets() -> dict[str, tuple[str, Path, str]]:
    """Chart, values and Kubernetes version of each golden file, by its name."""
    found = {}
    for values in sorted(HELM.glob("*/presets/values-*.yaml")):
        chart, distro = values.parent.parent.name, values.stem.removeprefix("values-")
        found[f"{chart}-{distro}"] = (chart, values, VERSIONS[distro])
    return found


def render(chart: str, values: Path, version: str) -> str:
    """The manifests of a preset.

    Raises:
        subprocess.CalledProcessError: If Helm refuses.
    """
    argv = [str(tools.program()), "template", "fl", str(HELM / chart), "--namespace", "fl-system"]
    argv += ["--kube-version", version, "--values", str(HELM / chart / "ci" / "minimal.yaml"), "--values", str(values)]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def main() -> int:
    """Write all, or compare."""
    parser = argparse.ArgumentParser(description="Keep what the presets make.")
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if a file would change")
    given = parser.parse_args()
    stale = 0
    for name, preset in presets().items():
        path, content = GOLDEN / f"{name}.yaml", render(*preset)
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        stale += 1
        print(f"{'stale' if given.check else 'wrote'} {path.name}")  # noqa: T201
        if not given.check:
            GOLDEN.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
    return 1 if given.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
