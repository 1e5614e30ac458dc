"""Bundles: what is in them, that the same is the same, and that what is damaged is found."""

import json
import subprocess

import pytest
import yaml

from edge.fleet import bundle
from edge.fleet.config import Fleet
from edge.fleet.manifest import read_manifest
from edge.fleet.wanted import wanted
from fl.errors import ConfigError, InputError
from tests.edge.fleet import made


@pytest.fixture
def out(tmp_path):
    return tmp_path / "bundle"


def test_the_same_files_make_the_same_bundle(tmp_path, out):
    source = made.bundle_source(tmp_path / "source")
    bundle.build(source, out)
    first = (out / "bundle.json").read_bytes()
    bundle.build(source, tmp_path / "other")
    assert (tmp_path / "other/bundle.json").read_bytes() == first
    assert bundle.verify(out).blobs == read_manifest(out).blobs


def test_two_images_store_what_they_share_once(tmp_path, out):
    source = made.bundle_source(tmp_path / "source", layers=(b"shared", b"one"))
    made.image_archive(tmp_path / "source/second.tar", layers=[b"shared", b"two"])
    values = yaml.safe_load(source.read_text())
    values["images"].append({"reference": "registry.test/other:1", "archive": "second.tar"})
    source.write_text(yaml.safe_dump(values))
    first, second = bundle.build(source, out).images
    shared = {blob.sha256 for blob in first.blobs} & {blob.sha256 for blob in second.blobs}
    assert len(shared) == 2  # a layer and the configuration
    assert len(list((out / "blobs").iterdir())) == len(read_manifest(out).blobs)


def test_an_upgrade_has_only_new_blobs_to_send(tmp_path, out):
    old = bundle.build(made.bundle_source(tmp_path / "a", layers=(b"base", b"old app")), tmp_path / "old")
    new = bundle.build(made.bundle_source(tmp_path / "a", layers=(b"base", b"new app")), out)
    fresh = set(new.blobs) - set(old.blobs)
    assert len(fresh) == 2  # the layer and the image's manifest


def test_what_is_damaged_or_missing_is_named(tmp_path, out):
    bundle.build(made.bundle_source(tmp_path / "source"), out)
    victim = next((out / "blobs").iterdir())
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + b"?")
    with pytest.raises(InputError, match=f"{victim.name} is damaged"):
        bundle.verify(out)
    victim.unlink()
    with pytest.raises(InputError, match=f"{victim.name} is missing"):
        bundle.verify(out)


def test_a_signature_holds_for_this_manifest_and_this_signer_only(tmp_path, out):
    for name in ("key", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
        public = (tmp_path / f"{name}.pub").read_text()
        (tmp_path / f"{name}.signers").write_text(f"fleet {public}")
    bundle.build(made.bundle_source(tmp_path / "source"), out, key=tmp_path / "key")
    bundle.verify(out, signers=tmp_path / "key.signers")
    with pytest.raises(InputError, match="does not hold"):
        bundle.verify(out, signers=tmp_path / "other.signers")
    manifest = json.loads((out / "bundle.json").read_text())
    manifest["version"] = "9.9.9"
    (out / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="does not hold"):
        bundle.verify(out, signers=tmp_path / "key.signers")
    bundle.build(made.bundle_source(tmp_path / "source"), out)  # built anew, and not signed
    with pytest.raises(InputError, match="is not signed"):
        bundle.verify(out, signers=tmp_path / "key.signers")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"chart": "none.tgz"}, "no such file"),
        ({"images": [{"reference": "x/y:latest", "archive": "fl-site.tar"}]}, "must have a tag, and not latest"),
        ({"images": [{"reference": "x/y:1", "archive": "chart.tgz"}]}, "is no OCI archive"),
        ({"imgaes": []}, "unknown key imgaes"),
    ],
)
def test_a_bundle_file_that_cannot_be_used_is_refused(tmp_path, out, changes, words):
    with pytest.raises(ConfigError) as caught:
        bundle.build(made.bundle_source(tmp_path / "source", **changes), out)
    assert words in caught.value.message
    assert not (out / "bundle.json").exists()


def test_a_damaged_layer_is_not_taken_in(tmp_path, out):
    import io
    import tarfile

    source = made.bundle_source(tmp_path / "source")
    path = tmp_path / "source/fl-site.tar"
    with tarfile.open(path) as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}
    layer = next(name for name, data in content.items() if data == b"top layer")
    content[layer] = b"bad layer"
    with tarfile.open(path, "w") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    with pytest.raises(ConfigError, match="is damaged"):
        bundle.build(source, out)


def test_the_bill_of_materials_names_files_and_images(tmp_path, out):
    bundle.build(made.bundle_source(tmp_path / "source"), out)
    bill = json.loads((out / "sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    names = {(part["type"], part["name"]) for part in bill["components"]}
    assert {("container", "registry.test/fl-site"), ("file", "chart.tgz")} <= names
    assert all(part["hashes"][0]["content"] for part in bill["components"])


def test_each_site_takes_what_it_needs(tmp_path):
    bundle.build(made.bundle_source(tmp_path / "source"), tmp_path / "bundle")
    values = made.fleet_values(
        {"a": {}, "b": {"distro": "microk8s"}}, gateway={"addresses": ["x:443"], "proxy": "http://p:1"}
    )
    found = wanted(Fleet.from_dict(values, beside=tmp_path))
    assert {file.kind for file in found["a"].files} == {"chart", "helm", "k3s", "k3s-install"}
    assert {file.kind for file in found["b"].files} == {"chart", "helm"}
    written = yaml.safe_load(found["a"].values)
    assert written["image"]["digest"] == found["a"].images[0].digest
    assert written["gateway"] == {"addresses": ["x:443"], "proxy": "http://p:1"}
    assert found["a"].digest != found["b"].digest
    assert type(found["a"]).from_dict(json.loads(json.dumps(found["a"].to_dict()))) == found["a"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"release": {"version": "0.4.0", "bundle": "bundle"}}, "release.version is 0.4.0, the bundle"),
        ({"release": {"version": "0.3.1", "bundle": "nowhere"}}, "no bundle at"),
        ({"release": {"version": "0.3.1", "bundle": "bundle", "signers": "s"}}, "asks for a signed bundle"),
    ],
)
def test_a_bundle_that_does_not_fit_the_fleet_is_refused(tmp_path, changes, words):
    bundle.build(made.bundle_source(tmp_path / "source"), tmp_path / "bundle")
    with pytest.raises(InputError) as caught:
        wanted(Fleet.from_dict(made.fleet_values({"a": {}}, **changes), beside=tmp_path))
    assert words in caught.value.message
