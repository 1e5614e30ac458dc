"""``python -m tests.edge.link.handover HOME PORT KIB COUNT``: a SuperNode in a namespace of its own.

It takes one message, pulls its objects, and hands a reply of COUNT objects of KIB each over, with Flower's own client.
"""

import random
import sys
from pathlib import Path
from types import SimpleNamespace

from cryptography.hazmat.primitives import serialization
from flwr.proto import fleet_pb2, message_pb2

from edge.home import Home
from tests.edge.link.fleet_centre import reply_to
from tests.edge.link.kit import NODE, World


def main(home, port, kib, count):
    key = serialization.load_ssh_private_key((home.node_key).read_bytes(), password=None)
    made = World(home, None, None, 0, None, SimpleNamespace(node_key=key), port)
    http = made.client()
    while not (answer := http.PullMessages(fleet_pb2.PullMessagesRequest(node=NODE))).messages_list:
        pass
    message_id = answer.messages_list[0].metadata.message_id
    for tree in answer.message_object_trees[0].children:
        request = message_pb2.PullObjectRequest(node=NODE, run_id=7, object_id=tree.object_id)
        while True:
            try:
                assert http.PullObject(request).object_found
                break
            except Exception as err:
                if "503" not in str(err):  # Flower's SuperNode tries again, too
                    raise
    chance = random.Random(5)
    request, contents = reply_to(message_id, [chance.randbytes(kib * 1024) for _ in range(count)])
    announced = http.PushMessages(request)
    for name in announced.objects_to_push:
        pushed = message_pb2.PushObjectRequest(
            node=NODE, run_id=7, object_id=name, object_content=contents[name], session_id=announced.session_id
        )
        assert http.PushObject(pushed).stored
    print(request.messages_list[0].metadata.message_id)


if __name__ == "__main__":
    main(Home(Path(sys.argv[1])), *map(int, sys.argv[2:5]))
