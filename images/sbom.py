"""A CycloneDX list of what is in an image: ``python sbom.py ROOT --name N --version V --digest D --epoch SECONDS``.

Debian's packages come from dpkg's database, Python's from the metadata of what is installed in ``/opt/fedfleet``.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import uuid
from pathlib import Path
from typing import Any


def debian(root: Path) -> list[dict[str, Any]]:
    """Debian's packages, by dpkg's database."""
    found = []
    for paragraph in (root / "var/lib/dpkg/status").read_text(encoding="utf-8").split("\n\n"):
        lines = (line.partition(": ") for line in paragraph.splitlines() if not line.startswith(" "))
        fields = {key: value for key, _, value in lines}
        if fields.get("Status", "").endswith(" installed"):
            name, version, kind = fields["Package"], fields["Version"], fields.get("Architecture", "all")
            found.append(_component(name, version, f"pkg:deb/debian/{name}@{version}?arch={kind}"))
    return found


def python(root: Path) -> list[dict[str, Any]]:
    """Python's packages, as install.sh has listed them."""
    packages = json.loads((root / "opt/fedfleet/packages.json").read_text(encoding="utf-8"))
    found = []
    for package in packages:
        name, version = package["name"], package["version"]
        component = _component(name, version, f"pkg:pypi/{name.lower().replace('_', '-')}@{version}")
        if licence := package["licence"].strip().partition("\n")[0][:120]:
            component["licenses"] = [{"license": {"name": licence}}]
        found.append(component)
    return found


def _component(name: str, version: str, purl: str) -> dict[str, Any]:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def main() -> None:
    """Print the list."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path)
    for option in ("--name", "--version", "--digest"):
        parser.add_argument(option, required=True)
    parser.add_argument("--epoch", type=int, required=True)
    given = parser.parse_args()
    image = {"type": "container", "name": given.name, "version": given.version}
    image["hashes"] = [{"alg": "SHA-256", "content": given.digest.removeprefix("sha256:")}]
    made = datetime.datetime.fromtimestamp(given.epoch, datetime.UTC).isoformat().replace("+00:00", "Z")
    listing = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, given.digest)}",
        "version": 1,
        "metadata": {"timestamp": made, "component": image},
        "components": sorted([*debian(given.root), *python(given.root)], key=lambda one: one["bom-ref"]),
    }
    json.dump(listing, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
