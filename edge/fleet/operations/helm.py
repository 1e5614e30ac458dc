"""Helm on a host: the program, a release, the way back."""

from __future__ import annotations

import shlex

from pyinfra.api.command import PyinfraCommand
from pyinfra.api.exceptions import OperationError
from pyinfra.api.operation import operation
from pyinfra.context import host

from edge.fleet import tools
from edge.fleet.facts.release import HelmRelease, HelmVersion, InstalledParts, Release
from edge.fleet.operations.command import Commands, blob, command, look, note

TIMEOUT_S = 300
HISTORY = 5


@operation()
def program(version: str, sha256: str) -> Commands:
    """The bundle's Helm in ``/usr/local/bin``.

    Args:
        version: As Helm says it, ``v4.1.4``.
        sha256: Blob with the program.
    """
    there = look(HelmVersion)
    if there == version:
        host.noop(f"helm {version} is there")
        return
    if there is not None and "helm" not in look(InstalledParts):
        host.noop(f"helm {there} is the host's own, and stays")
        return
    target = "/usr/local/bin/helm"
    made = f"install -m 755 {blob(sha256)} {target}.new && mv {target}.new {target}"
    yield command(note("helm"), made, timeout_s=60)


@operation()
def release(
    helm: str, release_name: str, namespace: str, chart: str, values: str, digest: str, timeout_s: int = TIMEOUT_S
) -> Commands:
    """A release of this chart with these values; one that was left half-way is brought back first.

    Args:
        helm: Helm's command line (``edge.fleet.tools.helm``).
        release_name: Of the release.
        namespace: Its namespace, which exists.
        chart: File at the host.
        values: File at the host.
        digest: Of chart, values and images, 16 hexadecimal digits; written into the release.
        timeout_s: How long its pods may take. Helm goes back by itself after that.
    """
    state = look(HelmRelease, helm=helm, release=release_name, namespace=namespace)
    if state and state.now.status == "deployed" and state.now.digest == digest:
        host.noop(f"{release_name} is at {digest}")
        return
    names = f"{shlex.quote(release_name)} -n {shlex.quote(namespace)}"
    if state and state.is_pending:
        yield _recovery(helm, names, state)
    wait = f"--wait --timeout {timeout_s}s --rollback-on-failure --history-max {HISTORY}"
    files = f"{shlex.quote(chart)} -f {shlex.quote(values)}"
    described = f"--description 'fedfleet {digest}'"
    name, _, namespace_options = names.partition(" ")
    yield _locked(
        f"{helm} upgrade --install {name} {files} {namespace_options} {wait} {described}", timeout_s=2 * timeout_s + 60
    )


@operation()
def rolled_back(
    helm: str, release_name: str, namespace: str, revision: int | None, timeout_s: int = TIMEOUT_S
) -> Commands:
    """A release back at an earlier revision, or gone if there was none before.

    Args:
        helm: Helm's command line.
        release_name: Of the release.
        namespace: Its namespace.
        revision: To which; ``None`` takes the release away.
        timeout_s: How long its pods may take.

    Raises:
        OperationError: If that revision is not in the history any more.
    """
    state = look(HelmRelease, helm=helm, release=release_name, namespace=namespace)
    names = f"{shlex.quote(release_name)} -n {shlex.quote(namespace)}"
    if state is None:
        host.noop(f"there is no release {release_name}")
        return
    if revision is None:
        yield _locked(f"{helm} uninstall {names} --wait --timeout {timeout_s}s", timeout_s=timeout_s + 60)
        return
    wanted = next((it for it in state.revisions if it.revision == revision), None)
    if wanted is None:
        raise OperationError(f"{release_name} has no revision {revision} any more")
    if state.now.status == "deployed" and (state.now.revision == revision or state.now.digest == wanted.digest != ""):
        host.noop(f"{release_name} is at revision {revision} or its like")
        return
    yield _locked(
        f"{helm} rollback {names} {revision} --wait --timeout {timeout_s}s --history-max {HISTORY}",
        timeout_s=timeout_s + 60,
    )


@operation()
def uninstalled(helm: str, release_name: str, namespace: str, timeout_s: int = TIMEOUT_S) -> Commands:
    """No such release."""
    if look(HelmRelease, helm=helm, release=release_name, namespace=namespace) is None:
        host.noop(f"there is no release {release_name}")
        return
    names = f"{shlex.quote(release_name)} -n {shlex.quote(namespace)}"
    yield _locked(f"{helm} uninstall {names} --wait --timeout {timeout_s}s", timeout_s=timeout_s + 60)


@operation()
def program_removed() -> Commands:
    """No Helm of ours."""
    if "helm" not in look(InstalledParts):
        host.noop("helm is not ours")
        return
    yield command(f"rm -f /usr/local/bin/helm {tools.INSTALLED}/helm", timeout_s=30)


def _recovery(helm: str, names: str, state: Release) -> PyinfraCommand:
    """Out of ``pending-…``: back to what ran, or away with a first installation that never ended."""
    good = state.last_good
    if good is None:
        return _locked(f"{helm} uninstall {names} --wait --timeout 120s", timeout_s=180)
    return _locked(f"{helm} rollback {names} {good.revision} --wait --timeout 120s", timeout_s=180)


def _locked(line: str, *, timeout_s: int) -> PyinfraCommand:
    """One Helm at a time: the one of a rollout that was killed may still be at work there."""
    return command(f"flock -w {timeout_s} {tools.HELM_LOCK} {line}", timeout_s=timeout_s + 10)
