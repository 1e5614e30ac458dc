"""A centre for benchmarks, as ``fl server up`` runs it, and sites that have joined it: keys, certificates, nodes."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.identity import Keys, request_of
from fl.link import link_pb2 as link
from fl.ports import free_port
from fl.processes import Group
from server import enrolment, supervisor, tokens
from server.centre import Centre, found
from server.control import Control
from server.gateway.config import GatewayConfig
from server.home import EnrolmentConfig, Home, ServerConfig


@dataclasses.dataclass
class Site:
    """One that has joined."""

    site: str
    node_key: ec.EllipticCurvePrivateKey
    node_public_key: bytes
    key: bytes
    chain: bytes
    authorities: bytes
    node_id: int = 0

    def signature(self) -> link.Signature:
        """What a SuperNode would sign now."""
        timestamp = datetime.datetime.now(datetime.UTC).isoformat()
        signed = self.node_key.sign(timestamp.encode("ascii"), ec.ECDSA(hashes.SHA256()))
        return link.Signature(
            public_key=base64.b64encode(self.node_public_key).decode(),
            timestamp=timestamp,
            signature=base64.b64encode(signed).decode(),
        )


@dataclasses.dataclass
class Running:
    """A centre whose processes run."""

    home: Home
    address: str
    control: Control
    group: Group
    sites: list[Site]

    @property
    def superlink(self) -> tuple[str, Path]:
        """Address and authority of SuperLink's own port."""
        return self.home.reach()

    def pids(self) -> list[int]:
        """Process ids of SuperLink and gateway."""
        return [self.group.children[name].process.pid for name in ("superlink", "gateway")]


@contextlib.contextmanager
def running(path: Path, sites: int) -> Iterator[Running]:
    """Start a centre with so many sites; everything ends with the block."""
    home, address = Home(path), f"127.0.0.1:{free_port()}"
    config = ServerConfig(
        addresses=(address,),
        enrolment=EnrolmentConfig(approval="automatic"),
        gateway=GatewayConfig(listen=(address,)),
    )
    found(home, config, roster_authority=None)
    centre = Centre(home)
    made = [_join(centre, f"site-{number + 1}") for number in range(sites)]
    with Group() as group, supervisor.start(group, home, say=lambda line: print(line, file=sys.stderr)) as control:
        for line in centre.apply():
            if os.environ.get("VERBOSE"):
                print(line, file=sys.stderr)
        nodes = {node.name: node.node_id for node in control.nodes()}
        for site in made:
            site.node_id = nodes[site.site]
        yield Running(home, address, control, group, made)
    centre.close()


def _join(centre: Centre, name: str) -> Site:
    """What ``fl site add`` and ``fl site join`` do, without the network."""
    token = tokens.invite(centre.enrolment, name)
    keys = Keys(
        transport=ec.generate_private_key(ec.SECP256R1()),
        node=ec.generate_private_key(ec.SECP384R1()),
        identity=Ed25519PrivateKey.generate(),
    )
    reply = enrolment.join(centre.enrolment, token.certificate, request_of(token, keys))
    assert reply.state == "approved", reply
    key = keys.transport.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificates = reply.certificates
    return Site(name, keys.node, keys.public.node, key, certificates.transport_chain, certificates.authorities)
