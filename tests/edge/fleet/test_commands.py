"""``fl fleet`` as it is typed: refusals, states, files."""

import json
import subprocess

import pytest
import yaml

from edge.fleet import bundle
from edge.fleet.config import Fleet
from edge.fleet.inventory import inventory_text, ssh_config
from edge.fleet.session import open_fleet
from edge.fleet.state import begin
from edge.fleet.trust import HostKey, pin, pinned
from fl.cli import run
from tests.edge.fleet import made


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    """A fleet file with its bundle, in the current directory."""
    monkeypatch.chdir(tmp_path)
    bundle.build(made.bundle_source(tmp_path / "source"), tmp_path / "bundle")
    (tmp_path / "fleet.yaml").write_text(
        yaml.safe_dump(made.fleet_values({"a": {}, "b": {"labels": {"country": "de"}}}))
    )
    return tmp_path


def state(fleet, status, **sites):
    """Leave a rollout behind."""
    session = open_fleet(fleet / "fleet.yaml")
    found = begin(session.fleet, session.wanted, force=False)
    found.status = status
    for name, of_site in sites.items():
        found.sites[name].status = of_site
    session.store.save(found)
    return found


@pytest.mark.parametrize(
    ("words", "status", "error", "hint"),
    [
        (["plan", "none.yaml"], 2, "no such file: none.yaml", None),
        (["plan", "fleet.yaml", "--site", "c"], 2, "unknown site c", "known: a, b"),
        (["apply", "fleet.yaml", "--label", "country=fr"], 2, "no site is meant", None),
        (["resume", "fleet.yaml"], 2, "nothing was rolled out to test yet", "fl fleet apply FLEET.yaml"),
        (["pause", "fleet.yaml"], 2, "nothing was rolled out", None),
        (["trust", "fleet.yaml", "--fingerprint", "SHA256:x"], 2, "--fingerprint fits one site", "add --site ID"),
        (["bundle", "verify", "nowhere"], 2, "no bundle at nowhere", "fl fleet bundle build"),
    ],
)
def test_a_refusal_is_one_line_with_a_hint(fleet, capsys, words, status, error, hint):
    assert run(["fleet", *words]) == status
    said = capsys.readouterr().err
    assert f"fl: error: {error}" in said
    if hint:
        assert f"fl: hint: {hint}" in said


def test_a_rollout_that_was_interrupted_is_resumed_and_not_begun_anew(fleet, capsys):
    found = state(fleet, "running", a="releasing")
    assert run(["fleet", "apply", "fleet.yaml", "--without-centre"]) == 2
    said = capsys.readouterr().err
    assert f"rollout {found.id} of 0.3.1 is interrupted" in said
    assert "fl fleet resume fleet.yaml" in said


def test_a_rollout_goes_on_only_with_what_it_began_with(fleet, capsys):
    state(fleet, "paused")
    bundle.build(made.bundle_source(fleet / "source", layers=(b"other",)), fleet / "bundle")
    assert run(["fleet", "resume", "fleet.yaml", "--without-centre"]) == 2
    assert "a is to get something else now" in capsys.readouterr().err


def test_a_finished_rollout_is_not_resumed(fleet, capsys):
    state(fleet, "completed", a="done", b="done")
    assert run(["fleet", "resume", "fleet.yaml", "--without-centre"]) == 2
    assert "is completed" in capsys.readouterr().err


def test_pause_leaves_word_for_the_one_that_rolls_out(fleet):
    state(fleet, "running")
    assert run(["fleet", "pause", "fleet.yaml"]) == 0
    assert open_fleet(fleet / "fleet.yaml").store.is_pausing


def test_status_says_where_each_site_is(fleet, capsys):
    state(fleet, "paused", a="done", b="deferred")
    assert run(["fleet", "status", "fleet.yaml", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["rollout"]
    assert facts["counts"] == {"done": 1, "deferred": 1}
    assert run(["fleet", "status", "fleet.yaml"]) == 0
    assert "deferred" in capsys.readouterr().out


def test_ssh_understands_the_configuration(fleet):
    keys = {
        "a": {"ssh": {"port": 2222, "user": "fleet", "jump": "ops@bastion:2200", "key_file": "id"}, "host": "192.0.2.7"}
    }
    found = Fleet.from_dict(made.fleet_values(keys), beside=fleet)
    (fleet / "config").write_text(ssh_config(found))
    said = subprocess.run(["ssh", "-G", "-F", fleet / "config", "a"], capture_output=True, text=True, check=True).stdout
    options = dict(line.split(" ", 1) for line in said.splitlines())
    assert options["hostname"] == "192.0.2.7"
    assert (options["port"], options["user"], options["proxyjump"]) == ("2222", "fleet", "ops@bastion:2200")
    assert (options["stricthostkeychecking"], options["serveraliveinterval"], options["batchmode"]) == (
        "true",
        "15",
        "yes",
    )
    assert options["userknownhostsfile"] == str(fleet / "known_hosts")


def test_the_inventory_for_plain_pyinfra_is_python_with_every_host(fleet):
    session = open_fleet(fleet / "fleet.yaml")
    scope = {}
    exec(inventory_text(session.fleet, session.wanted, fleet / "config"), scope)
    assert [name for name, _ in scope["hosts"]] == ["a", "b"]
    assert scope["hosts"][0][1]["_sudo"] is True
    assert scope["hosts"][0][1]["ssh_strict_host_key_checking"] == "yes"


def test_a_pinned_key_replaces_the_one_before_and_no_other(fleet):
    site = open_fleet(fleet / "fleet.yaml").fleet.sites[0]
    site.ssh.known_hosts.write_text("other ssh-ed25519 AAAA\na ssh-ed25519 BBBB\n")
    pin(site, [HostKey("a", "ssh-ed25519", "CCCC")])
    assert site.ssh.known_hosts.read_text().splitlines() == ["other ssh-ed25519 AAAA", "a ssh-ed25519 CCCC"]
    assert [key.key for key in pinned(site)] == ["CCCC"]


def test_a_fingerprint_is_what_ssh_keygen_shows(fleet):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", fleet / "key"], check=True)
    _, key, *_ = (fleet / "key.pub").read_text().split()
    shown = subprocess.run(["ssh-keygen", "-lf", fleet / "key.pub"], capture_output=True, text=True, check=True).stdout
    assert HostKey("a", "ssh-ed25519", key).fingerprint == shown.split()[1]


def test_the_command_line_loads_no_pyinfra():
    code = "import sys, edge.fleet.commands, edge.fleet.session, edge.fleet.plan; sys.exit('pyinfra' in sys.modules)"
    assert subprocess.run([__import__("sys").executable, "-c", code], check=False).returncode == 0
