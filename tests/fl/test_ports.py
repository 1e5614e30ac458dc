import contextlib
import socket

import pytest

from fl import ports
from fl.errors import BusyError


def test_chosen_ports_are_free():
    assert ports.is_free(ports.free_port())


def test_a_port_in_use_is_refused_with_a_way_out():
    with contextlib.closing(socket.socket()) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert ports.accepts_connections("127.0.0.1", port)
        with pytest.raises(BusyError, match=f"port {port} is in use") as caught:
            ports.check_port(port)
    assert "--port" in caught.value.hint
    assert ports.check_port(port) == port
    assert not ports.accepts_connections("127.0.0.1", port)
