"""What the fleet file and the bundle ask of one site, as plain data: the worker and plain pyinfra both read it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from edge.fleet import tools
from edge.fleet.config import Fleet, merged
from edge.fleet.manifest import MANIFEST, SIGNATURE, File, Image, Manifest, read_manifest
from edge.fleet.site_config import Site
from fl.config import load, to_dict
from fl.errors import ConfigError

JOIN_SECRET = "fl-site-join"  # noqa: S105 - the name of a Secret
IDENTITY_SECRET = "fl-site-identity"  # noqa: S105
POLICY = "fl-site-policy"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """One site as it shall be."""

    site: Site
    """Its entry of the fleet file."""
    version: str
    """Release."""
    digest: str
    """Of chart, values and images, 16 hexadecimal digits: two releases with the same digest are the same."""
    values: str
    """The chart's values, as YAML."""
    files: tuple[File, ...]
    """Files of the bundle that this site takes."""
    images: tuple[Image, ...]
    """Its images."""
    policy: str | None = None
    """Content of the policy file to start with."""
    bundle: str
    """The bundle's directory here."""
    manifest: str
    """Content of its manifest."""
    signature: str = ""
    """Content of the manifest's signature; empty for a bundle that nobody signed."""
    signers: str = ""
    """Content of the file of those who may sign."""

    @property
    def kubectl(self) -> str:
        """Kubectl's command line at the site."""
        return tools.kubectl(self.site.distro, self.site.kubernetes.kubeconfig)

    @property
    def helm(self) -> str:
        """Helm's command line at the site."""
        return tools.helm(self.site.distro, self.site.kubernetes.kubeconfig)

    @property
    def has_release(self) -> bool:
        """Whether this host gets a release: a K3s agent only lends its cores."""
        return self.site.kubernetes.role == "server"

    def first(self, kind: str) -> File | None:
        """The file of a kind, if there is one."""
        return next((file for file in self.files if file.kind == kind), None)

    def need(self, kind: str) -> File:
        """The file of a kind.

        Raises:
            ConfigError: If the bundle has none.
        """
        file = self.first(kind)
        if file is None:
            raise ConfigError(
                f"the bundle has no {kind}, which site {self.site.id} needs", hint="fl fleet bundle build"
            )
        return file

    @property
    def blobs(self) -> dict[str, int]:
        """Size by digest of all that must lie on the host."""
        sizes = {file.sha256: file.size_bytes for file in self.files}
        return sizes | {blob.sha256: blob.size_bytes for image in self.images for blob in image.blobs}

    def source(self, sha256: str) -> str:
        """Where a file of the bundle lies here."""
        return str(Path(self.bundle) / "blobs" / sha256)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        values: dict[str, Any] = to_dict(self)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Wanted:
        """The inverse of ``to_dict``."""
        return load(cls, values)


def wanted(fleet: Fleet) -> dict[str, Wanted]:
    """What each site of a fleet shall be, by its id.

    Raises:
        InputError: If there is no bundle, it is another release's, or lacks what a site needs.
    """
    bundle = fleet.release.bundle
    manifest = read_manifest(bundle)
    if manifest.version != fleet.release.version:
        raise ConfigError(
            f"release.version is {fleet.release.version}, the bundle at {bundle} is {manifest.version}",
            hint=f"write version: {manifest.version}, or build the other bundle",
        )
    signature = _read(bundle / SIGNATURE)
    signers = ""
    if fleet.release.signers is not None:
        signers = _read(fleet.release.signers)
        if not signers or not signature:
            lacks = fleet.release.signers if not signers else bundle / SIGNATURE
            raise ConfigError(f"release.signers asks for a signed bundle, but {lacks} is missing")
    text = _read(bundle / MANIFEST)
    found = {}
    for site in fleet.sites:
        files, images = _parts(manifest, site)
        values = yaml.safe_dump(chart_values(fleet, site, images), sort_keys=True, allow_unicode=True)
        chart = next((file.sha256 for file in files if file.kind == "chart"), "")
        one = Wanted(
            site=site,
            version=manifest.version,
            digest=_digest(chart, values, images),
            values=values,
            files=files,
            images=images,
            policy=_policy(site),
            bundle=str(bundle),
            manifest=text,
            signature=signature if signers else "",
            signers=signers,
        )
        for kind in _needed(site):
            one.need(kind)
        found[site.id] = one
    return found


def chart_values(fleet: Fleet, site: Site, images: tuple[Image, ...]) -> dict[str, Any]:
    """Values for the chart ``fl-site``: from the fleet file, then the site's own on top."""
    values: dict[str, Any] = {
        "site": {"id": site.id},
        "gateway": {"addresses": list(fleet.gateway.addresses)},
        "enrolment": {"existingSecret": JOIN_SECRET},
        "gpu": {"count": site.gpu.count},
    }
    if fleet.gateway.proxy:
        values["gateway"]["proxy"] = fleet.gateway.proxy
    if site.gpu.count:
        values["gpu"]["runtimeClassName"] = "nvidia"
    if site.data:
        values["data"] = [
            {"name": mount.name, "hostPath": mount.path, "readOnly": mount.read_only} for mount in site.data
        ]
    for image in images:
        if image.value:
            repository, _, tag = image.reference.rpartition(":")
            given: dict[str, Any] = {"repository": repository, "tag": tag, "digest": image.digest}
            for key in reversed(image.value.split(".")):
                given = {key: given}
            values = merged(values, given)
    return merged(values, site.values)


def _parts(manifest: Manifest, site: Site) -> tuple[tuple[File, ...], tuple[Image, ...]]:
    """What of a bundle a site takes: no K3s for a MicroK8s, no GPU parts without a GPU."""
    kinds = {"k3s": {"k3s", "k3s-install", "k3s-images"}, "microk8s": {"snap", "snap-assertion"}}.get(
        site.distro, set()
    )
    has_release = site.kubernetes.role == "server"
    if has_release:
        kinds |= {"chart", "helm"}
    if site.gpu.count:
        kinds |= {"gpu-package"} | ({"gpu-chart"} if has_release else set())
    return tuple(file for file in manifest.files if file.kind in kinds), manifest.images


def _needed(site: Site) -> list[str]:
    needed = ["chart"] if site.kubernetes.role == "server" else []
    return needed + (["k3s", "k3s-install"] if site.distro == "k3s" else [])


def _digest(chart: str, values: str, images: tuple[Image, ...]) -> str:
    parts = [chart, values, *(f"{image.reference}@{image.digest}" for image in images)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _policy(site: Site) -> str | None:
    if site.policy is None:
        return None
    text = _read(site.policy)
    if not text:
        raise ConfigError(f"no policy file {site.policy} for site {site.id}")
    return text


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except OSError as err:
        raise ConfigError(f"cannot read {path}: {err.strerror}") from err
