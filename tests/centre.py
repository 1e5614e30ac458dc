"""A centre for tests: a real SuperLink, a gateway in front of it, a throwaway authority, and sites with their keys."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import datetime
import os
import threading
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fl import ports, processes
from fl.errors import RefusedError
from fl.link import link_pb2 as link
from fl.link import link_pb2_grpc
from fl.link.identity import GATEWAY_NAME
from fl.processes import Group
from server import certificates, superlink
from server.control import Control
from server.gateway.config import GatewayConfig

READY_S = 240


@dataclasses.dataclass
class Site:
    """A site's keys and what the registry knows of it; also what the registry gives the gateway."""

    site: str
    home: Path
    node_key: ec.EllipticCurvePrivateKey
    node_public_key: bytes
    certificate: bytes = b""
    node_id: int = 0
    state: str = "active"
    renew_after_s: float = 3600.0

    @property
    def key_file(self) -> Path:
        return self.home / "keys" / "transport.key"

    @property
    def chain_file(self) -> Path:
        return self.home / "certificates" / "chain.pem"

    @property
    def authorities_file(self) -> Path:
        return self.home / "certificates" / "authorities.pem"

    @property
    def node_key_file(self) -> Path:
        return self.home / "keys" / "node.key"

    def signature(self, at=None):
        """What a SuperNode would sign now."""
        timestamp = (at or datetime.datetime.now(datetime.UTC)).isoformat()
        signed = self.node_key.sign(timestamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
        return link.Signature(
            public_key=base64.b64encode(self.node_public_key).decode(),
            timestamp=timestamp,
            signature=base64.b64encode(signed).decode(),
        )


class Authority:
    """Signs certificates of the gateway and of sites."""

    def __init__(self, name="test authority"):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = _sign(name, self.key.public_key(), self.key, name, ca=True)

    @property
    def pem(self):
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, key, *, uri=None, days=7):
        issuer = self.certificate.subject.rfc4514_string().removeprefix("CN=")
        signed = _sign(uri or GATEWAY_NAME, key.public_key(), self.key, issuer, uri=uri, days=days)
        return signed.public_bytes(serialization.Encoding.PEM)


class Registry:
    """The gateway's ``Centre``, in memory."""

    def __init__(self):
        self.sites = {}
        self.refused = {}
        self.reports, self.counts = [], {}

    def site_of_certificate(self, der):
        site = self.sites.get(der)
        if site is None:
            raise RefusedError("no site has this certificate")
        if reason := self.refused.get(site.site):
            raise RefusedError(reason)
        return site

    def changed(self):
        pass

    def roster_version(self):
        return 1

    def seen(self, site, report):
        self.reports.append((site, report))

    def count(self, site, run_id, *, up, down, calls):
        had = self.counts.get((site, run_id), (0, 0, 0))
        self.counts[site, run_id] = tuple(a + b for a, b in zip(had, (up, down, calls), strict=True))

    def renew(self, admitted, request):
        return link.Certificates(renew_after_s=admitted.renew_after_s)

    def trust(self, admitted, request):
        return link.TrustReply()

    def join(self, der, request):
        raise RefusedError("this centre takes nobody in")


class RunningGateway:
    """A gateway in a thread of this process; ``stop`` and ``start`` again keep its home and its address."""

    def __init__(self, home, registry, superlink_address, superlink_ca, config):
        self.home, self.registry, self.config = home, registry, config
        self._superlink = (superlink_address, superlink_ca)
        self._thread = None

    @property
    def address(self):
        return self.config.listen[0]

    def start(self):
        from server.gateway.process import Gateway

        ready = threading.Event()
        self.error = None

        async def serve():
            self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
            gateway = Gateway(
                self.config,
                self.registry,
                home=self.home,
                authorities=self.home / "ca" / "authorities.pem",
                superlink=self._superlink[0],
                superlink_ca=self._superlink[1],
            )
            async with gateway.running():
                self.gateway = gateway
                ready.set()
                await self._end.wait()

        def run():
            try:
                asyncio.run(serve())
            except BaseException as err:
                self.error = err
                raise
            finally:
                ready.set()

        self._thread = threading.Thread(target=run)
        self._thread.start()
        assert ready.wait(30)
        if self.error:
            raise self.error

    def stop(self):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def changed(self):
        """The registry changed."""
        self._loop.call_soon_threadsafe(self.gateway._changed)


@dataclasses.dataclass
class Centre:
    """A SuperLink with its executor, a gateway, and sites that are registered."""

    home: Path
    authority: Authority
    registry: Registry
    gateway: RunningGateway
    control: Control
    sites: dict[str, Site]
    group: Group
    superlink: str
    superlink_ca: Path

    @property
    def address(self):
        return self.gateway.address

    def channel(self, name):
        """A link's connection, as synchronous gRPC."""
        site = self.sites[name]
        return channel(self.address, site.authorities_file, site.key_file, site.chain_file)

    @contextlib.contextmanager
    def link(self, name):
        with self.channel(name) as opened:
            yield link_pb2_grpc.LinkStub(opened)

    def add_site(self, name):
        self.sites[name] = make_site(self.home / "sites" / name, name, self.authority, self.registry)
        self.sites[name].node_id = self.control.register_node(self.sites[name].node_public_key, name=name)
        return self.sites[name]


def channel(address, authorities, key, chain, options=()):
    credentials = grpc.ssl_channel_credentials(authorities.read_bytes(), key.read_bytes(), chain.read_bytes())
    named = [("grpc.ssl_target_name_override", GATEWAY_NAME), ("grpc.use_local_subchannel_pool", 1), *options]
    return grpc.secure_channel(address, credentials, named)


@contextlib.contextmanager
def centre(home, sites=("site-1", "site-2"), *, executor=False, **config):
    """Start everything; ``config`` are keys of ``GatewayConfig``."""
    home.mkdir(parents=True, exist_ok=True)
    (home / "ca").mkdir()
    (home / "gateway").mkdir()
    authority, registry = Authority(), Registry()
    (home / "ca" / "authorities.pem").write_bytes(authority.pem)
    key = ec.generate_private_key(ec.SECP256R1())
    (home / "gateway" / "server.key").write_bytes(certificates.private_pem(key))
    (home / "gateway" / "server.crt").write_bytes(authority.issue(key))
    files = certificates.create(home / "superlink-keys")
    port = ports.free_port()
    address = f"{superlink.HOST}:{port}"
    socket = {"FEDFLEET_GATEWAY_SOCKET": str(home / "gateway.sock")}
    env = processes.environment(home=home / "flower", extra=socket)
    listen = (f"127.0.0.1:{ports.free_port()}",)
    with contextlib.ExitStack() as ends:
        group = ends.enter_context(Group())
        superlink.start(group, home=home / "superlink", port=port, files=files, env=env)
        ready = lambda: superlink.is_healthy(port, files.ca)  # noqa: E731
        group.wait(ready, what="the start of SuperLink", timeout_s=READY_S, say=print)
        control = ends.enter_context(Control(address, files.ca))
        running = RunningGateway(home, registry, address, files.ca, GatewayConfig(**{"listen": listen} | config))
        made = Centre(home, authority, registry, running, control, {}, group, address, files.ca)
        for name in sites:
            made.add_site(name)
        if executor:
            superlink.start_executor(group, home=home / "superlink", port=port, files=files, env=env)
        running.start()
        ends.callback(running.stop)
        yield made


def make_site(home, name, authority, registry):
    """A site's home with all keys, admitted by the registry; not yet registered at SuperLink."""
    for part in ("keys", "certificates"):
        (home / part).mkdir(parents=True)
    transport, node = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    public = node.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    site = Site(name, home, node, public)
    chain = authority.issue(transport, uri=f"urn:fedfleet:site:{name}")
    site.certificate = x509.load_pem_x509_certificate(chain).public_bytes(serialization.Encoding.DER)
    openssh = node.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    for path, content in [
        (site.key_file, certificates.private_pem(transport)),
        (site.chain_file, chain),
        (site.authorities_file, authority.pem),
        (site.node_key_file, openssh),
    ]:
        path.write_bytes(content)
        os.chmod(path, 0o600)
    registry.sites[site.certificate] = site
    return site


def _sign(name, public, signer, issuer, *, uri=None, ca=False, days=7):
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.UniformResourceIdentifier(uri)] if uri else [x509.DNSName(GATEWAY_NAME)]
    usage = ExtendedKeyUsageOID.CLIENT_AUTH if uri else ExtendedKeyUsageOID.SERVER_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
    )
    if not ca:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(signer, hashes.SHA256())
