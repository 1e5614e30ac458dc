"""The registry and a real SuperLink: who joins is registered there, who leaves is not; Flower takes a key only once."""

import contextlib

import pytest

from fl import ports, processes
from fl.errors import InputError
from fl.processes import Group
from server import certificates, superlink
from server.centre import Centre
from server.membership import sync
from server.tokens import reinvite
from tests.server import kit

pytestmark = pytest.mark.federation


@pytest.fixture
def centre(tmp_path):
    home = kit.make_home(tmp_path / "server")
    files = certificates.create(tmp_path / "keys")
    with contextlib.ExitStack() as ends:
        group = ends.enter_context(Group())
        port = ports.free_port()
        env = processes.environment(home=tmp_path / "flower")
        superlink.start(group, home=home.superlink, port=port, files=files, env=env)
        home.write_reach(f"{superlink.HOST}:{port}", files.ca)
        group.wait(lambda: superlink.is_healthy(port, files.ca), what="SuperLink", timeout_s=120, say=print)
        centre = Centre(home)
        yield centre
        centre.close()


def nodes(centre):
    with centre.home.connect() as control:
        return {node.name: node for node in control.nodes()}


def test_flowers_list_of_nodes_follows_the_registry(centre):
    berlin, paris = kit.join(centre, "berlin"), kit.join(centre, "paris")
    found = nodes(centre)
    assert {name: node.public_key for name, node in found.items()} == {
        "berlin": berlin.keys.public.node,
        "paris": paris.keys.public.node,
    }
    assert centre.site_of_certificate(berlin.certificate).node_id == found["berlin"].node_id
    centre.registry.revoke("berlin", "")
    assert centre.apply()[-1] == "unregistered the node of berlin"
    assert list(nodes(centre)) == ["paris"]
    assert nodes(centre)["paris"] == found["paris"]

    # Flower keeps a key that was given up: this is why a site that was revoked or renamed makes new ones.
    with centre.home.connect() as control, pytest.raises(InputError, match="public key"):
        control.register_node(berlin.keys.public.node, name="berlin")

    again = kit.ask(centre, reinvite(centre.enrolment, "berlin"), kit.make_keys())
    assert again.state == "approved"
    assert sorted(nodes(centre)) == ["berlin", "paris"]
    with centre.home.connect() as control:
        assert sync(centre.registry, control) == []
