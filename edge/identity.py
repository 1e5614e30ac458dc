"""A site's keys, made here, and how it joins: asks with a token, waits, checks what it gets, and keeps it.

A join happens beside what the site has: new keys lie in ``joining/`` of its home until the centre has said yes, and
only then replace the old ones. A join that was interrupted goes on with the same token.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import tomli_w
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge.home import Home, SiteFile
from fl.config import load
from fl.errors import ConfigError, RefusedError, UnreachableError
from fl.files import Lock, write_atomic
from fl.link import link_pb2, link_pb2_grpc
from fl.link.bundle import check_certificates, check_no_secrets
from fl.link.identity import (
    PublicKeys,
    public_pem,
    sign_request,
    sign_statement,
    spki,
)
from fl.link.token import JoinToken
from fl.rounds.secure_site import AUTHORITY, IDENTITY
from fl.secagg.identity import fingerprint
from fl.secagg.roster import read_roster
from fl.secagg.storage import read_identity, read_public_key, write_private_key

ROSTER = "roster.json"
ANSWER_S = 30.0
TRIES = 3
PAUSE_S = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class Keys:
    """A site's private keys."""

    transport: ec.EllipticCurvePrivateKey = dataclasses.field(repr=False)
    node: ec.EllipticCurvePrivateKey = dataclasses.field(repr=False)
    identity: Ed25519PrivateKey = dataclasses.field(repr=False)

    @property
    def public(self) -> PublicKeys:
        """What the centre gets to see."""
        return PublicKeys(
            transport=spki(self.transport.public_key()),
            node=public_pem(self.node.public_key()),
            identity=self.identity.public_key().public_bytes_raw(),
        )


def join(
    token: JoinToken,
    home: Home,
    *,
    say: Callable[[str], None],
    proxy: str = "",
    new_keys: bool = False,
    wait: bool = True,
    is_patient: bool = False,
    report: str = "",
) -> bool:
    """Ask to take part, wait for the answer, and keep what came.

    Args:
        token: What the operator gave the site.
        home: The site's; made if needed.
        say: Called with a line for everything worth telling.
        proxy: HTTP proxy for the link, ``http://host:port``; kept in ``site.toml``.
        new_keys: Make all keys anew, also those that are there.
        wait: Whether to wait for an operator, if one has to approve.
        is_patient: Whether to wait for a gateway for as long as it takes, if none answers.
        report: What the site's probe found, JSON.

    Returns:
        Whether the site is let in; ``False`` only without ``wait``.

    Raises:
        RefusedError: If the centre says no, or what it sent cannot be trusted; the site is as it was.
        UnreachableError: If no gateway answers, unless patient; the same command goes on later.
        ConfigError: If the home is another site's, or has pinned another authority.
        BusyError: If another process joins with this home.
    """
    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with Lock(home.path / "joining.lock", hint="another fl site join uses this home"):
        site = _site_file(token, home, proxy)
        _check_pinned(token, home)
        keys = prepare(token, home, new_keys=new_keys or token.new_keys)
        say(f"this site's keys: {keys.public.fingerprint}; compare them with the operator")
        said = ""
        for reply in _answers(token, keys, site, report, say, is_patient=is_patient):
            if reply.state == "refused":
                raise RefusedError(reply.message or "the centre refuses this site and gives no reason")
            if reply.message and reply.message != said:
                said = reply.message
                say(said)
            if reply.state == "approved":
                check_reply(reply, token, keys.public)
                install(reply, token, home, keys, site)
                say(f"{token.site} has joined; start it with fl site run")
                return True
            if not wait:
                return False
    raise AssertionError("answers end with an answer")


def prepare(token: JoinToken, home: Home, *, new_keys: bool) -> Keys:
    """The keys to join with, in ``joining/``: made once for a token, those of the site again unless they must be new.

    Raises:
        StorageError: If they cannot be written.
    """
    directory, mark = home.path / "joining", f"{token.id} {'new' if new_keys else 'same'}\n"
    if not (directory / "token").exists() or (directory / "token").read_text() != mark:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        _write_key(directory / "transport.key", ec.generate_private_key(ec.SECP256R1()))
        for path in (home.node_key, home.secagg / IDENTITY):
            if path.exists() and not new_keys:
                write_atomic(directory / path.name, path.read_bytes(), mode=0o600)
        if not (directory / "node.key").exists():  # Flower takes EC keys on NIST curves, in OpenSSH's format
            _write_key(directory / "node.key", ec.generate_private_key(ec.SECP384R1()), ssh=True)
        if not (directory / IDENTITY).exists():
            write_private_key(directory / IDENTITY, Ed25519PrivateKey.generate())
        write_atomic(directory / "token", mark)  # last: without it the directory is made again
    return Keys(
        transport=_read_key(directory / "transport.key"),
        node=_read_key(directory / "node.key"),
        identity=read_identity(directory / IDENTITY, token.site).key,
    )


def request_of(token: JoinToken, keys: Keys, report: str = "") -> link_pb2.JoinRequest:
    """What a site asks: its public keys, with proofs that it has the private ones."""
    public = keys.public
    node_proof, identity_proof = sign_statement(public, token.id, keys.node, keys.identity)
    return link_pb2.JoinRequest(
        token_id=token.id,
        version=importlib.metadata.version("fedfleet"),
        transport_csr=sign_request(keys.transport, token.site),
        node_public_key=public.node,
        identity_public_key=public.identity,
        identity_proof=identity_proof,
        node_proof=node_proof,
        report=report,
        clock_s=time.time(),
    )


def check_reply(reply: link_pb2.JoinReply, token: JoinToken, public: PublicKeys) -> None:
    """Check what a centre sent before any of it is kept.

    Raises:
        RefusedError: If it is for another site or key, holds a secret, or names another roster authority.
        RosterError: If the roster is not signed by the token's authority.
    """
    if reply.site != token.site:
        raise RefusedError(f"the centre answered for {reply.site[:63]!r}, the token is for {token.site!r}")
    check_no_secrets({"roster": reply.roster, "message": reply.message.encode()})
    chain, authorities = reply.certificates.transport_chain, reply.certificates.authorities
    check_certificates(chain, authorities, site=token.site, public=public.transport)
    if reply.roster_authority and reply.roster_authority != token.roster_authority:
        raise RefusedError("the centre names another roster authority than the token")
    if reply.roster:
        read_roster(reply.roster, authority=token.roster_authority)


def install(reply: link_pb2.JoinReply, token: JoinToken, home: Home, keys: Keys, site: dict[str, object]) -> None:
    """Put keys and certificates in their places, and forget ``joining/``. May be done again after a crash.

    Raises:
        StorageError: If a file cannot be written.
    """
    joining = home.path / "joining"
    for directory in (home.keys, home.certificates, home.secagg):
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)
    write_atomic(home.secagg / AUTHORITY, token.roster_authority.hex() + "\n")
    if reply.roster:
        write_atomic(home.secagg / ROSTER, reply.roster)
    for source, place in (
        (joining / IDENTITY, home.secagg / IDENTITY),
        (joining / "node.key", home.node_key),
        (joining / "transport.key", home.transport_key),
    ):
        write_atomic(place, source.read_bytes(), mode=0o600)
    write_atomic(home.path / "node.pub", keys.public.node)
    write_atomic(home.path / "identity.pub", keys.public.identity.hex() + "\n")
    write_atomic(home.authorities, reply.certificates.authorities, mode=0o600)
    write_atomic(home.chain, reply.certificates.transport_chain, mode=0o600)
    if not home.site_file.exists() or tomllib.loads(home.site_file.read_text()) != site:
        write_atomic(home.site_file, tomli_w.dumps(site))
    shutil.rmtree(joining)


def _site_file(token: JoinToken, home: Home, proxy: str) -> dict[str, object]:
    """``site.toml`` as it will be: what the owner wrote stays, beside who the site is.

    Raises:
        ConfigError: If it is another site's, or cannot be used.
    """
    tables: dict[str, object] = {}
    if home.site_file.exists():
        known = home.site()
        tables = tomllib.loads(home.site_file.read_text(encoding="utf-8"))
        if known.id != token.site and not token.new_keys:
            raise ConfigError(
                f"{home.path} is the home of the site {known.id}, the token is for {token.site}",
                hint="--home names another directory",
            )
    tables |= {"id": token.site, "gateways": list(token.gateways), **({"proxy": proxy} if proxy else {})}
    load(SiteFile, tables)
    return tables


def _check_pinned(token: JoinToken, home: Home) -> None:
    path = home.secagg / AUTHORITY
    if path.exists() and (pinned := read_public_key(str(path))) != token.roster_authority:
        raise ConfigError(
            f"the token names the roster authority {fingerprint(token.roster_authority)}, "
            f"this site has pinned {fingerprint(pinned)}",
            hint=f"compare both with the operator's before you remove {path}",
        )


def _answers(
    token: JoinToken,
    keys: Keys,
    site: dict[str, object],
    report: str,
    say: Callable[[str], None],
    *,
    is_patient: bool,
) -> Iterator[link_pb2.JoinReply]:
    """The centre's answers until it has decided; each address in turn, and patience once one of them has answered."""
    # The link's way to the centre, with its proxy and limits; heavy to import, and needed here only.
    from edge.link.channel import options, target

    chosen = options(load(SiteFile, site))
    has_answered, failures, said = False, 0, ""
    for address in itertools.cycle(token.gateways):
        try:
            reply = _ask(token, keys, target(address), chosen, report)
        except UnreachableError as err:
            failures += 1
            if not has_answered and not is_patient and failures >= TRIES * len(token.gateways):
                raise
            if err.message != said:
                say(f"{err.message}; trying again")
                said = err.message
            time.sleep(PAUSE_S)
            continue
        has_answered, said = True, ""
        yield reply
        time.sleep(min(60.0, max(0.5, reply.again_after_s)))


def _ask(
    token: JoinToken, keys: Keys, address: str, options: tuple[tuple[str, object], ...], report: str
) -> link_pb2.JoinReply:
    key = token.private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    credentials = grpc.ssl_channel_credentials(token.roots, key, token.certificate_pem)
    with grpc.secure_channel(address, credentials, options) as channel:
        try:
            reply: link_pb2.JoinReply = link_pb2_grpc.EnrolmentStub(channel).Join(
                request_of(token, keys, report), timeout=ANSWER_S
            )
        except grpc.RpcError as err:
            code, words = err.code(), " ".join(str(err.details() or "").split())
            if code in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED):
                raise RefusedError(words or "the centre refuses this token and gives no reason") from err
            if code == grpc.StatusCode.INVALID_ARGUMENT:
                raise RefusedError(words) from err
            token.check_time()  # the gateway's TLS refuses a token long past its date without a word
            raise UnreachableError(
                f"no gateway answers at {address}: {_tls_words(words) or words[-160:] or code.name}",
                hint="the same command goes on where it stopped",
            ) from err
    return reply


def _tls_words(details: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in details:
        return (
            "its certificate is not of the authority in the token, or not valid by this machine's clock, "
            f"which says {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}"
        )
    return "nobody listens there" if "Connection refused" in details else ""


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey, *, ssh: bool = False) -> None:
    how = serialization.PrivateFormat.OpenSSH if ssh else serialization.PrivateFormat.PKCS8
    write_atomic(path, key.private_bytes(serialization.Encoding.PEM, how, serialization.NoEncryption()), mode=0o600)


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    from edge.link.certificate import read_key

    return read_key(path)
