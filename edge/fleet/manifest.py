"""What a bundle holds: ``bundle.json``, one entry a file and one an image."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from fl.config import load, to_dict
from fl.errors import ConfigError, InputError

FORMAT = 1
MANIFEST = "bundle.json"
SIGNATURE = "bundle.json.sig"
SBOM = "sbom.cdx.json"
BLOBS = "blobs"

Kind = Literal[
    "chart", "gpu-chart", "helm", "k3s", "k3s-install", "k3s-images", "snap", "snap-assertion", "gpu-package", "wheel"
]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of a bundle, stored under its digest."""

    kind: Kind
    """What it is for."""
    name: str
    """Its name before it was bundled."""
    version: str = ""
    """Its version, where it has one."""
    sha256: str
    """Its digest."""
    size_bytes: int
    """Its size."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A layer, a configuration or a manifest of an image."""

    sha256: str
    """Its digest."""
    size_bytes: int
    """Its size."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A container image of a bundle."""

    reference: str
    """Full name, with registry and tag."""
    digest: str
    """``sha256:…`` of its manifest or index."""
    media_type: str
    """Of that."""
    size_bytes: int
    """Of that."""
    value: str = ""
    """Dotted value of the chart that gets repository, tag and digest; empty for none."""
    blobs: tuple[Blob, ...]
    """All that it is made of, the manifest included."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A bundle's content."""

    format: int = FORMAT
    """Version of this format."""
    version: str
    """Release that the bundle is."""
    files: tuple[File, ...]
    """Its files."""
    images: tuple[Image, ...]
    """Its images."""

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ConfigError(
                f"the bundle has format {self.format}, this fl reads {FORMAT}", hint="use the fl that made it"
            )

    def first(self, kind: Kind) -> File | None:
        """The file of a kind, if there is one."""
        return next((file for file in self.files if file.kind == kind), None)

    def all(self, kind: Kind) -> tuple[File, ...]:
        """The files of a kind, in order."""
        return tuple(file for file in self.files if file.kind == kind)

    @property
    def blobs(self) -> dict[str, int]:
        """Size by digest of all that the bundle stores, each once."""
        sizes = {blob.sha256: blob.size_bytes for image in self.images for blob in image.blobs}
        return sizes | {file.sha256: file.size_bytes for file in self.files}


def read_manifest(bundle: Path) -> Manifest:
    """The manifest of a bundle.

    Raises:
        InputError: If there is none, or it cannot be read.
    """
    path = bundle / MANIFEST
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as err:
        raise InputError(f"no bundle at {bundle}", hint="fl fleet bundle build") from err
    except (OSError, ValueError) as err:
        raise InputError(f"cannot read {path}: {err}") from err
    if not isinstance(values, Mapping):
        raise InputError(f"{path} is no manifest")
    return load(Manifest, values)


def dump_manifest(manifest: Manifest) -> str:
    """A manifest's text: the same manifest is the same text."""
    return json.dumps(to_dict(manifest), indent=1, sort_keys=True) + "\n"


def digest_of(path: Path) -> tuple[str, int]:
    """SHA-256 and size of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return digest, file.tell()
