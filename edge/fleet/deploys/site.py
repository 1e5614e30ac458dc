"""A site: its host, its cluster, its images, its release. In three steps, of which only the last is felt."""

from __future__ import annotations

from pyinfra.api.deploy import deploy
from pyinfra.context import host

from edge.fleet import tools
from edge.fleet.deploys import k3s_files
from edge.fleet.operations import bundle, enrolment, files, gpu, helm, images, k3s, kube, microk8s
from edge.fleet.wanted import IDENTITY_SECRET, JOIN_SECRET, POLICY, Wanted

PLUGIN = "nvidia-device-plugin"
TRANSFER_TIMEOUT_S = 4 * 3600
"""For one file, however large; one that stalls is given up long before."""


def of_host() -> Wanted:
    """What the host at work shall be."""
    return Wanted.from_dict(host.data.get("fedfleet"))


@deploy("Site")
def site(join_token: str | None = None) -> None:
    """All of it, from bare host to release."""
    stage()
    release(join_token=join_token)


@deploy("Stage")
def stage() -> None:
    """What can be done while the site works: blobs, cluster, images. Running pods are left alone."""
    wanted = of_host()
    if wanted.signers:
        bundle.verified(name="host: verify the bundle", manifest=wanted.manifest, signature=wanted.signature,
                        signers=wanted.signers)  # fmt: skip
    sources = {sha256: (wanted.source(sha256), size_bytes) for sha256, size_bytes in wanted.blobs.items()}
    files.blobs(name="host: bring the bundle's files", sources=sources, _timeout=TRANSFER_TIMEOUT_S)
    if wanted.site.distro == "k3s":
        _k3s(wanted)
    elif wanted.site.distro == "microk8s":
        _microk8s(wanted)
    if wanted.site.gpu.count:
        _gpu_host(wanted)
    if program := wanted.first("helm"):
        helm.program(name="host: install helm", version=program.version, sha256=program.sha256)
    for image in wanted.images:
        images.imported(
            name=f"image: import {image.reference}",
            ctr=tools.ctr(wanted.site.distro),
            reference=image.reference,
            digest=image.digest,
            media_type=image.media_type,
            size_bytes=image.size_bytes,
            blobs=[blob.sha256 for blob in image.blobs],
        )
    files.pruned(name="host: remove old blobs", keep=tuple(wanted.blobs))


@deploy("Release")
def release(join_token: str | None = None) -> None:
    """The release itself. A join token is used where the site has no identity yet."""
    wanted = of_host()
    if not wanted.has_release:
        return
    at, kubectl = wanted.site, wanted.kubectl
    kube.namespace(name=f"cluster: make namespace {at.namespace}", kubectl=kubectl, name_=at.namespace)
    if at.gpu.count:
        _gpu_cluster(wanted)
    if join_token is not None:
        enrolment.token(name="identity: hand over the join token", kubectl=kubectl, namespace=at.namespace,
                        secret=JOIN_SECRET, identity=IDENTITY_SECRET, value=join_token)  # fmt: skip
    if wanted.policy is not None:
        kube.config_map(name="policy: give the site its first policy", kubectl=kubectl, namespace=at.namespace,
                        config_map=POLICY, key="policy.toml", value=wanted.policy)  # fmt: skip
    values = f"{tools.HOME}/values-{at.release_name}.yaml"
    files.text(name="helm: write the values", path=values, content=wanted.values, mode="600")
    helm.release(
        name=f"helm: release {at.release_name}",
        helm=wanted.helm,
        release_name=at.release_name,
        namespace=at.namespace,
        chart=f"{tools.BLOBS}/{wanted.need('chart').sha256}",
        values=values,
        digest=wanted.digest,
        timeout_s=int(at.release_s),
    )


@deploy("Enrolled")
def enrolled() -> None:
    """Once the site has its identity: no token is left in the cluster."""
    wanted = of_host()
    if wanted.has_release:
        name = f"secret/{JOIN_SECRET}"
        kube.absent(
            name="identity: take the join token away",
            kubectl=wanted.kubectl,
            namespace=wanted.site.namespace,
            object_=name,
        )


@deploy("Roll back")
def roll_back(revision: int | None) -> None:
    """The release as it was at a revision; ``None``: none, as before the first."""
    wanted = of_host()
    if wanted.has_release:
        at = wanted.site
        helm.rolled_back(name=f"helm: roll {at.release_name} back", helm=wanted.helm, release_name=at.release_name,
                         namespace=at.namespace, revision=revision)  # fmt: skip


def _k3s(wanted: Wanted) -> None:
    kubernetes, program = wanted.site.kubernetes, wanted.need("k3s")
    if airgap := wanted.first("k3s-images"):
        k3s.airgap_images(name="cluster: lay out K3s' images", file=airgap.name, sha256=airgap.sha256)
    files.text(name="cluster: configure K3s", path=k3s_files.CONFIG, mode="600",
               content=k3s_files.config_text(kubernetes, site=wanted.site.id))  # fmt: skip
    if registries := k3s_files.registries_text(kubernetes):
        files.text(name="cluster: configure registries", path=k3s_files.REGISTRIES, content=registries, mode="600")
    else:
        files.absent(name="cluster: configure no registries", path=k3s_files.REGISTRIES)
    if kubernetes.hardened:
        k3s.kernel(name="host: set the kernel", path=k3s_files.SYSCTL, content=k3s_files.SYSCTL_TEXT)
        if kubernetes.role == "server":
            files.text(name="cluster: set Pod Security", path=k3s_files.PSA, content=k3s_files.PSA_TEXT, mode="600")
            files.text(
                name="cluster: set the audit policy", path=k3s_files.AUDIT, content=k3s_files.AUDIT_TEXT, mode="600"
            )
    k3s.installed(
        name=f"cluster: install K3s {program.version}",
        version=program.version,
        role=kubernetes.role,
        binary=program.sha256,
        script=wanted.need("k3s-install").sha256,
    )
    configuration = k3s_files.started_with(kubernetes, site=wanted.site.id, version=program.version)
    k3s.started(name="cluster: start K3s", role=kubernetes.role, configuration=configuration)
    if kubernetes.role == "server":
        kube.ready(name="cluster: wait for the cluster", kubectl=wanted.kubectl)


def _microk8s(wanted: Wanted) -> None:
    assertions = [file.sha256 for file in wanted.files if file.kind == "snap-assertion"]
    snaps = [file.sha256 for file in wanted.files if file.kind == "snap"]
    microk8s.installed(
        name="cluster: install MicroK8s",
        channel=wanted.site.kubernetes.channel,
        snaps=list(zip(assertions, snaps, strict=True)),
    )
    microk8s.held(name="cluster: hold refreshes")
    microk8s.running(name="cluster: start MicroK8s")
    microk8s.addons(name="cluster: switch add-ons on", addons=wanted.site.kubernetes.addons)
    kube.ready(name="cluster: wait for the cluster", kubectl=wanted.kubectl)


def _gpu_host(wanted: Wanted) -> None:
    packages = [file.sha256 for file in wanted.files if file.kind == "gpu-package"]
    gpu.toolkit(name="host: install the NVIDIA container toolkit", packages=packages)
    if wanted.site.distro != "existing":
        gpu.runtime(name="host: have containerd know the GPU", distro=wanted.site.distro)


def _gpu_cluster(wanted: Wanted) -> None:
    kube.manifest(name="cluster: make the RuntimeClass", kubectl=wanted.kubectl, content=gpu.RUNTIME_CLASS)
    chart = wanted.first("gpu-chart")
    if chart is None:
        return
    text = gpu.plugin_values(wanted.site.gpu.sharing, wanted.site.gpu.replicas)
    values = f"{tools.HOME}/values-{PLUGIN}.yaml"
    files.text(name="cluster: write the device plugin's values", path=values, content=text)
    kube.namespace(name=f"cluster: make namespace {PLUGIN}", kubectl=wanted.kubectl, name_=PLUGIN, level="privileged")
    helm.release(
        name="cluster: release the device plugin",
        helm=wanted.helm,
        release_name=PLUGIN,
        namespace=PLUGIN,
        chart=f"{tools.BLOBS}/{chart.sha256}",
        values=values,
        digest=gpu.plugin_digest(chart.sha256, text),
    )
