import socket
import stat

import pytest

from edge.datagrams import Mailbox, send
from fl.errors import StorageError


@pytest.fixture
def mailbox(tmp_path):
    box = Mailbox(tmp_path / "runner.sock")
    yield box
    box.close()


def test_notes_come_in_order_and_nobody_waits_for_one(mailbox):
    assert mailbox.receive() == []
    assert send(mailbox.path, {"mail": "a", "run": 1})
    assert send(mailbox.path, {"mail": "b", "run": 1})
    assert mailbox.receive() == [{"mail": "a", "run": 1}, {"mail": "b", "run": 1}]
    assert mailbox.receive() == []


def test_a_note_to_nobody_is_lost_without_an_error(tmp_path, mailbox):
    assert not send(tmp_path / "link.sock", {"answered": "a"})
    mailbox.close()
    assert not send(mailbox.path, {"mail": "a"})


def test_a_full_mailbox_does_not_stop_the_sender(mailbox):
    sent = 0
    while send(mailbox.path, {"mail": "a"}):
        sent += 1
        assert sent < 100_000
    assert len(mailbox.receive()) == sent


def test_what_is_no_json_object_is_left_out(mailbox):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.connect(str(mailbox.path))
        for said in (b"", b"\xff", b"[1]", b'{"mail": "a"}'):
            sender.send(said)
    assert mailbox.receive() == [{"mail": "a"}]


def test_paths_may_be_longer_than_a_sockets_address(tmp_path):
    home = tmp_path / ("long" * 40)
    home.mkdir()
    box = Mailbox(home / "runner.sock")
    assert send(box.path, {"mail": "a"})
    assert box.receive() == [{"mail": "a"}]
    box.close()


def test_only_the_owner_can_write_and_a_former_life_is_replaced(mailbox):
    assert stat.S_IMODE(mailbox.path.stat().st_mode) == 0o600
    again = Mailbox(mailbox.path)
    assert send(mailbox.path, {"mail": "a"})
    assert again.receive() == [{"mail": "a"}]


def test_a_missing_directory_is_an_error_in_words(tmp_path):
    with pytest.raises(StorageError, match="cannot make the socket"):
        Mailbox(tmp_path / "nowhere" / "runner.sock")
