"""The connection: found again, renewed, refused, through a proxy, by another address."""

import asyncio
import base64
import datetime
import os
import socket
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

from edge.link.certificate import credentials, read_key
from edge.link.channel import Channel, LostError
from edge.link.renewal import Renewal
from edge.link.signing import NodeKey
from fl import ports
from fl.errors import ConfigError, RefusedError
from fl.link import certificates, link_pb2
from fl.link.identity import BACKDATED_S
from fl.secagg.identity import Identity
from fl.secagg.roster import Roster, sign_roster
from tests import centre as real
from tests.edge.link.fleet_centre import FleetCentre
from tests.edge.link.kit import SuperNode, World, link, make_home, read, serving, until, world
from tests.edge.link.wires import Line, Proxy


def channel(it):
    return it.status.centre.channel


def test_it_comes_back_when_the_gateway_does(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            await it.server.stop(0)
            await until(lambda: channel(it).connection is None)
            await until(lambda: "nobody listens there" in channel(it).words)
            async with serving(it.centre, it.authority, port=it.centre_port):
                await it.connected()
                it.centre.post([b"mail"])
                assert (await SuperNode(it).pull()).messages_list
            assert len({hello.instance for hello in it.centre.hellos}) == 1  # the same life of the link

    asyncio.run(scenario())


def test_a_held_question_survives_a_lost_connection(tmp_path):
    async def scenario():
        async with world(tmp_path, line=Line) as it:
            pulling = asyncio.create_task(SuperNode(it).pull())
            await until(lambda: it.calls("pull-messages"))
            it.line.reset()
            await until(lambda: len(it.calls("pull-messages")) > 1)
            it.centre.post([b"mail"])
            assert (await pulling).messages_list

    asyncio.run(scenario())


def test_a_call_that_could_not_be_written_to_its_end_is_lost_and_cancels_nobody(tmp_path):
    async def broken():
        yield link_pb2.PushPiece(data=b"a part")
        raise asyncio.InvalidStateError("the call is over")  # what gRPC says of a connection that broke meanwhile

    async def scenario():
        async with world(tmp_path) as it:
            with pytest.raises(LostError):
                async with channel(it).calling() as stub:
                    await stub.Push(broken())
            assert (await SuperNode(it).beat()).success  # the connection itself is as good as before

    asyncio.run(scenario())


def test_the_next_address_is_tried_when_one_does_not_answer(tmp_path):
    async def scenario():
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))  # taken, but nobody listens
            dead = nobody.getsockname()[1]
            both = lambda port: [f"127.0.0.1:{dead}", f"127.0.0.1:{port}"]  # noqa: E731
            async with world(tmp_path, gateways=both) as it:
                assert channel(it).connection.address == f"127.0.0.1:{it.centre_port}"

    asyncio.run(scenario())


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as end:
            end.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
def test_an_ipv6_address_is_reached(tmp_path):
    async def scenario():
        centre = FleetCentre()
        home, authority, site = make_home(tmp_path / "site", ["[::1]:1"])
        async with serving(centre, authority, host="[::1]") as (server, port):
            (home.path / "site.toml").write_text(f'id = "site-1"\ngateways = ["[::1]:{port}"]\n')
            it = World(home, centre, server, port, authority, site, ports.free_port())
            async with link(it):
                await it.connected()
                assert centre.hellos

    asyncio.run(scenario())


@pytest.mark.parametrize("login", ["", "ada:secret"])
def test_a_proxy_finds_a_name_that_the_site_cannot(tmp_path, login):
    async def scenario():
        names = {}
        async with Proxy(names, login) as proxy:
            (tmp_path / "login").write_text(login)
            (tmp_path / "login").chmod(0o600)
            keys = {"proxy": f"http://127.0.0.1:{proxy.port}"}
            if login:
                keys["proxy_credentials_file"] = str(tmp_path / "login")
            named = lambda port: names.update({"gateway.invalid:443": port}) or ["gateway.invalid:443"]  # noqa: E731
            async with world(tmp_path, gateways=named, **keys) as it:
                assert proxy.asked[-1] == ("CONNECT", "gateway.invalid:443")
                it.centre.post([b"mail"])
                assert (await SuperNode(it).pull()).messages_list

    asyncio.run(scenario())


def test_a_proxy_that_refuses_is_named(tmp_path):
    async def scenario():
        async with Proxy({}) as proxy:
            keys = {"proxy": f"http://127.0.0.1:{proxy.port}"}
            named = lambda port: ["gateway.invalid:443"]  # noqa: E731
            async with world(tmp_path, start=False, gateways=named, **keys) as it, link(it):
                await until(lambda: "proxy" in channel(it).words.lower())

    asyncio.run(scenario())


def test_a_revoked_site_is_told_so_and_comes_back_when_it_is_let_in(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            it.centre.denied = "site-1 was revoked on 2026-01-31"
            pulling = asyncio.create_task(SuperNode(it).pull())
            await until(lambda: channel(it).refused)
            await until(lambda: it.home.status.exists() and read(it.home.status)["state"] == "refused")
            assert "revoked on 2026-01-31" in read(it.home.status)["waits_for"]
            it.centre.denied = ""
            channel(it).hurry()
            await it.connected()
            it.centre.post([b"mail"])
            assert (await pulling).messages_list
            assert not channel(it).refused

    asyncio.run(scenario())


def test_a_site_in_quarantine_asks_for_no_mail(tmp_path):
    async def scenario():
        centre = FleetCentre()
        centre.state = "quarantined"
        async with world(tmp_path, centre=centre) as it:
            it.centre.post([b"mail"])
            pulling = asyncio.create_task(SuperNode(it).pull())
            await until(lambda: "quarantine" in it.status.waits_for())
            await asyncio.sleep(0.3)
            assert not it.calls("pull-messages")
            centre.state = "active"
            it.status.change()  # the next report brings the news
            assert (await pulling).messages_list

    asyncio.run(scenario())


def test_the_certificate_is_renewed_without_dropping_a_message(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            before = x509.load_pem_x509_certificate(it.home.chain.read_bytes())
            pulling = asyncio.create_task(SuperNode(it).pull())
            await until(lambda: it.calls("pull-messages"))
            first = channel(it).connection
            channel(it).renew_at_s = 1.0
            await until(lambda: it.centre.renewals, 60)
            await until(lambda: channel(it).connection not in (None, first))
            assert not pulling.done()
            it.centre.post([b"mail"])  # over the old connection, which still has the question
            assert (await pulling).messages_list
            assert len(it.calls("pull-messages")) == 1
            after = x509.load_pem_x509_certificate(it.home.chain.read_bytes())
            assert after.serial_number != before.serial_number
            assert after.public_key() == before.public_key()

    asyncio.run(scenario())


def aged(it, days):
    """A certificate for seven days that was made so many days ago."""
    made = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
    name = x509.UniformResourceIdentifier("urn:fedfleet:site:site-1")
    signed = certificates.issue(
        read_key(it.home.transport_key).public_key(),
        [name],
        it.authority.certificate,
        it.authority.key,
        is_server=False,
        since=made - datetime.timedelta(seconds=BACKDATED_S),
        until=made + datetime.timedelta(days=7),
    )
    it.home.chain.write_bytes(certificates.pem(signed))


def test_a_certificate_is_renewed_at_two_thirds_of_its_life(tmp_path):
    async def scenario():
        async with world(tmp_path, start=False) as it:
            aged(it, 5)
            async with link(it):
                await until(lambda: it.centre.renewals)
                await until(lambda: len(it.centre.hellos) == 2)

    asyncio.run(scenario())


def test_a_certificate_is_not_renewed_before(tmp_path):
    async def scenario():
        async with world(tmp_path, start=False) as it:
            aged(it, 4)
            async with link(it):
                await it.connected()
                due_s = Renewal(channel(it), tell=print).due_s()
                channel(it).renew_at_s = 0.0
                left_s = Renewal(channel(it), tell=print).due_s() - time.time()
                assert abs(left_s - (7 * 2 / 3 - 4) * 86_400) < 60
                assert due_s - time.time() < 3600 + 60, "the centre may ask for it earlier"
                assert not it.centre.renewals

    asyncio.run(scenario())


def test_a_certificate_for_another_key_is_not_taken(tmp_path):
    async def scenario():
        async with world(tmp_path) as it:
            other = it.authority.issue(ec.generate_private_key(ec.SECP256R1()), uri="urn:fedfleet:site:site-1")
            before = it.home.chain.read_bytes()
            it.centre.issue = lambda csr: link_pb2.Certificates(transport_chain=other, authorities=it.authority.pem)
            with pytest.raises(RefusedError, match="for another key than this site's"):
                await Renewal(channel(it), tell=print).renew()
            assert it.home.chain.read_bytes() == before

    asyncio.run(scenario())


def test_a_certificate_that_ran_out_while_the_site_slept_is_said_plainly(tmp_path):
    home, authority, site = make_home(tmp_path / "site", ["127.0.0.1:9"])
    home.chain.write_bytes(authority.issue(site.node_key, uri="urn:fedfleet:site:site-1", days=0))
    with pytest.raises(RefusedError, match=r"this site's certificate ran out on 20.* fl site rejoin ID"):
        credentials(home)


def test_a_site_that_slept_past_its_certificate_says_so_and_works_once_it_has_joined_again(tmp_path):
    async def scenario():
        async with world(tmp_path, start=False) as it:
            good = it.home.chain.read_bytes()
            it.home.chain.write_bytes(it.authority.issue(it.site.node_key, uri="urn:fedfleet:site:site-1", days=0))
            async with link(it) as status:
                await until(lambda: "certificate ran out on 20" in status.waits_for())
                assert not it.centre.hellos
                it.home.chain.write_bytes(good)
                await until(lambda: it.centre.hellos)

    asyncio.run(scenario())


def test_a_key_that_others_can_read_is_not_used(tmp_path):
    home, _, _ = make_home(tmp_path / "site", ["127.0.0.1:9"])
    os.chmod(home.transport_key, 0o644)
    with pytest.raises(ConfigError, match="open to other users"):
        credentials(home)


def test_a_gateway_of_another_authority_is_not_trusted(tmp_path):
    async def scenario():
        async with world(tmp_path, start=False) as it:
            it.home.authorities.write_bytes(real.Authority("another").pem)
            async with link(it):
                await until(lambda: "not of an authority that this site trusts" in channel(it).words)
            assert not it.centre.hellos

    asyncio.run(scenario())


def test_a_clock_that_is_off_is_said_and_signatures_are_made_by_the_centres(tmp_path):
    async def scenario():
        centre = FleetCentre()
        centre.clock_offset_s = 3600.0
        async with world(tmp_path, centre=centre) as it:
            await SuperNode(it).activate()
            words = "the site's clock is 1 h 00 min behind the centre's"
            await until(lambda: it.home.status.exists() and words in read(it.home.status)["clock"])
            signed = datetime.datetime.fromisoformat(it.calls("activate-node")[0].signature.timestamp)
            off = signed - datetime.datetime.now(datetime.UTC)
            assert abs(off.total_seconds() - 3600) < 60

    asyncio.run(scenario())


def test_flower_takes_the_signature_that_the_link_makes(tmp_path):
    home, _, _ = make_home(tmp_path / "site", ["127.0.0.1:9"])
    made = NodeKey(home.node_key).sign(1_800_000_000.0)
    public = bytes_to_public_key(base64.b64decode(made.public_key))
    assert verify_signature(public, made.timestamp.encode("ascii"), base64.b64decode(made.signature))
    assert datetime.datetime.fromisoformat(made.timestamp).timestamp() == 1_800_000_000.0


def test_a_call_from_long_ago_is_not_taken_again(tmp_path):
    home, _, _ = make_home(tmp_path / "site", ["127.0.0.1:9"])
    key = NodeKey(home.node_key)
    made = key.sign(1_800_000_000.0)
    headers = {"flwr-public-key": made.public_key, "flwr-timestamp": made.timestamp, "flwr-signature": made.signature}
    key.check(headers, 1_800_000_100.0)
    with pytest.raises(RefusedError, match="long ago"):
        key.check(headers, 1_800_000_400.0)
    with pytest.raises(RefusedError, match="not signed by this site's SuperNode"):
        key.check({**headers, "flwr-timestamp": headers["flwr-timestamp"].replace("2027", "2028")}, 1_800_000_100.0)
    with pytest.raises(RefusedError):
        key.check({}, 1_800_000_100.0)


def test_pauses_between_tries_grow_to_a_bound_and_differ(tmp_path):
    home, _, _ = make_home(tmp_path / "site", ["127.0.0.1:9"], longest_backoff_s=30)
    it = Channel(home, home.site(), tell=print)
    pauses = [[it._backoff_s(failures) for _ in range(200)] for failures in range(12)]
    for failures, drawn in enumerate(pauses):
        longest = min(30.0, 0.5 * 2**failures)
        assert all(longest / 2 <= pause <= longest for pause in drawn)
        assert max(drawn) - min(drawn) > longest / 4


def test_a_newer_roster_is_fetched_and_only_the_pinned_authoritys_is_taken(tmp_path):
    async def scenario():
        authority, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        async with world(tmp_path) as it:
            it.home.secagg.mkdir()
            (it.home.secagg / "authority.pub").write_text(authority.public_key().public_bytes_raw().hex())
            it.centre.roster, it.centre.roster_version = roster(other, 2), 2
            it.status.change()
            await until(lambda: channel(it).roster_version == 2)
            await asyncio.sleep(0.3)
            assert not it.home.roster.exists()

        async with world(tmp_path / "more") as it:
            it.home.secagg.mkdir()
            (it.home.secagg / "authority.pub").write_text(authority.public_key().public_bytes_raw().hex())
            it.centre.roster, it.centre.roster_version = roster(authority, 3), 3
            it.status.change()
            await until(it.home.roster.exists)
            assert it.home.roster.read_bytes() == it.centre.roster

    asyncio.run(scenario())


def roster(key, version):
    public = key.public_key().public_bytes_raw()
    return sign_roster(
        Roster(version=version, authority=public, issued_s=1_800_000_000, expires_s=2_000_000_000, sites={}),
        Identity("authority", key),
    )
