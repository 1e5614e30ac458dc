"""The fleet over SSH: how long a plan, an apply with nothing to do, a deploy and an upload take.

Needs root: hosts are namespaces of this machine with their own sshd (tests/edge/fleet/hosts.py). 200 sites are one host
behind as many ports of a proxy that delays each direction by 40 ms, so its sshd works for all of them.

    python -m benchmarks.fleet [--quick] [--json] [NAME …]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from benchmarks._table import Row, main
from edge.fleet import bundle
from edge.fleet.centre import Seen
from edge.fleet.rollout import Rollout
from edge.fleet.session import Session, open_fleet
from edge.fleet.state import begin
from tests.edge.fleet import hosts, made

DELAY_S = 0.04
FIRST_PORT = 21_000
KUBECONFIG = "/etc/kubernetes/admin.conf"

STUB = """\
#!/bin/sh
# What the recorder answered after the first apply, without its start-up time.
case "$*" in
version*) echo v4.1.4;;
*history*) cat /var/lib/recorder/history;;
*"get nodes"*) cat /var/lib/recorder/nodes;;
*"get pods"*) cat /var/lib/recorder/pods;;
*secret/fl-site-identity*) cat /var/lib/recorder/identity;;
*namespace/*) cat /var/lib/recorder/namespace;;
*"images ls"*) cat /var/lib/recorder/images;;
esac
"""


class Fleet:
    """A fleet of hosts, or of ports of one host."""

    def __init__(self, net: hosts.Net, folder: Path) -> None:
        self.net, self.folder = net, folder
        folder.mkdir(exist_ok=True)

    def build(self, *, layers: tuple[bytes, ...] = (b"base", b"app")) -> None:
        source = self.folder / "source"
        source.mkdir(exist_ok=True)
        for name in ("k3s", "helm"):
            shutil.copy(hosts.HERE / "recorder.py", source / name)
        (source / "install.sh").write_text(hosts.INSTALL_SH)
        bundle.build(made.bundle_source(source, layers=layers), self.folder / "bundle")

    def session(self, sites: dict[str, dict[str, object]], known_hosts: str) -> Session:
        (self.folder / "known_hosts").write_text(known_hosts)
        ssh = {"user": "fleet", "key_file": str(self.net.key), "known_hosts": "known_hosts", "connect_timeout_s": 60}
        keys = {name: {**site, "ssh": {**ssh, **site.get("ssh", {})}} for name, site in sites.items()}  # type: ignore[dict-item]
        rollout = {"soak_s": 0, "gate_s": 600, "waves": [{"name": "all", "parallel": 100}]}
        (self.folder / "fleet.yaml").write_text(yaml.safe_dump(made.fleet_values(keys, rollout=rollout)))
        return open_fleet(self.folder / "fleet.yaml", home=self.folder / "home")


class Centre:
    """Sees every site with the right version, and makes tokens at no cost."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def version(self) -> str:
        return self._session.fleet.release.version

    def open_rounds(self) -> dict[str, int]:
        return {}

    def sites(self) -> dict[str, Seen]:
        return {name: Seen(True, self.version()) for name in self._session.wanted}

    def join_token(self, site: str) -> str:
        return f"fl1.{site}"

    def smoke(self, run_file: Path, timeout_s: float) -> str:
        raise AssertionError("none is asked for")


def apply(session: Session) -> float:
    """Seconds of a rollout; everybody must be well at its end."""
    began = time.monotonic()
    state = begin(session.fleet, session.wanted, force=False)
    with session.hands(executes=True) as hands:
        Rollout(
            session.fleet, session.wanted, state, session.store, hands, Centre(session), say=lambda line: None
        ).run()
    assert state.status == "completed", state.reason
    assert not state.of("failed", "deferred", "unhealthy"), state.reason
    return time.monotonic() - began


@contextlib.contextmanager
def behind_delay(address: str, count: int) -> Iterator[None]:
    """Ports of this machine that lead to an sshd, 80 ms there and back."""
    process = multiprocessing.get_context("spawn").Process(target=_proxy, args=(address, count), daemon=True)
    process.start()
    time.sleep(2)
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _proxy(address: str, count: int) -> None:
    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

        async def deliver() -> None:
            while True:
                due, piece = await queue.get()
                await asyncio.sleep(max(0, due - loop.time()))
                if not piece:
                    writer.close()
                    return
                writer.write(piece)

        task = asyncio.create_task(deliver())
        with contextlib.suppress(OSError):
            while piece := await reader.read(1 << 16):
                queue.put_nowait((loop.time() + DELAY_S, piece))
        queue.put_nowait((loop.time() + DELAY_S, b""))
        with contextlib.suppress(OSError):
            await task

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(address, 22)
        await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))

    async def serve() -> None:
        servers = [await asyncio.start_server(connect, "127.0.0.1", FIRST_PORT + number) for number in range(count)]
        await asyncio.gather(*(server.serve_forever() for server in servers))

    asyncio.run(serve())


def ready_host(fleet: Fleet, net: hosts.Net) -> tuple[hosts.Host, dict[str, object]]:
    """A host with an existing cluster and everything in place; its programs then answer from files."""
    (host,) = net.add(1)
    for program in ("helm", "kubectl", "ctr"):
        shutil.copy(hosts.HERE / "recorder.py", host.file(f"/usr/local/bin/{program}"))
        host.file(f"/usr/local/bin/{program}").chmod(0o755)
    site: dict[str, object] = {
        "distro": "existing",
        "kubernetes": {"kubeconfig": KUBECONFIG},
        "values": {"site": {"id": "all"}},
    }
    fleet.build()
    apply(fleet.session({host.name: {"host": host.address, **site}}, host.known_hosts_line))
    state = host.state
    folder = host.file("/var/lib/recorder")

    def listed(*items: object) -> str:
        return json.dumps({"kind": "List", "items": items})

    node = {"type": "Ready", "status": "True"}
    status = {"conditions": [node], "nodeInfo": {"kubeletVersion": "v1.34.1"}, "allocatable": {}}
    pod = {"phase": "Running", "conditions": [node], "containerStatuses": []}
    (folder / "history").write_text(json.dumps(state["revisions"]["fl-site"]))
    (folder / "nodes").write_text(listed({"kind": "Node", "metadata": {"name": "edge"}, "status": status}))
    (folder / "pods").write_text(listed({"kind": "Pod", "metadata": {"name": "fl-site-1"}, "status": pod}))
    (folder / "identity").write_text(listed({"kind": "Secret", "metadata": {"name": "fl-site-identity"}}))
    (folder / "namespace").write_text(listed({"kind": "Namespace", "metadata": {"name": "fl-system"}}))
    rows = [f"{name} t {digest} 1 MiB linux/amd64 -" for name, digest in state["images"].items()]
    (folder / "images").write_text("\n".join(["REF TYPE DIGEST SIZE PLATFORMS LABELS", *rows]) + "\n")
    for program in ("helm", "kubectl", "ctr"):
        host.file(f"/usr/local/bin/{program}").write_text(STUB)
    return host, site


def many(fleet: Fleet, host: hosts.Host, site: dict[str, object], count: int) -> Session:
    """So many sites, each a port of the same host."""
    key = host.known_hosts_line.split(" ", 1)[1]
    ports = [FIRST_PORT + number for number in range(count)]
    sites = {f"s{port}": {"host": "127.0.0.1", **site, "ssh": {"port": port}} for port in ports}
    return fleet.session(sites, "".join(f"[127.0.0.1]:{port} {key}" for port in ports))


def plan_and_noop(quick: bool) -> list[Row]:
    """``plan_200`` and ``apply_noop_200``: everything is as wanted, 80 ms away."""
    count = 20 if quick else 200
    with setting() as (net, folder):
        fleet = Fleet(net, folder / "fleet")
        host, site = ready_host(fleet, net)
        with behind_delay(host.address, count):
            session = many(fleet, host, site, count)
            began = time.monotonic()
            with session.hands(executes=False) as hands:
                answers = list(hands.each(session.wanted, "plan", parallel=100))
            plan_s = time.monotonic() - began
            assert all(answer.ok and not answer.result["changes"] for answer in answers), answers[0]
            noop_s = apply(session)
            rss_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
            plain_s, few = plain_pyinfra(fleet, session)
    plain = f"{plain_s / few * count:.3g} s plain pyinfra, from {few} hosts"
    return [
        Row("plan_200", plan_s, "s", plain, f"{count} hosts", "≤ 15", plan_s <= 15),
        Row("apply_noop_200", noop_s, "s", "–", f"{count} hosts", "≤ 30", noop_s <= 30),
        Row("apply_noop_200_memory", rss_mib, "MiB", "–", "largest process", "≤ 150", rss_mib <= 150),
    ]  # fmt: skip


def plain_pyinfra(fleet: Fleet, session: Session) -> tuple[float, int]:
    """Seconds of ``pyinfra --dry`` with the same deploys for a few of the hosts."""
    from edge.fleet.inventory import inventory_text, write_ssh_config

    few = dict(list(session.wanted.items())[:4])
    text = inventory_text(session.fleet, few, write_ssh_config(session.fleet, fleet.folder))
    (fleet.folder / "inventory.py").write_text(text)
    root = Path(__file__).parents[1]
    shutil.copy(root / "examples/fleet/deploy.py", fleet.folder)
    words = [str(Path(sys.executable).parent / "pyinfra"), "--dry", "-y", "inventory.py", "deploy.py"]
    began = time.monotonic()
    env = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run(words, cwd=fleet.folder, check=True, capture_output=True, env=env)
    return time.monotonic() - began, len(few)


def deploy_20(quick: bool) -> list[Row]:
    """From bare host to release, 20 hosts at once, no image to send but the small ones of the test."""
    count = 4 if quick else 20
    with setting() as (net, folder):
        fleet = Fleet(net, folder / "fleet")
        fleet.build()
        made_hosts = net.add(count)
        known = "".join(host.known_hosts_line for host in made_hosts)
        seconds = apply(fleet.session({host.name: {"host": host.address} for host in made_hosts}, known))
    return [Row("deploy_20", seconds, "s", "–", f"{count} hosts", "≤ 60", seconds <= 60)]


def upload_ratio(quick: bool) -> list[Row]:
    """A layer of 200 MB: sent, checked at the host, and then sent again, when nothing travels."""
    size = (20 if quick else 200) * 1_000_000
    with setting() as (net, folder):
        fleet = Fleet(net, folder / "fleet")
        host, site = ready_host(fleet, net)
        session = fleet.session({host.name: {"host": host.address, **site}}, host.known_hosts_line)

        def sending(session: Session) -> float:
            """Seconds of the one step that sends."""
            at = {}
            with session.hands(executes=True) as hands:
                steps = hands.each(session.wanted, "stage", parallel=1, step=lambda _, what: at.update({what: now()}))
                (answer,) = steps
                assert answer.ok, answer.error
            begun, ended = list(at.values())[:2]
            return ended - begun

        now = time.monotonic

        def import_stub(reference: str, digest: str) -> None:
            rows = f"REF TYPE DIGEST\n{reference} t {digest} 1 MiB linux/amd64 -\n"
            host.file("/var/lib/recorder/images").write_text(rows)

        big = folder / "big"
        big.write_bytes(os.urandom(size))
        words = ["scp", "-q", "-F", "none", "-i", net.key, "-o", f"UserKnownHostsFile={folder}/fleet/known_hosts"]
        scp_s = []
        for _ in range(3):
            began = time.monotonic()
            subprocess.run([*words, big, f"fleet@{host.address}:big"], check=True)
            scp_s.append(time.monotonic() - began)
        fleet.build(layers=(big.read_bytes(),))
        session = open_fleet(fleet.folder / "fleet.yaml", home=fleet.folder / "home")
        image = next(iter(session.wanted.values())).images[0]
        import_stub(image.reference, image.digest)  # only the transfer is measured
        upload_s = sending(session)
        again_s = sending(session)
    best = min(scp_s)
    ratio = upload_s / best
    return [
        Row("upload_ratio", ratio, "× scp", f"{best:.3g} s scp", f"{size >> 20} MiB", "≤ 1.2", ratio <= 1.2),
        Row("upload_again", max(0.0, again_s), "s", f"{upload_s:.3g} s the first time", "–", "≤ 1", again_s <= 1),
    ]  # fmt: skip


@contextlib.contextmanager
def setting() -> Iterator[tuple[hosts.Net, Path]]:
    """A net for hosts; it and all that was made is gone afterwards."""
    if reason := hosts.missing():
        raise SystemExit(f"benchmarks.fleet: {reason}")
    with tempfile.TemporaryDirectory() as folder, hosts.Net(Path(folder)) as net:
        yield net, Path(folder)


if __name__ == "__main__":
    main(__doc__ or "", [plan_and_noop, deploy_20, upload_ratio])
