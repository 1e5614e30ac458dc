"""Attacks that succeed against SuperLink's own port, each refused by the gateway.

The same code plays the attacker on both sides: ``bare`` reaches SuperLink's port with the CA file, ``gateway`` the
gateway's with the certificate of a site that turned bad.
"""

import contextlib
import socket
import ssl
import struct
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import pytest
from flwr.proto import control_pb2, fleet_pb2, message_pb2

from fl.link import link_pb2 as link
from fl.link import link_pb2_grpc
from fl.link.identity import GATEWAY_NAME
from server.certificates import private_pem
from tests.centre import Authority, channel, ec
from tests.server.gateway.bare import BareStub, bare_player
from tests.server.gateway.conftest import until
from tests.server.gateway.player import Refused, make_reply, player, push_request

NODES = 2
pytestmark = [pytest.mark.federation, pytest.mark.timeout(600)]

BOTH = pytest.mark.parametrize("door", ["bare", "gateway"])


@contextlib.contextmanager
def expect(door, complaint):
    """The gateway refuses with these words; SuperLink does not."""
    if door == "bare":
        yield
    else:
        with pytest.raises(Refused, match=complaint):
            yield


@contextlib.contextmanager
def attackers(centre, door):
    """The site that turned bad, through one of the doors, and an honest one, through the gateway."""
    opened = {"bare": bare_player, "gateway": player}[door]
    bad, honest = centre.pair
    with opened(centre, bad) as attacker, player(centre, honest) as victim:
        attacker.activate()
        victim.activate()
        yield attacker, victim


@BOTH
def test_starting_a_run_with_the_ca_file_only(running, door):
    body = control_pb2.ListNodesRequest().SerializeToString()
    if door == "bare":
        stub = BareStub(running.superlink, running.superlink_ca, 0)
        assert stub.post("control/list-nodes", body).status == 200
        # Empty, so Flower finds nothing to start; but it did look at it.
        assert stub.post("control/start-run", b"").status not in (401, 403, 404)
        stub.close()
        return
    with player(running, running.pair[0]) as attacker:
        for method in ("start-run", "../control/start-run", "/v1/control/start-run"):
            with pytest.raises(Refused, match="no site may call"):
                attacker.call(method, body)
    with running.channel(running.pair[0]) as opened:
        call = opened.unary_unary("/v1/control/start-run")
        with pytest.raises(grpc.RpcError) as caught:
            call(body, timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_without_a_certificate_nobody_says_a_word(running):
    """The CA file is all that is needed at SuperLink; at the gateway TLS itself refuses."""
    site = running.sites[running.pair[0]]
    credentials = grpc.ssl_channel_credentials(site.authorities_file.read_bytes())
    options = [("grpc.ssl_target_name_override", GATEWAY_NAME)]
    with grpc.secure_channel(running.address, credentials, options) as opened:
        with pytest.raises(grpc.RpcError) as caught:
            link_pb2_grpc.LinkStub(opened).Hello(link.HelloRequest(), timeout=10)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@BOTH
def test_asking_for_the_task_of_a_run(running, door):
    if door == "bare":  # no certificate keeps anybody from asking; in process isolation a shared secret does
        stub = BareStub(running.superlink, running.superlink_ca, 0)
        assert stub.post("runtime/acquire-task", b"").status != 404
        stub.close()
        return
    with player(running, running.pair[0]) as attacker:
        for method in ("acquire-task", "pull-task-input", "../runtime/acquire-task"):
            with pytest.raises(Refused, match="no site may call"):
                attacker.call(method, b"")


@BOTH
def test_answering_as_another_node(running, run, door):
    with attackers(running, door) as (attacker, victim):
        own, theirs = attacker.wait_for_mail(), victim.wait_for_mail()
        forged = make_reply(victim.receive(theirs))
        forged.metadata.__dict__["_src_node_id"] = victim.node_id
        with expect(door, "as its source, which is not site"):
            session, wanted = attacker.announce(forged)
            attacker.upload(forged, session, wanted)
        attacker.answer(own)
        if door == "gateway":
            victim.answer(theirs)
        (came,) = run.rounds()
        # At SuperLink's own port the forged reply counts as the victim's.
        assert sorted(came["answered"]) == sorted([attacker.node_id, victim.node_id])


@BOTH
def test_answering_a_message_that_another_node_got(running, run, door):
    with attackers(running, door) as (attacker, victim):
        attacker.wait_for_mail()
        theirs = victim.wait_for_mail()
        reply = make_reply(victim.receive(theirs))
        request = push_request(attacker.node, reply, src_node_id=attacker.node_id)
        with expect(door, "was not delivered to site"):
            attacker.announce(request)


@BOTH
def test_signing_with_headers_that_were_overheard(running, door):
    """A signature covers a timestamp and nothing else, so whoever sees one can use it for 300 s."""
    with attackers(running, door) as (attacker, victim):
        overheard = victim.site.signature()
        request = fleet_pb2.DeactivateNodeRequest(node_id=victim.node_id)
        with expect(door, "the key that signs is not the one of site"):
            attacker.call("deactivate-node", request, signature=overheard)
        online = {node.node_id for node in running.control.nodes() if node.status == "online"}
        assert (victim.node_id in online) is (door == "gateway")


@BOTH
def test_reading_the_objects_of_another_nodes_message(running, run, door):
    with attackers(running, door) as (attacker, victim):
        theirs = victim.wait_for_mail()
        run_id, object_id = theirs[0].metadata.run_id, theirs[1].object_id
        with expect(door, "belongs to no message of site"):
            assert attacker.object(run_id, object_id)
        assert victim.object(run_id, object_id)


@BOTH
def test_removing_another_nodes_message_before_it_was_read(running, run, door):
    with attackers(running, door) as (attacker, victim):
        theirs = victim.wait_for_mail()
        run_id, message_id = theirs[0].metadata.run_id, theirs[0].metadata.message_id
        assert victim.object(run_id, message_id)  # it is uploaded last: removed earlier, it would end the run, too
        request = message_pb2.ConfirmMessageReceivedRequest(
            node=attacker.node, run_id=run_id, message_object_id=message_id
        )
        with expect(door, "was not delivered to site"):
            attacker.call("confirm-message-received", request)
        assert bool(victim.object(run_id, message_id)) is (door == "gateway")


@BOTH
def test_replaying_a_reply_that_was_whole(running, run, door):
    with attackers(running, door) as (attacker, _):
        mail = attacker.wait_for_mail()
        reply = attacker.answer(mail)
        with expect(door, "or is answered"):
            attacker.announce(reply)
        with expect(door, "or is answered"):  # and another one to the same message
            attacker.announce(make_reply(attacker_message(attacker, mail, reply)))


def attacker_message(attacker, mail, reply):
    from flwr.app import ConfigRecord, RecordDict
    from flwr.common.serde import message_from_proto
    from flwr.proto import recorddict_pb2

    head = message_pb2.Message(metadata=mail[0].metadata, content=recorddict_pb2.RecordDict())
    message = message_from_proto(head)
    message.content = RecordDict({"other": ConfigRecord({"a": 1})})
    return message


def test_a_stolen_certificate_is_worth_nothing_without_its_key(running, tmp_path):
    site = running.sites[running.pair[0]]
    (tmp_path / "other.key").write_bytes(private_pem(ec.generate_private_key(ec.SECP256R1())))
    with channel(running.address, site.authorities_file, tmp_path / "other.key", site.chain_file) as opened:
        with pytest.raises(grpc.RpcError) as caught:
            link_pb2_grpc.LinkStub(opened).Hello(link.HelloRequest(), timeout=10)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_a_certificate_of_another_authority_is_refused(running, tmp_path):
    site, other = running.sites[running.pair[0]], Authority("test authority")
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key").write_bytes(private_pem(key))
    (tmp_path / "chain").write_bytes(other.issue(key, uri=f"urn:fedfleet:site:{site.site}"))
    with channel(running.address, site.authorities_file, tmp_path / "key", tmp_path / "chain") as opened:
        with pytest.raises(grpc.RpcError) as caught:
            link_pb2_grpc.LinkStub(opened).Hello(link.HelloRequest(), timeout=10)
        assert caught.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def test_a_certificate_that_the_registry_does_not_know_is_refused_in_words(running, tmp_path):
    site = running.sites[running.pair[0]]
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "key").write_bytes(private_pem(key))
    (tmp_path / "chain").write_bytes(running.authority.issue(key, uri=f"urn:fedfleet:site:{site.site}"))
    with channel(running.address, site.authorities_file, tmp_path / "key", tmp_path / "chain") as opened:
        with pytest.raises(grpc.RpcError) as caught:
            link_pb2_grpc.LinkStub(opened).Hello(link.HelloRequest(), timeout=10)
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "no site has this certificate" in caught.value.details()


def context(version, site):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = made.maximum_version = version
    made.load_verify_locations(site.authorities_file)
    made.load_cert_chain(site.chain_file, site.key_file)
    made.set_alpn_protocols(["h2"])
    return made


def test_http_1_gets_no_answer(running):
    site = running.sites[running.pair[0]]
    verify = ssl.create_default_context(cafile=str(site.authorities_file))
    verify.check_hostname = False
    verify.load_cert_chain(site.chain_file, site.key_file)
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"https://{running.address}/health", verify=verify, timeout=10, trust_env=False)


def test_a_body_that_is_too_large_is_refused(running):
    with player(running, running.pair[0]) as attacker:
        attacker.activate()
        with pytest.raises(Refused, match="at most 1024 are taken"):
            attacker.call("get-run", b"\0" * 2000)
        with pytest.raises(grpc.RpcError) as caught:
            attacker.call("push-messages", b"\0" * (10 * 2**20))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_an_object_of_another_size_than_it_says_is_refused(running, run):
    with attackers(running, "gateway") as (attacker, _):
        mail = attacker.wait_for_mail()
        reply = make_reply(attacker.receive(mail))
        session, wanted = attacker.announce(reply)
        run_id = mail[0].metadata.run_id
        with pytest.raises(Refused, match="ended 5 bytes early"):
            attacker.push(run_id, session, wanted[0], b"12345", size=10)
        with pytest.raises(Refused, match="has more than that"):
            attacker.push(run_id, session, wanted[0], b"12345", size=3)
        with pytest.raises(Refused, match="at most 1024 MiB are taken"):
            attacker.push(run_id, session, wanted[0], b"1", size=2**40)
        with pytest.raises(Refused, match="no reply of site"):
            attacker.push(run_id, session, "ab" * 32, b"12345")
        attacker.upload(reply, session, wanted)


def test_an_object_with_other_content_than_its_id_says_is_not_stored(running, run):
    with attackers(running, "gateway") as (attacker, _):
        mail = attacker.wait_for_mail()
        reply = make_reply(attacker.receive(mail))
        session, wanted = attacker.announce(reply)
        assert not attacker.push(mail[0].metadata.run_id, session, wanted[0], b"poison")


FLOOD = 400


@BOTH
def test_a_flood_of_calls_is_bounded_and_hurts_nobody_else(running, door):
    """Calls at once: SuperLink works for each of them; at the gateway those beyond the bound wait or are refused."""
    with attackers(running, door) as (attacker, victim):
        body = fleet_pb2.PullMessagesRequest(node=attacker.node).SerializeToString()
        call = link.FleetCall(method="pull-messages", body=body, signature=attacker.site.signature(), hold_s=20)
        if door == "bare":
            with ThreadPoolExecutor(32) as threads:
                answers = Counter(threads.map(lambda _: attacker.stub.Call(call).status, range(FLOOD)))
            assert answers == {200: FLOOD}
            return
        began = time.monotonic()
        flood = [attacker.stub.Call.future(call, timeout=60) for _ in range(FLOOD)]
        for _ in range(20):
            assert victim.heartbeat()
        for one in flood:
            one.cancel()
        assert running.gateway.gateway.nodes.of(attacker.site, attacker.site.certificate).calls <= 40
        assert time.monotonic() - began < 15


@pytest.mark.parametrize("kind", ["pings", "streams that are reset at once"])
def test_a_flood_of_http_2_frames_hurts_nobody_else(running, kind):
    """What no client does: frames by hand, on a connection with a site's own certificate."""
    bad, honest = (running.sites[name] for name in running.pair)
    with player(running, honest.site) as victim, http_2(running.address, bad) as connection:
        victim.activate()
        ended = False
        for turn in range(100):
            frames = [ping() if kind == "pings" else reset_stream(2 * (100 * turn + i) + 1) for i in range(100)]
            try:
                connection.sendall(b"".join(frames))
            except OSError:
                ended = True
                break
        began = time.monotonic()
        for _ in range(20):
            assert victim.heartbeat()
        assert time.monotonic() - began < 15
        if kind == "pings":
            assert ended or is_sent_away(connection), "the gateway listened to 10,000 pings"
        calls = running.gateway.gateway.nodes.of(bad, bad.certificate)
        until(lambda: calls.calls == 0, 30)


@contextlib.contextmanager
def http_2(address, site):
    """A connection on which HTTP/2 was begun."""
    host, _, port = address.rpartition(":")
    made = context(ssl.TLSVersion.TLSv1_3, site)
    with (
        socket.create_connection((host.strip("[]"), int(port)), timeout=20) as plain,
        made.wrap_socket(plain, server_hostname=GATEWAY_NAME) as connection,
    ):
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        yield connection


def frame(kind, flags, stream, payload):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def ping():
    return frame(6, 0, 0, bytes(8))


def reset_stream(stream):
    fields = {
        ":method": "POST",
        ":scheme": "https",
        ":path": "/fedfleet.link.v1.Link/Call",
        ":authority": GATEWAY_NAME,
        "content-type": "application/grpc",
        "te": "trailers",
    }
    # HPACK without its tables: 0, then name and value, each behind its length.
    packed = b"".join(b"\0" + bytes([len(n)]) + n.encode() + bytes([len(v)]) + v.encode() for n, v in fields.items())
    return frame(1, 4, stream, packed) + frame(3, 0, stream, struct.pack(">I", 8))


def is_sent_away(connection):
    """Whether the gateway ends the connection."""
    connection.settimeout(20)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True
