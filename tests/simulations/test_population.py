"""Who the sites are: divisions, drawn examples, fleets and directories, and a million sites in no memory."""

from __future__ import annotations

import dataclasses
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl.errors import ConfigError, TaskError
from fl.tasks.base import Site, Task
from fl.tasks.splits import SplitConfig
from simulations.population import Population, PopulationConfig, read_fleet

LABELS = np.repeat(np.arange(10), 30)


@dataclasses.dataclass(frozen=True)
class Labelled(Task):
    """Common data of which only the labels matter."""

    of: Any = None

    def model(self) -> Any:
        raise NotImplementedError

    def train_data(self, site: Site) -> Any:
        return range(8)

    def evaluation_data(self, site: Site) -> Any:
        return range(2)

    def labels(self, source: Path | None) -> Any:
        if self.of is None:
            raise TaskError("cannot be divided")
        return self.of


def population(split: SplitConfig | None = None, seed: int = 1, labels: Any = LABELS, **config: Any) -> Population:
    return Population(PopulationConfig(**config), split, Labelled(labels), seed)


def examples_of(people: Population, name: str) -> list[int]:
    examples = people.site(name).examples
    assert examples is not None
    return examples.tolist()


# ---- a division ----

SPLITS = st.sampled_from([
    SplitConfig(kind="iid"),
    SplitConfig(kind="dirichlet", alpha=0.1),
    SplitConfig(kind="label", labels_per_site=3),
    SplitConfig(kind="quantity", exponent=1.5),
])  # fmt: skip


@given(split=SPLITS, sites=st.integers(4, 40), seed=st.integers(0, 1000))
def test_every_example_is_at_one_site(split: SplitConfig, sites: int, seed: int) -> None:
    people = population(split, seed, sites=sites)
    held = [example for name in people.names for example in examples_of(people, name)]
    assert sorted(held) == list(range(len(LABELS)))
    assert sum(people.examples_of(name) for name in people.names) == len(LABELS)


def test_the_seed_of_the_population_keeps_who_has_what_when_the_seed_of_the_run_changes() -> None:
    def held(seed: int, of_population: int | None) -> list[list[int]]:
        config = PopulationConfig(sites=5, seed=of_population)
        people = Population(config, SplitConfig(kind="dirichlet"), Labelled(LABELS), seed)
        return [examples_of(people, name) for name in people.names]

    assert held(1, None) != held(2, None)
    assert held(1, 7) == held(2, 7) == held(7, None)


def test_without_a_split_a_site_takes_its_part_as_a_deployed_one_does() -> None:
    site = population(sites=5).site("site-3")
    assert (site.partition_id, site.num_partitions, site.examples) == (2, 5, None)


def test_a_task_that_cannot_be_divided_gets_numbers_only() -> None:
    people = population(labels=None, sites=1000)
    assert people.site("site-0001").num_partitions == 1000
    assert people.examples_of("site-0001") == 10
    with pytest.raises(TaskError, match="cannot be divided"):
        population(SplitConfig(), labels=None, sites=3)


@pytest.mark.parametrize(
    ("split", "config", "message", "hint"),
    [
        (None, {"sites": 301}, "300 examples do not suffice for 301 sites: site-301 would have none", "examples = 3,"),
        (SplitConfig(), {"sites": 301}, "300 examples do not suffice for 301 sites with at least 1", "examples = 3,"),
        (SplitConfig(minimum=50), {"sites": 9}, "300 examples do not suffice for 9 sites with at least 50", "examples"),
        (SplitConfig(kind="iid", minimum=43), {"sites": 7}, "suffice", "population.examples"),
    ],
)
def test_more_sites_than_examples_are_refused_with_a_way_out(
    split: SplitConfig | None, config: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        population(split, **config)
    assert hint in str(caught.value.hint)


def test_a_split_that_leaves_a_site_with_too_little_says_which_and_offers_a_minimum() -> None:
    rare = np.array([0] * 60 + [1] * 4)
    split = SplitConfig(kind="label", labels_per_site=1, minimum=5)
    with pytest.raises(ConfigError, match=r"site-\d would have 2 examples, at least 5 needed") as caught:
        population(split, labels=rare, sites=4)
    assert "split.minimum = 2 lets this pass" in str(caught.value.hint)
    people = population(dataclasses.replace(split, minimum=2), labels=rare, sites=4)
    assert min(people.examples_of(name) for name in people.names) == 2


def test_a_split_that_leaves_a_site_empty_says_which_and_offers_one_that_does_not() -> None:
    with pytest.raises(ConfigError, match=r"site-\d would have 0 examples") as caught:
        population(SplitConfig(kind="label", labels_per_site=1), labels=np.array([0, 0, 0, 0, 1]), sites=4)
    assert "minimum = 0" not in str(caught.value.hint)
    assert 'kind = "dirichlet", which fills every site up to split.minimum' in str(caught.value.hint)


# ---- examples that are drawn ----


@given(
    number=st.integers(1, 300),
    alpha=st.none() | st.floats(1e-3, 100.0),
    seed=st.integers(0, 1000),
    order=st.permutations(range(6)),
)
def test_a_site_draws_the_same_different_examples_in_whatever_order_sites_are_looked_at(
    number: int, alpha: float | None, seed: int, order: list[int]
) -> None:
    config: dict[str, Any] = {"sites": 6, "examples": number, "label_alpha": alpha}
    once, again = population(seed=seed, **config), population(seed=seed, **config)
    found = {i: examples_of(again, again.names[i]) for i in order}
    for i, name in enumerate(once.names):
        drawn = examples_of(once, name)
        assert drawn == found[i]
        assert len(set(drawn)) == number == once.examples_of(name)
        assert drawn == sorted(drawn)
        assert set(drawn) <= set(range(len(LABELS)))


def test_sites_that_draw_differ_from_each_other_and_from_seed_to_seed() -> None:
    people, other = population(sites=9, examples=20), population(sites=9, examples=20, seed=2)
    assert examples_of(people, "site-1") != examples_of(people, "site-2")
    assert examples_of(people, "site-1") != examples_of(other, "site-1")


def test_a_small_alpha_gives_sites_of_few_labels_and_a_large_one_all_of_them() -> None:
    def labels(alpha: float | None) -> float:
        people = population(sites=50, examples=20, label_alpha=alpha)
        return float(np.mean([len(set(LABELS[examples_of(people, name)])) for name in people.names]))

    # 20 of 300 examples, 30 of each label: a label is missed with chance about (9/10)^20 = 0.12, so 8.8 are expected.
    assert labels(0.05) < 3
    assert 8.3 < labels(1000.0) < 9.3
    assert 8.3 < labels(None) < 9.3


def test_drawing_follows_how_frequent_labels_are() -> None:
    uneven = np.array([0] * 900 + [1] * 100)
    people = population(labels=uneven, sites=200, examples=50, label_alpha=1000.0)
    shares = [np.mean(uneven[examples_of(people, name)]) for name in people.names]
    assert np.mean(shares) == pytest.approx(0.1, abs=0.01)  # 10,000 draws: standard deviation 0.003


@pytest.mark.parametrize(
    ("labels", "config", "message"),
    [
        (LABELS, {"examples": 301}, "population.examples is 301, and the common data has 300 examples"),
        (LABELS / 2, {"examples": 5, "label_alpha": 1.0}, "label_alpha needs labels, and these are decimal numbers"),
        (LABELS, {"label_alpha": 1.0}, "population.label_alpha is for sites that draw their examples"),
        (LABELS, {"examples": 5, "data": "x"}, "exclude each other"),
        (LABELS, {"sites": 0}, "population.sites is 0, must be at least 1"),
        (LABELS[:0], {"examples": 5}, "has no common data"),
    ],
)
def test_draws_that_cannot_be_are_refused(labels: Any, config: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, TaskError), match=message):
        population(labels=labels, **config)


def test_a_million_sites_take_no_more_memory_than_ten() -> None:
    def peak(sites: int) -> int:
        tracemalloc.start()
        people = population(sites=sites, examples=20, label_alpha=0.5)
        for place in range(0, sites, sites // 10):
            assert people.number(people.names[place]) == place
            people.site(people.names[place])
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(10)  # what is loaded at first use
    assert peak(1_000_000) < 1.2 * peak(10) + 10_000


def test_a_site_that_is_not_there_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="site-11"):
        population(sites=10, examples=3).site("site-11")


# ---- fleets and directories ----


def fleet(directory: Path, text: str) -> Path:
    path = directory / "fleet.yaml"
    path.write_text(text)
    return path


def test_a_fleet_names_its_sites_and_says_how_many_examples_each_draws(tmp_path: Path) -> None:
    path = fleet(tmp_path, "sites:\n  - {id: ulm, examples: 7}\n  - {id: bonn, device: jetson}\n")
    people = population(fleet=str(path), examples=4)
    assert list(people.names) == ["bonn", "ulm"]
    assert [people.examples_of(name) for name in people.names] == [4, 7]
    assert len(examples_of(people, "ulm")) == 7
    assert people.entries["bonn"]["device"] == "jetson"
    with pytest.raises(ValueError, match="kiel is none of the 2 sites"):
        people.site("kiel")


def test_a_fleet_may_share_a_division(tmp_path: Path) -> None:
    path = fleet(tmp_path, "sites:\n  - id: ulm\n  - id: bonn\n")
    people = population(SplitConfig(), fleet=str(path))
    assert sorted(examples_of(people, "bonn") + examples_of(people, "ulm")) == list(range(300))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sites: []", "has no sites"),
        ("- ulm", "has no sites"),
        ("sites: [{id: ulm}, {id: ulm}]", "ulm is there twice"),
        ("sites: [{id: ulm}, {name: bonn}]", "site 2 has no id"),
        ("sites: [{id: ulm, examples: 0}]", "ulm has examples 0, must be a whole number from 1"),
        ("sites: [{id: ulm, examples: true}]", "ulm has examples True"),
        ("sites: [", "cannot read"),
    ],
)
def test_a_fleet_that_makes_no_sense_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_fleet(fleet(tmp_path, text))
    with pytest.raises(ConfigError, match="no such file"):
        read_fleet(tmp_path / "other.yaml")


def test_a_fleets_site_that_asks_for_too_much_is_named(tmp_path: Path) -> None:
    path = fleet(tmp_path, "sites: [{id: ulm, examples: 999}]")
    with pytest.raises(ConfigError, match="site ulm: examples is 999"):
        population(fleet=str(path))


def test_each_directory_of_data_is_a_site(tmp_path: Path) -> None:
    for name in ("ulm", "bonn", ".cache"):
        (tmp_path / name).mkdir()
    people = population(data=str(tmp_path))
    assert list(people.names) == ["bonn", "ulm"]
    assert people.site("ulm").data_dir == tmp_path / "ulm"


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    path = fleet(tmp_path, "sites: [{id: ulm}, {id: bonn}]")
    (tmp_path / "bonn").mkdir()
    with pytest.raises(ConfigError, match="has no directory ulm"):
        population(fleet=str(path), data=str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no directories"):
        population(data=str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match="cannot read"):
        population(data=str(tmp_path / "nowhere"))
