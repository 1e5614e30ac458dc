"""MicroK8s on a host: a pinned track, no refresh by itself, RBAC on."""

from __future__ import annotations

from collections.abc import Sequence

from pyinfra.api.operation import operation
from pyinfra.context import host

from edge.fleet import tools
from edge.fleet.facts.cluster import MicroK8sState, SnapState
from edge.fleet.facts.release import InstalledParts
from edge.fleet.operations.command import Commands, FactError, blob, command, look, note


@operation()
def installed(channel: str, snaps: Sequence[tuple[str, str]] = ()) -> Commands:
    """MicroK8s from that channel.

    Args:
        channel: ``1.34/stable``.
        snaps: Blobs of assertion and snap, one pair a snap (``core20`` first); without any, the snap store is asked.

    Raises:
        FactError: If a MicroK8s of another channel is there that somebody else installed.
    """
    snap = look(SnapState, snap="microk8s")
    ours = "microk8s" in look(InstalledParts)
    if snap and (snap.tracking == channel or (snaps and ours)) and not snap.is_disabled:
        host.noop(f"microk8s {snap.version} is there")
        return
    if snap and not ours:
        raise FactError(
            f"microk8s {snap.tracking} was not installed by the fleet; write distro: existing for this site"
        )
    if snap:
        yield command(f"snap enable microk8s; snap refresh microk8s --channel={channel}", timeout_s=900)
    elif snaps:
        offline = " && ".join(
            f"snap ack {blob(assertion)} && cp {blob(file)} {tools.HOME}/{file}.snap && "
            f"snap install --classic {tools.HOME}/{file}.snap && rm -f {tools.HOME}/{file}.snap"
            for assertion, file in snaps
        )
        yield command(note("microk8s"), offline, timeout_s=900)
    else:
        yield command(note("microk8s"), f"snap install microk8s --classic --channel={channel}", timeout_s=900)


@operation()
def held() -> Commands:
    """No refresh by itself: it would start the cluster anew in the middle of a round."""
    snap = look(SnapState, snap="microk8s")
    if snap and snap.is_held:
        host.noop("microk8s is held")
        return
    yield command("snap refresh --hold microk8s", timeout_s=60)


@operation()
def running() -> Commands:
    """MicroK8s running and answering."""
    state = look(MicroK8sState)
    if state and state.is_running:
        host.noop("microk8s runs")
        return
    yield command("microk8s start; microk8s status --wait-ready --timeout 300", timeout_s=360)


@operation()
def addons(addons: Sequence[str]) -> Commands:
    """Add-ons switched on; ``rbac`` among them, without which every pod may do everything."""
    state = look(MicroK8sState)
    missing = [name for name in addons if state is None or name not in state.addons]
    if not missing:
        host.noop("all add-ons are on")
        return
    for name in missing:
        yield command(f"microk8s enable {name} && microk8s status --wait-ready --timeout 120", timeout_s=300)


@operation()
def removed() -> Commands:
    """No MicroK8s of ours, nor its data."""
    if "microk8s" not in look(InstalledParts):
        host.noop("microk8s is not ours")
        return
    yield command(f"snap remove --purge microk8s && rm -f {tools.INSTALLED}/microk8s", timeout_s=600)
