"""Scenario files: what is refused and with which hint, what is changed, and what a sweep makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fl.errors import ConfigError, FLError
from fl.tasks import registry
from simulations import Scenario, simulate
from simulations.scenario import Bound
from simulations.world import build

MINIMAL: dict[str, Any] = {"task": {"name": "digits", "network": "mlp"}}
FULL: dict[str, Any] = {
    **MINIMAL,
    "run": {"name": "full", "rounds": 3, "seed": 4},
    "scenario": {"title": "All", "teaches": "much", "expect": {"accuracy": {"at_least": 0.5}}},
    "population": {"sites": 6, "seed": 2},
    "split": {"kind": "dirichlet", "alpha": 0.3},
    "devices": [{"name": "phone"}, {"name": "box", "samples_per_s": 10.0}],
    "links": [{"name": "lte", "share": 2.0}],
    "faults": {"dropout": 0.1},
    "hostile": [{"kind": "label_flip", "share": 0.2}],
    "sweep": {"seeds": [1, 2], "training": {"epochs": [1, 2]}},
}


def with_tables(**tables: Any) -> dict[str, Any]:
    return {**MINIMAL, **tables}


# ---- reading ----


@pytest.mark.parametrize(
    ("tables", "message", "hint"),
    [
        ({"devcies": []}, "unknown key devcies", "did you mean devices?"),
        ({"population": {"site": 3}}, "unknown key population.site", "did you mean population.sites?"),
        ({"split": {"alhpa": 0.1}}, "unknown key split.alhpa", "did you mean split.alpha?"),
        ({"faults": {"drop_out": 0.1}}, "unknown key faults.drop_out", "did you mean faults.dropout?"),
        ({"links": [{"name": "x", "latency": 1}]}, "unknown key links.latency", "did you mean links.latency_ms?"),
        ({"scenario": {"expects": {}}}, "unknown key scenario.expects", "did you mean scenario.expect?"),
        ({"training": {"epoch": 1}}, "unknown key training.epoch", "did you mean training.epochs?"),
        ({"sweep": {"training.epoch": [1]}}, "sweep: unknown key training.epoch", "did you mean training.epochs?"),
        ({"split": {"kind": "dirichlett"}}, "split.kind is 'dirichlett'", "did you mean dirichlet?"),
        ({"devices": {"name": "phone"}}, "must be a list of tables", "[[devices]]"),
        ({"population": 3}, "population is 3, must be a table", None),
        ({"scenario": {"expect": {"accuracy": 0.9}}}, "scenario.expect.accuracy is 0.9", "at_least = 0.9"),
        ({"scenario": {"expect": {"accuracy": {}}}}, "scenario.expect.accuracy expects nothing", "at_least"),
        ({"scenario": {"expect": {"loss": {"at_mots": 1}}}}, "unknown key scenario.expect.loss.at_mots", "at_most?"),
    ],
)
def test_a_mistake_is_named_with_what_was_meant(tables: dict[str, Any], message: str, hint: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        Scenario.from_dict(with_tables(**tables))
    assert message in caught.value.message
    assert (hint or "") in str(caught.value.hint)


@pytest.mark.parametrize(
    ("tables", "message", "hint"),
    [
        ({"round": {"cohort": 20}}, "round.cohort is 20, and there are 10 sites", "population.sites = 20"),
        ({"round": {"min_online": 11}}, "round.min_online is 11, and there are 10 sites", "round.min_online = 10"),
        ({"evaluation": {"cohort": 99}}, "evaluation.cohort is 99, and there are 10 sites", "population.sites = 99"),
        ({"sweep": {"round.cohort": [5, 20]}}, "sweep: round.cohort is 20", "population.sites = 20"),
    ],
)
def test_more_sites_cannot_be_asked_than_there_are(tables: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Scenario.from_dict(with_tables(**tables))
    assert hint in str(caught.value.hint)


def test_nor_more_than_a_fleet_has(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("sites: [{id: ulm}, {id: bonn}, {id: kiel}]")
    tables = with_tables(round={"cohort": 4}, population={"fleet": str(tmp_path / "fleet.yaml")})
    with pytest.raises(ConfigError, match=r"round\.cohort is 4, and there are 3 sites"):
        simulate(Scenario.from_dict(tables), tmp_path / "run")


def test_an_attack_on_what_is_masked_is_refused() -> None:
    tables = with_tables(secagg={}, hostile=[{"kind": "sign_flip"}])
    with pytest.raises(ConfigError, match="sign_flip changes updates, which secure aggregation hides"):
        build(Scenario.from_dict(tables), registry.create("digits", {}))
    build(Scenario.from_dict(with_tables(secagg={}, hostile=[{"kind": "backdoor"}])), registry.create("digits", {}))


def test_a_file_is_read_with_its_paths_from_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "fleet.yaml").write_text("sites: [{id: ulm}, {id: bonn}]")
    (tmp_path / "one.toml").write_text('[task]\nname = "digits"\n[population]\nfleet = "fleet.yaml"\n')
    assert Scenario.from_file(tmp_path / "one.toml").population.fleet == str(tmp_path / "fleet.yaml")
    (tmp_path / "two.toml").write_text('[task]\nname = "digits"\n[population]\nfleet = "other.yaml"\n')
    with pytest.raises(ConfigError, match=r"no such file: .*other.yaml"):
        Scenario.from_file(tmp_path / "two.toml")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.toml", None, "no such file"),
        ("broken.toml", "[task\n", "is not TOML"),
        ("none.json", None, "no such file"),
        ("broken.json", "{", "cannot read"),
        ("list.json", "[]", "holds no tables"),
        ("task.toml", '[task]\nname = "digitz"\n', "unknown task digitz"),
        ("option.toml", '[task]\nname = "digits"\nhiden = 3\n', "unknown key task.hiden"),
        ("strategy.toml", '[task]\nname = "digits"\n[strategy]\nname = "fedavgg"\n', "fedavgg"),
        ("secure.toml", '[task]\nname = "digits"\n[strategy]\nname = "median"\n[secagg]\n', "median"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, name: str, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(FLError, match=message):
        Scenario.from_file(tmp_path / name)


def test_a_run_file_is_a_scenario() -> None:
    scenario = Scenario.from_dict(MINIMAL)
    assert scenario.population.sites == 10
    assert not scenario.is_timed
    assert Scenario.from_dict(FULL).is_timed


# ---- writing ----


def test_what_is_written_is_read_again() -> None:
    scenario = Scenario.from_dict(FULL)
    assert Scenario.from_dict(scenario.to_dict()) == scenario
    assert Scenario.from_dict(json.loads(json.dumps(scenario.to_dict()))) == scenario


def test_a_journal_gives_the_scenario_back_without_its_sweep() -> None:
    scenario = Scenario.from_dict({key: table for key, table in FULL.items() if key != "sweep"})
    assert Scenario.from_dict(json.loads(json.dumps(scenario.run_config().to_dict()))) == scenario


# ---- changes ----


def test_dotted_keys_change_tables_options_and_entries_of_lists() -> None:
    changed = Scenario.from_dict(FULL).changed(
        {
            "training.learning_rate": 0.2,
            "task.hidden": 8,
            "devices.1.samples_per_s": 3.0,
            "strategy": {"name": "median"},
            "split.kind": "iid",
        }
    )
    assert changed.config.training.learning_rate == 0.2
    assert changed.config.task["hidden"] == 8
    assert changed.devices[1].samples_per_s == 3.0
    assert changed.config.strategy == {"name": "median"}
    assert changed.split is not None
    assert (changed.split.kind, changed.split.alpha) == ("iid", 0.3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trainig.epochs": 1}, "unknown key trainig"),
        ({"devices.2.share": 1.0}, "unknown key devices.2"),
        ({"devices.box.share": 1.0}, "unknown key devices.box"),
        ({"run.rounds.x": 1}, "unknown key run.rounds.x: run.rounds is 3, no table"),
        ({"run.rounds": "many"}, "run.rounds is 'many', must be a whole number"),
    ],
)
def test_a_change_that_does_not_fit_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scenario.from_dict(FULL).changed(settings)


# ---- sweeps ----


def test_a_sweep_is_the_product_of_its_axes_and_seeds_with_names_of_their_own() -> None:
    sweep = {
        "seeds": [1, 2],
        "strategy": [{"name": "fedavg"}, {"name": "median"}],
        "training.learning_rate": [0.1, 0.01],
    }
    variants = Scenario.from_dict({**FULL, "sweep": sweep}).variants()
    assert [variant.name for variant in variants[:4]] == [
        "strategy-fedavg_learning_rate-0.1_seed-1",
        "strategy-fedavg_learning_rate-0.1_seed-2",
        "strategy-fedavg_learning_rate-0.01_seed-1",
        "strategy-fedavg_learning_rate-0.01_seed-2",
    ]
    assert len({variant.name for variant in variants}) == len(variants) == 8
    assert len({variant.label for variant in variants}) == 4
    last = variants[-1].scenario
    assert (last.config.strategy["name"], last.config.training.learning_rate, last.config.run.seed) == (
        "median",
        0.01,
        2,
    )
    assert not last.sweep


def test_values_without_letters_of_their_own_are_told_apart_by_their_place() -> None:
    sweep = {"strategy": [{"name": "fedprox", "proximal_mu": 0.1}, {"name": "fedprox", "proximal_mu": 1.0}]}
    names = [variant.name for variant in Scenario.from_dict({**FULL, "sweep": sweep}).variants()]
    assert names == ["strategy-fedprox-0", "strategy-fedprox-1"]


def test_without_a_sweep_there_is_one_run_of_the_scenarios_own_name() -> None:
    (variant,) = Scenario.from_dict({key: table for key, table in FULL.items() if key != "sweep"}).variants()
    assert (variant.name, variant.label, variant.seed) == ("full", "", 4)


def test_what_is_expected_is_expected_of_the_scenario_as_it_stands_with_every_seed() -> None:
    sweep = {"seeds": [1, 2], "split.alpha": [0.3, 5.0]}
    variants = Scenario.from_dict({**FULL, "sweep": sweep}).variants()
    assert [bool(variant.scenario.scenario.expect) for variant in variants] == [True, True, False, False]
    assert all(variant.scenario.scenario.teaches == "much" for variant in variants)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"training.epochs": 3}, "sweep.training.epochs is 3, must be a list"),
        ({"training.epochs": []}, "sweep.training.epochs is empty"),
        ({"training.epochs": [1, 2, 1]}, "sweep.training.epochs has 1 twice"),
        ({"run.seed": [1, 2]}, "sweep.run.seed is the same as sweep.seeds"),
        ({"seeds": [1, 1]}, "sweep.seeds has 1 twice"),
        ({"seeds": ["a"]}, "sweep.seeds has 'a'"),
        ({"seeds": [-1]}, "sweep.seeds is -1"),
        ({"devices.7.share": [1.0]}, "sweep: unknown key devices.7"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_before_anything_runs(sweep: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Scenario.from_dict({**FULL, "sweep": sweep})


# ---- expectations ----


@pytest.mark.parametrize(
    ("bound", "value", "holds", "words"),
    [
        (Bound(at_least=0.9), 0.9, True, "at least 0.9"),
        (Bound(at_least=0.9), 0.89, False, "at least 0.9"),
        (Bound(at_most=2), 2.1, False, "at most 2"),
        (Bound(at_least=1, at_most=2), 1.5, True, "at least 1 and at most 2"),
        (Bound(at_least=1, at_most=2), float("nan"), False, "at least 1 and at most 2"),
    ],
)
def test_a_bound_holds_and_says_so(bound: Bound, value: float, holds: bool, words: str) -> None:
    assert bound.holds(value) is holds
    assert str(bound) == words
