from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from fl.config import field_docs, to_dict
from fl.errors import ConfigError
from fl.strategies import available, create
from fl.strategies.registry import STRATEGIES

REFERENCE = Path(__file__).parents[3] / "docs/reference/strategies.md"


def test_the_strategies_of_the_project():
    assert list(available()) == [
        "fedavg",
        "fedprox",
        "fedavgm",
        "fedadagrad",
        "fedadam",
        "fedyogi",
        "median",
        "trimmed_mean",
        "krum",
        "multi_krum",
        "geometric_median",
    ]
    assert all(line.endswith(".") or "``" in line for line in available().values())


@pytest.mark.parametrize("name", STRATEGIES)
def test_options_survive_being_stored(name):
    strategy = create(name, {})
    stored = json.loads(json.dumps(to_dict(strategy)))
    assert create(name, stored) == strategy
    assert strategy.name == name


def test_a_misspelt_strategy_names_the_right_one():
    with pytest.raises(ConfigError, match="unknown strategy fedavgn") as info:
        create("fedavgn", {})
    assert info.value.hint.startswith("did you mean fedavg")


def test_a_misspelt_option_names_the_right_one():
    with pytest.raises(ConfigError, match=r"unknown key strategy.proximal_nu") as info:
        create("fedprox", {"proximal_nu": 1.0})
    assert info.value.hint == "did you mean strategy.proximal_mu?"


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_reference_page_has_every_option_with_its_default(name):
    text = REFERENCE.read_text(encoding="utf-8")
    _, found, section = text.partition(f"\n### `{name}`\n")
    assert found
    section = section.split("\n### ", 1)[0].split("\n## ", 1)[0]
    docs = field_docs(STRATEGIES[name])
    for field in dataclasses.fields(STRATEGIES[name]):
        default = "" if field.default is None else json.dumps(field.default)
        assert f"| `{field.name}` | {default}".rstrip() in section
        assert docs[field.name]
    assert "|" in section or not dataclasses.fields(STRATEGIES[name])
