"""Bundles: everything that a site needs, in one directory, for sites without an internet.

``build`` stores each file under its digest, so that two releases share what they have in common; what a host has does
not travel again. A signature by ``ssh-keygen`` covers the manifest, and the manifest everything else.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from edge.fleet.manifest import (
    BLOBS,
    MANIFEST,
    SBOM,
    SIGNATURE,
    Blob,
    File,
    Image,
    Kind,
    Manifest,
    digest_of,
    dump_manifest,
    read_manifest,
)
from edge.fleet.yaml_file import read_yaml
from fl.config import load
from fl.errors import ConfigError, InputError, ProcessError, StorageError
from fl.files import sync_directory, write_atomic

SIGNER, NAMESPACE = "fleet", "fedfleet-bundle"
SIGN_TIMEOUT_S = 120


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ImageSource:
    """One entry of ``images``."""

    reference: str
    """Full name with registry and tag, under which the chart asks for it."""

    archive: Path
    """OCI archive: ``skopeo copy … oci-archive:FILE``, ``podman save --format oci-archive``, ``docker buildx build -o
    type=oci``."""

    value: str = ""
    """Value of the chart that gets repository, tag and digest, with dots; empty: the chart knows the name itself."""

    def __post_init__(self) -> None:
        name, _, tag = self.reference.rpartition(":")
        if not name or "/" in tag or tag == "latest" or "@" in self.reference:
            raise ConfigError(
                f"images.reference is {self.reference!r}, must have a tag, and not latest",
                hint="registry.example.org/fl-site:0.3.1",
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class K3sSource:
    """The ``k3s`` key."""

    version: str
    """As ``k3s --version`` says it, ``v1.34.1+k3s1``."""

    binary: Path
    """The program of that release."""

    install: Path
    """K3s' ``install.sh``."""

    images: Path | None = None
    """``k3s-airgap-images-<arch>.tar.zst`` of that release; unset: hosts fetch K3s' own images."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SnapSource:
    """One entry of ``snaps``, from ``snap download``."""

    file: Path
    """The snap; ``core20`` and the like come before ``microk8s``."""

    assertion: Path
    """Its ``.assert`` file."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HelmSource:
    """The ``helm`` key."""

    version: str
    """As ``helm version`` says it, ``v4.1.4``."""

    binary: Path
    """The program."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BundleSource:
    """The whole file from which a bundle is built."""

    version: str
    """Release that the bundle is."""

    chart: Path
    """``helm package`` of the chart ``fl-site``."""

    images: tuple[ImageSource, ...] = ()
    """Container images."""

    helm: HelmSource | None = None
    """Helm for the hosts; unset: each has its own, version 4."""

    k3s: K3sSource | None = None
    """K3s, for sites that have it."""

    snaps: tuple[SnapSource, ...] = ()
    """Snaps for MicroK8s sites; without any, hosts ask the snap store."""

    gpu_chart: Path | None = None
    """``helm package`` of NVIDIA's device plugin."""

    gpu_packages: tuple[Path, ...] = ()
    """Debian packages of the NVIDIA container toolkit, in the order of installation."""

    wheels: Path | None = None
    """Directory of wheels to take along, for a mirror at the site."""


def build(source: Path, out: Path, *, key: Path | None = None) -> Manifest:
    """Make a bundle, or bring one up to date.

    Args:
        source: The YAML file that says what is in it; its paths start where it lies.
        out: Directory of the bundle.
        key: Private SSH key to sign with, or the public half of one that the agent holds.

    Guarantees:
        The same files give the same manifest, to the byte. A bundle that was there stays valid until the new manifest
        replaces the old.

    Raises:
        ConfigError: If the file or what it names cannot be used.
    """
    wanted = load(BundleSource, read_yaml(source))
    beside = source.resolve().parent
    blobs = out / BLOBS
    blobs.mkdir(parents=True, exist_ok=True)
    files = [_stored(blobs, beside / path, kind, version) for path, kind, version in _listed(wanted, beside)]
    images = tuple(_image(blobs, beside / image.archive, image) for image in wanted.images)
    manifest = Manifest(version=wanted.version, files=tuple(files), images=images)
    text = dump_manifest(manifest)
    write_atomic(out / SBOM, sbom(manifest))
    (out / SIGNATURE).unlink(missing_ok=True)
    write_atomic(out / MANIFEST, text)
    if key is not None:
        _sign(out, key)
    for stale in blobs.iterdir():
        if stale.name not in manifest.blobs:
            stale.unlink()
    sync_directory(blobs)
    return manifest


def verify(bundle: Path, *, signers: Path | None = None) -> Manifest:
    """Check a bundle's signature and everything in it.

    Raises:
        InputError: Naming the first thing that is missing or damaged, or a signature that does not hold.
    """
    manifest = read_manifest(bundle)
    if signers is not None:
        _check_signature(bundle, signers)
    for sha256, size_bytes in manifest.blobs.items():
        path = bundle / BLOBS / sha256
        if not path.is_file():
            raise InputError(f"{path} is missing", hint="fl fleet bundle build")
        if path.stat().st_size != size_bytes or digest_of(path)[0] != sha256:
            raise InputError(
                f"{path} is damaged: it has another digest", hint="remove it and run fl fleet bundle build"
            )
    return manifest


def sbom(manifest: Manifest) -> str:
    """A bill of materials in CycloneDX 1.5: what is in a bundle, with digests."""
    components: list[dict[str, Any]] = []
    for file in manifest.files:
        component: dict[str, Any] = {"type": "file", "name": file.name, "version": file.version}
        if file.kind == "wheel":
            name = file.name.split("-")[0].lower().replace("_", "-")
            component |= {"type": "library", "name": name, "purl": f"pkg:pypi/{name}@{file.version}"}
        component["hashes"] = [{"alg": "SHA-256", "content": file.sha256}]
        components.append(component)
    for image in manifest.images:
        name, _, tag = image.reference.rpartition(":")
        digest = {"alg": "SHA-256", "content": image.digest.removeprefix("sha256:")}
        components.append({"type": "container", "name": name, "version": tag, "hashes": [digest]})
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "fedfleet-bundle", "version": manifest.version}},
        "components": components,
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _listed(wanted: BundleSource, beside: Path) -> Iterator[tuple[Path, Kind, str]]:
    """Files of a bundle, with kind and version."""
    yield wanted.chart, "chart", wanted.version
    if wanted.helm:
        yield wanted.helm.binary, "helm", wanted.helm.version
    if wanted.k3s:
        yield wanted.k3s.binary, "k3s", wanted.k3s.version
        yield wanted.k3s.install, "k3s-install", wanted.k3s.version
        if wanted.k3s.images:
            yield wanted.k3s.images, "k3s-images", wanted.k3s.version
    for snap in wanted.snaps:
        yield snap.assertion, "snap-assertion", ""
        yield snap.file, "snap", ""
    if wanted.gpu_chart:
        yield wanted.gpu_chart, "gpu-chart", ""
    for package in wanted.gpu_packages:
        yield package, "gpu-package", ""
    if wanted.wheels:
        for wheel in sorted((beside / wanted.wheels).glob("*.whl")):
            yield wheel, "wheel", _wheel_version(wheel)


def _stored(blobs: Path, path: Path, kind: Kind, version: str) -> File:
    """A file in the bundle, under its digest."""
    try:
        sha256, size_bytes = digest_of(path)
        target = blobs / sha256
        if not target.is_file() or target.stat().st_size != size_bytes:
            part = blobs / f".{sha256}.part"
            shutil.copyfile(path, part)
            part.replace(target)
    except FileNotFoundError as err:
        raise ConfigError(f"no such file: {path}, the bundle's {kind}") from err
    except OSError as err:
        raise StorageError(f"cannot take {path} into the bundle: {err.strerror}") from err
    return File(kind=kind, name=path.name, version=version, sha256=sha256, size_bytes=size_bytes)


def _image(blobs: Path, path: Path, source: ImageSource) -> Image:
    """An image of an OCI archive, blob by blob: what two images share is stored, and travels, once."""
    try:
        with tarfile.open(path) as archive:
            members = {member.name.removeprefix("./"): member for member in archive if member.isfile()}

            def read(name: str) -> bytes:
                file = archive.extractfile(members[name])
                assert file is not None
                return file.read()

            manifests = json.loads(read("index.json"))["manifests"]
            if len(manifests) != 1:
                raise ConfigError(f"{path} holds {len(manifests)} images, must be one")
            top = manifests[0]
            found: dict[str, int] = {}
            for descriptor in _descriptors(top, lambda digest: json.loads(read(f"blobs/sha256/{digest}"))):
                digest = descriptor["digest"].removeprefix("sha256:")
                name = f"blobs/sha256/{digest}"
                if name not in members:
                    continue  # another platform's, which a tool left out
                found[digest] = members[name].size
                file = archive.extractfile(members[name])
                assert file is not None
                _store_stream(blobs, digest, file, path)
    except FileNotFoundError as err:
        raise ConfigError(f"no such file: {path}, the archive of {source.reference}") from err
    except (tarfile.TarError, KeyError, ValueError) as err:
        raise ConfigError(f"{path} is no OCI archive: {err}", hint="skopeo copy … oci-archive:FILE") from err
    return Image(
        reference=source.reference,
        digest=top["digest"],
        media_type=top["mediaType"],
        size_bytes=top["size"],
        value=source.value,
        blobs=tuple(Blob(sha256=digest, size_bytes=size) for digest, size in found.items()),
    )


def _descriptors(top: Mapping[str, Any], read: Any) -> Iterator[Mapping[str, Any]]:
    """A manifest or index, and all that it leads to."""
    yield top
    if "index" in top["mediaType"] or "manifest.list" in top["mediaType"]:
        for below in read(top["digest"].removeprefix("sha256:"))["manifests"]:
            yield from _descriptors(below, read)
    elif "manifest" in top["mediaType"]:
        document = read(top["digest"].removeprefix("sha256:"))
        yield document["config"]
        yield from document["layers"]


def _store_stream(blobs: Path, digest: str, file: IO[bytes], path: Path) -> None:
    target = blobs / digest
    if target.is_file():
        return
    part = blobs / f".{digest}.part"
    try:
        with part.open("wb") as out:
            shutil.copyfileobj(file, out, 1 << 20)
        if digest_of(part)[0] != digest:
            raise ConfigError(f"{path} is damaged: a blob has another digest than {digest[:12]}")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _wheel_version(wheel: Path) -> str:
    """From the wheel's own metadata; its name can be wrong."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
        for line in archive.read(name).decode().splitlines():
            if line.startswith("Version: "):
                return line.removeprefix("Version: ").strip()
    return ""


def _sign(bundle: Path, key: Path) -> None:
    done = _ssh_keygen(["-Y", "sign", "-f", str(key), "-n", NAMESPACE], (bundle / MANIFEST).read_bytes())
    if done.returncode != 0:
        raise ProcessError(f"ssh-keygen did not sign: {done.stderr.decode(errors='replace').strip()}")
    write_atomic(bundle / SIGNATURE, done.stdout)


def _check_signature(bundle: Path, signers: Path) -> None:
    signature = bundle / SIGNATURE
    if not signature.is_file():
        raise InputError(f"{bundle} is not signed", hint="fl fleet bundle build --key FILE")
    if not signers.is_file():
        raise InputError(f"no such file: {signers}")
    words = ["-Y", "verify", "-f", str(signers), "-I", SIGNER, "-n", NAMESPACE, "-s", str(signature)]
    done = _ssh_keygen(words, (bundle / MANIFEST).read_bytes())
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode(errors="replace").strip().splitlines() or ["it does not say why"]
        raise InputError(f"the signature of {bundle} does not hold: {said[0]}")


def _ssh_keygen(words: list[str], stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", *words], input=stdin, capture_output=True, timeout=SIGN_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as err:
        raise ProcessError(f"cannot run ssh-keygen: {err}", hint="install OpenSSH's client") from err
