"""What the doctor makes of a host's answers."""

import datetime

import pytest

from edge.fleet.config import Fleet
from edge.fleet.doctor import findings
from tests.edge.fleet import made

NOW = datetime.datetime(2026, 11, 25, tzinfo=datetime.UTC)
WELL = {
    "OsRelease()": {"name": "Debian 12", "arch": "x86_64", "kernel": "6.1", "id": "debian", "version": "12"},
    "CgroupVersion()": 2,
    "DiskOf(path=/var/lib/fedfleet)": {"size_mib": 100_000, "free_mib": 90_000, "mount": "/"},
    "DiskSpeed(path=/var/lib/fedfleet)": 80.0,
    "MainMemory()": {"total_mib": 16_000, "available_mib": 8_000},
    "Clock()": {"epoch_s": 1000.4, "is_synchronised": True},
    "asked_at_s": 1000.0,
    "Mtu()": 1500,
    "ContainerRuntimes()": {},
    "Resolves(host=fl.test)": ["192.0.2.1"],
    "Reaches(address=fl.test:443, proxy=)": {"is_reached": True, "reason": ""},
    "CertificateEnds(paths=x)": {"/a.crt": "2027-11-25 00:00:00+00:00"},
    "Nodes(kubectl=k3s kubectl)": [{"name": "edge", "is_ready": True, "version": "v1.34.1+k3s1", "gpus": 1}],
    "NvidiaGpus()": {"devices": [{"name": "Tesla T4", "driver": "550.54.15"}], "problem": None},
}


DISK, SPEED, EGRESS = "DiskOf(path=/var/lib/fedfleet)", "DiskSpeed(path=/var/lib/fedfleet)", list(WELL)[10]
ENDS, NODES, GPUS = "CertificateEnds(paths=x)", "Nodes(kubectl=k3s kubectl)", "NvidiaGpus()"


def node(**changes):
    return [{"name": "e", "is_ready": True, "version": "v", "gpus": 1} | changes]


def found(changes, **site):
    fleet = Fleet.from_dict(made.fleet_values({"a": {"gpu": {"count": 1}, **site}}))
    return {one.check: one for one in findings(fleet, fleet.sites[0], WELL | changes, now=NOW)}


def test_a_well_host_has_no_problem():
    assert {one.level for one in found({}).values()} == {"ok"}


@pytest.mark.parametrize(
    ("check", "level", "changes", "words"),
    [
        ("system", "problem", {"OsRelease()": {**WELL["OsRelease()"], "arch": "armv7l"}}, "armv7l is not supported"),
        ("cgroup", "warning", {"CgroupVersion()": 1}, "Kubernetes 1.35"),
        ("runtimes", "warning", {"ContainerRuntimes()": {"dockerd": "28.2.2"}}, "dockerd 28.2.2"),
        ("clock", "problem", {"Clock()": {"epoch_s": 1090.0, "is_synchronised": True}}, "90 s ahead"),
        ("clock", "problem", {"Clock()": {"epoch_s": 910.0, "is_synchronised": True}}, "90 s behind"),
        ("clock", "warning", {"Clock()": {"epoch_s": 1000.0, "is_synchronised": False}}, "nothing keeps it so"),
        ("disk", "problem", {DISK: {"free_mib": 5, "mount": "/", "size_mib": 9}}, "5 MiB free"),
        ("disk speed", "problem", {SPEED: 3.0}, "3 MiB/s"),
        ("memory", "problem", {"MainMemory()": {"total_mib": 900, "available_mib": 100}}, "the task needs 2048"),
        ("mtu", "problem", {"Mtu()": 1000}, "less than the 1280"),
        ("dns", "problem", {"Resolves(host=fl.test)": []}, "fl.test is not known"),
        ("egress", "problem", {EGRESS: {"is_reached": False, "reason": "no answer"}}, "no answer"),
        ("egress", "warning", {EGRESS: {"is_reached": None, "reason": "no curl"}}, "no curl"),
        ("certificates", "warning", {ENDS: {"/a": "2026-12-01 00:00:00+00:00"}}, "ends in 6 days"),
        ("certificates", "problem", {ENDS: {"/a": "2026-11-01 00:00:00+00:00"}}, "ended 24 days ago"),
        ("authority", "warning", {"CertificateAuthority(path=x)": {"has_key_usage": False}}, "no keyUsage"),
        ("gpu", "problem", {GPUS: {"devices": [], "problem": "Driver/library version mismatch"}}, "0 of 1 seen"),
        ("gpu", "problem", {GPUS: {"devices": [{"name": "T4", "driver": "470.1"}], "problem": None}}, "driver 470.1"),
        ("gpu in pods", "problem", {NODES: node(gpus=0)}, "pods are offered 0 of 1"),
        ("cluster", "problem", {NODES: node(is_ready=False)}, "not ready: e"),
        ("refresh", "warning", {"SnapState(snap=microk8s)": {"is_held": False}}, "refreshes by itself"),
        ("rbac", "problem", {"MicroK8sState()": {"is_running": True, "addons": ["dns"]}}, "every pod may do"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_found_and_has_its_command(check, level, changes, words):
    one = found(changes)[check]
    assert one.level == level
    assert words in one.words
    assert one.command or check in ("system", "runtimes")
