"""The gateway while the centre's store is away: everybody waits, nobody is sent off, and one line is said."""

import logging
import time

import grpc
import pytest

from fl.link import link_pb2, link_pb2_grpc
from fl.link.identity import GATEWAY_NAME
from server.certificates import private_pem
from server.store.places import VARIABLE
from tests.server import kit
from tests.server.postgres import PostgresServer, programs


def hello(joined, port):
    """The first call of a site's link."""
    certificates = joined.reply.certificates
    credentials = grpc.ssl_channel_credentials(
        certificates.authorities, private_pem(joined.keys.transport), certificates.transport_chain
    )
    options = [("grpc.ssl_target_name_override", GATEWAY_NAME), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        request = link_pb2.HelloRequest(protocol=1, clock_s=time.time(), version="0", flower="1")
        return link_pb2_grpc.LinkStub(channel).Hello(request, timeout=60)


def code_of(joined, port):
    with pytest.raises(grpc.RpcError) as caught:
        hello(joined, port)
    return caught.value.code()


@pytest.mark.slow
def test_sites_wait_while_postgresql_is_away_and_a_revocation_holds_when_it_is_back(tmp_path, monkeypatch, caplog):
    if programs() is None:
        pytest.skip("no PostgreSQL is installed")
    server = PostgresServer()
    try:
        monkeypatch.setenv(VARIABLE, server.database())
        centre = kit.make_centre(tmp_path / "home")
        centre.refresh()
        stays, goes = kit.join(centre, "berlin"), kit.join(centre, "potsdam")
        with kit.running_gateway(centre) as port:
            assert hello(stays, port).site == "berlin"
            assert hello(goes, port).site == "potsdam"
            centre.registry.revoke("potsdam", "sold")
            server.stop()
            caplog.clear()
            for site in (stays, goes) * 5:
                assert code_of(site, port) is grpc.StatusCode.UNAVAILABLE
            lines = {record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR}
            assert 1 <= len(lines) <= 2, lines  # it was cut off in the middle, and then could not be reached
            assert all(line.startswith("cannot use PostgreSQL fedfleet") for line in lines)
            assert sum(record.levelno >= logging.ERROR for record in caplog.records) == len(lines)
            server.start()
            assert hello(stays, port).site == "berlin"
            assert code_of(goes, port) is grpc.StatusCode.PERMISSION_DENIED
        centre.close()
    finally:
        server.end()
