"""Hostile sites: who they are, what they train on, what they send."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from fl.errors import ConfigError, TaskError
from fl.tasks.base import Site, Task
from fl.tasks.digits import Digits
from simulations.hostile import FREE_RIDER_NOISE, Conspiracy, HostileConfig, PoisonedTask, marked_examples

SITES = [f"site-{number:04d}" for number in range(1, 1001)]
UPDATE_P = np.linspace(-1, 1, 1000, dtype=np.float32)


def one(**table: Any) -> Conspiracy:
    """A conspiracy of everybody."""
    return Conspiracy([HostileConfig.from_dict({"share": 1.0, **table})], seed=1)


@dataclasses.dataclass(frozen=True)
class Small(Task):
    """Three examples of 4 × 4 pixels, with given labels."""

    labels_of: tuple[int, ...] = (0, 1, 2)
    as_list: bool = False

    def model(self) -> Any:
        return torch.nn.Linear(16, 3)

    def train_data(self, site: Site) -> Any:
        torch.manual_seed(0)
        data = TensorDataset(torch.rand(len(self.labels_of), 1, 4, 4) / 2, torch.tensor(self.labels_of))
        return [data[i] for i in range(len(data))] if self.as_list else data

    def evaluation_data(self, site: Site) -> Any:
        return self.train_data(site)


def targets(task: Task, site: str = "site-0001") -> list[int]:
    return [int(target) for _, target in task.train_data(Site(site))]  # type: ignore[attr-defined]


# ---- who ----


def test_as_many_sites_as_asked_follow_each_table() -> None:
    tables = [HostileConfig(kind="noise", share=0.2), HostileConfig(kind="scale", share=0.3)]
    kinds = [config.kind if (config := Conspiracy(tables, 1).of(site)) else None for site in SITES]
    assert kinds.count("noise") == pytest.approx(200, abs=50)  # of 1,000: standard deviation 13
    assert kinds.count("scale") == pytest.approx(300, abs=58)


def test_two_halves_leave_nobody_honest() -> None:
    tables = [HostileConfig(kind="noise", share=0.5), HostileConfig(kind="scale", share=0.5)]
    assert all(Conspiracy(tables, 1).of(site) for site in SITES)
    with pytest.raises(ConfigError, match=r"the sum of hostile.share is 1.1, must be at most 1"):
        Conspiracy([HostileConfig(kind="noise", share=0.6), HostileConfig(kind="scale", share=0.5)], 1)


@given(seed=st.integers(0, 1000), order=st.permutations(SITES[:8]))
def test_who_is_hostile_hangs_on_seed_and_name_only(seed: int, order: list[str]) -> None:
    tables = [HostileConfig(kind="noise", share=0.5)]
    drawn = {site: Conspiracy(tables, seed).of(site) for site in order}
    assert drawn == {site: Conspiracy(tables, seed).of(site) for site in SITES[:8]}


def test_the_same_sites_are_hostile_whichever_way_they_attack() -> None:
    def hostile(kind: Any) -> list[str]:
        return [site for site in SITES if Conspiracy([HostileConfig(kind=kind, share=0.3)], 1).of(site)]

    assert hostile("noise") == hostile("label_flip")


def test_an_attack_begins_in_its_round() -> None:
    conspiracy = one(kind="sign_flip", from_round=3)
    assert conspiracy.of("site-1", 2) is None
    assert conspiracy.of("site-1", 3) is not None
    assert conspiracy.of("site-1") is not None
    np.testing.assert_array_equal(conspiracy.corrupt("site-1", 2, UPDATE_P), UPDATE_P)
    np.testing.assert_array_equal(conspiracy.corrupt("site-1", 3, UPDATE_P), -UPDATE_P)


# ---- what they send ----


@pytest.mark.parametrize(
    ("kind", "factor", "times"),
    [("sign_flip", 3.0, -3.0), ("scale", 10.0, 10.0), ("backdoor", 2.0, 2.0), ("label_flip", 5.0, 1.0)],
)
def test_an_update_is_multiplied(kind: str, factor: float, times: float) -> None:
    sent_P = one(kind=kind, factor=factor).corrupt("site-1", 1, UPDATE_P)
    np.testing.assert_allclose(sent_P, times * UPDATE_P, rtol=1e-6)
    assert sent_P.dtype == np.float32


def test_noise_has_the_deviation_asked_for_and_a_free_rider_sends_next_to_nothing() -> None:
    noise_P = one(kind="noise", factor=2.0).corrupt("site-1", 1, UPDATE_P)
    assert noise_P.dtype == np.float32
    assert noise_P.std() == pytest.approx(2.0, rel=0.1)  # of 1,000: relative standard deviation 0.022
    free_P = one(kind="free_rider").corrupt("site-1", 1, UPDATE_P)
    assert free_P.std() == pytest.approx(FREE_RIDER_NOISE, rel=0.1)
    assert free_P.any()


def test_noise_is_repeatable_and_other_in_another_round_and_at_another_site() -> None:
    conspiracy = one(kind="noise")
    first_P = conspiracy.corrupt("site-1", 1, UPDATE_P)
    np.testing.assert_array_equal(first_P, one(kind="noise").corrupt("site-1", 1, UPDATE_P))
    assert not np.array_equal(first_P, conspiracy.corrupt("site-1", 2, UPDATE_P))
    assert not np.array_equal(first_P, conspiracy.corrupt("site-2", 1, UPDATE_P))


def test_an_honest_site_sends_its_own_update() -> None:
    assert Conspiracy([], 1).corrupt("site-1", 1, UPDATE_P) is UPDATE_P


# ---- what they train on ----


@pytest.mark.parametrize("as_list", [False, True], ids=["a tensor data set", "any other"])
def test_flipped_labels_are_the_next_ones(as_list: bool) -> None:
    assert targets(PoisonedTask(Small((0, 1, 2), as_list), one(kind="label_flip"))) == [1, 2, 0]


@pytest.mark.parametrize("labels", [(0, 0), (1,), (3, 3, 0)])
def test_no_label_is_its_own_next(labels: tuple[int, ...]) -> None:
    flipped = targets(PoisonedTask(Small(labels), one(kind="label_flip")))
    assert all(before != after for before, after in zip(labels, flipped, strict=True))


def test_one_label_may_be_flipped_alone() -> None:
    assert targets(PoisonedTask(Small((0, 1, 2, 1)), one(kind="label_flip", source=1, target=2))) == [0, 2, 2, 2]


@pytest.mark.parametrize(("share", "marked"), [(0.5, 2), (1.0, 4), (0.01, 1)])
def test_a_backdoor_marks_a_share_of_the_examples_and_at_least_one(share: float, marked: int) -> None:
    task = Small((0, 1, 2, 1))
    honest = task.train_data(Site("site-1"))
    poisoned = PoisonedTask(task, one(kind="backdoor", target=2, marked_share=share)).train_data(Site("site-1"))
    inputs, labels = poisoned.tensors  # type: ignore[attr-defined]
    assert labels.tolist() == [2] * marked + [0, 1, 2, 1][marked:]
    assert torch.equal(inputs[:marked], marked_examples(honest.tensors[0])[:marked])
    assert torch.equal(inputs[marked:], honest.tensors[0][marked:])


def test_the_mark_is_four_bright_pixels_and_nothing_else() -> None:
    inputs = torch.rand(5, 1, 4, 4) / 2
    marked = marked_examples(inputs)
    changed = (marked != inputs).any(0)[0]
    assert changed[-2:, -2:].all()
    assert changed.sum() == 4
    assert (marked[..., -2:, -2:] == inputs.max()).all()
    assert inputs.max() <= 0.5  # the honest examples are as they were


def test_honest_sites_and_evaluation_keep_the_honest_data_and_the_rest_is_the_task_inside() -> None:
    inner = Digits(network="mlp")
    conspiracy = Conspiracy([HostileConfig(kind="label_flip", share=0.5)], seed=1)
    poisoned = PoisonedTask(inner, conspiracy)
    sites = [Site(f"site-{i}", partition_id=i, num_partitions=20) for i in range(20)]
    for site in sites:
        honest, trained = inner.train_data(site).tensors[1], poisoned.train_data(site).tensors[1]  # type: ignore[attr-defined]
        assert torch.equal(honest, trained) == (conspiracy.of(site.id) is None)
        assert torch.equal(
            inner.evaluation_data(site).tensors[1],  # type: ignore[attr-defined]
            poisoned.evaluation_data(site).tensors[1],  # type: ignore[attr-defined]
        )
    assert poisoned.network == "mlp"
    assert len(list(poisoned.model().parameters())) == len(list(inner.model().parameters()))


def test_data_that_has_no_labels_cannot_be_poisoned() -> None:
    @dataclasses.dataclass(frozen=True)
    class Regression(Small):
        def train_data(self, site: Site) -> Any:
            return TensorDataset(torch.rand(3, 2), torch.rand(3))

    with pytest.raises(TaskError, match="label_flip needs tensors and class labels"):
        PoisonedTask(Regression(), one(kind="label_flip")).train_data(Site("site-1"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"kind": "label_flop"}, "label_flop"),
        ({"kind": "noise", "share": 0.0}, "hostile.share is 0.0, must be above 0"),
        ({"kind": "noise", "share": 1.5}, "hostile.share is 1.5"),
        ({"kind": "noise", "factor": -1.0}, "hostile.factor is -1.0"),
        ({"kind": "noise", "from_round": 0}, "hostile.from_round is 0"),
        ({"kind": "backdoor", "marked_share": 0.0}, "hostile.marked_share is 0.0"),
        ({"kind": "noise", "strength": 1.0}, "unknown key hostile.strength"),
        ({"share": 0.1}, "hostile.kind is missing"),
    ],
)
def test_an_attack_that_makes_no_sense_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HostileConfig.from_dict(table)
