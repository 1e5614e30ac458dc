"""Fleets made for tests: a bundle with small files, a fleet file, sites that are made up."""

import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

import yaml

from edge.fleet import bundle
from edge.fleet.hands import Hands
from edge.fleet.inventory import hosts
from edge.fleet.session import Session, open_fleet

WORKER = (sys.executable, str(Path(__file__).parent / "fake_site.py"))


def image_archive(path, *, layers, reference="fl-site", config=b"{}"):
    """An OCI archive with these layers, as skopeo would write it."""

    def blob(content, media_type):
        return {
            "mediaType": media_type,
            "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
            "size": len(content),
        }

    kinds = "application/vnd.oci.image."
    blobs = {layer: blob(layer, f"{kinds}layer.v1.tar") for layer in layers}
    described = blob(config, f"{kinds}config.v1+json")
    manifest = json.dumps({"schemaVersion": 2, "config": described, "layers": list(blobs.values())}).encode()
    top = blob(manifest, f"{kinds}manifest.v1+json")
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [top]}).encode()
    for content in (*layers, config, manifest):
        files[f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"] = content
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return top["digest"]


def bundle_source(folder, *, version="0.3.1", layers=(b"base layer", b"top layer"), **more):
    """The file from which a bundle is built, with what it names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("chart.tgz", "helm", "k3s", "install.sh"):
        if not (folder / name).exists():
            (folder / name).write_text(f"{name} of {version}\n")
    image_archive(folder / "fl-site.tar", layers=list(layers))
    source = {
        "version": version,
        "chart": "chart.tgz",
        "images": [{"reference": f"registry.test/fl-site:{version}", "archive": "fl-site.tar", "value": "image"}],
        "helm": {"version": "v4.1.4", "binary": "helm"},
        "k3s": {"version": "v1.34.1+k3s1", "binary": "k3s", "install": "install.sh"},
        **more,
    }
    path = folder / "bundle.yaml"
    path.write_text(yaml.safe_dump(source))
    return path


def fleet_values(some, /, **changes):
    """A fleet file's content."""
    values = {
        "fleet": {"name": "test"},
        "gateway": {"addresses": ["fl.test:443"]},
        "release": {"version": "0.3.1", "bundle": "bundle"},
        "rollout": {"soak_s": 0, "gate_s": 2, "waves": [{"name": "canary", "select": {"ring": "canary"}}]},
    }
    values["sites"] = [{"id": name, "host": name, **keys} for name, keys in some.items()]
    return values | changes


class FakeSession(Session):
    """A session whose sites are made up."""

    natures: dict = {}  # noqa: RUF012 - set by made_up

    def hands(self, *, executes, hold=()):
        directory = self.store.directory / "sites"
        directory.mkdir(exist_ok=True)
        data = []
        for name, host in hosts(self.fleet, self.wanted, Path("none")):
            more = {"fake": FakeSession.natures.get(name, {}), "fake_directory": str(directory)}
            kept = {key: value for key, value in host.items() if key.startswith("fedfleet") or key == "_sudo"}
            data.append((f"@fake/{name}", {**kept, **more}))
        return Hands(data, log=self.store.log, executes=executes, command=WORKER, hold=hold)


def fake_fleet(folder, sites, *, natures=None, **changes):
    """A fleet of sites that are made up, with its bundle; a second call with another version upgrades it."""
    version = changes.get("release", {}).get("version", "0.3.1")
    bundle.build(bundle_source(folder / "source", version=version), folder / "bundle")
    (folder / "fleet.yaml").write_text(yaml.safe_dump(fleet_values(sites, **changes)))
    FakeSession.natures = natures or {}
    session = open_fleet(folder / "fleet.yaml", home=folder / "home")
    return FakeSession(session.fleet, session.wanted, session.store)


def site_state(session, name):
    """What was done to a site that is made up."""
    return json.loads((session.store.directory / "sites" / f"{name}.json").read_text())
