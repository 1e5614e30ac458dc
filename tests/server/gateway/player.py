"""Plays a site: the calls of an honest SuperNode through the gateway, each under the test's control."""

from __future__ import annotations

import contextlib
import threading
import time

import grpc
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, run_pb2
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fl.flower.private import ensure_identity
from fl.link import link_pb2 as link
from fl.link import link_pb2_grpc
from server.gateway import fleet

PIECE = 512 * 1024


class Refused(Exception):
    """The gateway refused a call of Flower's."""


class Player:
    """One site's node, over a gRPC channel."""

    def __init__(self, site, channel, stub=None):
        ensure_identity()
        self.site, self.stub, self.node_id = site, stub or link_pb2_grpc.LinkStub(channel), site.node_id
        self.node = node_pb2.Node(node_id=site.node_id)

    def call(self, method, request, *, hold_s=0.0, headers=None, signature=None, timeout=60):
        body = request if isinstance(request, bytes) else request.SerializeToString()
        signed = signature or self.site.signature()
        call = link.FleetCall(method=method, body=body, signature=signed, hold_s=hold_s, headers=headers or {})
        return ok(self.stub.Call(call, timeout=timeout)).body

    def activate(self, **options):
        request = fleet_pb2.ActivateNodeRequest(public_key=self.site.node_public_key, heartbeat_interval=30)
        return fleet_pb2.ActivateNodeResponse.FromString(self.call("activate-node", request, **options)).node_id

    def heartbeat(self):
        request = heartbeat_pb2.SendNodeHeartbeatRequest(node=self.node, heartbeat_interval=30)
        body = self.call("send-node-heartbeat", request)
        return heartbeat_pb2.SendNodeHeartbeatResponse.FromString(body).success

    def pull(self, hold_s=20.0):
        """Mail: the message's protobuf and its object tree, or ``None``."""
        body = self.call("pull-messages", fleet_pb2.PullMessagesRequest(node=self.node), hold_s=hold_s)
        answer = fleet_pb2.PullMessagesResponse.FromString(body)
        return (answer.messages_list[0], answer.message_object_trees[0]) if answer.messages_list else None

    def wait_for_mail(self, *, within_s=180):
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if mail := self.pull():
                return mail
            time.sleep(0.1)
        raise AssertionError("no mail")

    def stream(self, method, request):
        body = request if isinstance(request, bytes) else request.SerializeToString()
        call = link.FleetCall(method=method, body=body, signature=self.site.signature())
        pieces = iter(self.stub.Pull(call, timeout=120))
        first = next(pieces)
        ok(first.head)
        return b"".join([first.data, *(piece.data for piece in pieces)])

    def object(self, run_id, object_id):
        request = message_pb2.PullObjectRequest(node=self.node, run_id=run_id, object_id=object_id)
        deadline = time.monotonic() + 60
        while True:
            answer = message_pb2.PullObjectResponse.FromString(self.stream("pull-object", request))
            # A message is announced before all of it is uploaded.
            if answer.object_available or not answer.object_found or time.monotonic() > deadline:
                return answer.object_content
            time.sleep(0.1)

    def fab(self, run_id):
        run = run_pb2.GetRunResponse.FromString(
            self.call("get-run", run_pb2.GetRunRequest(node=self.node, run_id=run_id))
        ).run
        request = fab_pb2.GetFabRequest(node=self.node, hash_str=run.fab_hash, run_id=run_id)
        return fab_pb2.GetFabResponse.FromString(self.stream("get-fab", request)).fab

    def receive(self, mail):
        """All objects of a message, and the message itself; not confirmed."""
        proto, tree = mail
        run_id = proto.metadata.run_id
        contents = {object_id: self.object(run_id, object_id) for object_id in fleet.object_ids(tree)}
        message = inflate_object_from_contents(tree.object_id, contents)
        message.metadata.__dict__["_message_id"] = proto.metadata.message_id
        return message

    def confirm(self, mail):
        metadata = mail[0].metadata
        self.call(
            "confirm-message-received",
            message_pb2.ConfirmMessageReceivedRequest(
                node=self.node, run_id=metadata.run_id, message_object_id=metadata.message_id
            ),
        )

    def announce(self, reply, **changes):
        """``push-messages``: the session, and the objects that are wanted."""
        request = reply if isinstance(reply, bytes) else push_request(self.node, reply, **changes)
        answer = fleet_pb2.PushMessagesResponse.FromString(self.call("push-messages", request))
        return answer.session_id, list(answer.objects_to_push)

    def push(self, run_id, session_id, object_id, content, *, size=None, piece=PIECE):
        head = link.PushHead(
            run_id=run_id,
            session_id=session_id,
            object_id=object_id,
            size_bytes=len(content) if size is None else size,
            signature=self.site.signature(),
        )

        def pieces():
            yield link.PushPiece(head=head, data=content[:piece])
            for start in range(piece, len(content), piece):
                yield link.PushPiece(data=content[start : start + piece])

        answer = ok(self.stub.Push(pieces(), timeout=120))
        return message_pb2.PushObjectResponse.FromString(answer.body).stored

    def upload(self, reply, session_id, wanted):
        objects = get_all_nested_objects(reply)
        for object_id, piece in objects.items():
            if object_id in wanted:
                assert self.push(reply.metadata.run_id, session_id, object_id, piece.deflate())

    def answer(self, mail, message=None):
        """Echo a message as the app would."""
        message = message or self.receive(mail)
        reply = make_reply(message)
        self.upload(reply, *self.announce(reply))
        return reply


def ok(answer):
    if answer.status != 200:
        raise Refused(answer.status, answer.refusal)
    return answer


def make_reply(message, content=None):
    reply = Message(content or message.content, reply_to=message)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    return reply


def push_request(node, reply, **changes):
    with no_object_id_recompute():
        tree = get_object_tree(reply)
        proto = message_to_proto(remove_content_from_message(reply))
    for name, value in changes.items():
        setattr(proto.metadata, name, value)
    return fleet_pb2.PushMessagesRequest(
        node=node, messages_list=[proto], message_object_trees=[tree], clientapp_runtime_list=[0.1]
    ).SerializeToString()


@contextlib.contextmanager
def beating(player):
    """A heart that beats for as long as the block lasts."""
    ended = threading.Event()

    def beat():
        while not ended.wait(1.0):
            with contextlib.suppress(grpc.RpcError, Refused):
                player.heartbeat()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield player
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def player(centre, name):
    """A site's node through the gateway."""
    with centre.channel(name) as channel, beating(Player(centre.sites[name], channel)) as made:
        yield made
