"""The gateway in front of a real SuperLink, with a site that is played call by call."""

import contextlib
import os
import signal
import sqlite3
import threading
import time

import grpc
import numpy as np
import pytest
from flwr.app import ArrayRecord, RecordDict
from flwr.proto import message_pb2
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects

from fl.link import link_pb2 as link
from server.certificates import private_pem
from server.gateway import fleet
from tests.centre import ec
from tests.server.gateway.bare import bare_player
from tests.server.gateway.conftest import until
from tests.server.gateway.player import Refused, make_reply, player

NODES = 1
pytestmark = [pytest.mark.federation, pytest.mark.timeout(600)]


def status_of(centre, name):
    return {node.name: node.status for node in centre.control.nodes()}[name]


def test_a_run_through_the_gateway_hears_of_each_reply(running, run):
    name = running.pair[0]
    with player(running, name) as site:
        site.activate()
        for number in range(2):
            mail = site.wait_for_mail()
            if number == 0:
                assert site.fab(run.run_id).content
            message = site.receive(mail)
            site.confirm(mail)
            site.answer(mail, message)
        rounds = run.rounds(2)
    assert [(it["answered"], it["failed"]) for it in rounds] == [([site.node_id], {})] * 2
    until(lambda: running.registry.counts.get((name, run.run_id), (0, 0, 0))[0] > 12 * 2**20, 20)
    up, down, _ = running.registry.counts[name, run.run_id]
    assert 12 * 2**20 < down < 13 * 2**20
    assert 12 * 2**20 < up < 13 * 2**20


def test_a_site_that_is_early_for_an_object_gets_it_when_it_is_there(running, run):
    with player(running, running.pair[0]) as site:
        site.activate()
        for _ in range(3):
            mail = site.wait_for_mail()
            run_id = mail[0].metadata.run_id
            for object_id in fleet.object_ids(mail[1]):
                request = message_pb2.PullObjectRequest(node=site.node, run_id=run_id, object_id=object_id)
                answer = message_pb2.PullObjectResponse.FromString(site.stream("pull-object", request))
                assert answer.object_available
            message = site.receive(mail)
            site.confirm(mail)
            site.answer(mail, message)


def test_a_message_whose_answer_was_lost_is_given_again_and_a_confirmed_one_is_not(running, run):
    with player(running, running.pair[0]) as site:
        site.activate()
        lost = site.wait_for_mail()
        again = site.wait_for_mail()
        assert again[0].metadata.message_id == lost[0].metadata.message_id
        message = site.receive(again)
        site.confirm(again)
        assert site.pull(hold_s=1.0) is None
        site.answer(again, message)
        assert run.rounds()[0]["missing"] == 0


def test_a_site_that_restarts_is_back_at_once_and_says_what_it_lost(running, run):
    """SuperLink alone refuses the node for a minute, and the message it had is never answered."""
    with player(running, running.pair[0]) as site:
        site.activate()
        mail = site.wait_for_mail()
        site.receive(mail)
        site.confirm(mail)
        began = time.monotonic()
        site.activate()  # as after a power cut: nobody said goodbye
        assert time.monotonic() - began < 10
        (came,) = run.rounds()
    assert list(came["failed"].values()) == ["the site was restarted while it worked on this"]
    assert came["s"] < 50


def test_a_restarted_site_whose_link_holds_the_reply_goes_on(running, run):
    with player(running, running.pair[0]) as site:
        site.activate()
        mail = site.wait_for_mail()
        message = site.receive(mail)
        site.confirm(mail)
        site.activate(headers={"fedfleet-holds": mail[0].metadata.message_id})
        site.answer(mail, message)
        (came,) = run.rounds()
    assert came["failed"] == {}


def test_a_gateway_that_is_replaced_in_the_middle_knows_what_was_delivered(running, run):
    with player(running, running.pair[0]) as site:
        site.activate()
        mail = site.wait_for_mail()
        ids = fleet.object_ids(mail[1])
        assert site.object(run.run_id, ids[0])
        running.gateway.stop()
        running.gateway.start()
        until(lambda: is_back(site))
        message = site.receive(mail)
        site.confirm(mail)
        reply = make_reply(message)
        session, wanted = site.announce(reply)
        running.gateway.stop()
        running.gateway.start()
        until(lambda: is_back(site))
        site.upload(reply, session, wanted)
        (came,) = run.rounds()
        assert (came["missing"], came["failed"]) == (0, {})


def test_mail_that_a_gateway_had_asked_for_when_it_died_is_given_by_the_next(running, run):
    """SuperLink hands a message out once, and here to somebody who dies before he can write it down."""
    name = running.pair[0]
    with player(running, name) as site, bare_player(running, name) as asker:
        site.activate()
        lost = asker.wait_for_mail()
        assert site.pull(hold_s=1.0) is None
        running.gateway.stop()
        running.gateway.start()
        until(lambda: is_back(site))
        mail = site.wait_for_mail()
        assert mail[0].metadata.message_id == lost[0].metadata.message_id
        message = site.receive(mail)
        site.confirm(mail)
        site.answer(mail, message)
        (came,) = run.rounds()
    assert (came["missing"], came["failed"]) == (0, {})


def take_and_train(site, seed):
    """A message, taken and confirmed, and a reply that shares no object with it."""
    mail = site.wait_for_mail()
    message = site.receive(mail)
    site.confirm(mail)
    own = np.random.default_rng(seed).standard_normal(1000)
    return mail, make_reply(message, RecordDict({"arrays": ArrayRecord([own])}))


def test_an_upload_goes_on_when_the_serverapp_has_taken_the_head_of_the_reply(running, run):
    """SuperLink then knows the message no more: it would say that it wants nothing, and the round would wait."""
    with player(running, running.pair[0]) as site:
        site.activate()
        mail, reply = take_and_train(site, seed=1)
        session, wanted = site.announce(reply)
        assert len(wanted) == 5
        until(lambda: mail[0].metadata.message_id not in messages(running))
        first = {object_id for object_id in wanted if object_id != reply.metadata.message_id}.pop()
        site.upload(reply, session, {first})
        again, missing = site.announce(reply)
        assert (again, set(missing)) == (session, set(wanted) - {first})
        site.upload(reply, again, missing)
        (came,) = run.rounds()
    assert (came["missing"], came["failed"]) == (0, {})


def test_an_upload_begins_when_superlinks_answer_to_the_head_died_and_the_serverapp_has_taken_the_head(running, run):
    """Nobody then knows the session, and SuperLink says that it wants nothing."""
    with player(running, running.pair[0]) as site, bare_player(running, running.pair[0]) as unheard:
        site.activate()
        mail, reply = take_and_train(site, seed=3)
        _, wanted = unheard.announce(reply)
        assert len(wanted) == 5
        until(lambda: mail[0].metadata.message_id not in messages(running))
        session, missing = site.announce(reply)
        assert session
        assert set(missing) == set(wanted)
        site.upload(reply, session, missing)
        (came,) = run.rounds()
    assert (came["missing"], came["failed"]) == (0, {})


def test_an_upload_that_was_cut_for_longer_than_flower_keeps_half_a_reply_is_told_to_the_run_at_once(running, run):
    """Flower throws away what is older than three minutes; the run hears of that, and the site is free again."""
    with player(running, running.pair[0]) as site:
        site.activate()
        mail, reply = take_and_train(site, seed=2)
        session, wanted = site.announce(reply)
        until(lambda: mail[0].metadata.message_id not in messages(running))
        with contextlib.closing(sqlite3.connect(running.home / "superlink" / "state.db", timeout=10)) as db:
            changed = db.execute(
                "UPDATE object_push_sessions SET expires_at = '2000-01-01 00:00:00.000000' WHERE session_id = ?",
                (session,),
            )
            assert changed.rowcount == 1
            db.commit()
        first = get_all_nested_objects(reply)[wanted[0]].deflate()
        assert not site.push(run.run_id, session, wanted[0], first)
        _, missing = site.announce(reply)
        assert missing == []
        (came,) = run.rounds()
        assert came["missing"] == 0
        assert [reason.split(".")[0] for reason in came["failed"].values()] == ["Reply message objects are unavailable"]
        site.answer(site.wait_for_mail())
        (came,) = run.rounds()
    assert (came["missing"], came["failed"]) == (0, {})


def messages(running):
    """Ids of the messages that SuperLink knows."""
    with contextlib.closing(sqlite3.connect(running.home / "superlink" / "state.db")) as db:
        return {row[0] for row in db.execute("SELECT message_id FROM message_ins")}


def is_back(site):
    try:
        return site.heartbeat()
    except grpc.RpcError:
        return False


def test_superlink_is_killed_in_the_middle_and_the_run_goes_on(running, run):
    with player(running, running.pair[0]) as site:
        site.activate()
        mail = site.wait_for_mail()
        message = site.receive(mail)
        site.confirm(mail)
        os.kill(running.group.children["superlink"].process.pid, signal.SIGKILL)
        assert site.heartbeat()  # the gateway answers for it
        lives = running.group.children["superlink"].lives

        def is_up():
            running.group.poll()
            return running.group.children["superlink"].lives > lives

        until(is_up)
        reply = make_reply(message)
        session, wanted = patiently(lambda: site.announce(reply))
        patiently(lambda: site.upload(reply, session, wanted))
        mail = site.wait_for_mail()
        site.answer(mail)
        rounds = run.rounds(2)
    assert [it["missing"] for it in rounds] == [0, 0]


def patiently(do, within_s=60):
    """As a SuperNode does: 503 is tried again."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            return do()
        except Refused as err:
            if err.args[0] != 503 or time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def test_a_revoked_site_hears_so_while_it_waits_and_is_refused_from_then_on(running):
    name, other = running.pair
    with player(running, name) as site, player(running, other) as honest:
        site.activate()
        honest.activate()
        ended = []

        def wait():
            with pytest.raises(grpc.RpcError) as caught:
                site.pull(hold_s=25)
            ended.append(caught.value)

        waiting = threading.Thread(target=wait)
        waiting.start()
        until(lambda: running.gateway.gateway._calls.postbox.waiting > 0)
        running.registry.refused[name] = f"{name} was revoked"
        running.gateway.changed()
        waiting.join(10)
        assert ended[0].code() is grpc.StatusCode.PERMISSION_DENIED
        assert ended[0].details() == f"{name} was revoked"
        with pytest.raises(grpc.RpcError) as caught:
            site.heartbeat()
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
        assert honest.heartbeat()


def test_a_site_that_is_revoked_while_it_uploads_is_stopped_there(running, run):
    name = running.pair[0]
    with player(running, name) as site:
        site.activate()
        mail = site.wait_for_mail()
        reply = make_reply(site.receive(mail))
        session, wanted = site.announce(reply)
        head = link.PushHead(
            run_id=run.run_id,
            session_id=session,
            object_id=wanted[0],
            size_bytes=10**6,
            signature=site.site.signature(),
        )

        def pieces():
            yield link.PushPiece(head=head, data=b"x" * 1000)
            running.registry.refused[name] = "revoked in the middle"
            running.gateway.changed()
            time.sleep(0.5)
            for _ in range(999):
                yield link.PushPiece(data=b"x" * 1000)

        with pytest.raises(grpc.RpcError) as caught:
            site.stub.Push(pieces(), timeout=60)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert caught.value.details() == "revoked in the middle"


def test_a_quarantined_site_stays_connected_and_gets_no_work(running):
    name = running.pair[0]
    with player(running, name) as site:
        site.activate()
        until(lambda: status_of(running, name) == "online")
        running.sites[name].state = "quarantined"
        running.gateway.changed()
        assert site.heartbeat()
        until(lambda: status_of(running, name) == "offline")
        assert site.pull(hold_s=1.0) is None
        assert site.stub.Hello(link.HelloRequest()).state == "quarantined"
        assert site.activate() == site.node_id
        with pytest.raises(Refused, match="is quarantined"):
            site.fab(run_id=1)
        running.sites[name].state = "active"
        running.gateway.changed()
        site.heartbeat()
        until(lambda: status_of(running, name) == "online")


def test_a_silent_site_is_offline_after_the_time_that_is_set_and_online_again_when_it_calls(running):
    name = running.pair[0]
    with player(running, name) as site:
        site.activate()
        until(lambda: status_of(running, name) == "online")
    until(lambda: status_of(running, name) == "offline", 30)  # lost_after_s is 5 here
    with player(running, name) as site:
        site.heartbeat()  # the SuperNode never noticed
        until(lambda: status_of(running, name) == "online", 30)


def test_a_clock_that_is_an_hour_off_is_said_plainly(running):
    import datetime

    with player(running, running.pair[0]) as site:
        reply = site.stub.Hello(link.HelloRequest(clock_s=time.time() + 3600))
        assert "clock is 3600 s ahead of" in reply.message
        late = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
        with pytest.raises(Refused, match=r"made 36.. s ago by our clock: are both right"):
            site.activate(signature=site.site.signature(at=late))


def test_an_object_that_comes_slowly_is_collected_first(running, run, monkeypatch):
    """Its signature would be too old at its end, and SuperLink would be kept busy meanwhile."""
    from server.gateway import calls

    monkeypatch.setattr(calls, "AHEAD_BYTES", 1000)
    monkeypatch.setattr(calls, "SLOW_S", 0.0)
    with player(running, running.pair[0]) as site:
        site.activate()
        mail = site.wait_for_mail()
        site.answer(mail)
        (came,) = run.rounds()
    assert (came["missing"], came["failed"]) == (0, {})


def test_a_new_certificate_of_the_gateway_is_used_without_a_restart(running):
    home, name = running.home, running.pair[0]
    with player(running, name) as site:
        assert site.stub.Hello(link.HelloRequest()).site == name
    before = presented(running, name)
    key = ec.generate_private_key(ec.SECP256R1())
    (home / "gateway" / "server.key").write_bytes(private_pem(key))
    (home / "gateway" / "server.crt").write_bytes(running.authority.issue(key))
    until(lambda: presented(running, name) != before, 20)
    with player(running, name) as site:
        assert site.stub.Hello(link.HelloRequest()).site == name


def presented(running, name):
    import socket
    import ssl

    from tests.server.gateway.test_attacks import GATEWAY_NAME, context

    host, _, port = running.address.rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=10)
    with (
        plain,
        context(ssl.TLSVersion.TLSv1_3, running.sites[name]).wrap_socket(plain, server_hostname=GATEWAY_NAME) as spoken,
    ):
        return spoken.getpeercert(binary_form=True)
