"""How a site comes in: each way that is allowed once, each way that is not with its own words."""

import concurrent.futures
import dataclasses

import pytest

from edge.identity import request_of
from fl.errors import ConfigError, RefusedError
from fl.link import link_pb2
from fl.link.identity import sign_request, who
from fl.secagg.roster import read_roster
from server import enrolment
from server.centre import Centre
from server.store.models import Certificate, Event
from server.tokens import invite, reinvite
from tests.server import kit

HOUR_S, DAY_S = 3600.0, 86_400.0


@pytest.fixture
def centre(tmp_path):
    return kit.make_centre(tmp_path / "server")


@pytest.fixture
def asking(tmp_path):
    """A centre where an operator approves."""
    return kit.make_centre(tmp_path / "asking", approval="operator")


def later(centre, seconds):
    """The same centre when its clock has gone on."""
    now_s = centre.registry.now() + seconds
    centre.registry.now = kit.Clock(now_s)


def test_a_site_with_a_token_is_let_in_known_to_flower_and_in_the_roster(centre):
    joined = kit.join(centre, "berlin")
    assert joined.reply.state == "approved"
    assert who(joined.certificate).name == "berlin"
    admitted = centre.site_of_certificate(joined.certificate)
    assert (admitted.site, admitted.state) == ("berlin", "active")
    assert centre.superlink.names[admitted.node_id] == "berlin"
    assert admitted.node_public_key == joined.keys.public.node
    roster = read_roster(joined.reply.roster, authority=joined.token.roster_authority)
    assert roster.key_of("berlin") == joined.keys.public.identity
    assert 4 * DAY_S < admitted.renew_after_s < 5 * DAY_S  # two thirds of seven days


def test_a_lost_answer_is_given_again_to_the_same_keys(centre):
    joined = kit.join(centre, "berlin")
    again = kit.ask(centre, joined.token, joined.keys)
    assert again.certificates.transport_chain == joined.reply.certificates.transport_chain
    assert centre.superlink.registrations == 1


def test_a_token_works_once(centre):
    joined = kit.join(centre, "berlin")
    thief = kit.make_keys()
    with pytest.raises(RefusedError, match=f"was used at .* with the keys {joined.keys.public.fingerprint}") as caught:
        kit.ask(centre, joined.token, thief)
    assert "fl site rejoin berlin" in caught.value.message
    what = [(what, words) for _, what, words in centre.registry.events("berlin")]
    assert what[-1][0] == "refused"
    assert centre.registry.show("berlin").fingerprint == joined.keys.public.fingerprint


def test_of_many_who_use_one_token_at_once_one_gets_in(centre):
    token = invite(centre.enrolment, "berlin")

    def attempt(keys):
        try:
            return kit.ask(centre, token, keys).state
        except RefusedError:
            return "refused"

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        states = list(pool.map(attempt, [kit.make_keys() for _ in range(4)]))
    assert sorted(states) == ["approved", "refused", "refused", "refused"]


def test_an_expired_token_says_so(centre):
    token = invite(centre.enrolment, "berlin")
    later(centre, 25 * HOUR_S)
    with pytest.raises(RefusedError, match="this join token expired at"):
        kit.ask(centre, token, kit.make_keys())
    assert centre.registry.show("berlin").state == "invited"


def test_a_token_is_no_good_for_another_site(centre):
    token = invite(centre.enrolment, "berlin")
    invite(centre.enrolment, "paris")
    lie = dataclasses.replace(token, site="paris")
    with pytest.raises(RefusedError, match="the certificate request is for 'paris', but 'berlin' asks"):
        kit.ask(centre, lie, kit.make_keys())
    assert centre.registry.show("paris").state == "invited"


def test_a_token_cannot_speak_for_another_token(centre):
    one, other = invite(centre.enrolment, "berlin"), invite(centre.enrolment, "paris")
    keys = kit.make_keys()
    with pytest.raises(RefusedError, match="another one than it says"):
        centre.join(one.certificate, request_of(other, keys))


def test_a_token_of_another_centre_is_unknown(centre, asking):
    token = invite(asking.enrolment, "berlin")
    with pytest.raises(RefusedError, match="was not made here"):
        kit.ask(centre, token, kit.make_keys())


def test_an_earlier_token_is_withdrawn_by_a_newer_one(centre):
    old = invite(centre.enrolment, "berlin")
    new = reinvite(centre.enrolment, "berlin")
    with pytest.raises(RefusedError, match="was withdrawn at"):
        kit.ask(centre, old, kit.make_keys())
    assert kit.ask(centre, new, kit.make_keys()).state == "approved"


def test_a_request_whose_signature_does_not_fit_is_refused(centre):
    token, keys = invite(centre.enrolment, "berlin"), kit.make_keys()
    csr = bytearray(sign_request(keys.transport, "berlin"))
    csr[-1] ^= 1
    with pytest.raises(RefusedError, match=r"is not signed with the key that it is for|cannot be read"):
        kit.ask(centre, token, keys, transport_csr=bytes(csr))


@pytest.mark.parametrize("csr", [b"", b"nonsense", b"\x30" * 5000], ids=["empty", "nonsense", "long"])
def test_a_request_that_is_none_is_refused(centre, csr):
    with pytest.raises(RefusedError, match="the certificate request"):
        kit.ask(centre, invite(centre.enrolment, "berlin"), kit.make_keys(), transport_csr=csr)


@pytest.mark.parametrize("field", ["node_proof", "identity_proof"])
def test_who_has_not_the_private_key_cannot_bring_a_public_one(centre, field):
    token, keys = invite(centre.enrolment, "berlin"), kit.make_keys()
    other = request_of(token, kit.make_keys())
    with pytest.raises(RefusedError, match="has not proved"):
        kit.ask(centre, token, keys, **{field: getattr(other, field)})


def test_a_proof_for_another_token_does_not_fit(centre):
    keys = kit.make_keys()
    seen = request_of(invite(centre.enrolment, "berlin"), keys)
    token = invite(centre.enrolment, "paris")
    with pytest.raises(RefusedError, match="has not proved"):
        kit.ask(centre, token, keys, node_proof=seen.node_proof)


@pytest.mark.parametrize("kind", ["transport", "node", "identity"])
def test_two_sites_cannot_have_one_key(centre, kind):
    first = kit.join(centre, "berlin")
    keys = dataclasses.replace(kit.make_keys(), **{kind: getattr(first.keys, kind)})
    with pytest.raises(RefusedError, match=f"the {kind} key is another site's"):
        kit.join(centre, "paris", keys)
    assert centre.registry.show("paris").state == "invited"


def test_two_sites_cannot_wait_with_one_key(asking):
    keys = kit.make_keys()
    kit.join(asking, "berlin", keys)
    other = dataclasses.replace(kit.make_keys(), identity=keys.identity)
    with pytest.raises(RefusedError, match="the identity key is another site's"):
        kit.join(asking, "paris", other)


# ---- approval ----


def test_an_operator_approves_what_the_sites_owner_sees(asking):
    joined = kit.join(asking, "berlin")
    assert (joined.reply.state, joined.reply.again_after_s) == ("waiting", 2.0)
    assert not joined.reply.HasField("certificates")
    (waits,) = enrolment.waiting(asking.enrolment)
    assert (waits.site, waits.fingerprint) == ("berlin", joined.keys.public.fingerprint)
    enrolment.approve(asking.enrolment, "berlin", fingerprint=waits.fingerprint, by="ada")
    reply = kit.ask(asking, joined.token, joined.keys)
    assert reply.state == "approved"
    assert asking.superlink.registrations == 1
    assert enrolment.waiting(asking.enrolment) == []


def test_another_fingerprint_is_not_approved(asking):
    kit.join(asking, "berlin")
    other = kit.make_keys().public.fingerprint
    with pytest.raises(ConfigError, match="berlin asks with the keys"):
        enrolment.approve(asking.enrolment, "berlin", fingerprint=other, by="ada")
    assert asking.registry.show("berlin").state == "invited"


def test_a_refused_site_is_told_why(asking):
    joined = kit.join(asking, "berlin")
    enrolment.refuse(asking.enrolment, "berlin", reason="who is this?", by="ada")
    reply = kit.ask(asking, joined.token, joined.keys)
    assert (reply.state, reply.message) == ("refused", "who is this?")


def test_an_operator_may_take_longer_than_the_token_lives(asking):
    joined = kit.join(asking, "berlin")
    later(asking, 3 * DAY_S)
    assert kit.ask(asking, joined.token, joined.keys).state == "waiting"
    enrolment.approve(asking.enrolment, "berlin", fingerprint=joined.keys.public.fingerprint, by="ada")
    assert kit.ask(asking, joined.token, joined.keys).state == "approved"


def test_who_does_not_wait_cannot_be_approved(asking):
    invite(asking.enrolment, "berlin")
    with pytest.raises(ConfigError, match="berlin does not wait for approval; it is invited"):
        enrolment.approve(asking.enrolment, "berlin", fingerprint="", by="ada")


def test_a_clock_that_is_off_by_an_hour_is_said_plainly(centre):
    token, keys = invite(centre.enrolment, "berlin"), kit.make_keys()
    request = request_of(token, keys)
    request.clock_s -= HOUR_S
    reply = centre.join(token.certificate, request)
    assert reply.state == "approved"
    assert "the site's clock is 1 h 00 min behind the centre's" in reply.message


# ---- renewal ----


def renew(centre, joined, key=None, site="berlin"):
    admitted = centre.site_of_certificate(joined.certificate)
    csr = sign_request(key or joined.keys.transport, site)
    return centre.renew(admitted, link_pb2.CertificateRequest(transport_csr=csr))


def test_the_certificate_before_stays_good_until_it_expires(centre):
    joined = kit.join(centre, "berlin")
    later(centre, 5 * DAY_S)
    assert centre.site_of_certificate(joined.certificate).renew_after_s < 5 * DAY_S
    made = renew(centre, joined)
    assert made.transport_chain != joined.reply.certificates.transport_chain
    assert centre.site_of_certificate(joined.certificate).site == "berlin"
    later(centre, 3 * DAY_S)
    with pytest.raises(RefusedError, match="expired at"):
        centre.site_of_certificate(joined.certificate)


def test_asked_again_at_once_the_same_certificate_comes(centre):
    joined = kit.join(centre, "berlin")
    later(centre, DAY_S)
    assert renew(centre, joined).transport_chain == renew(centre, joined).transport_chain
    with centre.registry.store.read() as session:
        assert session.query(Certificate).count() == 2


def test_a_certificate_that_is_due_is_not_given_again_however_short_its_life_is(centre):
    centre.enrolment = dataclasses.replace(centre.enrolment, certificate_days=30 / DAY_S)
    joined = kit.join(centre, "berlin")
    first = renew(centre, joined)
    later(centre, 25)
    assert renew(centre, joined).transport_chain != first.transport_chain


def test_a_renewal_for_another_site_is_refused(centre):
    joined = kit.join(centre, "berlin")
    kit.join(centre, "paris")
    with pytest.raises(RefusedError, match="is for 'paris', but 'berlin' asks"):
        renew(centre, joined, site="paris")


def test_a_renewal_with_the_key_of_another_site_is_refused(centre):
    joined, other = kit.join(centre, "berlin"), kit.join(centre, "paris")
    with pytest.raises(RefusedError, match="the transport key is another site's"):
        renew(centre, joined, key=other.keys.transport)


def test_a_new_transport_key_may_come_with_a_renewal_and_the_old_one_not_again(centre):
    joined = kit.join(centre, "berlin")
    renew(centre, joined, key=kit.make_keys().transport)
    with pytest.raises(RefusedError, match="the transport key was replaced before"):
        renew(centre, joined)


def test_a_site_that_is_revoked_while_it_renews_gets_nothing(centre):
    joined = kit.join(centre, "berlin")
    admitted = centre.site_of_certificate(joined.certificate)
    centre.registry.revoke("berlin", "")
    csr = sign_request(joined.keys.transport, "berlin")
    with pytest.raises(RefusedError, match="is revoked"):
        centre.renew(admitted, link_pb2.CertificateRequest(transport_csr=csr))


# ---- joining again ----


def test_a_site_that_slept_past_its_certificate_joins_again_with_its_keys(centre):
    joined = kit.join(centre, "berlin")
    node_id = centre.registry.node_of("berlin")
    later(centre, 8 * DAY_S)
    with pytest.raises(RefusedError, match=r"expired at .*; ask the operator for a token: fl site rejoin berlin"):
        centre.site_of_certificate(joined.certificate)
    keys = dataclasses.replace(joined.keys, transport=kit.make_keys().transport)
    again = kit.join(centre, "berlin", keys, again=True)
    assert not again.token.new_keys
    assert centre.site_of_certificate(again.certificate).node_id == node_id
    assert centre.superlink.registrations == 1


def test_joining_again_ends_the_certificates_before(centre):
    joined = kit.join(centre, "berlin")
    again = kit.join(centre, "berlin", again=True)
    with pytest.raises(RefusedError, match="berlin joined again at"):
        centre.site_of_certificate(joined.certificate)
    assert centre.site_of_certificate(again.certificate).site == "berlin"
    assert len(centre.superlink.known) == 1  # its former node is gone


def test_a_revoked_site_comes_back_with_new_keys_only(centre):
    joined = kit.join(centre, "berlin")
    centre.registry.revoke("berlin", "stolen")
    centre.apply()
    token = reinvite(centre.enrolment, "berlin")
    assert token.new_keys
    with pytest.raises(RefusedError, match="was this site's before, and has to be new"):
        kit.ask(centre, token, joined.keys)
    assert kit.ask(centre, token, kit.make_keys()).state == "approved"
    assert centre.rosters.current().key_of("berlin") != joined.keys.public.identity


def test_an_open_token_ends_with_the_revocation(centre):
    kit.join(centre, "berlin")
    token = reinvite(centre.enrolment, "berlin")
    centre.registry.revoke("berlin", "")
    with pytest.raises(RefusedError, match="was withdrawn"):
        kit.ask(centre, token, kit.make_keys())


def test_a_renamed_site_joins_again_under_its_new_id(centre):
    joined = kit.join(centre, "berlin")
    centre.registry.count("berlin", 7, up=10, down=20, calls=1)
    centre.registry.flush()
    centre.registry.rename("berlin", "potsdam")
    centre.apply()
    with pytest.raises(RefusedError, match="berlin was renamed to potsdam"):
        centre.site_of_certificate(joined.certificate)
    again = kit.join(centre, "potsdam", again=True)
    assert again.token.new_keys
    assert centre.site_of_certificate(again.certificate).site == "potsdam"
    assert centre.registry.show("potsdam").up_bytes == 10
    assert [centre.superlink.names[node] for node in centre.superlink.known] == ["potsdam"]
    assert centre.rosters.current().active() == ["potsdam"]


def test_an_id_that_is_taken_is_refused(centre):
    kit.join(centre, "berlin")
    kit.join(centre, "paris")
    with pytest.raises(ConfigError, match="there is a site paris"):
        centre.registry.rename("berlin", "paris")
    with pytest.raises(ConfigError, match="there is a site berlin"):
        invite(centre.enrolment, "berlin")


# ---- SuperLink and roster ----


def test_a_superlink_that_is_away_follows_later(centre):
    centre.superlink.reachable = False
    joined = kit.join(centre, "berlin")
    assert joined.reply.state == "approved"
    assert centre.site_of_certificate(joined.certificate).node_id == 0
    centre.superlink.reachable = True
    assert centre.apply() == ["registered the node of berlin"]
    assert centre.site_of_certificate(joined.certificate).node_id == next(iter(centre.superlink.known))
    assert centre.apply() == []


def test_a_superlink_that_forgot_its_nodes_is_told_again(centre):
    kit.join(centre, "berlin")
    centre.superlink.known.clear()
    centre.superlink.keys_ever.clear()
    assert centre.apply() == ["registered the node of berlin"]
    assert centre.registry.node_of("berlin") == next(iter(centre.superlink.known))


def test_a_node_that_another_process_registered_is_found(centre):
    centre.superlink.reachable = False
    joined = kit.join(centre, "berlin")
    centre.superlink.reachable = True
    node_id = centre.superlink.register_node(joined.keys.public.node, name="berlin")
    centre.apply()
    assert centre.registry.node_of("berlin") == node_id


def test_losing_a_site_touches_nothing_of_another(centre):
    berlin, paris = kit.join(centre, "berlin"), kit.join(centre, "paris")
    before = centre.site_of_certificate(paris.certificate)
    centre.registry.revoke("berlin", "")
    centre.apply()
    assert centre.site_of_certificate(paris.certificate) == before
    assert list(centre.superlink.known.values()) == [paris.keys.public.node]
    assert centre.rosters.current().active() == ["paris"]
    with pytest.raises(RefusedError):
        centre.site_of_certificate(berlin.certificate)


def test_many_sites_may_join_at_once(centre):
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: kit.join(centre, f"site-{number}"), range(6)))
    names = [f"site-{number}" for number in range(6)]
    assert centre.rosters.current().active() == names
    assert sorted(centre.superlink.names[node] for node in centre.superlink.known) == names


def test_a_site_that_asks_too_often_fills_nothing(centre):
    joined = kit.join(centre, "berlin")
    for _ in range(5):
        with pytest.raises(RefusedError):
            kit.ask(centre, joined.token, kit.make_keys(), node_proof=b"")
    with centre.registry.store.read() as session:
        assert session.query(Event).filter(Event.what == "refused").count() == 1


def test_a_report_that_comes_with_the_request_is_kept_if_it_is_one(centre):
    token = invite(centre.enrolment, "berlin")
    kit.ask(centre, token, kit.make_keys(), report='{"gpus": 2}')
    assert centre.registry.show("berlin").report == {"gpus": 2}
    token = invite(centre.enrolment, "paris")
    kit.ask(centre, token, kit.make_keys(), report="{not json")
    assert centre.registry.show("paris").report == {}


def test_a_store_survives_the_process(centre, tmp_path):
    joined = kit.join(centre, "berlin")
    centre.close()
    again = Centre(centre.home, connect=lambda: centre.superlink)
    assert again.site_of_certificate(joined.certificate).site == "berlin"
