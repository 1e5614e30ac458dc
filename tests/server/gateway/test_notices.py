"""Both ends of the line between ServerApps and the gateway, over a real unix socket."""

import asyncio
import json
import socket
import threading
import time

import pytest

from fl.files import socket_name
from fl.flower.mail import GatewayLine
from server.gateway.notices import Notices


class Gateway:
    """The gateway's end, in a thread."""

    def __init__(self, path):
        self.path, self.mail, self.changes = path, [], []
        self.notices = Notices(lambda nodes: self.mail.append(list(nodes)), lambda: self.changes.append(1))
        ready = threading.Event()

        async def serve():
            self.loop, self.end = asyncio.get_running_loop(), asyncio.Event()
            server = await self.notices.serve(path)
            ready.set()
            await self.end.wait()
            server.close()

        self.thread = threading.Thread(target=lambda: asyncio.run(serve()))
        self.thread.start()
        assert ready.wait(10)

    def landed(self, run_id, message_id):
        self.loop.call_soon_threadsafe(self.notices.landed, run_id, message_id)

    def close(self):
        self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join(10)


@pytest.fixture
def gateway(tmp_path):
    made = Gateway(tmp_path / "gateway.sock")
    yield made
    made.close()


def until(condition, timeout_s=10):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_the_gateway_hears_who_has_mail(gateway):
    line = GatewayLine(gateway.path, 7)
    line.mail([1, 2**64 - 1])
    until(lambda: gateway.mail == [[1, 2**64 - 1]])
    assert gateway.notices.is_noticed(7)
    assert not gateway.notices.is_noticed(8)
    line.close()
    until(lambda: not gateway.notices.is_noticed(7))


def test_a_run_hears_of_its_own_replies_only(gateway):
    mine, other = GatewayLine(gateway.path, 7), GatewayLine(gateway.path, 8)
    mine.mail([1])
    other.mail([1])
    until(lambda: len(gateway.mail) == 2)
    gateway.landed(7, "m1")
    assert mine.wait(10) is True
    assert other.wait(0.1) is False
    mine.close()
    other.close()


def test_mail_for_many_nodes_takes_several_lines(gateway):
    line = GatewayLine(gateway.path, 7)
    line.mail(range(25_000))
    until(lambda: sum(map(len, gateway.mail)) == 25_000)
    assert len(gateway.mail) == 3
    line.close()


def test_a_command_says_that_the_registry_changed(gateway):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as command:
        with socket_name(gateway.path) as name:
            command.connect(name)
        command.sendall(b'{"changed": true}\n')
        until(lambda: gateway.changes == [1])


@pytest.mark.parametrize("line", [b"nonsense\n", b"[]\n", b'{"changed": 1}\n', b'{"mail": "x"}\n', b"x" * 2_000_000])
def test_a_line_that_says_nothing_ends_that_connection_and_no_other(gateway, line):
    good = GatewayLine(gateway.path, 7)
    good.mail([1])
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bad:
        with socket_name(gateway.path) as name:
            bad.connect(name)
        bad.settimeout(10)
        try:
            bad.sendall(line)
            assert bad.recv(10) == b""
        except ConnectionError:
            pass
    good.mail([2])
    until(lambda: gateway.mail == [[1], [2]])
    good.close()


def test_without_a_gateway_waiting_is_just_waiting(tmp_path):
    for line in (GatewayLine(None, 7), GatewayLine(tmp_path / "nobody.sock", 7)):
        line.mail([1])
        began = time.monotonic()
        assert line.wait(0.05) is False
        assert time.monotonic() - began >= 0.045
        assert not line.is_open


def test_a_gateway_that_comes_later_is_found(tmp_path, monkeypatch):
    line = GatewayLine(tmp_path / "gateway.sock", 7)
    line.mail([1])
    assert not line.is_open
    made = Gateway(tmp_path / "gateway.sock")
    line._again_at = 0.0  # two seconds later
    line.mail([1])
    assert line.is_open
    until(lambda: json.dumps(made.mail) == "[[1]]")
    line.close()
    made.close()


def test_the_socket_is_for_its_owner_only(gateway):
    assert gateway.path.stat().st_mode & 0o777 == 0o600
