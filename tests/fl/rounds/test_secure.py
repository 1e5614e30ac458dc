"""Rounds with secure aggregation: the engine, real keys and messages, and sites that train in a little numpy."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fl.arrays import ArrayFile
from fl.errors import ConfigError, RunError, TooFewSitesError
from fl.flower.folding import folding_for
from fl.rounds import events
from fl.rounds.checkpoint import model_path
from fl.rounds.config import RunConfig
from fl.rounds.engine import Engine
from fl.rounds.journal import Journal, load_state, read
from fl.rounds.port import Failure, Phase, Request
from fl.rounds.site import Worker
from fl.secagg.messages import STAGES
from fl.secagg.profiles import profile_named
from fl.secagg.receipt import verify_receipt
from fl.secagg.roster import parse_roster
from fl.tasks import registry
from fl.tasks.base import Site
from fl.tasks.training import TrainingConfig
from simulations import simulate
from tests.fl.rounds.secure_simulator import (
    CLIP,
    WEIGHT_CAP,
    SecureSimulatedSite,
    SecureSimulator,
    run_securely,
    secure_config,
    secure_simulator,
    secure_sites,
)
from tests.fl.rounds.simulator import SiteSimulator, federation, honest_update

FLOAT32 = 1e-6
"""What float32 itself rounds a model of this size by."""


def bound(count: int, num_examples: int, *, profile: str = "standard") -> float:
    """How far the mean of so many sites' updates may be off; see ``fl.secagg.quantise.decode_mean``."""
    q_max = profile_named(profile).q_max(count)
    return count * CLIP / (q_max * num_examples / WEIGHT_CAP) + FLOAT32


def model_after(directory: Path, number: int) -> np.ndarray:
    with ArrayFile(model_path(directory, number)) as file:
        return file.vector_P.copy()


def plain_model(directory: Path, sites: SecureSimulator, survivors: Sequence[str]) -> np.ndarray:
    """The first round's model as averaging in clear makes it of these sites' updates, in float64."""
    with ArrayFile(model_path(directory, 0)) as file:
        layout, before = file.layout, file.vector_P.astype(np.float64)
    (request,) = {site.trained[-1].seed: site.trained[-1] for site in sites.sites.values() if site.trained}.values()
    weights = np.array([sites.sites[name].num_examples for name in survivors], np.float64)
    updates = [honest_update(name, request, layout.split(before.astype(np.float32))) for name in survivors]
    vectors = [np.concatenate([update[name].reshape(-1) for name, _ in layout.entries]) for update in updates]
    return before + np.average(vectors, axis=0, weights=weights)


def reasons(directory: Path) -> dict[str, tuple[str, str]]:
    """Why sites were left out, by site: code and reason."""
    found = [record.event for record in read(directory) if isinstance(record.event, events.ReplyFailed)]
    return {event.site: (event.code, event.reason) for event in found}


KEEP = {"keep_models": 9}


# ---- the sum ----


@pytest.mark.parametrize("profile", ["standard", "packed16"])
def test_the_model_is_that_of_plain_averaging_within_the_quantisation_bound(tmp_path: Path, profile: str) -> None:
    credentials, sites = secure_simulator(tmp_path / "keys", secure_sites(4))
    config = secure_config(2, {"profile": profile})
    state = run_securely(tmp_path / "run", sites, config, credentials)
    plain = SiteSimulator(federation(4))
    run_securely(tmp_path / "plain", plain, dataclasses.replace(config, secagg=None))
    assert state.status == "completed"
    difference = np.abs(model_after(tmp_path / "run", 2) - model_after(tmp_path / "plain", 2)).max()
    assert 0 < difference < 2 * bound(4, 100, profile=profile)  # two rounds; exact equality would be no masking
    committed = state.rounds[1].committed
    assert committed
    assert committed.num_examples == 100
    assert committed.metrics.keys() == {"loss"}


def test_without_a_weight_cap_every_site_weighs_the_same(tmp_path: Path) -> None:
    sites = secure_sites(3)
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    config = secure_config(1, {"weight_cap": 0}, journal=KEEP)
    run_securely(tmp_path / "run", simulator, config, credentials)
    for site in sites.values():
        site.num_examples = 1
    expected = plain_model(tmp_path / "run", simulator, list(sites))
    np.testing.assert_allclose(model_after(tmp_path / "run", 1), expected, atol=2 * bound(3, 3 * WEIGHT_CAP), rtol=0)


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedprox"])
def test_a_strategy_that_needs_the_mean_alone_steps_with_it(tmp_path: Path, name: str) -> None:
    credentials, sites = secure_simulator(tmp_path / "keys", secure_sites(3))
    config = secure_config(3, strategy={"name": name})
    assert run_securely(tmp_path / "run", sites, config, credentials).status == "completed"
    run_securely(tmp_path / "plain", SiteSimulator(federation(3)), dataclasses.replace(config, secagg=None))
    # Adam divides by small second moments, which widens the difference of the sums.
    np.testing.assert_allclose(model_after(tmp_path / "run", 3), model_after(tmp_path / "plain", 3), atol=1e-3)


@pytest.mark.parametrize("name", ["median", "krum", "flwr.serverapp.strategy:FedAvg"])
def test_a_strategy_that_looks_at_single_updates_is_refused(tmp_path: Path, name: str) -> None:
    credentials, sites = secure_simulator(tmp_path / "keys", secure_sites(3))
    with pytest.raises(ConfigError, match=f"strategy {name} looks at each site's update"):
        run_securely(tmp_path / "run", sites, secure_config(strategy={"name": name}), credentials)


def test_a_server_without_a_roster_refuses_the_run(tmp_path: Path) -> None:
    _, sites = secure_simulator(tmp_path / "keys", secure_sites(3))
    with pytest.raises(ConfigError, match="neither roster nor key"):
        run_securely(tmp_path / "run", sites, secure_config())


# ---- what the server sees ----


class Watched(SecureSimulator):
    """Looks at the server's disk whenever the server asks somebody."""

    directory: Path
    found: set[str]

    def ask(self, sites, request, model, payloads=None):
        self.found |= {path.name for path in self.directory.rglob("*") if path.is_file()}
        super().ask(sites, request, model, payloads)


def test_nothing_of_one_site_is_on_the_servers_disk_or_in_a_message(tmp_path: Path) -> None:
    credentials, simulator = secure_simulator(tmp_path / "keys", secure_sites(4))
    sites = Watched(simulator.sites, simulator.secure)
    sites.directory, sites.found = tmp_path / "run", set()
    config = secure_config(3, evaluation={"sites_every": 1}, journal={"keep_updates": True})
    run_securely(tmp_path / "run", sites, config, credentials)
    assert "update-_sum.safetensors" in sites.found
    assert "secagg-1.sum" in sites.found
    assert not [name for name in sites.found if "site-" in name]
    assert not list((tmp_path / "run").rglob("secagg-*")), "a session outlived its round"
    of_one = (events.UpdateLanded, events.EvaluationLanded, events.ReplyLate)
    lines = read(tmp_path / "run")
    assert not [record.event for record in lines if isinstance(record.event, of_one)]
    counted = [record.event for record in lines if hasattr(record.event, "num_examples")]
    assert {event.num_examples for event in counted} == {10 + 20 + 30 + 40}
    replies = [reply for reply in sites.replies_seen if reply.request.phase == "secagg"]
    assert len(replies) == 3 * 4 * len(STAGES)
    for reply in replies:
        assert (reply.num_examples, reply.metrics, reply.arrays, reply.report) == (0, {}, None, {})
        assert (reply.vector is not None) == (reply.request.stage == "mask")


def test_a_masked_update_is_unlike_the_update(tmp_path: Path) -> None:
    """Without masks the same update would be sent in each attempt, apart from its random rounding."""
    behaviour = SecureSimulatedSite(silent_at={(0, 1, "agree")})
    sites = secure_sites(3, site_3=behaviour)
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    run_securely(tmp_path / "run", simulator, secure_config(1), credentials)
    sent = [reply.vector for reply in simulator.replies_seen if reply.site == "site-1" and reply.vector is not None]
    assert len(sent) == 2
    apart = (sent[0] - sent[1]).astype(np.int32)[:-3]
    assert np.median(np.abs(apart.astype(np.float64))) > 2**28


def test_the_metrics_of_the_sum_are_those_of_all_sites_together(tmp_path: Path) -> None:
    sites = secure_sites(4)
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    state = run_securely(tmp_path / "run", simulator, secure_config(3, evaluation={"sites_every": 2}), credentials)
    assert [number for number, entry in state.rounds.items() if "sites" in entry.evaluated] == [2]
    asked = {request.round: dict(request.options) for request in sites["site-1"].trained}
    assert asked == {1: {}, 2: {}, 3: {"evaluate": 1.0}}
    landed, evaluated = state.rounds[3].sum, state.rounds[2].evaluated["sites"]
    assert landed
    assert evaluated.sites == 4
    assert evaluated.metrics == {"loss": pytest.approx(2 * landed.metrics["loss"], rel=1e-5)}


# ---- sites that fall silent ----


@pytest.mark.parametrize("stage", STAGES)
def test_a_site_that_falls_silent_leaves_an_exact_sum_over_the_survivors(tmp_path: Path, stage: str) -> None:
    silent = SecureSimulatedSite(num_examples=20, silent_at={(0, 0, stage)})
    sites = secure_sites(5, site_2=silent)
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    state = run_securely(tmp_path / "run", simulator, secure_config(1, journal=KEEP), credentials)
    survivors = [name for name in sites if name != "site-2" or stage in ("agree", "unmask")]
    closed = state.rounds[1].closed
    assert closed
    assert list(closed.survivors) == survivors
    assert len(state.rounds[1].opened) == 1
    expected = plain_model(tmp_path / "run", simulator, survivors)
    error = np.abs(model_after(tmp_path / "run", 1) - expected).max()
    assert error < bound(5, sum(sites[name].num_examples for name in survivors))


def test_of_ten_sites_three_fall_silent_at_different_stages_and_the_sum_is_exact(tmp_path: Path) -> None:
    silent = {
        f"site_{i}": SecureSimulatedSite(num_examples=10 * i, silent_at={(0, 0, stage)})
        for i, stage in ((2, "share"), (5, "mask"), (9, "agree"))
    }
    sites = secure_sites(10, **silent)
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    state = run_securely(tmp_path / "run", simulator, secure_config(1, journal=KEEP), credentials)
    entry = state.rounds[1]
    assert {closed.stage: len(closed.sites) for closed in entry.stages} == {
        "advertise": 10,
        "share": 9,
        "mask": 8,
        "agree": 7,
        "unmask": 7,
    }
    survivors = sorted(set(sites) - {"site-2", "site-5"})
    assert entry.sum
    assert list(entry.sum.survivors) == survivors
    assert entry.sum.dropped == ("site-2", "site-5")
    expected = plain_model(tmp_path / "run", simulator, survivors)
    error = np.abs(model_after(tmp_path / "run", 1) - expected).max()
    assert error < bound(10, sum(sites[name].num_examples for name in survivors))


@pytest.mark.parametrize("stage", ["share", "mask", "agree"])
def test_too_many_silent_sites_end_the_attempt_and_the_next_one_has_fresh_keys(tmp_path: Path, stage: str) -> None:
    sites = secure_sites(5)
    for name in ("site-2", "site-4"):
        sites[name].silent_at = {(0, 1, stage)}
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    state = run_securely(tmp_path / "run", simulator, secure_config(1, journal=KEEP), credentials)
    entry = state.rounds[1]
    assert [opened.attempt for opened in entry.opened] == [1, 2]
    assert entry.sum
    assert len(entry.sum.survivors) == 5
    assert entry.late == [], "a reply to forget counts for nothing"
    keys = [reply.payload for reply in simulator.replies_seen if reply.request.stage == "advertise"]
    assert len(set(keys)) == len(keys) == 10
    expected = plain_model(tmp_path / "run", simulator, list(sites))
    assert np.abs(model_after(tmp_path / "run", 1) - expected).max() < bound(5, 150)


def test_an_attempt_that_is_given_up_is_forgotten_by_its_sites(tmp_path: Path) -> None:
    sites = secure_sites(4)
    for name in ("site-1", "site-2"):
        sites[name].silent_at = {(0, 0, "agree")}
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    with pytest.raises(TooFewSitesError, match=r"round 1: 0 of 3 needed sites answered in 1 attempts"):
        run_securely(tmp_path / "run", simulator, secure_config(1, round={"attempts": 1, "quorum": 3}), credentials)
    assert simulator.secure["site-3"].memory, "it holds its keys until it is told"
    while list(simulator.replies(60)):
        pass
    assert all(not site.memory for site in simulator.secure.values())
    abandoned = [record.event for record in read(tmp_path / "run") if isinstance(record.event, events.RoundAbandoned)]
    assert abandoned[0].because == "2 sites agreed to the survivors, 3 are needed"


def test_sites_that_revealed_shares_in_vain_go_on_in_a_later_round_of_theirs(tmp_path: Path) -> None:
    """Three sites are all needed to unmask, and one is silent then: nobody reveals for that round again."""
    sites = secure_sites(3, site_2=SecureSimulatedSite(num_examples=20, silent_at={(1, 1, "unmask")}))
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    config = secure_config(2, journal=KEEP)
    state = run_securely(tmp_path / "run", simulator, config, credentials)
    assert state.status == "completed"
    assert [len(entry.opened) for entry in state.rounds.values()] == [2, 1]
    assert state.spent == 1
    seeds = [request.seed for request in sites["site-1"].trained]
    assert len(set(seeds)) == 3, "the update whose sum may be known is not made again"
    rounds = []
    roster = parse_roster(credentials.roster)
    for path in sorted((simulator.secure["site-1"].directory / "receipts").iterdir()):
        rounds.append(verify_receipt(path.read_bytes(), roster, credentials.roster).config.round)
    assert rounds == [1, 2, 3]


def test_a_quorum_that_is_missed_ends_the_attempt_before_anything_is_revealed(tmp_path: Path) -> None:
    sites = secure_sites(5, site_2=SecureSimulatedSite(num_examples=20, silent_at={(0, 1, "mask")}))
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    state = run_securely(tmp_path / "run", simulator, secure_config(1, round={"quorum": 1.0}), credentials)
    assert [opened.attempt for opened in state.rounds[1].opened] == [1, 2]
    abandoned = [record.event for record in read(tmp_path / "run") if isinstance(record.event, events.RoundAbandoned)]
    assert abandoned[0].because == "4 sites are left after mask, quorum is 5"
    assert not [
        reply for reply in simulator.replies_seen if reply.request.attempt == 1 and reply.request.stage == "agree"
    ]


def test_a_quorum_that_lingers_does_not_wait_for_the_slowest(tmp_path: Path) -> None:
    sites = secure_sites(4, site_4=SecureSimulatedSite(num_examples=40, silent_at={(0, 0, "mask")}))
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    config = secure_config(1, round={"linger_s": 5.0, "deadline_s": 900.0})
    start = simulator.time.now_s
    state = run_securely(tmp_path / "run", simulator, config, credentials)
    assert state.status == "completed"
    assert simulator.time.now_s - start < 60


def test_an_automatic_deadline_follows_how_long_the_masked_updates_took(tmp_path: Path) -> None:
    credentials, simulator = secure_simulator(
        tmp_path / "keys", secure_sites(3, site_3=SecureSimulatedSite(delay_s=50.0))
    )
    config = secure_config(2, {"stage_deadline_s": 60.0}, round={"deadline_max_s": 600.0})
    state = run_securely(tmp_path / "run", simulator, config, credentials)
    assert [entry.opened[0].deadline_s for entry in state.rounds.values()] == [600.0, 150.0]


# ---- sites that refuse, or cannot ----


def policy(simulator: SecureSimulator, name: str, line: str) -> None:
    (simulator.secure[name].directory / "policy.toml").write_text(f"[secagg]\n{line}\n")


def test_a_refusal_is_recorded_with_its_reason_and_the_round_goes_on(tmp_path: Path) -> None:
    credentials, simulator = secure_simulator(tmp_path / "keys", secure_sites(4))
    policy(simulator, "site-2", "max_clip = 0.5")
    state = run_securely(tmp_path / "run", simulator, secure_config(1), credentials)
    assert state.rounds[1].closed
    assert state.rounds[1].closed.survivors == ("site-1", "site-3", "site-4")
    code, reason = reasons(tmp_path / "run")["site-2"]
    assert code == "refused"
    assert reason == "the site's policy has secagg.max_clip = 0.5, the server proposes 2.0"


def test_a_site_that_refused_is_not_invited_again_in_the_same_round(tmp_path: Path) -> None:
    sites = secure_sites(4)
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    policy(simulator, "site-2", "min_sites = 5")
    state = run_securely(tmp_path / "run", simulator, secure_config(2, round={"quorum": 1.0}), credentials)
    for entry in state.rounds.values():
        assert [opened.cohort for opened in entry.opened] == [tuple(sites), ("site-1", "site-3", "site-4")]
        assert "site-2" in entry.refused
    asked = [(request.round, request.attempt, request.stage) for request in sites["site-2"].asked]
    assert asked == [(1, 1, "advertise"), (1, 1, "forget"), (2, 1, "advertise"), (2, 1, "forget")]


@pytest.mark.parametrize("phase", ["train", "evaluate"])
def test_a_site_that_requires_secure_aggregation_does_nothing_in_clear(tmp_path: Path, phase: Phase) -> None:
    _, simulator = secure_simulator(tmp_path / "keys", secure_sites(3))
    policy(simulator, "site-1", "required = true")
    task = registry.create("digits", {"network": "mlp"})
    worker = Worker(task, TrainingConfig(), Site(id="site-1"), simulator.secure["site-1"])
    reply = worker.answer(Request(phase=phase, round=1, attempt=1, seed=1), {})
    assert reply.failure
    assert reply.failure.code == "refused"
    assert (
        reply.failure.reason == f"the site's policy has secagg.required = True, the server proposes to {phase} in clear"
    )


@pytest.mark.parametrize(("cohort", "said"), [(4, "asks 4 sites"), (0, "does not say how many sites it asks")])
def test_a_site_does_not_train_in_clear_with_fewer_others_than_its_owner_wants(
    tmp_path: Path, cohort: int, said: str
) -> None:
    _, simulator = secure_simulator(tmp_path / "keys", secure_sites(3))
    policy(simulator, "site-1", "min_cohort = 5")
    task = registry.create("digits", {"network": "mlp"})
    worker = Worker(task, TrainingConfig(), Site(id="site-1"), simulator.secure["site-1"])
    reply = worker.answer(Request(phase="train", round=1, attempt=1, seed=1, cohort=cohort), {})
    assert reply.failure == Failure(
        code="refused", reason=f"the site's policy has secagg.min_cohort = 5, the server {said}"
    )
    enough = worker.answer(Request(phase="train", round=1, attempt=1, seed=1, cohort=5), {})
    assert enough.failure
    assert enough.failure.code != "refused"  # it goes on, to the model that we did not bring


def test_a_site_that_makes_a_sparse_session_impossible_is_not_in_the_next_one(tmp_path: Path) -> None:
    sites = secure_sites(20, site_7=SecureSimulatedSite(silent_at={(0, 0, "share")}))
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    for name in sites:
        policy(simulator, name, 'profiles = ["tests_only"]')
    config = secure_config(1, {"profile": "tests_only", "max_dropout_fraction": 0.1})
    state = run_securely(tmp_path / "run", simulator, config, credentials)
    assert reasons(tmp_path / "run")["site-7"][0] == "no_shares"
    first, second = state.rounds[1].opened
    assert set(first.cohort) - set(second.cohort) == {"site-7"}
    assert state.rounds[1].sum
    assert len(state.rounds[1].sum.survivors) == 19


def test_when_too_few_sites_are_willing_the_error_says_what_one_of_them_objects_to(tmp_path: Path) -> None:
    credentials, simulator = secure_simulator(tmp_path / "keys", secure_sites(3))
    policy(simulator, "site-3", "privacy_required = true")
    words = "2 sites online, 3 needed, after 300 s; without site-3: .*secagg.privacy_required = True"
    with pytest.raises(TooFewSitesError, match=words):
        run_securely(tmp_path / "run", simulator, secure_config(1), credentials)
    # Its owner thinks again, and the run is resumed: the site is asked once more.
    policy(simulator, "site-3", "privacy_required = false")
    assert run_securely(tmp_path / "run", simulator, secure_config(1), credentials).status == "completed"


def test_a_site_that_the_roster_lacks_is_left_out_and_named(tmp_path: Path) -> None:
    credentials, simulator = secure_simulator(tmp_path / "keys", secure_sites(4))
    simulator.sites["new"] = SecureSimulatedSite()
    state = run_securely(tmp_path / "run", simulator, secure_config(1, round={"quorum": 1.0}), credentials)
    assert state.rounds[1].opened[0].cohort == ("site-1", "site-2", "site-3", "site-4")
    assert reasons(tmp_path / "run")["new"] == (
        "not_on_roster",
        "the roster does not have this site: fl roster add, then fl roster sign",
    )
    assert not [request for request in simulator.sites["new"].asked if request.phase == "secagg"]


def test_two_sites_are_too_few(tmp_path: Path) -> None:
    credentials, simulator = secure_simulator(tmp_path / "keys", secure_sites(2))
    with pytest.raises(TooFewSitesError, match="2 sites online, 3 needed"):
        run_securely(tmp_path / "run", simulator, secure_config(1), credentials)


def test_more_sites_than_the_ring_has_room_for_are_refused_before_anybody_trains(tmp_path: Path) -> None:
    sites = secure_sites(129)
    for site in list(sites.values())[1:]:
        site.num_examples, site.delay_s = 10, 1.0
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    config = secure_config(1, {"profile": "packed16"})
    with pytest.raises(RunError, match="129 sites, the profile packed16 has room for 128") as raised:
        run_securely(tmp_path / "run", simulator, config, credentials)
    assert "invite fewer sites" in (raised.value.hint or "")
    assert not any(site.trained for site in sites.values())
    for site in list(sites.values())[4:]:
        site.online = False
    assert run_securely(tmp_path / "run", simulator, config, credentials).status == "completed"


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_site_whose_update_is_not_finite_refuses_to_send_it_and_the_sum_goes_on(
    tmp_path: Path, number: float
) -> None:
    def spoilt(site, request, model):
        return {**honest_update(site, request, model), "bias": np.full(5, number, np.float32)}

    sites = secure_sites(5, site_2=SecureSimulatedSite(num_examples=20, update=spoilt))
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    state = run_securely(tmp_path / "run", simulator, secure_config(1, journal=KEEP), credentials)
    assert len(state.rounds[1].opened) == 1
    assert reasons(tmp_path / "run")["site-2"] == ("refused", "the update holds NaN or infinity")
    survivors = sorted(set(sites) - {"site-2"})
    expected = plain_model(tmp_path / "run", simulator, survivors)
    assert np.abs(model_after(tmp_path / "run", 1) - expected).max() < bound(5, 130)


def test_two_sites_with_spoilt_updates_cost_an_attempt_and_are_left_out_of_the_next(tmp_path: Path) -> None:
    spoilt = {
        f"site_{i}": SecureSimulatedSite(
            update=lambda *_: {"weight": np.full((3, 5), np.nan, "f4"), "bias": np.zeros(5, "f4")}
        )
        for i in (2, 4)
    }
    sites = secure_sites(5, **spoilt)
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    state = run_securely(tmp_path / "run", simulator, secure_config(1), credentials)
    assert [opened.cohort for opened in state.rounds[1].opened] == [tuple(sites), ("site-1", "site-3", "site-5")]
    assert state.status == "completed"


def test_a_site_whose_training_fails_is_left_out_with_its_reason(tmp_path: Path) -> None:
    def broken(site, request, model):
        raise ConfigError("column age is missing")

    credentials, simulator = secure_simulator(
        tmp_path / "keys", secure_sites(4, site_2=SecureSimulatedSite(update=broken))
    )
    state = run_securely(tmp_path / "run", simulator, secure_config(2), credentials)
    assert state.status == "completed"
    assert reasons(tmp_path / "run")["site-2"] == ("task_failed", "column age is missing")


@pytest.mark.parametrize("stage", STAGES[1:])
def test_a_site_that_is_restarted_is_out_of_that_session_alone(tmp_path: Path, stage: str) -> None:
    sites = secure_sites(5, site_2=SecureSimulatedSite(forgets_at={(1, 0, stage)}))
    credentials, simulator = secure_simulator(tmp_path / "keys", sites)
    state = run_securely(tmp_path / "run", simulator, secure_config(2), credentials)
    assert reasons(tmp_path / "run") == {"site-2": ("session_lost", "this site was restarted since the round began")}
    assert state.rounds[2].closed
    assert state.rounds[2].closed.survivors == ("site-1", "site-2", "site-3", "site-4", "site-5")


# ---- servers that are restarted ----


class Killed(BaseException):
    """The server's end, at a place where nothing is in the middle of being written."""


class Fragile(SecureSimulator):
    """Kills the server when it has asked for a stage of round 2, and so many sites have answered."""

    stage: str
    answers: int = 1

    def replies(self, timeout_s):
        for reply in super().replies(timeout_s):
            if (reply.request.round, reply.request.stage) == (2, self.stage):
                if self.answers == 0:
                    raise Killed
                self.answers -= 1
            yield reply


def interrupted(tmp_path: Path, stage: str, config: RunConfig):
    """A server that was killed in a stage of round 2; its sites live on, the reply that it was given is lost."""
    credentials, plain = secure_simulator(tmp_path / "keys", secure_sites(4))
    simulator = Fragile(plain.sites, plain.secure)
    simulator.stage = stage
    with pytest.raises(Killed):
        run_securely(tmp_path / "run", simulator, config, credentials)
    again = SecureSimulator(plain.sites, plain.secure, simulator.time)
    return credentials, again


@pytest.mark.parametrize("stage", STAGES)
def test_a_resumed_round_begins_a_new_attempt_until_the_sum_is_masked_and_goes_on_afterwards(
    tmp_path: Path, stage: str
) -> None:
    config = secure_config(2, journal=KEEP)
    credentials, again = interrupted(tmp_path, stage, config)
    state = run_securely(tmp_path / "run", again, config, credentials)
    assert state.status == "completed"
    assert state.sessions == 2
    goes_on = stage in ("agree", "unmask")
    assert len(state.rounds[2].opened) == (1 if goes_on else 2)
    assert state.spent == 0
    trained = [request.attempt for request in again.sites["site-1"].trained if request.round == 2]
    assert trained == {"advertise": [2], "share": [2], "mask": [1, 2]}.get(stage, [1])
    assert again.secure["site-1"].memory.keys() <= {"asked", "answer"}


@pytest.mark.parametrize("stage", ["agree", "unmask"])
def test_a_stored_session_that_no_longer_fits_is_given_up(tmp_path: Path, stage: str) -> None:
    """The operator gave the server another key meanwhile; sites that have revealed go on with a later round."""
    config = secure_config(2, journal=KEEP)
    credentials, again = interrupted(tmp_path, stage, config)
    other, _ = secure_simulator(tmp_path / "others", secure_sites(4))
    changed = dataclasses.replace(credentials, identity=other.identity)
    state = run_securely(tmp_path / "run", again, config, changed)
    assert state.status == "completed"
    assert [opened.attempt for opened in state.rounds[2].opened] == [1, 2]
    assert state.spent == (stage == "unmask")


def test_a_torn_message_in_the_store_is_asked_for_again(tmp_path: Path) -> None:
    config = secure_config(2, journal=KEEP)
    credentials, again = interrupted(tmp_path, "unmask", config)
    (stored,) = (tmp_path / "run").rglob("*.events")
    with stored.open("ab") as file:
        file.write(stored.read_bytes()[:50])
    assert run_securely(tmp_path / "run", again, config, credentials).status == "completed"
    assert not [reply for reply in again.replies_seen if reply.request.stage != "unmask"]


def test_a_sum_that_is_damaged_on_disk_is_made_again_from_the_stored_session(tmp_path: Path) -> None:
    config = secure_config(1)
    credentials, simulator = secure_simulator(tmp_path / "keys", secure_sites(3))

    class Dies(Journal):
        def append(self, event: events.Event) -> None:
            if isinstance(event, events.RoundCommitted):
                raise Killed
            super().append(event)

    Journal.create(tmp_path / "run", config.to_dict(), clock=simulator.time.clock).close()
    with Dies(tmp_path / "run", clock=simulator.time.clock) as journal, pytest.raises(Killed):
        Engine(journal, config, simulator, folding_for(config.strategy), credentials=credentials).run()
    (landed,) = (tmp_path / "run").rglob("update-_sum.safetensors")
    landed.write_bytes(landed.read_bytes()[:-4] + b"\0\0\0\0")
    again = SecureSimulator(simulator.sites, simulator.secure, simulator.time)
    state = run_securely(tmp_path / "run", again, config, credentials)
    assert state.status == "completed"
    assert again.replies_seen == []


# ---- receipts ----


def test_the_receipts_of_server_and_sites_tell_the_same(tmp_path: Path) -> None:
    credentials, simulator = secure_simulator(tmp_path / "keys", secure_sites(4))
    run_securely(tmp_path / "run", simulator, secure_config(1), credentials)
    roster = parse_roster(credentials.roster)
    (at_server,) = (tmp_path / "run").rglob("receipt.json")
    assert at_server.with_name("roster.json").read_bytes() == credentials.roster, "the journal does not stand alone"
    server = verify_receipt(at_server.read_bytes(), roster, credentials.roster)
    for site in simulator.secure.values():
        (kept,) = (site.directory / "receipts").iterdir()
        found = verify_receipt(kept.read_bytes(), roster, credentials.roster)
        assert (found.sid, found.survivors, found.model) == (server.sid, server.survivors, server.model)
    assert server.config.run_id == f"test {load_state(tmp_path / 'run').created_at.isoformat()}"


# ---- a real task ----

DIGITS = {
    "task": {"name": "digits", "network": "mlp"},
    "run": {"name": "digits", "rounds": 5, "seed": 3},
    "training": {"epochs": 2, "learning_rate": 0.05, "batch_size": 16},
    "evaluation": {"sites_every": 0, "centre_every": 1},
}


@pytest.fixture(scope="module")
def digits_in_clear(tmp_path_factory: pytest.TempPathFactory) -> float:
    return accuracy(tmp_path_factory.mktemp("clear"))


def accuracy(directory: Path, secagg: dict[str, object] | None = None) -> float:
    config = RunConfig.from_dict({**DIGITS, **({"secagg": secagg} if secagg is not None else {})})
    state = simulate(config, directory / "run", sites=5)
    return state.rounds[DIGITS["run"]["rounds"]].evaluated["centre"].metrics["accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("section", "points"), [({}, 0.2), ({"profile": "packed16", "weight_cap": 300}, 0.5)], ids=["standard", "packed16"]
)
def test_digits_are_learned_as_well_as_in_clear(tmp_path: Path, digits_in_clear: float, section, points: float) -> None:
    reached = accuracy(tmp_path, section)
    assert digits_in_clear > 0.9
    assert 100 * abs(reached - digits_in_clear) < points


def test_a_whole_run_in_one_process_is_resumed_with_new_keys(tmp_path: Path) -> None:
    """``simulate`` makes keys for each life of the server; a run that lost its last line is gone on with."""
    config = RunConfig.from_dict({**DIGITS, "run": {"rounds": 1}, "evaluation": {"sites_every": 0}, "secagg": {}})
    simulate(config, tmp_path / "whole", sites=3)
    shutil.copytree(tmp_path / "whole", tmp_path / "run")
    lines = (tmp_path / "run/events.jsonl").read_bytes().splitlines(keepends=True)
    kept = next(i for i, line in enumerate(lines) if json.loads(line)["event"] == "sum_landed")
    (tmp_path / "run/events.jsonl").write_bytes(b"".join(lines[:kept]))
    state = simulate(config, tmp_path / "run", sites=3)
    assert state.status == "completed"
    assert len(state.rounds[1].opened) == 2
