"""The fleet file."""

import json

import pytest
import yaml

from edge.fleet import schema, skew
from edge.fleet.config import Fleet, WaveConfig
from edge.fleet.waves import chosen, waves_of
from edge.fleet.yaml_file import read_yaml
from fl.errors import ConfigError
from tests.edge.fleet import made


def fleet(some=None, **changes):
    return Fleet.from_dict(made.fleet_values(some or {"a": {}}, **changes))


@pytest.mark.parametrize(
    ("changes", "words", "hint"),
    [
        ({"sites": [{"id": "a", "hots": "b"}]}, "unknown key sites[0].hots", "did you mean sites[0].host?"),
        ({"sites": [{"id": "a"}]}, "sites[0].host is missing", None),
        ({"sites": []}, "sites is empty", None),
        ({"sites": [{"id": "a", "host": "x"}, {"id": "a", "host": "y"}]}, "two sites are called a", None),
        ({"sites": [{"id": "a b", "host": "x"}]}, "'a b' cannot be a site's id", None),
        ({"sites": [{"id": "a", "host": "-oProxyCommand=x"}]}, "must be a name or an address", None),
        ({"sites": [{"id": "a", "host": "x", "distro": "k8s"}]}, "sites[0].distro is 'k8s'", "did you mean k3s?"),
        ({"sites": [{"id": "a", "host": "x", "distro": "existing"}]}, "no kubernetes.kubeconfig", None),
        ({"sites": [{"id": "a", "host": "x", "window": "Sat"}]}, "Sat", None),
        (
            {"sites": [{"id": "a", "host": "x", "data": [{"name": "d", "path": "rel"}]}]},
            "must be an absolute path",
            None,
        ),
        ({"sites": [{"id": "a", "host": "x", "values": {"db": {"password": "x"}}}]}, "looks like a secret", None),
        ({"sites": [{"id": "a", "host": "x", "values": {"note": "fl1.abcd"}}]}, "looks like a secret", None),
        ({"sites": [{"id": "a", "host": "x", "gpu": {"replicas": 4}}]}, "one contradicts the other", None),
        ({"sites": [{"id": "a", "host": "x", "kubernetes": {"addons": ["dns"]}}]}, "lacks rbac", None),
        ({"sites": [{"id": "a", "host": "x", "kubernetes": {"role": "agent"}}]}, "which needs kubernetes.server", None),
        ({"defaults": {"id": "a"}}, "defaults.id cannot hold for every site", None),
        ({"defaults": {"distor": "k3s"}}, "unknown key defaults.distor", "did you mean defaults.distro?"),
        ({"gateway": {"addresses": ["fl.example.org"]}}, "must be host:port", None),
        ({"gateway": {"addresses": []}}, "gateway.addresses is empty", None),
        ({"release": {"version": "latest", "bundle": "b"}}, "must be like 0.3.1", None),
        ({"fleet": {"name": "Up"}}, "fleet.name is 'Up'", None),
        ({"rollout": {"soak": "15m"}}, "unknown key rollout.soak", "did you mean rollout.soak_s?"),
        ({"rollout": {"waves": [{"name": "a"}, {"name": "a"}]}}, "two waves of rollout.waves are called a", None),
        ({"rollout": {"max_unreachable": 5}}, "must be at most 1", None),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_key(changes, words, hint):
    with pytest.raises(ConfigError) as caught:
        fleet(**changes)
    assert words in caught.value.message
    if hint:
        assert caught.value.hint == hint


def test_a_site_has_what_stands_under_defaults_unless_it_says_otherwise():
    found = fleet(
        {"a": {}, "b": {"ssh": {"port": 2222}, "labels": {"country": "de"}}},
        defaults={"ssh": {"user": "fleet", "port": 22}, "labels": {"ring": "early"}, "distro": "microk8s"},
    )
    a, b = found.sites
    assert (a.ssh.user, a.ssh.port, b.ssh.user, b.ssh.port) == ("fleet", 22, "fleet", 2222)
    assert b.labels == {"ring": "early", "country": "de"}
    assert {site.distro for site in found.sites} == {"microk8s"}


def test_relative_paths_start_where_the_file_is(tmp_path):
    found = Fleet.from_dict(made.fleet_values({"a": {"ssh": {"key_file": "key"}}}), beside=tmp_path)
    assert found.release.bundle == tmp_path / "bundle"
    assert found.sites[0].ssh.key_file == tmp_path / "key"
    assert found.sites[0].ssh.known_hosts == tmp_path / "known_hosts"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "is not YAML"),
        ("a: 1\na: 2", "the key a stands twice at line 2, column 1"),
        ("- a", "holds no table"),
        ("a: !!python/object/apply:os.system [true]", "is not YAML"),
    ],
)
def test_a_file_that_is_no_plain_yaml_is_refused(tmp_path, text, words):
    path = tmp_path / "fleet.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert words in caught.value.message


def test_the_schema_is_what_the_classes_say():
    assert schema.FILE.read_text(encoding="utf-8") == schema.text(), "run python -m edge.fleet.schema"


def test_the_schema_takes_the_example_and_refuses_a_misspelt_key():
    jsonschema = pytest.importorskip("jsonschema")
    values = json.loads(json.dumps(made.fleet_values({"a": {}})))
    jsonschema.validate(values, schema.schema())
    values["sites"][0]["hots"] = "x"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(values, schema.schema())


def test_every_site_is_in_one_wave_and_shares_are_of_the_whole_fleet():
    sites = fleet({f"s{number}": {"labels": {"ring": "canary"} if number == 3 else {}} for number in range(10)}).sites
    waves = (WaveConfig(name="canary", select={"ring": "canary"}), WaveConfig(name="early", share=0.2))
    found = [(wave.name, names) for wave, names in waves_of(waves, sites)]
    assert found == [("canary", ["s3"]), ("early", ["s0", "s1"]), ("others", ["s2", *(f"s{i}" for i in range(4, 10))])]


def test_sites_are_meant_by_id_or_label():
    sites = fleet({"a": {"labels": {"country": "de"}}, "b": {}}).sites
    assert [site.id for site in chosen(sites, (), ("country=de",))] == ["a"]
    assert [site.id for site in chosen(sites, ("b",), ())] == ["b"]
    with pytest.raises(ConfigError, match="no site is meant"):
        chosen(sites, ("b",), ("country=de",))
    with pytest.raises(ConfigError, match="must be key=value"):
        chosen(sites, (), ("country",))


@pytest.mark.parametrize(
    ("centre", "site", "fits"),
    [
        ("0.4.0", "0.3.9", True),
        ("0.4.0", "0.5.0", True),
        ("0.4.0", "0.2.0", False),
        ("1.0.0", "0.9.0", False),
        ("x", "0.1.0", False),
    ],
)
def test_versions_fit_one_minor_apart(centre, site, fits):
    assert (skew.problem(centre, site) == "") is fits


def test_the_example_fleet_file_is_one(tmp_path):
    from pathlib import Path

    path = Path(__file__).parents[3] / "examples/fleet/fleet.yaml"
    assert len(Fleet.from_dict(yaml.safe_load(path.read_text()), beside=path.parent).sites) >= 3
