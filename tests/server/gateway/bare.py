"""SuperLink's own port with the calls of the link, so that one attack can be tried against both."""

import contextlib
import ssl

import httpx
from flwr.proto import message_pb2, node_pb2

from fl.link import link_pb2 as link
from server.gateway import superlink
from tests.server.gateway.player import Player, beating


class BareStub:
    """What ``LinkStub`` does, over HTTPS to SuperLink with nothing but the CA file."""

    def __init__(self, address, ca, node_id):
        verify = ssl.create_default_context(cafile=str(ca))
        self._client = httpx.Client(base_url=f"https://{address}/v1/", verify=verify, timeout=60, trust_env=False)
        self._node = node_pb2.Node(node_id=node_id)

    def post(self, path, body, signature=None):
        headers = superlink._headers(signature or link.Signature(), {})
        answer = self._client.post(path, content=body, headers=headers)
        return link.FleetAnswer(status=answer.status_code, body=answer.content, refusal=answer.text[:200])

    def Call(self, call, timeout=None):
        return self.post(f"fleet/{call.method}", call.body, call.signature)

    def Pull(self, call, timeout=None):
        answer = self.Call(call)
        yield link.AnswerPiece(head=link.AnswerHead(status=answer.status), data=answer.body)

    def Push(self, pieces, timeout=None):
        pieces = list(pieces)
        head = pieces[0].head
        request = message_pb2.PushObjectRequest(
            node=self._node,
            run_id=head.run_id,
            session_id=head.session_id,
            object_id=head.object_id,
            object_content=b"".join(piece.data for piece in pieces),
        )
        return self.post("fleet/push-object", request.SerializeToString(), head.signature)

    def close(self):
        self._client.close()


@contextlib.contextmanager
def bare_player(centre, name):
    """A site's node that reached SuperLink's port itself."""
    site = centre.sites[name]
    stub = BareStub(centre.superlink, centre.superlink_ca, site.node_id)
    with beating(Player(site, None, stub)) as made:
        yield made
    stub.close()
