"""K3s on a host, server or agent, with nothing from the internet."""

from __future__ import annotations

import hashlib
import shlex

from pyinfra.api.operation import operation
from pyinfra.context import host

from edge.fleet import tools
from edge.fleet.facts.cluster import K3sState
from edge.fleet.facts.release import InstalledParts
from edge.fleet.facts.system import FileOf
from edge.fleet.operations.command import Commands, FactError, blob, command, look, note

IMAGES = "/var/lib/rancher/k3s/agent/images"
APPLIED = f"{tools.HOME}/k3s-applied"
"""Digest of the configuration with which K3s was last started; it reads its files only then."""


@operation()
def airgap_images(file: str, sha256: str) -> Commands:
    """K3s' own images where it imports them at its start."""
    path = f"{IMAGES}/{file}"
    there = look(FileOf, path=path)
    if there and there.sha256 == sha256:
        host.noop(f"{file} is there")
        return
    target = shlex.quote(path)
    yield command(f"mkdir -p {IMAGES} && cp {blob(sha256)} {target}.part && mv {target}.part {target}", timeout_s=300)


@operation()
def installed(version: str, role: str, binary: str, script: str) -> Commands:
    """K3s of that version, from the bundle and with its own installer, which also makes the one that removes it.

    Args:
        version: ``v1.34.1+k3s1``.
        role: ``server`` or ``agent``.
        binary: Blob with the program.
        script: Blob with K3s' ``install.sh``.

    Raises:
        FactError: If a K3s is there that somebody else installed: it is not ours to change.
    """
    state = look(K3sState)
    ours = "k3s" in look(InstalledParts)
    if state and state.version == version and state.role == role:
        host.noop(f"k3s {version} is there")
        return
    if state and not ours:
        raise FactError(f"k3s {state.version} was not installed by the fleet; write distro: existing for this site")
    target = "/usr/local/bin/k3s"
    yield command(
        note("k3s"),
        f"install -m 755 {blob(binary)} {target}.new && mv {target}.new {target} &&",
        f"INSTALL_K3S_SKIP_DOWNLOAD=true INSTALL_K3S_SKIP_START=true INSTALL_K3S_EXEC={role} sh {blob(script)} &&",
        f"rm -f {APPLIED}",
        timeout_s=300,
    )


@operation()
def started(role: str, configuration: str) -> Commands:
    """K3s running with its present configuration; it is started anew only when that changed.

    Args:
        role: ``server`` or ``agent``.
        configuration: All that K3s reads at its start, as one text.
    """
    content = f"{hashlib.sha256(configuration.encode()).hexdigest()}\n"
    state = look(K3sState)
    applied = look(FileOf, path=APPLIED)
    same = applied is not None and applied.sha256 == hashlib.sha256(content.encode()).hexdigest()
    if state and state.state == "active" and same:
        host.noop("k3s runs with this configuration")
        return
    unit = "k3s" if role == "server" else "k3s-agent"
    yield command(
        f"systemctl enable {unit} && systemctl restart {unit} && mkdir -p {tools.HOME} && cat > {APPLIED}",
        timeout_s=300,
        stdin=content,
    )


@operation()
def removed() -> Commands:
    """No K3s of ours, nor what it kept."""
    if "k3s" not in look(InstalledParts):
        host.noop("k3s is not ours")
        return
    scripts = "for s in k3s-uninstall.sh k3s-agent-uninstall.sh; do"
    ran = f'{scripts} [ -x "/usr/local/bin/$s" ] && "/usr/local/bin/$s"; done;'
    left = f"rm -rf /etc/rancher/k3s /usr/local/bin/k3s {APPLIED}"
    yield command(ran, f"{left} && rm -f {tools.INSTALLED}/k3s", timeout_s=300)


@operation()
def kernel(path: str, content: str) -> Commands:
    """Kernel settings that a hardened kubelet asks for, now and after a start; what they were before is kept."""
    wanted = hashlib.sha256(content.encode()).hexdigest()
    state = look(FileOf, path=path)
    if state and state.sha256 == wanted:
        host.noop("the kernel is set")
        return
    keys = " ".join(line.partition("=")[0] for line in content.splitlines())
    kept = f"{tools.INSTALLED}/sysctl"
    file = shlex.quote(path)
    before = f"mkdir -p {tools.INSTALLED} && {{ [ -e {kept} ] || sysctl {keys} > {kept}.new && mv {kept}.new {kept}; }}"
    # The file comes last: one that is there means settings that hold.
    held = f"cat > {file}.new && sysctl -q -p {file}.new && mv {file}.new {file}"
    yield command(f"{before}; {held}", timeout_s=60, stdin=content)


@operation()
def kernel_restored(path: str) -> Commands:
    """The kernel as it was before."""
    if "sysctl" not in look(InstalledParts):
        host.noop("the kernel is as it was")
        return
    kept = f"{tools.INSTALLED}/sysctl"
    yield command(f"rm -f {shlex.quote(path)}; sysctl -q -p {kept}; rm -f {kept}", timeout_s=60)
