"""A centre in memory that speaks link.proto, with faults on demand; it stores objects as Flower's SuperLink does.

What it does not do is in tests/server/gateway and in the tests marked ``federation``, which use the real ones.
"""

import asyncio
import contextlib
import hashlib
import time
from collections import Counter

import grpc
from flwr.proto import fab_pb2, fleet_pb2, heartbeat_pb2, message_pb2, node_pb2, run_pb2

from fl.link import link_pb2 as link
from fl.link import link_pb2_grpc

NODE_ID = 4711


def object_id(content):
    return hashlib.sha256(content).hexdigest()


class FleetCentre(link_pb2_grpc.LinkServicer):
    """Answers a site."""

    def __init__(self):
        self.hellos, self.reports, self.calls = [], [], []
        self.mail = []
        """``(message, tree, objects)`` that wait for the node."""
        self.arrived = asyncio.Event()
        self.downloads = {}
        self.fab = b"an app"
        self.fab_name = object_id(b"an app")
        self.trees, self.sessions, self.objects = {}, {}, {}
        self.replies = {}
        self.received = Counter()
        """How often each object came whole."""
        self.bytes_in = 0
        self.denied = ""
        self.state = "active"
        self.renew_after_s = 3600.0
        self.clock_offset_s = 0.0
        self.statuses = {}
        """Method to the status that it is answered with."""
        self.forget_sessions = False
        self.owners = {}
        self.before_object = self.after_object = None
        self.issue = None
        self.roster_version, self.roster = 0, b""
        self.renewals = 0

    # ---- what tests do ----

    def post(self, objects, *, run_id=7, model=()):
        """Put a message with these contents into the node's mail; returns its id."""
        for content in (*objects, *model):
            self.downloads[object_id(content)] = content
        tree = message_pb2.ObjectTree(
            object_id=object_id(b"|".join(objects)),
            children=[message_pb2.ObjectTree(object_id=object_id(content)) for content in objects],
        )
        metadata = message_pb2.Metadata(
            run_id=run_id,
            message_id=tree.object_id,
            src_node_id=1,
            dst_node_id=NODE_ID,
            ttl=3600,
            created_at=time.time(),
            message_type="train",
        )
        self.mail.append((message_pb2.Message(metadata=metadata), tree))
        self.arrived.set()
        return tree.object_id

    def is_whole(self, message_id):
        """Whether all objects of a reply are here."""
        tree = self.trees.get(message_id)
        return tree is not None and all(name in self.objects for name in _ids(tree))

    def lose_sessions(self):
        """What SuperLink does 180 s after the last object: the session, its message and its objects go."""
        for message_id in list(self.sessions.values()):
            if not self.is_whole(message_id):
                for name in _ids(self.trees.pop(message_id)):
                    self.objects.pop(name, None)
                self.replies.pop(message_id, None)
        self.sessions.clear()

    # ---- the protocol ----

    async def _let_in(self, context):
        if self.denied:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, self.denied)

    async def Hello(self, request, context):
        await self._let_in(context)
        self.hellos.append(request)
        return link.HelloReply(
            version="0.1.0",
            flower="1.41.0",
            protocol=1,
            clock_s=time.time() + self.clock_offset_s,
            site="site-1",
            state=self.state,
            renew_after_s=self.renew_after_s,
            roster_version=self.roster_version,
            hold_s=25,
        )

    async def Report(self, request, context):
        await self._let_in(context)
        self.reports.append(request.json)
        return link.ReportReply(state=self.state, renew_after_s=self.renew_after_s, roster_version=self.roster_version)

    async def Renew(self, request, context):
        self.renewals += 1
        self.renew_after_s = 3600.0
        return self.issue(request.transport_csr)

    async def Trust(self, request, context):
        return link.TrustReply(roster=self.roster)

    async def Call(self, request, context):
        await self._let_in(context)
        self.calls.append(request)
        if status := self.statuses.get(request.method):
            return link.FleetAnswer(status=status, refusal="as the test wants it")
        body = await getattr(self, request.method.replace("-", "_"))(request)
        return link.FleetAnswer(status=200, body=body.SerializeToString())

    async def activate_node(self, request):
        return fleet_pb2.ActivateNodeResponse(node_id=NODE_ID)

    async def deactivate_node(self, request):
        return fleet_pb2.DeactivateNodeResponse()

    async def send_node_heartbeat(self, request):
        return heartbeat_pb2.SendNodeHeartbeatResponse(success=True)

    async def get_run(self, request):
        run_id = run_pb2.GetRunRequest.FromString(request.body).run_id
        return run_pb2.GetRunResponse(run=run_pb2.Run(run_id=run_id, fab_hash=self.fab_name))

    async def confirm_message_received(self, request):
        return message_pb2.ConfirmMessageReceivedResponse()

    async def pull_messages(self, request):
        ends_at = time.monotonic() + request.hold_s
        while not self.mail and (left_s := ends_at - time.monotonic()) > 0:
            self.arrived.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.arrived.wait(), left_s)
        if not self.mail:
            return fleet_pb2.PullMessagesResponse()
        message, tree = self.mail.pop(0)
        return fleet_pb2.PullMessagesResponse(messages_list=[message], message_object_trees=[tree])

    async def push_messages(self, request):
        pushed = fleet_pb2.PushMessagesRequest.FromString(request.body)
        message, tree = pushed.messages_list[0], pushed.message_object_trees[0]
        message_id = message.metadata.message_id
        self.replies[message_id] = message
        self.trees[message_id] = tree
        for session, owner in list(self.sessions.items()):
            if owner == message_id:
                del self.sessions[session]
        session = f"session-{len(self.calls)}"
        self.sessions[session] = self.owners[session] = message_id
        missing = [name for name in dict.fromkeys(_ids(tree)) if name not in self.objects]
        return fleet_pb2.PushMessagesResponse(objects_to_push=missing, session_id=session)

    async def Push(self, request_iterator, context):
        await self._let_in(context)
        head, data = None, bytearray()
        async for piece in request_iterator:
            head = head or piece.head
            data += piece.data
            self.bytes_in += len(piece.data)
        content = bytes(data)
        assert object_id(content) == head.object_id
        assert len(content) == head.size_bytes
        if self.before_object:
            await self.before_object(self)
        # As the gateway does, for an object that took longer than the session in its head lives.
        stored = self.owners.get(head.session_id) in self.sessions.values()
        if stored:
            self.objects[head.object_id] = content
            self.received[head.object_id] += 1
            if self.after_object:
                await self.after_object(self)
        return link.FleetAnswer(status=200, body=message_pb2.PushObjectResponse(stored=stored).SerializeToString())

    async def Pull(self, request, context):
        await self._let_in(context)
        self.calls.append(request)
        if request.method == "get-fab":
            answer = fab_pb2.GetFabResponse(fab=fab_pb2.Fab(hash_str=self.fab_name, content=self.fab))
        else:
            name = message_pb2.PullObjectRequest.FromString(request.body).object_id
            content = self.downloads.get(name)
            answer = message_pb2.PullObjectResponse(
                object_found=content is not None, object_available=content is not None, object_content=content or b""
            )
        body = answer.SerializeToString()
        head = link.AnswerHead(status=200, size_bytes=len(body))
        yield link.AnswerPiece(head=head, data=body[:1000])
        for start in range(1000, len(body), 100_000):
            yield link.AnswerPiece(data=body[start : start + 100_000])


def _ids(tree):
    for child in tree.children:
        yield from _ids(child)
    yield tree.object_id


def reply_to(message_id, contents, *, run_id=7):
    """A SuperNode's ``push-messages`` with a tree of these contents, and the contents by id."""
    root = b"root of " + message_id.encode() + "".join(map(object_id, contents)).encode()
    named = {object_id(content): content for content in (*contents, root)}
    tree = message_pb2.ObjectTree(
        object_id=object_id(root),
        children=[message_pb2.ObjectTree(object_id=object_id(content)) for content in contents],
    )
    metadata = message_pb2.Metadata(
        run_id=run_id,
        message_id=tree.object_id,
        src_node_id=NODE_ID,
        dst_node_id=1,
        reply_to_message_id=message_id,
        ttl=3600,
        created_at=time.time(),
        message_type="train",
    )
    request = fleet_pb2.PushMessagesRequest(
        node=node_pb2.Node(node_id=NODE_ID),
        messages_list=[message_pb2.Message(metadata=metadata)],
        message_object_trees=[tree],
    )
    return request, named
