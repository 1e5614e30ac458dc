import random

import pytest

from server.controller.queue import HALF_LIFE_S, Use, Waiting, decayed, order

NOW = 1_700_000_000.0


def waiting(run, project="a", priority=0, age_s=0.0, start_s=0.0):
    return Waiting(run=run, project=project, priority=priority, submitted_s=NOW - age_s, start_s=start_s)


def names(*args, **kwargs):
    return [run.run for run in order(*args, **kwargs)]


def test_within_a_project_priority_then_age_decide():
    queue = [waiting("young"), waiting("old", age_s=60), waiting("urgent", priority=5), waiting("idle", priority=-1)]
    assert names(queue, {}, NOW) == ["urgent", "old", "young", "idle"]


def test_a_run_waits_for_its_start_time():
    queue = [waiting("later", start_s=NOW + 1), waiting("now", start_s=NOW)]
    assert names(queue, {}, NOW) == ["now"]
    assert names(queue, {}, NOW + 1) == ["later", "now"]


def test_the_project_that_used_less_goes_first():
    queue = [waiting("a1", "a", age_s=100), waiting("b1", "b")]
    assert names(queue, {"a": 1000.0, "b": 10.0}, NOW) == ["b1", "a1"]


def test_a_priority_does_not_pass_over_another_project():
    queue = [waiting("a1", "a", priority=100), waiting("b1", "b")]
    assert names(queue, {"a": 1000.0, "b": 10.0}, NOW) == ["b1", "a1"]


def test_a_project_with_many_runs_does_not_fill_every_place():
    queue = [waiting(f"a{n}", "a", age_s=100 - n) for n in range(10)] + [waiting("b1", "b"), waiting("b2", "b")]
    assert sorted(names(queue, {"a": 100.0, "b": 100.0}, NOW)[:4]) == ["a0", "a1", "b1", "b2"]


def test_a_weight_of_two_gives_two_of_three_places():
    queue = [waiting(f"{project}{n:02}", project) for project in "ab" for n in range(20)]
    first = names(queue, {}, NOW, weights={"a": 2.0})[:9]
    assert sum(name.startswith("a") for name in first) == 6


def test_the_order_does_not_depend_on_the_order_of_the_queue():
    seed = 7
    queue = [waiting(f"{project}{n}", project, priority=n % 3, age_s=n) for project in "abc" for n in range(7)]
    shuffled = queue.copy()
    random.Random(seed).shuffle(shuffled)
    assert names(queue, {"a": 5.0}, NOW) == names(shuffled, {"a": 5.0}, NOW), f"seed {seed}"


def test_use_fades_by_half_in_a_half_life():
    fresh = decayed([Use(project="a", from_s=NOW - 10, to_s=NOW, sites=4)], NOW)["a"]
    aged = decayed([Use(project="a", from_s=NOW - 10, to_s=NOW, sites=4)], NOW + HALF_LIFE_S)["a"]
    assert fresh == pytest.approx(40, rel=1e-3)
    assert aged == pytest.approx(fresh / 2)


def test_use_is_the_same_however_it_is_cut():
    whole = decayed([Use(project="a", from_s=NOW - 5000, to_s=NOW)], NOW)["a"]
    cut = decayed([Use(project="a", from_s=NOW - 5000 + n * 100, to_s=NOW - 4900 + n * 100) for n in range(50)], NOW)
    assert cut["a"] == pytest.approx(whole)


def test_use_in_the_future_counts_nothing():
    assert decayed([Use(project="a", from_s=NOW + 5, to_s=NOW + 10)], NOW) == {}
