"""Mail that was marked as delivered and reached nobody, in Flower's own database."""

import sqlite3
import subprocess
import sys

import pytest
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.app.message_type import MessageType
from flwr.server.superlink.linkstate.linkstate_factory import LinkStateFactory
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import get_object_tree, no_object_id_recompute
from flwr.supercore.object_store.object_store_factory import ObjectStoreFactory
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager

from fl.errors import StorageError
from fl.flower.private import ensure_identity
from server import claims


class SuperLink:
    """SuperLink's state as its handlers use it."""

    def __init__(self, path):
        self.path = path
        self.state = LinkStateFactory(str(path), NoOpFederationManager(), ObjectStoreFactory(str(path))).state()
        self.run = self.state.create_run(None, None, "", {}, NOOP_FEDERATION_ID, None, "", TaskType.SERVER_APP)
        self.node = self.state.create_node("", "", b"key", 30.0)
        assert self.state.activate_node(self.node, 30.0)

    def store(self, message):
        message.metadata.__dict__["_run_id"] = self.run
        with no_object_id_recompute():
            message.metadata.__dict__["_message_id"] = message.object_id
            session = self.state.start_session(self.run)
            head, tree = remove_content_from_message(message), get_object_tree(message)
            stored, _ = self.state.store_message_and_object_tree(head, tree, session)
        assert stored
        return message

    def send(self):
        ensure_identity()
        message = Message(RecordDict(), self.node, MessageType.QUERY)
        message.metadata.__dict__["_src_node_id"] = 1
        return self.store(message).metadata.message_id

    def answer(self, message):
        message = Message(RecordDict(), reply_to=message)
        message.metadata.__dict__["_src_node_id"] = self.node
        return self.store(message)

    def given(self):
        """What a node gets that asks for mail now."""
        return self.state.get_message_ins(self.node, limit=1)

    def replies(self, message_id):
        return self.state.get_message_res({message_id}, self.run)


@pytest.fixture
def superlink(tmp_path):
    return SuperLink(tmp_path / "state.db")


def release(superlink, known=(), *, replies=True):
    return claims.release(superlink.path, known, replies=replies)


def test_a_message_whose_delivery_died_is_given_again(superlink):
    message_id = superlink.send()
    (lost,) = superlink.given()
    assert lost.metadata.message_id == message_id
    assert superlink.given() == []
    assert release(superlink) == claims.Released(messages=1)
    (again,) = superlink.given()
    assert again.metadata.message_id == message_id


def test_a_message_that_the_gateway_has_is_not_given_again(superlink):
    message_id = superlink.send()
    superlink.given()
    assert release(superlink, {message_id}) == claims.Released()
    assert superlink.given() == []


def test_a_message_that_its_node_confirmed_or_answered_is_not_given_again(superlink):
    superlink.send()
    superlink.state.object_store.delete(superlink.given()[0].metadata.message_id)
    superlink.send()
    superlink.answer(superlink.given()[0])
    assert release(superlink) == claims.Released()
    assert superlink.given() == []


def test_a_reply_that_was_marked_and_not_handed_over_is_there_again(superlink):
    message_id = superlink.send()
    superlink.answer(superlink.given()[0])
    assert len(superlink.replies(message_id)) == 1
    assert superlink.replies(message_id) == []  # this is how a round waits for its timeout
    assert release(superlink, replies=False) == claims.Released()
    assert release(superlink) == claims.Released(replies=1)
    assert len(superlink.replies(message_id)) == 1


def test_a_database_that_is_not_there_or_empty_is_left_alone(tmp_path):
    assert claims.release(tmp_path / "none.db", (), replies=True) == claims.Released()
    assert not (tmp_path / "none.db").exists()
    sqlite3.connect(tmp_path / "empty.db").close()
    assert claims.release(tmp_path / "empty.db", (), replies=True) == claims.Released()


def test_a_database_that_is_none_is_a_refusal_in_one_line(tmp_path):
    (tmp_path / "state.db").write_text("no database at all, but long enough to be taken for one" * 20)
    with pytest.raises(StorageError, match=r"state\.db: file is not a database"):
        claims.release(tmp_path / "state.db", (), replies=True)


def test_the_command_gives_back_and_becomes_the_program(superlink, tmp_path, capfd):
    superlink.send()
    superlink.given()
    program = [sys.executable, "-c", "print('in its place')"]
    subprocess.run(claims.argv(superlink.path, tmp_path / "ledger.db", program), check=True)
    out, err = capfd.readouterr()
    assert (out, err) == ("in its place\n", "given back: 1 messages, 0 replies\n")
    assert len(superlink.given()) == 1


def test_flowers_tables_have_the_columns_that_are_used(superlink):
    with sqlite3.connect(superlink.path) as db:
        for table, columns in claims.TABLES.items():
            assert set(columns) <= {row[1] for row in db.execute(f"PRAGMA table_info({table})")}, table
