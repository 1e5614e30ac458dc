"""Renders the charts, each case once, and reads what comes out."""

import functools
import importlib.util
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
HELM = ROOT / "helm"
NEWEST, OLDEST, ANCIENT = "1.37.0", "1.27.0", "1.20.2"
VERSIONS = tuple(f"1.{minor}" for minor in range(27, 38))


def module(name):
    """A script of helm/, which is a folder and no package."""
    spec = importlib.util.spec_from_file_location(f"fedfleet_helm_{name}", HELM / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


tools, make, golden = module("tools"), module("make"), module("golden")
CASES = [(chart, values.stem) for chart in make.CHARTS for values in sorted((HELM / chart / "ci").glob("*.yaml"))]


class RefusedError(Exception):
    """Helm said no; the message is what it said."""


@functools.cache
def text(chart, case="minimal", version=NEWEST, *options):
    """All manifests of a case, as one text."""
    argv = [str(tools.program()), "template", "fl", str(HELM / chart), "--namespace", "fl-system"]
    argv += ["--kube-version", version, "--values", str(HELM / chart / "ci" / f"{case}.yaml"), *options]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise RefusedError(done.stderr)
    return done.stdout


@functools.cache
def manifests(chart, case="minimal", version=NEWEST, *options):
    """All manifests of a case."""
    return tuple(document for document in yaml.safe_load_all(text(chart, case, version, *options)) if document)


def refusal(chart, *options, version=NEWEST):
    """What Helm says when it refuses these options."""
    try:
        text(chart, "minimal", version, *options)
    except RefusedError as err:
        return str(err)
    raise AssertionError(f"{chart} takes {options}")


def of_kind(documents, kind):
    return [document for document in documents if document["kind"] == kind]


def only(documents, kind, ending=""):
    found = [one for one in of_kind(documents, kind) if one["metadata"]["name"].endswith(ending)]
    assert len(found) == 1, [one["metadata"]["name"] for one in found]
    return found[0]


def pods(documents):
    """Name and spec of every pod, of whatever makes it."""
    for document in documents:
        name = f"{document['kind']}/{document['metadata']['name']}"
        if document["kind"] == "Pod":
            yield name, document["spec"]
        elif document["kind"] in ("Deployment", "DaemonSet", "Job"):
            yield name, document["spec"]["template"]["spec"]
        elif document["kind"] == "CronJob":
            yield name, document["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def containers(documents):
    """Name and spec of every container."""
    for name, spec in pods(documents):
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            yield f"{name}/{container['name']}", container
