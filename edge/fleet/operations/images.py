"""Container images of the bundle on a host: assembled from blobs, imported, and kept from the garbage collector."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

from pyinfra.api.operation import operation
from pyinfra.context import host

from edge.fleet import tools
from edge.fleet.facts.release import Images
from edge.fleet.operations.command import Commands, command, look

PINNED = "io.cri-containerd.pinned=pinned"
"""Label by which the kubelet's garbage collector passes an image over: without a registry it could not come back."""


@operation()
def imported(ctr: str, reference: str, digest: str, media_type: str, size_bytes: int, blobs: Sequence[str]) -> Commands:
    """An image in containerd, from blobs that lie on the host; each is checked against its digest first.

    Args:
        ctr: containerd's command line (``edge.fleet.tools.ctr``).
        reference: Full name, ``registry.example.org/fl-site:0.3.1``.
        digest: ``sha256:…`` of its manifest or index.
        media_type: Of that.
        size_bytes: Of that.
        blobs: Digests of all its blobs without ``sha256:``, the manifest included.
    """
    # A chart asks by digest, and the kubelet then looks for that name: the tag alone would send it to a registry.
    names = (reference, f"{reference.rpartition(':')[0]}@{digest}")
    there = look(Images, ctr=ctr)
    if all(there.get(name) == digest for name in names):
        host.noop(f"{reference} is there")
        return
    entry = {"mediaType": media_type, "digest": digest, "size": size_bytes}
    entries = [
        {**entry, "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}}
        for name in names
    ]
    index = json.dumps({"schemaVersion": 2, "manifests": entries}, sort_keys=True)
    lines = [
        "set -e",
        f"d=$(mktemp -d {tools.HOME}/import.XXXXXX)",
        "trap 'rm -rf \"$d\"' EXIT",
        'mkdir -p "$d/blobs/sha256"',
        f'for b in {" ".join(blobs)}; do echo "$b  {tools.BLOBS}/$b"; done | sha256sum -c --quiet -',
        f'for b in {" ".join(blobs)}; do ln "{tools.BLOBS}/$b" "$d/blobs/sha256/$b"; done',
        'printf %s \'{"imageLayoutVersion":"1.0.0"}\' > "$d/oci-layout"',
        'cat > "$d/index.json"',
        f'tar -C "$d" -cf - . | {ctr} images import -',
        *(f"{ctr} images label {shlex.quote(name)} {PINNED}" for name in names),
    ]
    yield command("\n".join(lines), timeout_s=900, stdin=f"{index}\n")
