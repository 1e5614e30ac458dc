"""Certificates that live for less than a minute, and an authority that is replaced, under a run that goes on."""

import os
import types
from pathlib import Path

import pytest
from cryptography import x509

from fl import ports
from fl.files import write_atomic
from fl.processes import Group, program
from server import supervisor, tokens
from server.centre import Centre, found
from server.gateway.config import GatewayConfig
from server.home import EnrolmentConfig, Home, ServerConfig
from tests.edge.link.sites import Echo, wait

pytestmark = [pytest.mark.federation, pytest.mark.slow, pytest.mark.timeout(600)]

LIFE_S = 42.0


def authority_of(chain: Path) -> str:
    """Who signed the first certificate of a chain."""
    return x509.load_pem_x509_certificate(chain.read_bytes()).issuer.rfc4514_string()


def test_no_message_is_dropped_while_certificates_are_renewed_and_the_authority_rotates(tmp_path):
    home, address = Home(tmp_path / "server"), f"127.0.0.1:{ports.free_port()}"
    config = ServerConfig(
        addresses=(address,),
        enrolment=EnrolmentConfig(approval="automatic", certificate_days=LIFE_S / 86_400),
        gateway=GatewayConfig(listen=(address,)),
    )
    found(home, config, roster_authority=None)
    registry, site = Centre(home), tmp_path / "site"
    write_atomic(tmp_path / "token", tokens.invite(registry.enrolment, "berlin").encode(), mode=0o600)
    with Group() as group, supervisor.start(group, home, say=print) as control:
        argv = [program("fl"), "site", "run", "--home", str(site), "--token", f"@{tmp_path / 'token'}"]
        group.start("site", argv, env=os.environ, log=tmp_path / "site.log")
        centre = types.SimpleNamespace(group=group, control=control)
        run = Echo(centre, tmp_path, rounds=1_000_000, nodes=1, **{"size-mib": 0.5, "timeout-s": 60.0})
        run.until(2)

        def renewed() -> int:
            return (site / "link.log").read_text().count("the certificate was renewed")

        first = authority_of(home.gateway / "server.crt")
        assert authority_of(site / "certificates" / "chain.pem") == first
        registry.ca.rotate(overlap_days=config.enrolment.certificate_days)
        registry.refresh()  # as ``fl server rotate-ca`` does
        wait(centre, lambda: authority_of(home.gateway / "server.crt") != first, LIFE_S + 30)
        assert renewed() >= 1
        second, before = authority_of(home.gateway / "server.crt"), renewed()
        wait(centre, lambda: renewed() >= before + 2, 3 * LIFE_S)
        assert authority_of(site / "certificates" / "chain.pem") == second
        run.until(len(run.rounds) + 3)
        rounds, log = run.rounds, (site / "link.log").read_text()
    registry.close()
    assert [facts for facts in rounds if facts["missing"] or facts["failed"]] == [], log
    assert len(rounds) > LIFE_S / 2
    assert "refuses" not in log
    assert log.count("the connection to the centre was lost") == 0, log
