"""Whole rounds: the masked sum is the plain sum, whoever drops and whenever, and restarts reveal nothing twice."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.secagg import errors
from fl.secagg.messages import STAGES
from fl.secagg.parameters import thresholds
from fl.secagg.replay import replay
from fl.secagg.sidevector import WEIGHT_UNIT
from tests.fl.secagg.federation import NOW_S, Federation, random_source, site_names

KEY = bytes(range(32))


def plain_sum(federation: Federation, survivors: tuple[str, ...]) -> np.ndarray:
    """The quantised vectors added without masks, each from the same random numbers as in the session."""
    from fl.secagg.quantise import quantise
    from fl.secagg.sidevector import site_weight

    config = federation.server.config
    total = np.zeros(config.length, config.ring.dtype)
    for name in survivors:
        total += quantise(
            federation.updates[name],
            config.sizes,
            config.clips,
            weight=site_weight(federation.num_examples[name], config.weight_cap),
            profile=config.ring,
            n_max=config.n_max,
            dither_key=federation.dither_keys[name],  # type: ignore[attr-defined]
        ).vector
    return total


class ListeningFederation(Federation):
    """Remembers the sum that was unmasked and the key of each site's random rounding."""

    def open(self, **changes: object) -> None:
        super().open(**changes)
        self.dither_keys: dict[str, bytes] = {}
        for name in self.names:
            self._listen(name)

    def _listen(self, name: str) -> None:
        draw = random_source(name, self.seed, self.attempt)

        def listening(size: int) -> bytes:
            data = draw(size)
            if self.server.stage == "mask":
                self.dither_keys[name] = data
            return data

        self.sites[name]._attempt.random = listening

    def run_and_sum(self, drops: dict[str, set[str]]) -> np.ndarray:
        gone: set[str] = set()
        for stage in STAGES[:-1]:
            gone |= drops.get(stage, set())
            self.play(stage, gone)
        gone |= drops.get("unmask", set())
        total = self.server.sum_vector
        self.play("unmask", gone)
        assert total is not None
        return total  # unmasked in place


@st.composite
def dropouts(draw: st.DrawFn) -> tuple[int, dict[str, set[str]]]:
    """A number of sites and who falls silent at which stage, within what the session stands."""
    count = draw(st.integers(3, 14))
    allowed = thresholds(count).max_dropouts
    chosen = draw(st.permutations(site_names(count)))[: draw(st.integers(0, allowed))]
    drops: dict[str, set[str]] = {}
    for name in chosen:
        drops.setdefault(draw(st.sampled_from(STAGES[1:])), set()).add(name)
    return count, drops


@settings(max_examples=12, deadline=None)
@given(case=dropouts(), profile=st.sampled_from(["standard", "packed16"]))
def test_the_masked_sum_is_the_plain_sum_whoever_drops(case: tuple[int, dict[str, set[str]]], profile: str) -> None:
    count, drops = case
    federation = ListeningFederation(count, parameters=17, settings={"profile": profile})
    total = federation.run_and_sum(drops)
    result = federation.server.result()
    assert np.array_equal(total, plain_sum(federation, result.survivors))
    expected = federation.expected_mean(result.survivors)
    assert np.abs(result.mean_P - expected).max() <= federation.bound(result.survivors)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    "count", [30, pytest.param(60, marks=pytest.mark.slow), pytest.param(100, marks=pytest.mark.slow)]
)
def test_larger_sessions_with_random_dropouts_at_every_stage_sum_exactly(count: int, seed: int) -> None:
    rng = np.random.default_rng([count, seed])  # both stand in the test's name
    limits = thresholds(count)
    spare = rng.permutation(site_names(count))[: limits.max_dropouts]
    cuts = np.sort(rng.integers(0, len(spare) + 1, 3))
    share, mask, agree, unmask = (set(map(str, part)) for part in np.split(spare, cuts))
    federation = ListeningFederation(count, parameters=5)
    total = federation.run_and_sum({"share": share, "mask": mask, "agree": agree, "unmask": unmask})
    result = federation.server.result()
    assert set(result.dropped) == share | mask
    assert np.array_equal(total, plain_sum(federation, result.survivors))
    expected = federation.expected_mean(result.survivors)
    assert np.abs(result.mean_P - expected).max() <= federation.bound(result.survivors)


def test_ten_sites_three_killed_at_different_stages() -> None:
    federation = Federation(10, parameters=1000)
    names = federation.names
    result = federation.run({"share": {names[1]}, "mask": {names[4]}, "agree": {names[8]}})
    assert result.survivors == tuple(name for name in names if name not in (names[1], names[4]))
    assert np.abs(result.mean_P - federation.expected_mean(result.survivors)).max() <= federation.bound(
        result.survivors
    )


def test_a_site_that_never_advertises_is_simply_not_in_the_session() -> None:
    federation = Federation(5)
    result = federation.run({"advertise": {federation.names[0]}})
    assert result.survivors == tuple(federation.names[1:])
    assert result.dropped == ()


def test_the_side_vector_carries_counts_and_metrics_of_all_together() -> None:
    federation = Federation(6)
    result = federation.run({"mask": {federation.names[3]}})
    counts = [federation.num_examples[name] for name in result.survivors]
    losses = [federation.losses[name] for name in result.survivors]
    assert result.side.num_examples == sum(counts)
    assert result.side.metrics["loss"] == pytest.approx(np.average(losses, weights=counts), abs=1e-6)
    weights = [federation.weight(name) for name in result.survivors]
    assert result.side.weight == pytest.approx(sum(weights), abs=6 / WEIGHT_UNIT)


def test_a_sparse_mask_graph_gives_the_same_sum() -> None:
    federation = Federation(16, settings={"profile": "tests_only", "max_dropout_fraction": 0.07})
    result = federation.run({"mask": {federation.names[2]}})
    assert np.abs(result.mean_P - federation.expected_mean(result.survivors)).max() <= federation.bound(
        result.survivors
    )


def test_a_sparse_mask_graph_starts_anew_without_the_sites_that_dealt_no_shares() -> None:
    federation = Federation(16, settings={"profile": "tests_only", "max_dropout_fraction": 0.07})
    federation.play("advertise")
    with pytest.raises(errors.RestartError) as caught:
        federation.play("share", {federation.names[2]})
    assert caught.value.missing == (federation.names[2],)


def test_a_session_that_lost_too_many_sites_ends_and_stays_ended() -> None:
    federation = Federation(10)
    federation.play_until("mask")
    with pytest.raises(errors.TooFewSurvivorsError, match="6 survivors of 10 sites, 7 are needed"):
        federation.play("mask", federation.names[:4])
    assert federation.server.stage == "over"
    assert federation.server.sum_vector is None
    with pytest.raises(errors.StageError):
        federation.server.result()


def test_the_next_attempt_has_fresh_keys_and_other_masks() -> None:
    federation = Federation(5)
    federation.play_until("mask")
    with pytest.raises(errors.TooFewSurvivorsError):
        federation.play("mask", federation.names[:3])
    first = dict(federation.vectors)
    federation.attempt = 2
    federation.open()
    result = federation.run()
    assert len(result.survivors) == 5
    for name, vector in first.items():
        assert np.mean(vector == federation.vectors[name]) < 0.1


def test_sites_go_on_from_a_sealed_state_between_any_two_stages() -> None:
    federation = Federation(4)
    for stage in STAGES:
        federation.play(stage)
        for name in federation.names:
            sealed = federation.sites[name].seal(KEY)
            assert federation.updates[name].tobytes()[:16] not in sealed
            site = federation.new_site(name)
            site.open(KEY, sealed)
            federation.sites[name] = site
    assert np.abs(federation.server.result().mean_P - federation.expected_mean(federation.names)).max() < 1e-6


def test_a_site_that_was_killed_between_stages_counts_as_dropped() -> None:
    federation = Federation(5)
    federation.play_until("mask")
    killed = federation.names[1]
    federation.sites[killed] = federation.new_site(killed)  # its memory is gone
    with pytest.raises(errors.StageError, match="a masking message where proposal comes next"):
        federation.site_handles(killed, federation.server.request_for(killed))
    federation.play("mask", {killed})
    federation.play("agree")
    federation.play("unmask")
    assert killed not in federation.server.result().survivors


def test_a_sealed_state_of_before_cannot_answer_a_stage_again() -> None:
    federation = Federation(4)
    federation.play_until("agree")
    name = federation.names[0]
    old = federation.sites[name].seal(KEY)
    federation.play("agree")
    site = federation.new_site(name)
    site.open(KEY, old)
    with pytest.raises(errors.AttemptError, match="was answered, or given up, before"):
        site.handle(federation.requests["agree"][name])


def test_a_sealed_state_opens_with_its_key_only() -> None:
    federation = Federation(3)
    federation.play("advertise")
    sealed = federation.sites[federation.names[0]].seal(KEY)
    for key, data in ((bytes(32), sealed), (KEY, sealed[:-1]), (KEY, b""), (KEY, sealed[:12])):
        with pytest.raises(errors.SealError):
            federation.new_site(federation.names[0]).open(key, data)


@pytest.mark.parametrize("killed_at", ["share", "mask", "agree", "unmask"])
def test_a_server_that_was_killed_goes_on_from_its_dump(killed_at: str) -> None:
    federation = Federation(5)
    federation.play_until(killed_at)
    events, vector = federation.server.dump(), federation.server.sum_vector
    server = federation.new_server()
    replay(server, events, None if vector is None else vector.copy())
    assert (server.stage, server.asked) == (killed_at, federation.server.asked)
    federation.server = server
    for stage in STAGES[STAGES.index(killed_at) :]:
        federation.play(stage)
    assert np.abs(server.result().mean_P - federation.expected_mean(federation.names)).max() < 1e-6


def test_after_a_round_was_unmasked_no_attempt_at_it_is_answered() -> None:
    federation = Federation(4)
    federation.run()
    federation.attempt = 2
    federation.open()
    with pytest.raises(errors.AttemptError, match="was unmasked before"):
        federation.play("advertise")


def test_the_keys_are_erased_after_the_last_stage_and_after_a_failure() -> None:
    federation = Federation(3)
    federation.play("advertise")
    states = [federation.sites[name]._attempt.state for name in federation.names]
    private = states[0].mask_private
    assert any(private)
    federation.sites[federation.names[0]].erase()
    assert not any(private)
    federation = Federation(3)
    federation.play("advertise")
    state = federation.sites[federation.names[0]]._attempt.state
    with pytest.raises(errors.MessageError):
        federation.sites[federation.names[0]].handle(b"nonsense")
    assert not any(state.mask_private)
    assert not any(state.self_secret)


def test_vectors_may_come_in_pieces_of_any_size() -> None:
    federation = Federation(4, parameters=1000)
    federation.play_until("mask")
    for name in federation.names:
        reply = federation.site_handles(name, federation.server.request_for(name))
        assert reply.vector is not None
        data = reply.vector.tobytes()
        federation.server.receive(name, reply.payload, (data[start : start + 77] for start in range(0, len(data), 77)))
    federation.server.close_stage()
    federation.play("agree")
    federation.play("unmask")
    assert np.abs(federation.server.result().mean_P - federation.expected_mean(federation.names)).max() < 1e-6


def test_clocks_a_day_apart_do_not_matter() -> None:
    for days in (-1, 1):
        federation = Federation(3, now_s=NOW_S + days * 86_400 - 86_400)
        assert len(federation.run().survivors) == 3


def test_a_refusal_is_signed_recorded_and_the_round_goes_on_without_the_site() -> None:
    federation = Federation(4)
    stubborn = federation.names[2]
    policy = dataclasses.replace(federation.policy, privacy_required=True)
    federation.policy = policy
    federation.sites[stubborn] = federation.new_site(stubborn)
    request = federation.server.request_for(stubborn)
    reply = federation.sites[stubborn].answer(request)
    assert isinstance(reply.refused, errors.PolicyError)
    assert federation.server.receive(stubborn, reply.payload) is False
    fault = federation.server.faults[stubborn]
    assert fault.refused
    assert (fault.error, fault.stage) == ("PolicyError", "advertise")
    assert "secagg.privacy_required = True, the server proposes none" in fault.reason
    for stage in STAGES:
        federation.play(stage, {stubborn})
    assert stubborn not in federation.server.result().survivors
