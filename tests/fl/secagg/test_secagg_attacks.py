"""Every attack of the specification, and each one is refused with its own error."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from fl.secagg import errors, keys
from fl.secagg.encoding import enc
from fl.secagg.keystream import keystream
from fl.secagg.messages import (
    Advertisement,
    Agreements,
    Keys,
    MaskedInput,
    Masking,
    Message,
    Proposal,
    Reveal,
    Survivors,
)
from fl.secagg.profiles import AES_SUITE
from fl.secagg.roster import Entry, roster_hash, sign_roster
from fl.secagg.session import session_model_id
from fl.secagg.shamir import SHARE_BYTES
from fl.secagg.vectors import vector_digest
from tests.fl.secagg.federation import AUTHORITY, NOW_S, Federation, identity, make_roster, random_source, site_names


def change(message: type[Message], payload: bytes, **changes: Any) -> bytes:
    """The same message with some fields replaced."""
    return dataclasses.replace(message.decode(payload), **changes).encode()


def at(stage: str, count: int = 5, **arguments: Any) -> Federation:
    """A federation in which this stage is about to begin."""
    federation = Federation(count, **arguments)
    federation.play_until(stage)
    return federation


# ---- the server lies about who is in the session ----


def test_a_replaced_key_of_ourselves_is_found() -> None:
    federation = at("share")
    victim = federation.names[0]
    request = Keys.decode(federation.server.request_for(victim))
    forged = Advertisement(
        site=victim, mask_key=bytes(range(32)), channel_key=bytes(range(1, 33)), commitment=bytes(32)
    )
    from fl.secagg.config import config_hash

    # Even with the site's own identity key, which the server does not have.
    signed = forged.signed(identity(victim), config_hash(federation.server._config_bytes)).encode()
    payload = Keys(advertisements=(signed, *request.advertisements[1:])).encode()
    with pytest.raises(errors.KeySubstitutionError, match="own keys were replaced"):
        federation.site_handles(victim, payload)


def test_a_replaced_key_of_another_site_is_found() -> None:
    federation = at("share")
    request = Keys.decode(federation.server.request_for(federation.names[0]))
    forged = change(Advertisement, request.advertisements[1], mask_key=keys.public_key(bytes(range(32))))
    payload = Keys(advertisements=(request.advertisements[0], forged, *request.advertisements[2:])).encode()
    with pytest.raises(errors.SignatureError, match="site-0001"):
        federation.site_handles(federation.names[0], payload)


def test_our_own_keys_left_out_are_missed() -> None:
    federation = at("share")
    request = Keys.decode(federation.server.request_for(federation.names[0]))
    with pytest.raises(errors.KeySubstitutionError, match="own keys are missing"):
        federation.site_handles(federation.names[0], Keys(advertisements=request.advertisements[1:]).encode())


def test_a_site_outside_the_roster_cannot_be_invented() -> None:
    federation = at("share")
    from fl.secagg.config import config_hash

    invented = Advertisement(site="zz-sybil", mask_key=b"m" * 32, channel_key=b"c" * 32, commitment=bytes(32))
    signed = invented.signed(identity("zz-sybil"), config_hash(federation.server._config_bytes)).encode()
    request = Keys.decode(federation.server.request_for(federation.names[0]))
    payload = Keys(advertisements=(*request.advertisements[:-1], signed)).encode()
    with pytest.raises(errors.RosterSiteError, match="zz-sybil is not in the roster"):
        federation.site_handles(federation.names[0], payload)


def test_one_site_twice_is_refused() -> None:
    federation = at("share")
    request = Keys.decode(federation.server.request_for(federation.names[0]))
    payload = Keys(advertisements=(request.advertisements[0], *request.advertisements[:-1])).encode()
    with pytest.raises(errors.DuplicateError, match="stands twice"):
        federation.site_handles(federation.names[0], payload)


def test_more_sites_than_were_announced_are_refused() -> None:
    federation = at("share")
    request = Keys.decode(federation.server.request_for(federation.names[0]))
    payload = Keys(advertisements=(*request.advertisements, request.advertisements[0])).encode()
    with pytest.raises(errors.CohortError, match="6 sites advertised keys, 5 were announced"):
        federation.site_handles(federation.names[0], payload)


def test_a_key_of_small_order_is_refused() -> None:
    federation = Federation(4)
    from fl.secagg.config import config_hash

    liar = federation.names[3]
    for name in federation.names[:3]:
        reply = federation.site_handles(name, federation.server.request_for(name))
        federation.server.receive(name, reply.payload)
    bad = Advertisement(site=liar, mask_key=keys.public_key(b"k" * 32), channel_key=bytes(32), commitment=bytes(32))
    context = config_hash(federation.server._config_bytes)
    federation.server.receive(liar, bad.signed(identity(liar), context).encode())
    federation.server.close_stage()
    with pytest.raises(errors.KeySubstitutionError, match="small order"):
        federation.site_handles(federation.names[0], federation.server.request_for(federation.names[0]))


# ---- the server lies about the roster ----


def proposal_with_roster(federation: Federation, data: bytes) -> bytes:
    return Proposal(config=federation.config(roster=roster_hash(data).hex()).encode(), roster=data).encode()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda names: make_roster(names).body(), errors.RosterSignatureError, "not signed"),
        (
            lambda names: sign_roster(make_roster(names, authority=identity("mallory").public), identity("mallory")),
            errors.RosterSignatureError,
            "not signed by the pinned authority",
        ),
        (
            lambda names: sign_roster(make_roster(names), AUTHORITY).replace(b'"version": 1', b'"version": 2'),
            errors.RosterSignatureError,
            "not signed by the pinned authority",
        ),
        (
            lambda names: sign_roster(make_roster(names), AUTHORITY) + b"\n",
            errors.RosterSignatureError,
            "not signed by the pinned authority",
        ),
        (
            lambda names: sign_roster(make_roster(names, expires_s=NOW_S - 2 * 86_400), AUTHORITY),
            errors.RosterExpiredError,
            "expired on",
        ),
        (
            lambda names: sign_roster(make_roster(names, issued_s=NOW_S + 2 * 86_400), AUTHORITY),
            errors.RosterExpiredError,
            "not yet here",
        ),
        (
            lambda names: sign_roster(make_roster(names[1:]), AUTHORITY),
            errors.RosterSiteError,
            "site-0000 is not in the roster",
        ),
        (
            lambda names: sign_roster(
                make_roster(
                    names,
                    sites={n: Entry(identity(n).public, 1, revoked=n == names[0]) for n in names},
                ),
                AUTHORITY,
            ),
            errors.RosterSiteError,
            "was revoked",
        ),
        (
            lambda names: sign_roster(
                make_roster(names, sites={n: Entry(identity(n + "x").public, 1) for n in names}), AUTHORITY
            ),
            errors.RosterError,
            "another key for site-0000",
        ),
        (lambda names: b"nonsense", errors.RosterSignatureError, "not signed"),
    ],
    ids=["unsigned", "foreign", "changed", "tail", "expired", "future", "missing", "revoked", "other-key", "nonsense"],
)
def test_a_roster_that_cannot_be_trusted_is_refused(make: Any, error: type[Exception], words: str) -> None:
    federation = Federation(4)
    with pytest.raises(error, match=words):
        federation.site_handles(federation.names[0], proposal_with_roster(federation, make(federation.names)))


def test_a_roster_that_was_rolled_back_is_refused() -> None:
    federation = Federation(3)
    name = federation.names[0]
    newer = sign_roster(make_roster(federation.names, version=5), AUTHORITY)
    federation.site_handles(name, proposal_with_roster(federation, newer))
    site = federation.new_site(name)
    with pytest.raises(errors.RosterRollbackError, match="has version 1, version 5 was seen"):
        site.handle(federation.server.request_for(name))
    twin = sign_roster(make_roster(federation.names, version=5, expires_s=NOW_S + 86_400), AUTHORITY)
    with pytest.raises(errors.RosterRollbackError, match="another roster of version 5"):
        federation.new_site(name).handle(proposal_with_roster(federation, twin))


def test_a_configuration_about_another_roster_than_the_one_sent_is_refused() -> None:
    federation = Federation(3)
    payload = Proposal(config=federation.config(roster="ab" * 32).encode(), roster=federation.roster).encode()
    with pytest.raises(errors.RosterError, match="names another roster"):
        federation.site_handles(federation.names[0], payload)


def test_a_server_whose_roster_lacks_an_invited_site_says_so_before_asking_anybody() -> None:
    federation = Federation(4)
    federation.names.append("site-9999")
    federation.settings["n_max"] = 5
    with pytest.raises(errors.RosterSiteError, match="site-9999 is not in the roster") as caught:
        federation.new_server()
    assert caught.value.hint == "fl roster add site-9999 KEY, then fl roster sign"


def test_a_message_of_one_site_cannot_come_from_another() -> None:
    federation = Federation(4)
    one, other = federation.names[:2]
    reply = federation.site_handles(one, federation.server.request_for(one))
    with pytest.raises(errors.MessageError, match="site-0000 came from the site site-0001"):
        federation.server.receive(other, reply.payload)


# ---- the server lowers what protects ----


@pytest.mark.parametrize(
    ("policy", "settings", "key"),
    [
        ({"min_sites": 5}, {}, "min_sites"),
        ({"profiles": ("standard",)}, {"profile": "tests_only"}, "profiles"),
        ({"suites": (AES_SUITE,)}, {"suite": AES_SUITE.replace("AES256CTR", "CHACHA20")}, "suites"),
        ({"max_clip": 0.5}, {"clips": (0.6,)}, "max_clip"),
        ({"max_parameters": 39}, {}, "max_parameters"),
        ({"max_attempts": 1}, {"attempt": 2}, "max_attempts"),
        ({"privacy_required": True}, {}, "privacy_required"),
        ({"aggregator": "00" * 32}, {}, "aggregator"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_proposal_below_a_floor_of_the_site_is_refused_and_names_it(
    policy: dict[str, Any], settings: dict[str, Any], key: str
) -> None:
    federation = Federation(4, settings=settings)
    federation.policy = dataclasses.replace(federation.policy, **policy)
    federation.open()
    with pytest.raises(errors.PolicyError, match=f"the site's policy has secagg.{key} ="):
        federation.play("advertise")


def test_a_cohort_that_turns_out_smaller_than_the_floor_is_refused() -> None:
    federation = Federation(5)
    federation.policy = dataclasses.replace(federation.policy, min_sites=5)
    federation.open()
    federation.play("advertise", {federation.names[4]})
    with pytest.raises(errors.PolicyError, match=r"secagg\.min_sites = 5, the server proposes 4"):
        federation.play("share")


def test_thresholds_come_from_the_actual_number_of_sites_and_not_from_the_server() -> None:
    federation = at("mask", 10)
    request = Masking.decode(federation.server.request_for(federation.names[0]))
    fewer = Masking(
        headers=request.headers[:6],
        ciphertexts=request.ciphertexts[: 6 * keys.CIPHERTEXT_BYTES],
        model=request.model,
    )
    with pytest.raises(errors.TooFewSurvivorsError, match="6 sharers of 10 sites, 7 are needed"):
        federation.site_handles(federation.names[0], fewer.encode())


def test_a_threshold_in_the_configuration_is_an_unknown_key() -> None:
    federation = Federation(3)
    config = federation.config().encode().replace(b'"weight_cap"', b'"threshold":2,"weight_cap"')
    with pytest.raises(errors.PolicyError, match=r"unknown key secagg\.threshold"):
        federation.site_handles(federation.names[0], Proposal(config=config, roster=federation.roster).encode())


def test_a_configuration_in_another_spelling_is_refused() -> None:
    federation = Federation(3)
    config = federation.config().encode().replace(b'"attempt":1', b'"attempt": 1')
    with pytest.raises(errors.MessageError, match="canonical"):
        federation.site_handles(federation.names[0], Proposal(config=config, roster=federation.roster).encode())


def test_survivors_that_differ_from_the_last_ones_in_few_sites_are_refused_if_the_site_says_so() -> None:
    federation = Federation(6)
    federation.policy = dataclasses.replace(federation.policy, min_difference=2)
    federation.open()
    federation.run()
    federation.open(round=2)
    for stage in ("advertise", "share"):
        federation.play(stage)
    federation.play("mask", {federation.names[5]})
    with pytest.raises(errors.PolicyError, match=r"secagg.min_difference = 2, the server proposes 1"):
        federation.play("agree")


# ---- the server shows sites different things ----


def test_a_split_view_of_the_survivors_unmasks_nothing() -> None:
    federation = at("agree")
    names = federation.names
    for victim in names:
        request = Survivors.decode(federation.server.request_for(victim))
        # Half of the sites hear that the last site dropped: 4 of 5 are enough for each view.
        shown = request.survivors if victim in names[:3] else request.survivors[1:]
        if victim.encode() in shown:
            reply = federation.site_handles(victim, dataclasses.replace(request, survivors=shown).encode())
            federation.replies.setdefault("agree", {})[victim] = reply.payload
    agreements = tuple(federation.replies["agree"][name] for name in names[:5])
    with pytest.raises(errors.ConsistencyError, match="site-0003 did not agree"):
        federation.sites[names[0]].handle(Agreements(agreements=agreements).encode())
    with pytest.raises(errors.ConsistencyError, match="3 sites agreed to these survivors, 4 are needed"):
        federation.sites[names[1]].handle(Agreements(agreements=agreements[:3]).encode())


def test_sharers_that_change_afterwards_are_refused() -> None:
    federation = at("agree")
    name = federation.names[0]
    payload = change(Survivors, federation.server.request_for(name), sharers=bytes(32))
    with pytest.raises(errors.ConsistencyError, match="other sharers"):
        federation.site_handles(name, payload)


def test_a_survivor_that_never_shared_is_refused() -> None:
    federation = Federation(10)
    federation.play("advertise")
    silent = federation.names[9]
    federation.play("share", {silent})
    federation.play("mask")
    request = Survivors.decode(federation.server.request_for(federation.names[0]))
    payload = dataclasses.replace(request, survivors=(*request.survivors, silent.encode())).encode()
    with pytest.raises(errors.CohortError, match="site-0009 is among the survivors but was not before"):
        federation.site_handles(federation.names[0], payload)


def test_a_site_signs_only_sums_that_hold_its_own_update() -> None:
    federation = at("agree")
    request = Survivors.decode(federation.server.request_for(federation.names[0]))
    with pytest.raises(errors.ConsistencyError, match="own update is not in the sum"):
        federation.site_handles(
            federation.names[0], dataclasses.replace(request, survivors=request.survivors[1:]).encode()
        )


def test_agreements_twice_or_from_others_do_not_count() -> None:
    federation = at("unmask")
    request = Agreements.decode(federation.server.request_for(federation.names[0]))
    twice = Agreements(agreements=(*request.agreements[:4], request.agreements[0]))
    with pytest.raises(errors.DuplicateError, match="agreed twice"):
        federation.site_handles(federation.names[0], twice.encode())
    federation = Federation(10)
    for stage in ("advertise", "share"):
        federation.play(stage)
    federation.play("mask", {federation.names[9]})
    federation.play("agree")
    request = Agreements.decode(federation.server.request_for(federation.names[0]))
    stranger = change_site(request.agreements[0], federation.names[9])
    with pytest.raises(errors.ConsistencyError, match="site-0009 agreed but is no survivor"):
        federation.site_handles(federation.names[0], Agreements(agreements=(stranger, *request.agreements)).encode())


def change_site(payload: bytes, site: str) -> bytes:
    from fl.secagg.messages import Agreement

    return change(Agreement, payload, site=site)


def test_another_model_sent_to_one_site_is_found() -> None:
    federation = at("mask")
    victim = federation.names[0]
    request = federation.server.request_for(victim)
    model = dataclasses.replace(federation.local_model(victim), digest=vector_digest(np.ones(40, np.float32)))
    with pytest.raises(errors.ModelMismatchError, match="another digest than the server announced"):
        federation.sites[victim].handle(request, model=model)


def test_another_model_announced_to_one_site_unmasks_nothing() -> None:
    federation = at("mask")
    victim = federation.names[0]
    special = np.ones(40, np.float32)
    digest = vector_digest(special)
    model = dataclasses.replace(federation.local_model(victim), digest=digest)
    payload = change(Masking, federation.server.request_for(victim), model=digest)
    masked = federation.sites[victim].handle(payload, model=model)
    with pytest.raises(errors.SignatureError):
        federation.server.receive(victim, masked.payload, masked.vector)  # an honest server finds it at once
    request = Survivors(
        survivors=tuple(name.encode() for name in federation.names),
        sharers=MaskedInput.decode(masked.payload).sharers,
        model=vector_digest(federation.model),
    )
    with pytest.raises(errors.ModelMismatchError, match="another model than this site trained from"):
        federation.sites[victim].handle(request.encode())


def test_a_model_of_another_layout_is_refused_before_training() -> None:
    federation = at("mask")
    victim = federation.names[0]

    def never() -> Any:
        raise AssertionError("trained")

    model = dataclasses.replace(federation.local_model(victim), schema=bytes(32), train=never)
    with pytest.raises(errors.ModelMismatchError, match="another layout"):
        federation.sites[victim].handle(federation.server.request_for(victim), model=model)


# ---- the server wants more than one share ----


def test_both_shares_of_one_site_cannot_be_asked_for() -> None:
    """The request carries no list of sites at all, and a second request of any kind finds the session over."""
    federation = at("unmask")
    name = federation.names[0]
    request = federation.server.request_for(name)
    reveal = Reveal.decode(federation.site_handles(name, request).payload)
    assert len(reveal.shares) == SHARE_BYTES * len(federation.names)
    with pytest.raises(errors.StageError, match="the session is over"):
        federation.site_handles(name, request)


def test_a_copy_of_the_session_from_before_reveals_nothing_again() -> None:
    federation = at("unmask")
    name = federation.names[0]
    sealed = federation.sites[name].seal(bytes(32))
    request = federation.server.request_for(name)
    federation.site_handles(name, request)
    copy = federation.new_site(name)
    copy.open(bytes(32), sealed)
    with pytest.raises(errors.AttemptError):
        copy.handle(request)


def test_a_repeated_session_is_refused() -> None:
    federation = Federation(3)
    name = federation.names[0]
    request = federation.server.request_for(name)
    federation.site_handles(name, request)
    with pytest.raises(errors.StageError, match="a proposal message where keys comes next"):
        federation.site_handles(name, request)
    with pytest.raises(errors.AttemptError, match="attempt 1 at round 1 of run run-1 was used before"):
        federation.new_site(name).handle(request)
    federation.open(round=2)
    federation.play("advertise")
    with pytest.raises(errors.AttemptError, match="round 1 of run run-1 is over"):
        federation.new_site(name).handle(request)


def test_messages_of_another_session_do_not_fit() -> None:
    federation = at("share")
    old = federation.replies["advertise"]
    federation.attempt = 2
    federation.open()
    federation.play("advertise")
    request = Keys.decode(federation.server.request_for(federation.names[0]))
    payload = Keys(
        advertisements=(request.advertisements[0], old[federation.names[1]], *request.advertisements[2:])
    ).encode()
    with pytest.raises(errors.SignatureError):
        federation.site_handles(federation.names[0], payload)


@pytest.mark.parametrize("stage", ["share", "mask", "agree", "unmask"])
def test_stages_cannot_be_skipped_or_turned_round(stage: str) -> None:
    federation = at(stage, 4)
    name = federation.names[0]
    for other in ("advertise", "share", "mask", "agree"):
        if other != stage and other in federation.requests:
            federation = at(stage, 4)
            with pytest.raises(errors.StageError, match="comes next"):
                federation.site_handles(name, federation.requests[other][name])
            with pytest.raises(errors.StageError, match="over"):
                federation.site_handles(name, federation.server.request_for(name))


# ---- shares ----


def test_swapped_share_ciphertexts_do_not_open() -> None:
    federation = at("mask")
    name = federation.names[0]
    request = Masking.decode(federation.server.request_for(name))
    size = keys.CIPHERTEXT_BYTES
    cut = [request.ciphertexts[start : start + size] for start in range(0, len(request.ciphertexts), size)]
    cut[1], cut[2] = cut[2], cut[1]
    with pytest.raises(errors.ShareError, match="site-0001 dealt to site-0000 does not open"):
        federation.site_handles(name, dataclasses.replace(request, ciphertexts=b"".join(cut)).encode())


def test_a_share_meant_for_another_site_does_not_open() -> None:
    federation = at("mask")
    one, other = federation.names[:2]
    mine = Masking.decode(federation.server.request_for(one))
    theirs = Masking.decode(federation.server.request_for(other))
    size = keys.CIPHERTEXT_BYTES
    swapped = mine.ciphertexts[: 2 * size] + theirs.ciphertexts[2 * size : 3 * size] + mine.ciphertexts[3 * size :]
    with pytest.raises(errors.ShareError, match="site-0002 dealt to site-0000"):
        federation.site_handles(one, dataclasses.replace(mine, ciphertexts=swapped).encode())


def test_a_wrong_share_is_named_and_the_sum_still_decodes() -> None:
    federation = at("unmask", 10)
    liar = federation.names[4]
    for name in federation.names:
        reply = federation.site_handles(name, federation.server.request_for(name))
        payload = reply.payload
        if name == liar:
            reveal = Reveal.decode(payload)
            wrong = bytes([reveal.shares[0] ^ 1]) + reveal.shares[1:]
            context = session_model_id(federation.server._session().sid, vector_digest(federation.model))
            payload = dataclasses.replace(reveal, shares=wrong).signed(identity(liar), context).encode()
        federation.server.receive(name, payload)
    federation.server.close_stage()
    assert "not those dealt by site-0000" in federation.server.faults[liar].reason
    assert np.abs(federation.server.result().mean_P - federation.expected_mean(federation.names)).max() < 1e-6


def test_shares_that_do_not_rebuild_the_secret_name_their_dealer() -> None:
    federation = Federation(4)
    federation.play("advertise")
    liar = federation.names[1]
    federation.sites[liar]._attempt.state.self_secret[:] = bytes(32)
    honest = federation.sites[liar]._attempt.state
    request = federation.server.request_for(liar)
    reply = federation.site_handles(liar, request)
    honest.self_secret[:] = b"x" * 32  # masks with another secret than it dealt shares of
    for name in federation.names:
        answer = reply if name == liar else federation.site_handles(name, federation.server.request_for(name))
        federation.server.receive(name, answer.payload)
    federation.server.close_stage()
    for stage in ("mask", "agree"):
        federation.play(stage)
    with pytest.raises(errors.UnmaskError, match="does not carry the check values"):
        federation.play("unmask")


def test_every_neighbour_of_a_site_dropped_is_more_than_a_session_stands() -> None:
    federation = Federation(16, settings={"profile": "tests_only", "max_dropout_fraction": 0.07})
    federation.play_until("agree")
    victim = federation.names[0]
    from fl.secagg.session import Neighbours

    server = federation.server
    around = Neighbours(server.config, server._session(), server._headers).of(victim)
    request = Survivors.decode(server.request_for(victim))
    left = tuple(name for name in request.survivors if name.decode() not in around)
    with pytest.raises(errors.TooFewSurvivorsError):
        federation.site_handles(victim, dataclasses.replace(request, survivors=left).encode())


def test_a_graph_that_cannot_stand_the_dropouts_is_refused_before_training() -> None:
    federation = Federation(16, settings={"profile": "tests_only"})
    with pytest.raises(errors.NeighboursError, match="no sparse mask graph of 16 sites stands 5 dropouts"):
        federation.play("advertise")


# ---- vectors ----


def test_a_late_vector_is_not_read() -> None:
    federation = Federation(10)
    for stage in ("advertise", "share"):
        federation.play(stage)
    late = federation.names[6]
    request = federation.server.request_for(late)
    federation.play("mask", {late})
    reply = federation.site_handles(late, request)

    def unread() -> Any:
        raise AssertionError("read")
        yield b""

    with pytest.raises(errors.VectorError, match="came after the survivors were fixed"):
        federation.server.receive(late, reply.payload, unread())
    federation.play("agree")
    federation.play("unmask")
    assert late not in federation.server.result().survivors


def test_a_vector_other_than_the_signed_one_is_not_added() -> None:
    federation = at("mask", 10)
    liar = federation.names[0]
    reply = federation.site_handles(liar, federation.server.request_for(liar))
    assert reply.vector is not None
    with pytest.raises(errors.VectorError, match="is not the one that it signed"):
        federation.server.receive(liar, reply.payload, reply.vector + np.uint32(1))
    federation.play("mask", {liar})
    federation.play("agree")
    federation.play("unmask")
    assert liar not in federation.server.result().survivors


@pytest.mark.parametrize("vector", [np.zeros(5, np.uint32), np.zeros(42, np.uint64), [b"ab"], [b"a" * 1000], None])
def test_a_vector_of_the_wrong_size_is_refused(vector: Any) -> None:
    federation = at("mask", 4)
    name = federation.names[0]
    reply = federation.site_handles(name, federation.server.request_for(name))
    with pytest.raises(errors.VectorError):
        federation.server.receive(name, reply.payload, vector)
    assert federation.server.faults[name].error == "VectorError"


def test_mask_streams_differ_across_attempts_rounds_labels_and_pairs() -> None:
    secret, sid = b"s" * 32, b"i" * 32
    seeds = [
        keys.pair_seed(secret, AES_SUITE, sid, "a", "b"),
        keys.pair_seed(secret, AES_SUITE, sid, "a", "c"),
        keys.pair_seed(secret, AES_SUITE, b"j" * 32, "a", "b"),
        keys.self_seed(secret, AES_SUITE, sid, "a"),
    ]
    assert keys.pair_seed(secret, AES_SUITE, sid, "b", "a") == seeds[0]
    streams = [bytes(keystream(seed, label, 64, np.uint32)) for seed in seeds for label in ("vector", "aux")]
    blocks = {stream[start : start + 16] for stream in streams for start in range(0, 256, 16)}
    assert len(blocks) == 8 * 16


def test_two_attempts_share_no_mask() -> None:
    masked = []
    for attempt in (1, 2):
        federation = Federation(3, parameters=4000, attempt=attempt)
        federation.updates = dict.fromkeys(federation.names, np.zeros(4000, np.float32))
        federation.play_until("agree")
        masked.append(federation.vectors[federation.names[0]])
    difference = masked[0] - masked[1]
    # Uniform 32-bit numbers: 4,002 of them coincide in none with probability 1 - 1e-6, and fill all bits evenly.
    assert np.count_nonzero(difference == 0) == 0
    ones = np.unpackbits(difference.view(np.uint8)).mean()
    assert abs(ones - 0.5) < 5 * 0.5 / np.sqrt(32 * difference.size)


# ---- what travels ----


def test_neither_counts_nor_metrics_nor_updates_travel_in_clear() -> None:
    federation = Federation(5, parameters=64, settings={"weight_cap": 0, "metrics": ("loss", "accuracy")})
    secret = federation.names[0]
    federation.num_examples[secret] = 0x5EC2E7
    federation.updates[secret] = np.full(64, 0.0, np.float32)
    federation.run()
    traffic = (
        b"".join(payload for stage in federation.replies.values() for payload in stage.values())
        + federation.vectors[secret].tobytes()
    )
    for visible in (
        (0x5EC2E7).to_bytes(8, "little"),
        (0x5EC2E7).to_bytes(8, "big"),
        b"6210279",
        np.float64(federation.losses[secret]).tobytes(),
        bytes(32),
    ):
        assert visible not in traffic.replace(bytes(keys.CIPHERTEXT_BYTES), b"")
    masked = federation.vectors[secret]
    # Masked zeros are uniform: no value twice among 66 of 2**32, except with probability 5e-7.
    assert len(set(masked.tolist())) == masked.size


def test_site_names_of_different_length_cannot_be_confused() -> None:
    assert enc("ab", "c") != enc("a", "bc")
    assert site_names(2) == ["site-0000", "site-0001"]
    assert random_source("a")(4) == random_source("a")(4)
