"""A SuperNode's own parts in this process: its memory, its Runtime API on a port, its steps for a message and a reply.

Only the connection to a SuperLink is left out: ``ask`` stands in for it.
"""

import hashlib
import os
import threading
import time
from pathlib import Path

import uvicorn
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.fab import Fab
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supercore.run import Run
from flwr.supernode import start_client_internal as steps
from flwr.supernode.main import create_app
from flwr.supernode.nodestate import NodeStateFactory

from fl import ports
from fl.files import write_atomic
from fl.flower.private import ensure_identity
from server import bundle

PROJECT = """\
[project]
name = "probe"
version = "1.0.0"
[tool.flwr.app]
publisher = "tests"
[tool.flwr.app.components]
serverapp = "probe_server:app"
clientapp = "probe_app:app"
[tool.flwr.app.config]
offset = 0
"""
HEAD = """\
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
app = ClientApp()
def reply(message, **values):
    return Message(RecordDict({"answer": ConfigRecord(values)}), reply_to=message)
"""


def app_of(body, **files):
    """The bundle of an app whose module has this text, after some imports; and more files of it."""
    more = {f"{name}.py": text.encode() for name, text in files.items()}
    return bundle.from_files(
        {"pyproject.toml": PROJECT.encode(), "probe_app.py": (HEAD + body).encode(), "probe_server.py": b"", **more}
    )


def wait_until(condition, timeout_s=60, otherwise="it did not happen"):
    """Wait for something to become true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.02)


class Node:
    """A SuperNode without a SuperLink.

    Args:
        home: Of the site; the secret for the runner is made there.
    """

    def __init__(self, home: Path, **node_config):
        ensure_identity()
        self.home = home
        self.secret = home / "keys" / "executor.secret"
        self.secret.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.secret, os.urandom(32), mode=0o600)
        self.port = ports.free_port()
        self._node_config = node_config
        self._bundles: dict[int, bytes] = {}
        self._server = None
        self.start()

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        """Begin a life with an empty memory."""
        factory = NodeStateFactory(ObjectStoreFactory())
        self.state, self.store = factory.state(), factory.objectstore_factory.store()
        self.state.set_node_id(7)
        app = create_app(factory, self.secret.read_bytes())
        self._server = uvicorn.Server(uvicorn.Config(app, port=self.port, log_level="warning", ws="none"))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self):
        """End this life."""
        self._server.should_exit = True
        self._thread.join()

    def deliver(self, fab, content=None, run_id=None, kind="train", pull_object=None, pieces=None):
        """Take a message in as the SuperNode does; return its id."""
        digest = hashlib.sha256(fab).hexdigest()
        run_id = run_id or int(digest[:12], 16)  # a run has one app
        content = content or RecordDict({"question": ConfigRecord({"x": 1})})
        message = Message(content, dst_node_id=7, message_type=kind)
        message.metadata.__dict__["_run_id"] = run_id
        message.metadata.__dict__["_message_id"] = message.object_id
        tree = get_object_tree(message)
        pieces = {} if pieces is None else pieces
        pieces |= {key: piece.deflate() for key, piece in get_all_nested_objects(message).items()}
        run = Run.create_empty(run_id)
        run.fab_id, run.fab_version, run.fab_hash = "tests/probe", "1.0.0", digest
        run.series_id = run_id
        steps._pull_and_store_message(
            self.state,
            self.store,
            self._node_config,
            receive=lambda: (remove_content_from_message(message), tree),
            get_run=lambda _: run,
            get_fab=lambda digest, _: Fab(digest, fab, {}),
            pull_object=pull_object or (lambda _, object_id: pieces[object_id]),
            confirm_message_received=lambda *_: None,
            trusted_entities=None,
        )
        return message.metadata.message_id

    def take(self, timeout_s=60):
        """Wait for a reply and send it off as the SuperNode does; return it."""
        sent = {}

        def send(message, tree, _):
            sent["head"], sent["tree"] = message, tree
            return {node.object_id for node in _nodes(tree)}, "session"

        def push(_run, _session, object_id, content):
            sent[object_id] = content

        # Its own wait for a reply looks twice a second, and has no limit.
        wait_until(self.has_reply, timeout_s, "no reply came")
        thread = threading.Thread(target=steps._push_messages, args=(self.state, self.store, send, push), daemon=True)
        thread.start()
        thread.join(timeout_s)
        assert not thread.is_alive(), "no reply came"
        return inflate_object_from_contents(
            sent["tree"].object_id, {node.object_id: sent[node.object_id] for node in _nodes(sent["tree"])}
        )

    def has_reply(self):
        """Whether a reply is here, with all its pieces."""
        entries = [entry.message.metadata for entry in self.state.msg_store.values()]
        replies = [metadata.message_id for metadata in entries if metadata.reply_to_message_id]
        return bool(replies) and all(
            self.store.get(node.object_id) for node in _nodes(self.store.get_object_tree(replies[0]))
        )

    def ask(self, fab, content=None, timeout_s=60, **options):
        """Deliver a message and take the reply."""
        self.deliver(fab, content, **options)
        return self.take(timeout_s)


def _nodes(tree: ObjectTree):
    yield tree
    for child in tree.children:
        yield from _nodes(child)
