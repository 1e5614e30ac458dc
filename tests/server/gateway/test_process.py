"""The gateway as the process that ``fl server gateway`` is: its health, its death, its end."""

import os
import signal
import socket
import ssl
import stat

import httpx
import pytest

from fl import ports
from fl.flower.mail import GatewayLine
from fl.link.identity import GATEWAY_NAME
from fl.processes import Group
from server import supervisor
from server.centre import found
from server.gateway.config import GatewayConfig
from server.gateway.start import GATEWAY, is_ready
from server.home import EnrolmentConfig, Home, ServerConfig
from tests.server.gateway.conftest import until

pytestmark = [pytest.mark.federation, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    address, health = f"127.0.0.1:{ports.free_port()}", f"127.0.0.1:{ports.free_port()}"
    home = Home(tmp_path_factory.mktemp("server") / ("a-long-name-" * 9))  # longer than a socket's name can be
    gateway = GatewayConfig(listen=(address,), health=health)
    found(
        home,
        ServerConfig(addresses=(address,), enrolment=EnrolmentConfig(approval="automatic"), gateway=gateway),
        roster_authority=None,
    )
    return home


@pytest.fixture(scope="module")
def group(home):
    with Group() as group, supervisor.start(group, home, say=print):
        yield group


def health(home, path):
    with httpx.Client(trust_env=False, timeout=10) as client:
        return client.get(f"http://{home.config().gateway.health}{path}")


def test_probes_learn_whether_it_lives_and_whether_superlink_does(home, group):
    assert health(home, "/live").status_code == 200
    ready = health(home, "/ready")
    assert ready.status_code == 200
    assert ready.json()["superlink"] is True
    assert ready.json()["sites"] == 0
    assert health(home, "/metrics").status_code == 404


def test_its_socket_and_ledger_are_for_its_owner_only(home, group):
    for path in (home.socket, home.gateway / "ledger.db", home.gateway / "gateway.log"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def shake_hands(home, version):
    """The version of TLS that is spoken with somebody who takes only that one, and any suite of it."""
    spoken = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    spoken.minimum_version = spoken.maximum_version = version
    spoken.load_verify_locations(home.gateway / "authorities.pem")
    spoken.set_ciphers("ALL:@SECLEVEL=0")
    spoken.set_alpn_protocols(["h2"])
    host, _, port = home.config().gateway.listen[0].rpartition(":")
    plain = socket.create_connection((host, int(port)), timeout=10)
    with plain, spoken.wrap_socket(plain, server_hostname=GATEWAY_NAME) as done:
        return done.version()


def test_tls_1_3_is_spoken_and_nothing_older(home, group):
    assert shake_hands(home, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_1):
        with pytest.raises(OSError, match=r"(?i)handshake|alert|reset|eof|protocol|version"):
            shake_hands(home, version)


def test_a_gateway_that_is_killed_is_back_and_a_serverapp_finds_it_again(home, group):
    line = GatewayLine(home.socket, 7)
    line.mail([1])
    assert line.is_open
    child = group.children[GATEWAY]
    lives = child.lives
    os.kill(child.process.pid, signal.SIGKILL)
    assert line.wait(5) is False
    assert not line.is_open

    def is_back():
        group.poll()
        return child.lives > lives and is_ready(home.path)

    until(is_back)
    until(lambda: line.mail([1]) or line.is_open, 10)
    line.close()


def test_superlink_away_makes_it_unready_but_not_dead(home, group):
    child = group.children["superlink"]
    os.kill(child.process.pid, signal.SIGSTOP)
    try:
        assert health(home, "/live").status_code == 200
        assert health(home, "/ready").status_code == 503
    finally:
        os.kill(child.process.pid, signal.SIGCONT)
    until(lambda: health(home, "/ready").status_code == 200)


def test_it_ends_when_it_is_asked_to(home, group):
    child = group.children[GATEWAY]
    child.process.terminate()
    assert child.process.wait(20) == 0
