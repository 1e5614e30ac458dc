"""The fleet over real SSH: isolated hosts whose Kubernetes is played by recorders."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from edge.fleet import bundle
from edge.fleet.session import open_fleet
from edge.fleet.tools import BLOBS
from fl.files import Lock
from tests.edge.fleet import hosts, made

pytestmark = [
    pytest.mark.ssh,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(hosts.missing()), reason=hosts.missing()),
]

FL = [str(Path(sys.executable).parent / "fl")]


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    with hosts.Net(tmp_path_factory.mktemp("net")) as net:
        yield net


class Fleet:
    """Fresh hosts with a fleet file and a bundle; a centre that is a script."""

    def __init__(self, net, folder, count):
        self.net, self.folder = net, folder
        self.hosts = net.add(count)
        (folder / "known_hosts").write_text("".join(host.known_hosts_line for host in self.hosts))
        self.centre = folder / "centre"
        self.write_centre()
        self.build("0.3.1")
        self.write()

    def build(self, version, **more):
        source = self.folder / "source"
        source.mkdir(exist_ok=True)
        for name in ("k3s", "helm"):
            shutil.copy(hosts.HERE / "recorder.py", source / name)
        (source / "install.sh").write_text(hosts.INSTALL_SH)
        (source / "chart.tgz").write_text(f"chart {version}\n")
        path = made.bundle_source(source, version=version, **more)
        bundle.build(path, self.folder / "bundle", key=more.pop("key", None))

    def write(self, *, version="0.3.1", release=None, sites=None, **rollout):
        """The fleet file."""
        ssh = {"user": "fleet", "key_file": str(self.net.key), "known_hosts": "known_hosts", "connect_timeout_s": 5}
        keys = {
            host.name: {"host": host.address, "ssh": ssh, **(sites or {}).get(host.name, {})} for host in self.hosts
        }
        rollout = {"soak_s": 0, "gate_s": 60, "waves": [{"name": "all"}], "max_unreachable": 0.7} | rollout
        values = made.fleet_values(
            keys,
            centre={"command": [str(self.centre)]},
            release={"version": version, "bundle": "bundle", **(release or {})},
            rollout=rollout,
        )
        (self.folder / "fleet.yaml").write_text(yaml.safe_dump(values))

    def write_centre(self, version="0.3.1"):
        """An ``fl`` that sees every host, with this version, and makes tokens."""
        now = "2099-01-01T00:00:00Z"
        seen = [{"site": h.name, "state": "active", "seen": now, "release": version} for h in self.hosts]
        script = f"""#!/bin/sh
case "$1 $2" in
"version --json") echo '{{"fedfleet": "0.3.1"}}';;
"site list") echo '{json.dumps(seen)}';;
"site rejoin"|"site add") echo '{{"token": "fl1.token-for-'$3'"}}';;
"run list") echo '[]';;
*) exit 1;;
esac
"""
        self.centre.write_text(script)
        self.centre.chmod(0o755)

    def fl(self, *words, **more):
        return subprocess.run([*FL, "fleet", *words, "--home", str(self.folder / "home")], cwd=self.folder,
                              capture_output=True, text=True, timeout=240, **more)  # fmt: skip

    def start(self, *words):
        return subprocess.Popen([*FL, "fleet", *words, "--home", str(self.folder / "home")], cwd=self.folder,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip

    def state(self):
        return json.loads((self.folder / "home/test/rollout.json").read_text())

    def wait(self, until, timeout_s=120):
        deadline = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < deadline, (self.folder / "home/test/worker.log").read_text()[-2000:]
            time.sleep(0.05)


@pytest.fixture
def fleet(net, tmp_path):
    """Make a fleet of so many hosts."""
    made_hosts = []

    def fleet(count):
        found = Fleet(net, tmp_path, count)
        made_hosts.extend(found.hosts)
        return found

    yield fleet
    for host in made_hosts:
        host.power_off()


def test_from_bare_hosts_to_sites_and_back(fleet):
    it = fleet(2)
    it.write(sites={it.hosts[1].name: {"distro": "microk8s"}})
    before = {host.name: snapshot(host) for host in it.hosts}

    planned = it.fl("plan", "fleet.yaml", "--json")
    assert planned.returncode == 2, planned.stderr
    changes = {one["site"]: one["changes"] for one in json.loads(planned.stdout)}
    assert set(changes[it.hosts[0].name]) == {"host", "cluster", "image", "helm", "identity"}
    assert {host.name: snapshot(host) for host in it.hosts} == before  # a plan changes nothing

    applied = it.fl("apply", "fleet.yaml", "--json")
    assert applied.returncode == 0, applied.stderr
    assert json.loads(applied.stdout)["counts"] == {"done": 2}
    for host in it.hosts:
        assert "secret/fl-site-identity" in host.state["objects"]
        assert "secret/fl-site-join" not in host.state["objects"]  # the token is taken away
    assert "held" in it.hosts[1].state["snaps"]["microk8s"]["notes"]
    everything = "".join(
        path.read_text(errors="replace") for path in (it.folder / "home/test").rglob("*") if path.is_file()
    )
    asked = "".join(json.dumps(host.recorded()) for host in it.hosts)
    assert "token-for" not in everything + asked + applied.stdout + applied.stderr
    assert it.hosts[0].file("/var/lib/recorder/secret").read_text().strip() == f"fl1.token-for-{it.hosts[0].name}"

    upgrades = [len([words for words in host.recorded("helm") if "upgrade" in words]) for host in it.hosts]
    again = it.fl("apply", "fleet.yaml", "--json")
    assert json.loads(again.stdout)["counts"] == {"unchanged": 2}, again.stderr
    assert [len([words for words in host.recorded("helm") if "upgrade" in words]) for host in it.hosts] == upgrades
    assert it.fl("plan", "fleet.yaml").returncode == 0

    removed = it.fl("remove", "fleet.yaml", "--yes")
    assert removed.returncode == 0, removed.stderr
    assert {host.name: snapshot(host) for host in it.hosts} == before


def test_a_bad_release_stops_at_the_canary_and_goes_back(fleet):
    it = fleet(2)
    canary, other = it.hosts
    it.write(
        sites={canary.name: {"labels": {"ring": "canary"}}}, waves=[{"name": "canary", "select": {"ring": "canary"}}]
    )
    assert it.fl("apply", "fleet.yaml").returncode == 0
    it.build("0.3.2")
    it.write_centre("0.3.2")
    it.write(version="0.3.2", sites={canary.name: {"labels": {"ring": "canary"}}}, gate_s=3,
             waves=[{"name": "canary", "select": {"ring": "canary"}}])  # fmt: skip
    session = open_fleet(it.folder / "fleet.yaml", home=it.folder / "home")
    canary.nature(sick=session.wanted[canary.name].digest)
    done = it.fl("apply", "fleet.yaml")
    assert done.returncode == 1
    assert "CrashLoopBackOff" in done.stderr
    revisions = canary.state["revisions"]["fl-site"]
    assert [entry["description"].split()[0] for entry in revisions] == ["fedfleet", "fedfleet", "Rollback"]
    assert len(other.state["revisions"]["fl-site"]) == 1
    assert it.state()["status"] == "rolled back"


def test_hosts_out_of_reach_are_put_off_and_picked_up(fleet):
    it = fleet(3)
    it.hosts[1].power_off()
    it.hosts[2].cut()
    done = it.fl("apply", "fleet.yaml", "--json")
    assert done.returncode == 3, done.stderr
    assert [it.state()["sites"][host.name]["status"] for host in it.hosts] == ["done", "deferred", "deferred"]
    it.hosts[1].start()
    it.hosts[1].wait()
    it.hosts[2].mend()
    resumed = it.fl("resume", "fleet.yaml", "--json")
    assert json.loads(resumed.stdout)["counts"] == {"done": 3}, resumed.stderr


def test_a_killed_operator_resumes_and_a_half_done_release_is_recovered(fleet):
    it = fleet(1)
    host = it.hosts[0]
    assert it.fl("apply", "fleet.yaml").returncode == 0
    it.build("0.3.2")
    it.write_centre("0.3.2")
    it.write(version="0.3.2")
    host.nature(helm_s=300)
    process = it.start("apply", "fleet.yaml")
    it.wait(lambda: host.state["revisions"]["fl-site"][-1]["status"] == "pending-upgrade")
    process.kill()
    process.wait()
    # Both the operator and the host's helm are gone in the middle.
    host.nature()
    host.reboot()
    host.wait()
    it.wait(lambda: can_lock(it.folder / "home/test/lock"))
    assert it.state()["sites"][host.name]["status"] == "releasing"
    assert it.fl("apply", "fleet.yaml").returncode == 2  # one at a time: this one is to be resumed
    resumed = it.fl("resume", "fleet.yaml", "--json")
    assert resumed.returncode == 0, resumed.stderr
    revisions = host.state["revisions"]["fl-site"]
    assert [entry["description"].split()[0] for entry in revisions] == ["fedfleet", "fedfleet", "Rollback", "fedfleet"]
    assert revisions[-1]["status"] == "deployed"


def test_a_host_that_reboots_in_the_middle_is_put_off_and_then_done(fleet):
    it = fleet(1)
    host = it.hosts[0]
    host.nature(helm_s=300)
    process = it.start("apply", "fleet.yaml", "--json")
    it.wait(lambda: "upgrade" in json.dumps(host.recorded("helm")))
    host.nature()
    host.power_off()
    time.sleep(1)
    host.start()
    host.wait()
    out, _ = process.communicate(timeout=240)
    if process.returncode == 3:  # the second try at the end may have come too early
        done = it.fl("resume", "fleet.yaml", "--json")
        assert done.returncode == 0, done.stderr
    assert it.state()["sites"][host.name]["status"] == "done", out


def test_a_wrong_host_key_is_refused_and_nothing_is_sent(fleet):
    it = fleet(2)
    it.hosts[0].new_key()
    it.hosts[0].reboot()
    it.hosts[0].wait()
    done = it.fl("apply", "fleet.yaml", "--json")
    assert done.returncode != 0
    site = it.state()["sites"][it.hosts[0].name]
    assert site["status"] == "failed"
    assert "host key" in site["reason"].lower()
    assert it.hosts[0].recorded() == []
    refused = it.fl("trust", "fleet.yaml", "--site", it.hosts[0].name, "--fingerprint", "SHA256:nonsense")
    assert refused.returncode == 2
    shown = subprocess.run(["ssh-keygen", "-lf", it.hosts[0].file("/etc/ssh/ssh_host_ed25519_key.pub")],
                           capture_output=True, text=True, check=True).stdout.split()[1]  # fmt: skip
    assert it.fl("trust", "fleet.yaml", "--site", it.hosts[0].name, "--fingerprint", shown).returncode == 0
    assert it.fl("apply", "fleet.yaml").returncode == 0


def test_a_refused_sudo_and_a_full_disk_fail_their_sites_only(fleet):
    it = fleet(3)
    it.hosts[0].file("/etc/sudoers.d/fleet").unlink()
    it.hosts[1].inside("mkdir -p /var/lib/fedfleet && mount -t tmpfs -o size=16k tmpfs /var/lib/fedfleet")
    it.write(abort={"failed": 3, "unhealthy": 1})
    done = it.fl("apply", "fleet.yaml", "--json")
    assert done.returncode == 3, done.stderr
    sites = it.state()["sites"]
    assert [sites[host.name]["status"] for host in it.hosts] == ["failed", "failed", "done"]
    assert "sudo was refused" in sites[it.hosts[0].name]["reason"]
    assert "No space left on device" in sites[it.hosts[1].name]["reason"]


def test_a_transfer_goes_on_where_it_stopped_and_nothing_travels_twice(fleet):
    it = fleet(1)
    host = it.hosts[0]
    big = os.urandom(2 << 20)
    it.build("0.3.1", layers=(big,))
    digest = __import__("hashlib").sha256(big).hexdigest()
    blobs = host.file(BLOBS)
    blobs.mkdir(parents=True)
    (blobs / f"{digest}.part").write_bytes(big[: 1 << 20])  # as a broken connection left it
    os.utime(blobs / f"{digest}.part", (1, 1))
    before = int(hosts.run("ip", "netns", "exec", host.netns, "cat", "/sys/class/net/eth0/statistics/rx_bytes").stdout)
    assert it.fl("apply", "fleet.yaml").returncode == 0
    after = int(hosts.run("ip", "netns", "exec", host.netns, "cat", "/sys/class/net/eth0/statistics/rx_bytes").stdout)
    assert (blobs / digest).read_bytes() == big
    assert 1 << 20 < after - before < 1.8 * (1 << 20)
    # A part that is not of this file is found out by its digest, and the next try starts anew.
    (blobs / digest).unlink()
    (blobs / f"{digest}.part").write_bytes(os.urandom(1 << 20))
    assert "arrived damaged" in it.fl("apply", "fleet.yaml").stderr
    assert it.fl("apply", "fleet.yaml").returncode == 0
    assert (blobs / digest).read_bytes() == big


def test_a_host_checks_the_bundles_signature_itself(fleet):
    it = fleet(1)
    key = it.folder / "signer"
    hosts.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    (it.folder / "signers").write_text(f"fleet {key.with_suffix('.pub').read_text()}")
    bundle.build(it.folder / "source/bundle.yaml", it.folder / "bundle", key=key)
    it.write(release={"signers": "signers"})
    assert it.fl("apply", "fleet.yaml").returncode == 0
    assert it.hosts[0].file("/etc/fedfleet/allowed_signers").read_text().startswith("fleet ssh-ed25519")
    # Somebody else's signature: taken here, refused there.
    other = it.folder / "other"
    hosts.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other)
    it.build("0.3.2")
    bundle.build(it.folder / "source/bundle.yaml", it.folder / "bundle", key=other)
    (it.folder / "signers").write_text(f"fleet {other.with_suffix('.pub').read_text()}")
    it.write(version="0.3.2", release={"signers": "signers"})
    refused = it.fl("apply", "fleet.yaml")
    assert refused.returncode == 1
    assert "verify the bundle" in refused.stderr
    assert len(it.hosts[0].state["revisions"]["fl-site"]) == 1


def test_plain_pyinfra_does_the_same(fleet):
    it = fleet(1)
    assert it.fl("inventory", "fleet.yaml", "--out", "inventory.py").returncode == 0
    shutil.copy(Path(__file__).parents[3] / "examples/fleet/deploy.py", it.folder / "deploy.py")
    pyinfra = str(Path(sys.executable).parent / "pyinfra")
    done = subprocess.run([pyinfra, "-y", "inventory.py", "deploy.py"], cwd=it.folder, capture_output=True, text=True,
                          timeout=240, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert it.hosts[0].state["revisions"]["fl-site"][-1]["status"] == "deployed"


def can_lock(path):
    from fl.errors import BusyError

    try:
        with Lock(path):
            return True
    except BusyError:
        return False


def snapshot(host):
    """All files of a host that the fleet could leave behind, by content."""
    ignored = ("var/lib/recorder", "proc", "dev", "run", "tmp", "var/log", "root", "home", "sys", "var/lib/sudo")
    found = {}
    for folder, names, files in os.walk(host.folder / "up"):
        below = os.path.relpath(folder, host.folder / "up")
        names[:] = [name for name in names if os.path.normpath(f"{below}/{name}") not in ignored]
        for name in files:
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                found[os.path.normpath(f"{below}/{name}")] = base64.b64encode(path.read_bytes()[:4096]).decode()
    return found
