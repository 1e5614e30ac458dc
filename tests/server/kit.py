"""A centre in a directory, SuperLink's list of nodes, and sites that speak the protocol and may lie."""

import asyncio
import atexit
import contextlib
import dataclasses
import functools
import shutil
import tempfile
import threading
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.identity import Keys, request_of
from fl.errors import InputError, UnreachableError
from server.centre import Centre
from server.commands.server import init
from server.control import Node
from server.gateway.config import GatewayConfig
from server.gateway.process import Gateway
from server.home import Home
from server.tokens import invite, reinvite


class SuperLinkNodes:
    """SuperLink's list of nodes as flwr 1.41 keeps it: a key is taken once, also after it was unregistered."""

    def __init__(self):
        self.known, self.names, self.keys_ever, self.reachable = {}, {}, set(), True
        self.registrations = 0

    def __enter__(self):
        if not self.reachable:
            raise UnreachableError("no SuperLink answers")
        return self

    def __exit__(self, *_):
        pass

    def register_node(self, public_key, *, name):
        if public_key in self.keys_ever:
            raise InputError("cannot register: public key already in use")
        self.keys_ever.add(public_key)
        self.registrations += 1
        node_id = 2**63 + self.registrations  # as Flower's: beyond what SQLite's integers hold
        self.known[node_id], self.names[node_id] = public_key, name
        return node_id

    def unregister_node(self, node_id):
        del self.known[node_id]

    def nodes(self):
        return [Node(node_id, self.names[node_id], "online", "", key) for node_id, key in self.known.items()]


class Clock:
    def __init__(self, now_s):
        self.now_s = now_s

    def __call__(self):
        return self.now_s


def make_home(path, **options):
    chosen = {"address": ["127.0.0.1:8443"], "roster_key_here": True, "approval": "automatic", "home": path}
    defaults = {"roster_authority": None, "listen": None, "certificate_days": 7.0}
    init(**{**defaults, **chosen, **options})
    return Home(path)


@functools.cache
def _template(options):
    """A home that is copied: making one takes most of a second."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return make_home(Path(folder.name) / "home", **dict(options)).path


def make_centre(path, **options):
    """A centre with its own SuperLink's nodes as ``centre.superlink``."""
    nodes = SuperLinkNodes()
    shutil.copytree(_template(tuple(options.items())), path)
    centre = Centre(Home(path), connect=lambda: nodes)
    centre.superlink = nodes
    return centre


def make_keys():
    return Keys(
        ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1()), Ed25519PrivateKey.generate()
    )


def ask(centre, token, keys, **changes):
    """Ask with a token; ``changes`` are lies."""
    request = request_of(token, keys)
    for name, value in changes.items():
        setattr(request, name, value)
    return centre.join(token.certificate, request)


@dataclasses.dataclass
class Joined:
    token: object
    keys: Keys
    reply: object

    @property
    def certificate(self):
        """DER."""
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        return x509.load_pem_x509_certificate(self.reply.certificates.transport_chain).public_bytes(Encoding.DER)


def join(centre, site, keys=None, *, again=False):
    token = (reinvite if again else invite)(centre.enrolment, site)
    keys = keys or make_keys()
    return Joined(token, keys, ask(centre, token, keys))


@contextlib.contextmanager
def running_gateway(centre, **config):
    """The real gateway of a centre, on a free port of loopback, in a thread; yields its port."""
    started, ended, found = threading.Event(), threading.Event(), []
    home = centre.home

    async def serve():
        gateway = Gateway(
            GatewayConfig(listen=("127.0.0.1:0",), **config),
            centre,
            home=home.path,
            authorities=home.gateway / "authorities.pem",
            superlink="127.0.0.1:9",
            superlink_ca=home.gateway / "authorities.pem",
        )
        async with gateway.running():
            found.append(gateway)
            started.set()
            while not ended.is_set():
                await asyncio.sleep(0.02)

    def run():
        try:
            asyncio.run(serve())
        finally:
            started.set()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(60)
    assert found, "the gateway did not start"
    try:
        yield found[0].ports[0]
    finally:
        ended.set()
        thread.join(60)


def at(token, port):
    """The same token with the gateway's address of this test."""
    return dataclasses.replace(token, gateways=(f"127.0.0.1:{port}",))
