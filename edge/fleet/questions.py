"""What to ask a host in one trip: all that the deploys of a site look at, and what a person wants to know besides."""

from __future__ import annotations

from edge.fleet import tools
from edge.fleet.deploys import k3s_files
from edge.fleet.deploys.site import PLUGIN
from edge.fleet.facts import certificates, cluster, gpu, network, release, runtime, system
from edge.fleet.facts.survey import Part
from edge.fleet.operations.gpu import KNOWN
from edge.fleet.operations.k3s import APPLIED, IMAGES
from edge.fleet.site_config import split_address
from edge.fleet.wanted import IDENTITY_SECRET, JOIN_SECRET, POLICY, Wanted


def survey(wanted: Wanted) -> list[Part]:
    """The state of a site, as far as anything is done about it."""
    at = wanted.site
    parts: list[Part] = [
        (system.OsRelease, {}),
        (system.CgroupVersion, {}),
        (system.DiskOf, {"path": tools.HOME}),
        (system.MainMemory, {}),
        (system.Clock, {}),
        (release.InstalledParts, {}),
        (release.Blobs, {}),
        (release.HelmVersion, {}),
        (release.Images, {"ctr": tools.ctr(at.distro)}),
        (certificates.CertificateEnds, {"paths": _certificates(wanted)}),
        (cluster.Nodes, {"kubectl": wanted.kubectl}),
    ]
    parts += [(system.FileOf, {"path": path}) for path in _files(wanted)]
    if at.distro == "k3s":
        parts += [(cluster.K3sState, {})]
    elif at.distro == "microk8s":
        parts += [(cluster.SnapState, {"snap": "microk8s"}), (cluster.MicroK8sState, {})]
    if at.gpu.count:
        parts += [(gpu.NvidiaGpus, {}), (gpu.ContainerToolkit, {})]
    if wanted.has_release:
        parts += _of_release(wanted)
    return parts


def health(wanted: Wanted) -> list[Part]:
    """Whether a site's release runs."""
    at = wanted.site
    selector = f"app.kubernetes.io/instance={at.release_name}"
    names = f"secret/{IDENTITY_SECRET} secret/{JOIN_SECRET}"
    return [
        (cluster.Pods, {"kubectl": wanted.kubectl, "namespace": at.namespace, "selector": selector}),
        (release.HelmRelease, _release(wanted)),
        (cluster.Objects, {"kubectl": wanted.kubectl, "namespace": at.namespace, "names": names}),
    ]


def examination(wanted: Wanted, *, addresses: tuple[str, ...], proxy: str | None) -> list[Part]:
    """What the doctor looks at: it takes longer, and writes a little."""
    host = split_address("gateway.addresses", addresses[0])[0]
    parts: list[Part] = [
        (system.Mtu, {}),
        (system.DiskSpeed, {"path": tools.HOME}),
        (runtime.ContainerRuntimes, {}),
        (gpu.NvidiaGpus, {}),
        (network.Resolves, {"host": host}),
        *((network.Reaches, {"address": address, "proxy": proxy or ""}) for address in addresses),
    ]
    if wanted.site.distro == "microk8s":
        parts.append((certificates.CertificateAuthority, {"path": certificates.MICROK8S_CA}))
    return parts


def _of_release(wanted: Wanted) -> list[Part]:
    at = wanted.site
    names = [f"namespace/{at.namespace}"]
    if at.gpu.count:
        names += [f"namespace/{PLUGIN}"]
    parts: list[Part] = [
        (cluster.Objects, {"kubectl": wanted.kubectl, "namespace": "default", "names": name}) for name in names
    ]
    own = (f"secret/{JOIN_SECRET}", f"secret/{IDENTITY_SECRET}", f"configmap/{POLICY}")
    parts += [(cluster.Objects, {"kubectl": wanted.kubectl, "namespace": at.namespace, "names": name}) for name in own]
    parts += health(wanted)
    parts += [(system.TextOf, {"path": f"{tools.HOME}/values-{at.release_name}.yaml"})]
    if at.gpu.count:
        runtime_class = "runtimeclass/nvidia"
        parts += [(cluster.Objects, {"kubectl": wanted.kubectl, "namespace": "default", "names": runtime_class})]
        plugin = {"helm": wanted.helm, "release": PLUGIN, "namespace": PLUGIN}
        parts += [(release.HelmRelease, plugin)]
    return parts


def _release(wanted: Wanted) -> dict[str, str]:
    return {"helm": wanted.helm, "release": wanted.site.release_name, "namespace": wanted.site.namespace}


def _certificates(wanted: Wanted) -> str:
    return certificates.MICROK8S if wanted.site.distro == "microk8s" else certificates.K3S


def _files(wanted: Wanted) -> list[str]:
    at = wanted.site
    files = [f"{tools.BUNDLE}/bundle.json"] if wanted.signers else []
    if wanted.has_release:
        files += [f"{tools.HOME}/values-{at.release_name}.yaml"]
    if at.distro == "k3s":
        files += [k3s_files.CONFIG, k3s_files.REGISTRIES, APPLIED]
        if at.kubernetes.hardened:
            files += [k3s_files.SYSCTL]
            files += [k3s_files.PSA, k3s_files.AUDIT] if at.kubernetes.role == "server" else []
        if airgap := wanted.first("k3s-images"):
            files += [f"{IMAGES}/{airgap.name}"]
    if at.gpu.count:
        files += [KNOWN, f"{tools.HOME}/values-{PLUGIN}.yaml"]
    return files
