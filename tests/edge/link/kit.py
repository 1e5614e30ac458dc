"""A site's link at work, between a SuperNode's own client and a centre in memory."""

import asyncio
import contextlib
import dataclasses
import json
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, run_pb2
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from edge import datagrams
from edge.home import Home
from edge.link import process
from fl import ports
from fl.link import link_pb2_grpc
from fl.link.certificates import private_pem
from tests import centre as real
from tests.edge.link.fleet_centre import NODE_ID, FleetCentre, object_id

NODE = node_pb2.Node(node_id=NODE_ID)
SOON_S = 30


@dataclasses.dataclass
class World:
    """Everything that a test touches."""

    home: Home
    centre: FleetCentre
    server: Any
    centre_port: int
    authority: real.Authority
    site: real.Site
    port: int
    status: Any = None
    line: Any = None
    clients: list = dataclasses.field(default_factory=list)

    def client(self, key=None):
        """Flower's own client of the Fleet API, as a SuperNode has it."""
        key = key or self.site.node_key
        made = FleetHttpClient.from_server_address(
            f"127.0.0.1:{self.port}",
            insecure=False,
            root_certificates=self.home.local_ca.read_bytes(),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )
        self.clients.append(made)
        return made

    def calls(self, method):
        return [call for call in self.centre.calls if call.method == method]

    async def connected(self):
        await until(lambda: self.status.centre.channel.connection is not None)


async def until(is_true, seconds=SOON_S):
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not is_true():
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def serving(centre, authority, *, port=0, host="127.0.0.1"):
    """The centre behind TLS that wants client certificates."""
    key = ec.generate_private_key(ec.SECP256R1())
    credentials = grpc.ssl_server_credentials([(private_pem(key), authority.issue(key))], authority.pem, True)
    server = grpc.aio.server(
        options=[
            ("grpc.http2.min_ping_interval_without_data_ms", 5000),
            ("grpc.keepalive_permit_without_calls", 1),
        ]
    )
    link_pb2_grpc.add_LinkServicer_to_server(centre, server)
    bound = server.add_secure_port(f"{host}:{port}", credentials)
    await server.start()
    try:
        yield server, bound
    finally:
        await server.stop(0)


def make_home(path, gateways, **keys):
    """A site that has joined."""
    authority = real.Authority()
    site = real.make_site(path, "site-1", authority, real.Registry())
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"id": "site-1", "gateways": gateways, **keys}.items()]
    (path / "site.toml").write_text("\n".join(lines) + "\n")
    return Home(path), authority, site


@contextlib.asynccontextmanager
async def world(tmp_path, *, line=None, start=True, gateways=None, centre=None, **keys):
    """A centre, and a link that is connected with it.

    Args:
        tmp_path: For the site's home.
        line: Makes the line between the two, given the centre's port.
        start: Whether to start the link.
        gateways: Makes the addresses, given the port; the line's or the centre's own if not given.
        centre: The centre, if the test made one.
        keys: Of ``site.toml``.
    """
    centre = centre or FleetCentre()
    centre_port = ports.free_port()
    async with contextlib.AsyncExitStack() as ends:
        between = await ends.enter_async_context(line(centre_port)) if line else None
        reached = between.port if between else centre_port
        addresses = gateways(reached) if gateways else [f"127.0.0.1:{reached}"]
        home, authority, site = make_home(tmp_path / "site", addresses, **{"longest_backoff_s": 0.5, **keys})
        server, _ = await ends.enter_async_context(serving(centre, authority, port=centre_port))
        made = World(home, centre, server, centre_port, authority, site, ports.free_port(), line=between)
        centre.issue = lambda csr: issue(authority, csr)
        if start:
            made.status = await ends.enter_async_context(link(made))
            await made.connected()
        # Before the link ends: it waits a moment for those who are still connected.
        ends.callback(lambda: [client.close() for client in made.clients])
        yield made


@contextlib.asynccontextmanager
async def link(made):
    """One life of the link, in this process."""
    async with process.running(made.home, made.port) as status:
        made.status = status
        await until(lambda: ports.accepts_connections("127.0.0.1", made.port))
        yield status


def issue(authority, csr, **options):
    from fl.link import link_pb2 as wire

    request = x509.load_der_x509_csr(csr)

    class Key:
        public_key = staticmethod(request.public_key)

    chain = authority.issue(Key, uri="urn:fedfleet:site:site-1", **options)
    return wire.Certificates(transport_chain=chain, authorities=authority.pem, renew_after_s=3600)


class SuperNode:
    """What a SuperNode does, step by step, with Flower's own client."""

    def __init__(self, made):
        self.made = made
        self.http = made.client()

    async def _do(self, call, request):
        return await asyncio.to_thread(call, request)

    async def activate(self):
        public = self.made.site.node_public_key
        answer = await self._do(
            self.http.ActivateNode, fleet_pb2.ActivateNodeRequest(public_key=public, heartbeat_interval=30)
        )
        return answer.node_id

    async def pull(self):
        return await self._do(self.http.PullMessages, fleet_pb2.PullMessagesRequest(node=NODE))

    async def pull_object(self, name, run_id=7):
        request = message_pb2.PullObjectRequest(node=NODE, run_id=run_id, object_id=name)
        return await self._do(self.http.PullObject, request)

    async def confirm(self, message_id, run_id=7):
        request = message_pb2.ConfirmMessageReceivedRequest(node=NODE, run_id=run_id, message_object_id=message_id)
        return await self._do(self.http.ConfirmMessageReceived, request)

    async def beat(self):
        request = heartbeat_pb2.SendNodeHeartbeatRequest(node=NODE, heartbeat_interval=30)
        return await self._do(self.http.SendNodeHeartbeat, request)

    async def get_run(self, run_id=7):
        return await self._do(self.http.GetRun, run_pb2.GetRunRequest(node=NODE, run_id=run_id))

    async def get_fab(self, name, run_id=7):
        return await self._do(self.http.GetFab, fab_pb2.GetFabRequest(node=NODE, hash_str=name, run_id=run_id))

    async def announce(self, request):
        return await self._do(self.http.PushMessages, request)

    async def push_object(self, session, content, run_id=7):
        request = message_pb2.PushObjectRequest(
            node=NODE, run_id=run_id, object_id=object_id(content), object_content=content, session_id=session
        )
        return await self._do(self.http.PushObject, request)

    async def reply(self, request, contents):
        """Hand a whole reply over; returns its message id."""
        answer = await self.announce(request)
        for name in answer.objects_to_push:
            assert (await self.push_object(answer.session_id, contents[name])).stored
        return request.messages_list[0].metadata.message_id


def answered(made, message_id):
    """What the runner says when a reply is in the SuperNode."""
    assert datagrams.send(made.home.link_socket, {"answered": message_id})


def read(path):
    return json.loads(Path(path).read_text())
