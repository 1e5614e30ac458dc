"""The centre installed with its chart into a genuine Kubernetes: founded, reached, upgraded while it works."""

import re
import socket
import ssl

import httpx
import pytest

from tests.e2e.cluster.centre import HOME, NAMESPACE
from tests.e2e.cluster.sites import helm

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_the_gateway_and_the_control_room_are_reached_through_their_services(centre):
    trust = ssl.create_default_context(cafile=str(centre.ca))
    for host, port in ((centre.address("fl-server-gateway"), 8443), centre.gateway.split(":")):
        # The address of the chart's value stands in the certificate, whatever way leads there.
        name = centre.gateway.split(":")[0]
        with (
            socket.create_connection((host, int(port)), timeout=20) as plain,
            trust.wrap_socket(plain, server_hostname=name) as secure,
        ):
            assert secure.version() == "TLSv1.3"
    ready = httpx.get(f"http://{centre.address('fl-server')}:8081/ready", timeout=20)
    assert ready.status_code == 200, ready.text
    page = centre.api("/", headers={"Accept": "text/html"}, follow_redirects=True)
    assert page.status_code == 200
    assert "<html" in page.text
    me = centre.api("/api/v1/me")
    assert (me.status_code, me.json()["name"]) == (200, "operator")
    with httpx.Client(verify=trust, timeout=20) as nobody:
        assert nobody.get(f"{centre.url}/api/v1/runs").status_code == 401


def test_superlink_is_reached_by_nobody_outside_its_pod(centre):
    listening = centre.kube.get("Service", "fl-server", NAMESPACE)["spec"]["ports"]
    assert {port["port"] for port in listening} == {8081, 8444}
    with socket.socket() as probe:
        probe.settimeout(3)
        assert probe.connect_ex((centre.pod()["status"]["podIP"], 8000)) != 0


def test_its_keys_are_its_own(centre):
    modes = centre.inside("find", HOME, "-name", "*.key", "-printf", "%m %U %P\\n").split("\n")
    found = [line.split() for line in modes if line]
    assert len(found) >= 3
    assert {(mode, user) for mode, user, _ in found} == {("600", "10001")}, found


def test_helm_test_proves_centre_and_site(centre, fleet):
    assert "Phase:          Succeeded" in helm("test", "fl-server", "-n", NAMESPACE)
    said = helm("test", "site", "-n", "fl-system-berlin")
    assert said.count("Phase:          Succeeded") == 2, said


def test_an_upgrade_and_a_rollback_of_the_centre_during_a_run_lose_no_round(centre, fleet):
    run = fleet.start_run(5)
    for number, change in enumerate((lambda: centre.install(podAnnotations={"example.org/upgrade": "1"}),
                                     lambda: helm("rollback", "fl-server", "-n", NAMESPACE)), 1):  # fmt: skip
        centre.kube.wait(lambda number=number: fleet.round_done(number - 1) or run.poll() is not None, "a round", 300)
        before = centre.pod()["metadata"]["name"]
        change()
        centre.wait_ready(other_than=before)
    text = fleet.finish_run(run)
    assert "run completed: 5 " in text, text
    for number in range(1, 6):
        assert re.search(rf"^round {number}: 3 sites", text, re.MULTILINE), text
