"""What the gateway costs: throughput of a model against SuperLink's own, and a thousand idle sites."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from flwr.proto import fleet_pb2, heartbeat_pb2, node_pb2
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from benchmarks._centre import Running, Site, running
from benchmarks._table import Row
from fl.link import link_pb2 as link
from fl.link import link_pb2_grpc
from fl.link.identity import GATEWAY_NAME
from server import bundle
from server.gateway import fleet
from tests.server.gateway.bare import BareStub
from tests.server.gateway.player import Player, beating, make_reply

APP = Path(__file__).parent / "apps" / "link"
AT_ONCE = 2  # objects on their way at the same time, as in Flower
LAYERS = 10


def gateway_ratio(quick: bool) -> list[Row]:
    """A model down to a site and an update up: through the gateway, and at SuperLink's own port."""
    model_mb, rounds = (20, 2) if quick else (100, 5)
    with tempfile.TemporaryDirectory(prefix="fedfleet-bench-") as name, running(Path(name) / "home", 2) as centre:
        out = Path(name)
        bare_site, site = centre.sites
        address, ca = centre.superlink
        stub = BareStub(address, ca, bare_site.node_id)
        with (
            channel(centre.address, site) as opened,
            beating(Player(bare_site, None, stub)) as theirs_through,
            beating(Player(site, opened)) as ours_through,
        ):
            players = {"superlink": theirs_through, "gateway": ours_through}
            players["gateway"].activate()
            players["superlink"].activate()
            config = {"out": str(out), "rounds": rounds, "sites": 2, "model-mb": model_mb}
            run_id = centre.control.start_run(bundle.from_directory(APP), config)
            rates: dict[str, list[float]] = {"superlink": [], "gateway": []}
            for number in range(rounds):
                (out / f"go-{number}").touch()
                mails = {door: player.wait_for_mail() for door, player in players.items()}
                doors = list(players)
                random.Random(number).shuffle(doors)  # neither door always gets the warmer machine
                for door in doors:
                    seconds = _exchange(players[door], mails[door], model_mb, number)
                    rates[door].append(2 * model_mb / seconds)
            (out / "end").touch()
            centre.control.stop(run_id)
            stub.close()
    ours, theirs = statistics.median(rates["gateway"]), statistics.median(rates["superlink"])
    value = ours / theirs
    row = Row(
        "gateway_ratio", value, "of SuperLink's", f"{theirs:.0f} MB/s", f"{ours:.0f} MB/s here", "≥ 0.8", value >= 0.8
    )
    return [row]


def _exchange(player: Player, mail: Any, model_mb: int, number: int) -> float:
    """Seconds to pull a model and push an update of the same size."""
    run_id = mail[0].metadata.run_id
    began = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ids = fleet.object_ids(mail[1])
        contents = dict(zip(ids, pool.map(lambda it: player.object(run_id, it), ids), strict=True))
    player.confirm(mail)
    took_s = time.monotonic() - began
    size = sum(map(len, contents.values()))
    assert size > model_mb * 1e6, f"only {size} bytes came"
    contents.clear()
    # Making the update is the app's work, not the link's.
    values = np.random.default_rng([number, player.node_id % 2**32]).standard_normal(
        (LAYERS, model_mb * 250_000 // LAYERS)
    )
    update = ArrayRecord({f"layer-{i}": Array(row.astype(np.float32)) for i, row in enumerate(values)})
    reply = make_reply(_original(mail), RecordDict({"arrays": update}))
    objects = {key: piece.deflate() for key, piece in get_all_nested_objects(reply).items()}
    began = time.monotonic()
    session, wanted = player.announce(reply)
    assert len(wanted) == len(objects)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert all(pool.map(lambda it: player.push(run_id, session, it, objects[it]), wanted))
    return took_s + time.monotonic() - began


def _original(mail: Any) -> Any:
    from flwr.common.serde import message_from_proto
    from flwr.proto import message_pb2, recorddict_pb2

    empty = recorddict_pb2.RecordDict()
    return message_from_proto(message_pb2.Message(metadata=mail[0].metadata, content=empty))


def channel(address: str, site: Site) -> grpc.Channel:
    """A site's connection."""
    credentials = grpc.ssl_channel_credentials(site.authorities, site.key, site.chain)
    options = [("grpc.ssl_target_name_override", GATEWAY_NAME), ("grpc.max_receive_message_length", 16 * 2**20)]
    return grpc.secure_channel(address, credentials, options)


def idle_1000_sites(quick: bool) -> list[Row]:
    """Gateway and SuperLink while a thousand sites wait for work that does not come."""
    sites, settle_s, watch_s = (100, 10, 15) if quick else (1000, 45, 60)
    with tempfile.TemporaryDirectory(prefix="fedfleet-bench-") as name, running(Path(name) / "home", sites) as centre:
        context = get_context("spawn")
        halves = [centre.sites[start::2] for start in range(2)]
        packed = [
            [(it.site, it.node_id, it.node_public_key, it.key, it.chain, it.authorities) for it in half]
            for half in halves
        ]
        keys = [[_pem(it) for it in half] for half in halves]
        ready = [context.Event() for _ in halves]
        clients = [
            context.Process(target=_idle, args=(centre.address, one, pems, event), daemon=True)
            for one, pems, event in zip(packed, keys, ready, strict=True)
        ]
        for client in clients:
            client.start()
        for event in ready:
            assert event.wait(300), "the sites did not get in"
        time.sleep(settle_s)
        before, began = [_cpu_s(pid) for pid in centre.pids()], time.monotonic()
        time.sleep(watch_s)
        passed_s = time.monotonic() - began
        used = [after - earlier for after, earlier in zip(map(_cpu_s, centre.pids()), before, strict=True)]
        resident = [_resident_mib(pid) for pid in centre.pids()]
        online = sum(node.status == "online" for node in centre.control.nodes())
        assert online == sites, f"{online} of {sites} sites are online"
        poll_s = _poll_s(centre)
        for client in clients:
            client.kill()
    share, mib = sum(used) / passed_s, sum(resident)
    plain = f"{sites / 3 * poll_s * 100:.0f} % (polls every 3 s of {poll_s * 1e3:.1f} ms)"
    parts = f"SuperLink {used[0] / passed_s * 100:.1f} %, gateway {used[1] / passed_s * 100:.1f} %"
    memory = f"SuperLink {resident[0]:.0f}, gateway {resident[1]:.0f}"
    row = f"idle_{sites}_sites"
    return [
        Row(f"{row}_cpu", share * 100, "% of a core", plain, parts, "≤ 25", share <= 0.25),
        Row(f"{row}_mib", float(mib), "MiB resident", "–", memory, "≤ 1024", mib <= 1024),
    ]


def _packed(it: Site) -> tuple[Any, ...]:
    """What travels to another process; a private key object cannot."""
    return it.site, it.node_id, it.node_public_key, it.key, it.chain, it.authorities


def _pem(site: Site) -> bytes:
    from server.certificates import private_pem

    return private_pem(site.node_key)


def _idle(address: str, packed: list[tuple[Any, ...]], pems: list[bytes], ready: Any) -> None:
    """The links of many sites: each holds a question for mail, sends heartbeats and reports."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    sites = []
    for (name, node_id, public, key, chain, authorities), pem in zip(packed, pems, strict=True):
        node_key: Any = load_pem_private_key(pem, None)
        sites.append(Site(name, node_key, public, key, chain, authorities, node_id))
    asyncio.run(_wait(address, sites, ready))


async def _wait(address: str, sites: list[Site], ready: Any) -> None:
    inside = asyncio.Semaphore(20)
    entered = 0

    async def live(site: Site) -> None:
        nonlocal entered
        credentials = grpc.ssl_channel_credentials(site.authorities, site.key, site.chain)
        options = [("grpc.ssl_target_name_override", GATEWAY_NAME), ("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.secure_channel(address, credentials, options) as opened:
            stub, node = link_pb2_grpc.LinkStub(opened), node_pb2.Node(node_id=site.node_id)
            activate = fleet_pb2.ActivateNodeRequest(public_key=site.node_public_key, heartbeat_interval=30)
            pull = fleet_pb2.PullMessagesRequest(node=node).SerializeToString()
            beat = heartbeat_pb2.SendNodeHeartbeatRequest(node=node, heartbeat_interval=30).SerializeToString()

            async def call(method: str, body: bytes, hold_s: float = 0.0) -> None:
                signed = link.FleetCall(method=method, body=body, signature=site.signature(), hold_s=hold_s)
                answer = await stub.Call(signed, timeout=60)
                assert answer.status == 200, answer

            async with inside:
                await stub.Hello(link.HelloRequest(clock_s=time.time(), protocol=1))
                await call("activate-node", activate.SerializeToString())
            entered += 1
            if entered == len(sites):
                ready.set()

            async def every(seconds: float, do: Callable[[], Any]) -> None:
                await asyncio.sleep(random.Random(site.node_id).uniform(0, seconds))
                while True:
                    await do()
                    await asyncio.sleep(seconds)

            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(every(0, lambda: call("pull-messages", pull, 25.0)))
                tasks.create_task(every(24, lambda: call("send-node-heartbeat", beat)))
                tasks.create_task(every(60, lambda: stub.Report(link.SiteReport(json='{"version": 1}'))))

    async with asyncio.TaskGroup() as tasks:
        for site in sites:
            tasks.create_task(live(site))


def _poll_s(centre: Running) -> float:
    """Seconds of SuperLink's CPU for one question for mail."""
    address, ca = centre.superlink
    stub, site, count = BareStub(address, ca, centre.sites[0].node_id), centre.sites[0], 200
    body = fleet_pb2.PullMessagesRequest(node=node_pb2.Node(node_id=site.node_id)).SerializeToString()
    before = _cpu_s(centre.pids()[0])
    for _ in range(count):
        assert stub.post("fleet/pull-messages", body, site.signature()).status == 200
    used = _cpu_s(centre.pids()[0]) - before
    stub.close()
    return used / count


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mib(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024
