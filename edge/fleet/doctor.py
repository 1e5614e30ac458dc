"""The doctor: what stands in a site's way, why, and what to type. Pure: from answers to findings."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from edge.fleet import tools
from edge.fleet.config import Fleet
from edge.fleet.gate import answer_of
from edge.fleet.site_config import Site

Level = Literal["ok", "warning", "problem"]

CLOCK_S = 5.0
"""Certificates and signatures bear this much."""

CERTIFICATE_DAYS = 30
LEAST_MTU = 1280
ARCHITECTURES = ("x86_64", "aarch64")


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    """What."""
    level: Level
    """``problem``: the site cannot work so; ``warning``: it may not."""
    words: str
    """What was found."""
    command: str = ""
    """What to type, at the host."""


def findings(fleet: Fleet, site: Site, answers: Mapping[str, Any], *, now: datetime.datetime) -> list[Finding]:
    """All that was found at a site, in the order in which one would look."""
    checks = (_system, _clock, _resources, _network, _certificates, _gpu, _cluster)
    return [finding for check in checks for finding in check(fleet, site, answers, now)]


Findings = Iterator[Finding]
Answers = Mapping[str, Any]


def _system(fleet: Fleet, site: Site, answers: Answers, now: datetime.datetime) -> Findings:
    os = answer_of(answers, "OsRelease")
    if os is None:
        yield Finding("system", "warning", "the host does not say what it runs")
    elif os["arch"] not in ARCHITECTURES:
        yield Finding("system", "problem", f"{os['arch']} is not supported: {' and '.join(ARCHITECTURES)} are")
    else:
        yield Finding("system", "ok", f"{os['name']}, {os['arch']}, kernel {os['kernel']}")
    cgroup = answer_of(answers, "CgroupVersion")
    if cgroup == 2:
        yield Finding("cgroup", "ok", "version 2")
    else:
        words = f"version {cgroup}: Kubernetes 1.35 and later want 2" if cgroup else "none is mounted"
        yield Finding(
            "cgroup", "warning", words, "grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=1"
        )
    others = answer_of(answers, "ContainerRuntimes") or {}
    if others and site.distro != "existing":
        listed = ", ".join(f"{name} {version}".strip() for name, version in sorted(others.items()))
        yield Finding("runtimes", "warning", f"{listed} beside the cluster's own: they share disk and iptables rules")


def _clock(fleet: Fleet, site: Site, answers: Answers, now: datetime.datetime) -> Findings:
    clock = answer_of(answers, "Clock")
    if clock is None or "asked_at_s" not in answers:
        yield Finding("clock", "warning", "the host does not say what time it is")
        return
    off_s = clock["epoch_s"] - answers["asked_at_s"]
    if abs(off_s) > CLOCK_S:
        words = f"{abs(off_s):.0f} s {'ahead' if off_s > 0 else 'behind'}: certificates and signatures will not hold"
        yield Finding("clock", "problem", words, "timedatectl set-ntp true")
    elif clock["is_synchronised"] is False:
        yield Finding("clock", "warning", "right, but nothing keeps it so", "timedatectl set-ntp true")
    else:
        yield Finding("clock", "ok", f"{abs(off_s):.1f} s apart")


def _resources(fleet: Fleet, site: Site, answers: Answers, now: datetime.datetime) -> Findings:
    disk, needs = answer_of(answers, "DiskOf"), site.needs
    if disk is None:
        yield Finding("disk", "warning", "the host does not say how much room it has")
    elif disk["free_mib"] < needs.disk_free_mib:
        words = f"{disk['free_mib']} MiB free on {disk['mount']}, needs.disk_free_mib is {needs.disk_free_mib}"
        yield Finding("disk", "problem", words, f"du -xh --max-depth=2 {disk['mount']} | sort -h | tail")
    else:
        yield Finding("disk", "ok", f"{disk['free_mib']} MiB free on {disk['mount']}")
    speed = answer_of(answers, "DiskSpeed")
    if speed is None:
        yield Finding("disk speed", "warning", "could not be measured")
    elif speed < needs.disk_mib_per_s:
        words = f"{speed:g} MiB/s with syncs, needs.disk_mib_per_s is {needs.disk_mib_per_s:g}"
        yield Finding("disk speed", "problem", words, f"move {tools.HOME} to an SSD, or set kubernetes.low_write: true")
    else:
        yield Finding("disk speed", "ok", f"{speed:g} MiB/s with syncs")
    memory = answer_of(answers, "MainMemory")
    if memory is None:
        yield Finding("memory", "warning", "the host does not say how much it has")
    elif memory["available_mib"] < needs.memory_mib:
        words = f"{memory['available_mib']} of {memory['total_mib']} MiB available, the task needs {needs.memory_mib}"
        yield Finding("memory", "problem", words, "ps -eo rss,args --sort=-rss | head")
    else:
        yield Finding("memory", "ok", f"{memory['available_mib']} of {memory['total_mib']} MiB available")


def _network(fleet: Fleet, site: Site, answers: Answers, now: datetime.datetime) -> Findings:
    mtu = answer_of(answers, "Mtu")
    if mtu is None:
        yield Finding("mtu", "warning", "there is no default route", "ip route")
    elif mtu < LEAST_MTU:
        yield Finding("mtu", "problem", f"{mtu}, less than the {LEAST_MTU} that the pod network needs", "ip link")
    else:
        yield Finding("mtu", "ok", str(mtu))
    proxy = fleet.gateway.proxy
    addresses = answer_of(answers, "Resolves")
    host = fleet.gateway.addresses[0].rpartition(":")[0]
    if addresses:
        yield Finding("dns", "ok", f"{host} is {addresses[0]}")
    elif proxy:
        yield Finding("dns", "ok", f"{host} is not known here; the proxy looks it up")
    else:
        yield Finding("dns", "problem", f"{host} is not known", f"getent hosts {host}; cat /etc/resolv.conf")
    for address in fleet.gateway.addresses:
        reach = next((value for name, value in answers.items() if name.startswith(f"Reaches(address={address},")), None)
        through = f" through {proxy}" if proxy else ""
        if reach is None or reach["is_reached"] is None:
            words = reach["reason"] if reach else "not asked"
            yield Finding("egress", "warning", f"{address}: {words}", "apt-get install curl")
        elif reach["is_reached"]:
            yield Finding("egress", "ok", f"{address} is reached{through}")
        else:
            option = f" --proxy {proxy}" if proxy else ""
            command = f"curl -vk{option} https://{address}/"
            yield Finding("egress", "problem", f"{address} is not reached{through}: {reach['reason']}", command)


def _certificates(fleet: Fleet, site: Site, answers: Answers, now: datetime.datetime) -> Findings:
    renew = "systemctl restart k3s" if site.distro == "k3s" else "microk8s refresh-certs --cert server.crt"
    for path, end in sorted((answer_of(answers, "CertificateEnds") or {}).items()):
        days = (datetime.datetime.fromisoformat(end) - now).days
        if days < 0:
            yield Finding("certificates", "problem", f"{path} ended {-days} days ago", renew)
        elif days < CERTIFICATE_DAYS:
            yield Finding("certificates", "warning", f"{path} ends in {days} days", renew)
        else:
            yield Finding("certificates", "ok", f"{path}: {days} days")
    authority = answer_of(answers, "CertificateAuthority")
    if authority is not None and not authority["has_key_usage"]:
        words = "MicroK8s' authority has no keyUsage: Python 3.13 and other strict clients refuse it"
        yield Finding("authority", "warning", words, "microk8s refresh-certs --cert ca.crt")


def _gpu(fleet: Fleet, site: Site, answers: Answers, now: datetime.datetime) -> Findings:
    if not site.gpu.count:
        return
    gpus = answer_of(answers, "NvidiaGpus") or {"devices": [], "problem": "no answer"}
    devices = gpus["devices"]
    if len(devices) < site.gpu.count:
        words = f"{len(devices)} of {site.gpu.count} seen: {gpus['problem'] or 'the others are missing'}"
        mismatch = "version mismatch" in words
        yield Finding("gpu", "problem", words, "reboot" if mismatch else "nvidia-smi; dmesg | grep -i nvrm")
        return
    driver = devices[0]["driver"]
    if _numbers(driver) < _numbers(site.gpu.min_driver):
        words = f"driver {driver}, gpu.min_driver is {site.gpu.min_driver}"
        yield Finding(
            "gpu", "problem", words, f"apt-get install nvidia-driver-{site.gpu.min_driver.split('.')[0]}-server"
        )
    else:
        yield Finding("gpu", "ok", f"{len(devices)} × {devices[0]['name']}, driver {driver}")
    nodes = answer_of(answers, "Nodes")
    if nodes:
        offered = sum(node["gpus"] for node in nodes)
        wanted = site.gpu.count * site.gpu.replicas
        if offered < wanted:
            words = f"pods are offered {offered} of {wanted}: the device plugin does not see them"
            command = "kubectl -n nvidia-device-plugin logs -l app.kubernetes.io/name=nvidia-device-plugin"
            yield Finding("gpu in pods", "problem", words, command)
        else:
            yield Finding("gpu in pods", "ok", f"{offered} are offered")


def _cluster(fleet: Fleet, site: Site, answers: Answers, now: datetime.datetime) -> Findings:
    nodes = answer_of(answers, "Nodes")
    if nodes is None:
        if site.distro == "existing":
            yield Finding("cluster", "problem", "does not answer", "kubectl get nodes")
        else:
            yield Finding("cluster", "ok", "not there yet; fl fleet apply brings it")
    else:
        bad = [node["name"] for node in nodes if not node["is_ready"]]
        versions = ", ".join(sorted({node["version"] for node in nodes}))
        if bad:
            yield Finding("cluster", "problem", f"not ready: {', '.join(bad)}", f"kubectl describe node {bad[0]}")
        else:
            yield Finding("cluster", "ok", f"{len(nodes)} ready, {versions}")
    snap = answer_of(answers, "SnapState")
    if snap is not None and not snap["is_held"]:
        words = "MicroK8s refreshes by itself, in the middle of a round"
        yield Finding("refresh", "warning", words, "snap refresh --hold microk8s")
    addons = answer_of(answers, "MicroK8sState")
    if addons is not None and addons["is_running"] and "rbac" not in addons["addons"]:
        yield Finding("rbac", "problem", "off: every pod may do everything", "microk8s enable rbac")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))
