"""A host as it was before the fleet came: only what the fleet noted as its own goes."""

from __future__ import annotations

from pyinfra.api.deploy import deploy

from edge.fleet import tools
from edge.fleet.deploys import k3s_files
from edge.fleet.deploys.site import PLUGIN, of_host
from edge.fleet.operations import files, gpu, helm, k3s, kube, microk8s


@deploy("Remove")
def remove() -> None:
    """Release, namespaces, cluster, toolkit, Helm, files. The site's keys go with its namespace."""
    wanted = of_host()
    at, kubectl = wanted.site, wanted.kubectl
    if wanted.has_release:
        for release, namespace in ((at.release_name, at.namespace), (PLUGIN, PLUGIN)):
            helm.uninstalled(
                name=f"helm: remove {release}", helm=wanted.helm, release_name=release, namespace=namespace
            )
            kube.namespace_removed(name=f"cluster: remove namespace {namespace}", kubectl=kubectl, name_=namespace)
    k3s.removed(name="cluster: remove K3s")
    microk8s.removed(name="cluster: remove MicroK8s")
    k3s.kernel_restored(name="host: set the kernel as it was", path=k3s_files.SYSCTL)
    gpu.toolkit_removed(name="host: remove the toolkit")
    helm.program_removed(name="host: remove helm")
    files.absent(name=f"host: remove {tools.HOME}", path=tools.HOME)
    files.absent(name="host: remove /etc/fedfleet", path="/etc/fedfleet")
