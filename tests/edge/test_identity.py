"""Joining, against the real gateway over real TLS: what a site gets, keeps, and refuses to take."""

import contextlib
import dataclasses
import socket
import stat
import threading
import time
import tomllib

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge import identity
from edge.home import Home
from fl import cli, ports
from fl.errors import BusyError, ConfigError, RefusedError, UnreachableError
from fl.files import Lock
from fl.link import link_pb2, link_pb2_grpc
from fl.link.identity import GATEWAY_NAME
from fl.secagg.errors import RosterSignatureError
from fl.secagg.roster import read_roster
from server import enrolment
from server.roster import Rosters
from server.tokens import invite, reinvite
from tests.server import kit


@pytest.fixture
def centre(tmp_path):
    centre = kit.make_centre(tmp_path / "server")
    centre.refresh()
    return centre


@pytest.fixture
def gateway(centre):
    with kit.running_gateway(centre) as port:
        yield port


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path / "site")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(identity, "PAUSE_S", 0.05)
    for name in ("NO_PROXY", "no_proxy"):  # a test before may have asked a SuperLink, past all proxies
        monkeypatch.delenv(name, raising=False)


def join(centre, port, home, site="berlin", *, token=None, **options):
    said = []
    token = kit.at(token or invite(centre.enrolment, site), port)
    identity.join(token, home, say=said.append, **options)
    return said


def hello(home, port, key=None):
    """The first call of a link, with what the site has."""
    pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key = key.private_bytes(*pem) if key else home.transport_key.read_bytes()
    credentials = grpc.ssl_channel_credentials(home.authorities.read_bytes(), key, home.chain.read_bytes())
    options = [("grpc.ssl_target_name_override", GATEWAY_NAME), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        request = link_pb2.HelloRequest(protocol=1, clock_s=time.time(), version="0", flower="1")
        return link_pb2_grpc.LinkStub(channel).Hello(request, timeout=60)


def private_keys(directory):
    return {
        path.relative_to(directory).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in directory.rglob("*")
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes()
    }


def test_a_site_that_joined_can_call_the_gateway(centre, gateway, home):
    said = join(centre, gateway, home)
    assert "berlin has joined" in said[-1]
    assert hello(home, gateway).site == "berlin"
    site = home.site()
    assert (site.id, site.gateways) == ("berlin", (f"127.0.0.1:{gateway}",))
    authority = bytes.fromhex((home.secagg / "authority.pub").read_text())
    roster = read_roster((home.secagg / "roster.json").read_bytes(), authority=authority)
    assert roster.key_of("berlin").hex() == (home.path / "identity.pub").read_text().strip()
    assert centre.superlink.known[centre.registry.node_of("berlin")] == (home.path / "node.pub").read_bytes()


def test_private_keys_stay_where_only_the_owner_reads_them(centre, gateway, home):
    join(centre, gateway, home)
    expected = {"keys/transport.key", "keys/node.key", "secagg/identity.key"}
    assert private_keys(home.path) == dict.fromkeys(expected, 0o600)
    at_site = {(home.path / name).read_bytes() for name in expected}
    at_centre = {path.read_bytes() for path in centre.home.path.rglob("*") if path.is_file()}
    assert not any(secret in content for secret in at_site for content in at_centre)


def test_flower_takes_the_nodes_key(centre, gateway, home):
    join(centre, gateway, home)
    key = serialization.load_ssh_private_key(home.node_key.read_bytes(), None)
    assert isinstance(key.curve, ec.SECP384R1)


def test_a_stolen_certificate_without_its_key_does_not_get_in(centre, gateway, home):
    join(centre, gateway, home)
    with pytest.raises(grpc.RpcError) as caught:
        hello(home, gateway, key=ec.generate_private_key(ec.SECP256R1()))
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE  # no handshake, so no connection


def test_a_revoked_site_is_told_why_with_its_next_call(centre, gateway, home):
    join(centre, gateway, home)
    hello(home, gateway)
    centre.registry.revoke("berlin", "key lost")
    with pytest.raises(grpc.RpcError) as caught:
        hello(home, gateway)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
    assert "berlin was revoked" in caught.value.details()
    assert "key lost; ask the operator for a token: fl site rejoin berlin" in caught.value.details()


def test_a_token_that_was_used_says_so_and_leaves_the_thief_nothing(centre, gateway, home, tmp_path):
    token = invite(centre.enrolment, "berlin")
    join(centre, gateway, home, token=token)
    thief = Home(tmp_path / "thief")
    with pytest.raises(RefusedError, match="was used at"):
        join(centre, gateway, thief, token=token)
    assert not thief.site_file.exists()
    assert not thief.chain.exists()


def test_the_certificate_of_a_token_is_good_for_nothing_else(centre, gateway, home):
    token = invite(centre.enrolment, "berlin")
    key = token.private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    credentials = grpc.ssl_channel_credentials(token.roots, key, token.certificate_pem)
    options = [("grpc.ssl_target_name_override", GATEWAY_NAME)]
    with (
        grpc.secure_channel(f"127.0.0.1:{gateway}", credentials, options) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        link_pb2_grpc.LinkStub(channel).Hello(link_pb2.HelloRequest(protocol=1), timeout=60)
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


def test_without_a_certificate_there_is_no_connection(centre, gateway):
    token = invite(centre.enrolment, "berlin")
    options = [("grpc.ssl_target_name_override", GATEWAY_NAME)]
    with (
        grpc.secure_channel(f"127.0.0.1:{gateway}", grpc.ssl_channel_credentials(token.roots), options) as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        link_pb2_grpc.EnrolmentStub(channel).Join(link_pb2.JoinRequest(), timeout=60)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_gateway_of_another_authority_is_not_told_anything(centre, gateway, home, tmp_path):
    other = kit.make_centre(tmp_path / "other", approval="operator")
    with pytest.raises(UnreachableError, match="its certificate is not of the authority in the token") as caught:
        join(other, gateway, home)
    assert "goes on where it stopped" in caught.value.hint


def test_an_expired_token_is_told_by_the_centre(centre, gateway, home):
    token = invite(dataclasses.replace(centre.enrolment, token_hours=-1.0), "berlin")
    with pytest.raises(RefusedError, match="this join token expired at"):
        join(centre, gateway, home, token=token)


def test_a_token_long_past_its_date_is_told_here(centre, gateway, home):
    token = invite(dataclasses.replace(centre.enrolment, token_hours=-24.0 * 14.5), "berlin")
    with pytest.raises(ConfigError, match="the join token for berlin expired at"):
        join(centre, gateway, home, token=token)


def test_a_join_that_was_interrupted_goes_on_with_the_same_keys(centre, gateway, home, monkeypatch):
    token = invite(centre.enrolment, "berlin")

    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(identity, "install", crash)  # the centre has approved, the answer is lost
        with pytest.raises(KeyboardInterrupt):
            join(centre, gateway, home, token=token)
    join(centre, gateway, home, token=token)
    assert hello(home, gateway).site == "berlin"
    assert centre.superlink.registrations == 1


def test_a_site_waits_for_its_operator(tmp_path, home):
    centre = kit.make_centre(tmp_path / "asking", approval="operator")
    centre.refresh()
    token = invite(centre.enrolment, "berlin")
    with kit.running_gateway(centre) as port:
        assert not identity.join(kit.at(token, port), home, say=[].append, wait=False)
        said = []
        done = threading.Thread(target=identity.join, args=(kit.at(token, port), home), kwargs={"say": said.append})
        done.start()
        while not said:
            time.sleep(0.02)
        (waits,) = enrolment.waiting(centre.enrolment)
        assert waits.fingerprint in said[0]
        enrolment.approve(centre.enrolment, "berlin", fingerprint=waits.fingerprint, by="ada")
        done.join(60)
        assert "has joined" in said[-1]
        assert len(said) == len(set(said))  # what it waits for is said once
        assert hello(home, port).site == "berlin"


def test_the_keys_stay_when_a_site_joins_again_and_its_transport_key_is_new(centre, gateway, home):
    join(centre, gateway, home)
    before = {name: (home.path / name).read_bytes() for name in private_keys(home.path)}
    join(centre, gateway, home, token=reinvite(centre.enrolment, "berlin"))
    after = {name: (home.path / name).read_bytes() for name in private_keys(home.path)}
    assert {name for name in before if before[name] != after[name]} == {"keys/transport.key"}
    assert hello(home, gateway).site == "berlin"


def test_a_revoked_site_makes_all_keys_anew(centre, gateway, home):
    join(centre, gateway, home)
    before = {name: (home.path / name).read_bytes() for name in private_keys(home.path)}
    centre.registry.revoke("berlin", "")
    join(centre, gateway, home, token=reinvite(centre.enrolment, "berlin"))
    after = {name: (home.path / name).read_bytes() for name in private_keys(home.path)}
    assert all(before[name] != after[name] for name in before)
    assert hello(home, gateway).site == "berlin"


def test_a_renamed_site_takes_its_new_id(centre, gateway, home):
    join(centre, gateway, home)
    home.site_file.write_text(home.site_file.read_text() + 'data_dir = "/data"\n')
    centre.registry.rename("berlin", "potsdam")
    join(centre, gateway, home, token=reinvite(centre.enrolment, "potsdam"))
    assert hello(home, gateway).site == "potsdam"
    assert tomllib.loads(home.site_file.read_text())["data_dir"] == "/data"  # what the owner wrote stays


def test_the_home_of_another_site_is_left_alone(centre, gateway, home):
    join(centre, gateway, home)
    with pytest.raises(ConfigError, match="is the home of the site berlin, the token is for paris"):
        join(centre, gateway, home, "paris")


def test_another_roster_authority_than_the_pinned_one_is_refused(centre, gateway, home):
    join(centre, gateway, home)
    token = dataclasses.replace(reinvite(centre.enrolment, "berlin"), roster_authority=bytes(32))
    with pytest.raises(ConfigError, match="this site has pinned"):
        join(centre, gateway, home, token=token)


def test_two_joins_with_one_home_do_not_mix(centre, gateway, home):
    home.path.mkdir()
    with Lock(home.path / "joining.lock"), pytest.raises(BusyError):
        join(centre, gateway, home)


def test_nobody_there_is_said_and_the_next_address_is_tried(centre, gateway, home):
    token = invite(centre.enrolment, "berlin")
    nobody = f"127.0.0.1:{ports.free_port()}"
    said = []
    identity.join(dataclasses.replace(token, gateways=(nobody, f"127.0.0.1:{gateway}")), home, say=said.append)
    assert any(f"no gateway answers at {nobody}" in line for line in said)
    assert "has joined" in said[-1]


def test_nobody_anywhere_is_unreachable(centre, home):
    token = dataclasses.replace(invite(centre.enrolment, "berlin"), gateways=(f"127.0.0.1:{ports.free_port()}",))
    with pytest.raises(UnreachableError, match="nobody listens there"):
        identity.join(token, home, say=[].append)
    assert not home.site_file.exists()


def test_a_proxy_is_asked_and_kept(centre, gateway, home):
    """A proxy that connects as RFC 9110 says, and remembers where to."""
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def pump(source, sink):
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)

        def serve():
            client, _ = server.accept()
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(65536)
            asked.append(head.split(b"\r\n")[0].decode())
            with socket.create_connection(("127.0.0.1", gateway)) as upstream, client:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=pump, args=(upstream, client))
                back.start()
                pump(client, upstream)
                back.join()

        thread = threading.Thread(target=serve)
        thread.start()
        proxy = f"http://127.0.0.1:{server.getsockname()[1]}"
        join(centre, gateway, home, proxy=proxy)
        thread.join(60)
    assert asked == [f"CONNECT 127.0.0.1:{gateway} HTTP/1.1"]
    assert home.site().proxy == proxy


# ---- a centre that lies ----


@pytest.fixture
def honest(centre, tmp_path):
    """A token, keys, and what an honest centre answers."""
    joined = kit.join(centre, "berlin")
    return joined.token, joined.keys, joined.reply


def lie(honest, **changes):
    token, keys, reply = honest
    changed = link_pb2.JoinReply.FromString(reply.SerializeToString())
    for name, value in changes.items():
        if name in ("transport_chain", "authorities"):
            setattr(changed.certificates, name, value)
        else:
            setattr(changed, name, value)
    identity.check_reply(changed, token, keys.public)


def test_what_an_honest_centre_sends_is_taken(honest):
    lie(honest)


def test_a_bundle_with_a_secret_of_another_party_is_refused(centre, honest):
    secret = (centre.home.ca / "0001.key").read_bytes()
    for part in ("transport_chain", "authorities", "roster"):
        with pytest.raises(RefusedError, match="holds a secret"):
            lie(honest, **{part: getattr(honest[2].certificates, part, b"") + secret})


def test_another_sites_certificate_is_refused(centre, honest):
    other = kit.join(centre, "paris")
    with pytest.raises(RefusedError, match="the certificate is for 'paris'"):
        lie(honest, transport_chain=other.reply.certificates.transport_chain)
    with pytest.raises(RefusedError, match="answered for 'paris'"):
        lie(honest, site="paris")


def test_a_roster_of_another_authority_is_refused(honest, tmp_path):
    other = Rosters(tmp_path / "other")
    other.create(None)
    other.update(lambda: {"berlin": honest[1].public.identity})
    with pytest.raises(RosterSignatureError):
        lie(honest, roster=other.signed())
    with pytest.raises(RefusedError, match="another roster authority"):
        lie(honest, roster_authority=other.authority)


# ---- the command ----


def test_the_command_takes_a_token_from_a_file_and_from_stdin(centre, gateway, tmp_path, monkeypatch, capsys):
    file = tmp_path / "token"
    file.write_text(kit.at(invite(centre.enrolment, "berlin"), gateway).encode() + "\n")
    assert cli.run(["site", "join", f"@{file}", "--home", str(tmp_path / "one")]) == 0
    assert "joining as berlin" in capsys.readouterr().err
    line = kit.at(invite(centre.enrolment, "paris"), gateway).encode()
    with (tmp_path / "stdin").open("w+") as stdin:
        stdin.write(line)
        stdin.seek(0)
        monkeypatch.setattr("sys.stdin", stdin)
        assert cli.run(["site", "join", "-", "--home", str(tmp_path / "two")]) == 0
    assert Home(tmp_path / "two").site().id == "paris"


@pytest.mark.parametrize(
    ("argument", "words"), [("@/nowhere", "cannot read /nowhere"), ("hello", "no join token"), ("fl1.AAAA", "damaged")]
)
def test_the_command_refuses_what_is_no_token(argument, words, tmp_path, capsys):
    assert cli.run(["site", "join", argument, "--home", str(tmp_path / "site")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


def test_a_gateway_that_does_not_answer_has_the_status_of_one(centre, tmp_path, capsys):
    token = dataclasses.replace(invite(centre.enrolment, "berlin"), gateways=(f"127.0.0.1:{ports.free_port()}",))
    assert cli.run(["site", "join", token.encode(), "--home", str(tmp_path / "site")]) == 4
    said = capsys.readouterr().err
    assert "nobody listens there" in said
    assert token.key.hex() not in said
