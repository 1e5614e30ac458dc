"""How one site trains and evaluates."""

import concurrent.futures
import dataclasses
import random
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import IterableDataset, TensorDataset

from fl.errors import ConfigError, TaskError
from fl.tasks import Site, TrainingConfig, parameters
from fl.tasks.loop import centralised, evaluate, initial_arrays, train
from tests.fl.tasks.samples import FromDicts, Items, Largest, examples

SITE = Site("ward-3")
CPU = TrainingConfig(device="cpu")


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def length(update):
    return float(np.sqrt(sum((array.astype(np.float64) ** 2).sum() for array in update.values())))


def test_initial_parameters_hang_on_the_seed_alone():
    torch.manual_seed(5)
    once = initial_arrays(Largest(), 1)
    torch.manual_seed(6)
    assert same(once, initial_arrays(Largest(), 1))
    assert not same(once, initial_arrays(Largest(), 2))
    assert all(array.dtype == np.float32 for array in once.values())


def test_the_update_is_local_minus_global_as_gradient_descent_by_hand_gives_it():
    task, training = Largest(), TrainingConfig(device="cpu", epochs=3, batch_size=50, momentum=0.0, learning_rate=0.1)
    arrays = initial_arrays(task, 1)
    result = train(task, arrays, SITE, training, seed=1)

    model = task.model()
    parameters.set(model, arrays)
    inputs, targets = examples().tensors
    for _ in range(3):  # one batch holds everything, so the order doesn't matter
        model.zero_grad()
        loss = functional.cross_entropy(model(inputs), targets)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
    expected = {name: array - arrays[name] for name, array in parameters.get(model).items()}
    assert all(np.allclose(result.update[name], expected[name], atol=1e-6) for name in expected)
    assert all(array.dtype == np.float32 for array in result.update.values())
    assert result.metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert result.num_examples == 50


def test_fedprox_adds_the_gradient_of_the_distance_from_the_global_model():
    task = Largest()
    training = TrainingConfig(device="cpu", epochs=4, batch_size=50, momentum=0.0, learning_rate=0.1, proximal_mu=2.0)
    arrays = initial_arrays(task, 1)
    result = train(task, arrays, SITE, training, seed=1)

    model = task.model()
    parameters.set(model, arrays)
    anchors = [parameter.detach().clone() for parameter in model.parameters()]
    inputs, targets = examples().tensors
    for _ in range(4):
        model.zero_grad()
        distance = sum(((w - a) ** 2).sum() for w, a in zip(model.parameters(), anchors, strict=True))
        (functional.cross_entropy(model(inputs), targets) + 2.0 / 2 * distance).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
    for name, array in parameters.get(model).items():
        assert np.allclose(result.update[name], array - arrays[name], atol=1e-6)


def test_fedprox_pulls_towards_the_global_model():
    arrays = initial_arrays(Largest(), 1)
    lengths = [
        length(train(Largest(), arrays, SITE, dataclasses.replace(CPU, epochs=5, proximal_mu=mu), seed=1).update)
        for mu in (0.0, 0.1, 1.0, 5.0)
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[-1] < lengths[0] / 3


@pytest.mark.parametrize("task", [Largest(), Largest(dropout=0.5), Largest(normalised=True), FromDicts()])
def test_the_same_seed_gives_the_same_bits(task):
    arrays = initial_arrays(task, 1)
    torch.manual_seed(1)
    once = train(task, arrays, SITE, CPU, seed=7)
    torch.manual_seed(2)
    np.random.seed(2)
    again = train(task, arrays, SITE, CPU, seed=7)
    assert same(once.update, again.update)
    assert once.metrics == again.metrics
    assert not same(once.update, train(task, arrays, SITE, CPU, seed=8).update)


def test_another_number_of_threads_in_the_process_changes_nothing():
    arrays = initial_arrays(Largest(), 1)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(train(Largest(), arrays, SITE, CPU, seed=7).update)
    finally:
        torch.set_num_threads(before)
    assert same(*results)


def test_trainings_in_two_threads_do_not_disturb_each_other():
    task, training = Largest(dropout=0.5), dataclasses.replace(CPU, epochs=40)  # long enough to meet
    arrays = initial_arrays(task, 1)
    alone = [train(task, arrays, SITE, training, seed=seed).update for seed in range(4)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda seed: train(task, arrays, SITE, training, seed=seed).update, range(4)))
    assert all(map(same, alone, together))


def global_state():
    return (
        torch.get_rng_state().numpy().tobytes(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        repr(np.random.get_state()),
        random.getstate(),
    )


def test_no_global_state_is_left_changed():
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(False)
    task, training, before = Largest(dropout=0.5), dataclasses.replace(CPU, cpu_threads=3), global_state()
    arrays = initial_arrays(task, 1)
    assert global_state() == before
    train(task, arrays, SITE, training, seed=1)
    assert global_state() == before
    evaluate(task, arrays, examples(), training)
    assert global_state() == before
    with pytest.raises(TaskError):
        train(Largest(fits=0), arrays, SITE, training, seed=1)
    assert global_state() == before


def test_the_arguments_are_left_as_they_were():
    arrays = initial_arrays(Largest(), 1)
    copies = {name: array.copy() for name, array in arrays.items()}
    train(Largest(), arrays, SITE, CPU, seed=1)
    assert same(arrays, copies)


def test_training_learns():
    result = centralised(Largest(number=400), CPU, epochs=20, seed=1)
    assert result.metrics["accuracy"] > 0.9
    assert result.num_examples == 40


def test_without_data_at_the_centre_the_sites_own_division_is_kept():
    assert centralised(Largest(), CPU, epochs=1, seed=1).training.num_examples == 50


def test_metrics_are_those_of_the_last_epoch():
    arrays = initial_arrays(Largest(), 1)
    still = TrainingConfig(device="cpu", learning_rate=1e-30, momentum=0.0, epochs=2)
    result = train(Largest(), arrays, SITE, still, seed=1)
    evaluated = evaluate(Largest(), arrays, examples(), CPU)
    assert result.metrics == pytest.approx(evaluated.metrics, abs=1e-6)


def test_evaluation_is_the_mean_over_examples_whatever_the_batch():
    arrays = initial_arrays(Largest(), 1)
    model = Largest().model()
    parameters.set(model, arrays)
    inputs, targets = examples().tensors
    with torch.no_grad():
        outputs = model(inputs)
    expected = {
        "loss": functional.cross_entropy(outputs, targets).item(),
        "accuracy": (outputs.argmax(1) == targets).float().mean().item(),
    }
    for batch_size in (1, 7, 50, 1000):
        result = evaluate(Largest(), arrays, examples(), dataclasses.replace(CPU, batch_size=batch_size))
        assert result.metrics == pytest.approx(expected, abs=1e-6)
        assert result.num_examples == 50


def test_dropout_is_off_in_evaluation():
    arrays = initial_arrays(Largest(), 1)
    with_dropout = evaluate(Largest(dropout=0.9), arrays, examples(), CPU)
    assert with_dropout == evaluate(Largest(), arrays, examples(), CPU)


def test_inputs_may_be_dicts():
    task = FromDicts()
    result = train(task, initial_arrays(task, 1), SITE, CPU, seed=1)
    assert result.num_examples == 50
    assert evaluate(task, initial_arrays(task, 1), Items(), CPU).num_examples == 50


def test_bfloat16_is_close_to_float32_and_its_update_is_float32():
    arrays = initial_arrays(Largest(), 1)
    exact = train(Largest(), arrays, SITE, CPU, seed=1)
    coarse = train(Largest(), arrays, SITE, dataclasses.replace(CPU, precision="bfloat16"), seed=1)
    assert (exact.report.precision, coarse.report.precision) == ("float32", "bfloat16")
    assert all(array.dtype == np.float32 for array in coarse.update.values())
    difference = {name: coarse.update[name] - exact.update[name] for name in exact.update}
    assert 0 < length(difference) < 0.1 * length(exact.update)


@pytest.mark.parametrize("optimiser", ["sgd", "adam", "adamw"])
def test_each_optimiser_lowers_the_loss(optimiser):
    training = TrainingConfig(device="cpu", optimiser=optimiser, learning_rate=0.01, epochs=1)
    arrays = initial_arrays(Largest(), 1)
    first = train(Largest(), arrays, SITE, training, seed=1).metrics["loss"]
    last = train(Largest(), arrays, SITE, dataclasses.replace(training, epochs=10), seed=1).metrics["loss"]
    assert last < first


def test_a_diverging_training_is_reported_as_it_is():
    class Steep(Largest):
        def loss(self, model, inputs, targets):
            return super().loss(model, inputs, targets) * 1e30

    result = train(Steep(), initial_arrays(Largest(), 1), SITE, dataclasses.replace(CPU, epochs=4), seed=1)
    assert np.isnan(result.metrics["loss"])
    assert not all(np.isfinite(array).all() for array in result.update.values())


def test_progress_counts_every_batch():
    seen = []
    training = dataclasses.replace(CPU, epochs=2, batch_size=20)
    train(Largest(), initial_arrays(Largest(), 1), SITE, training, seed=1, progress=lambda *p: seen.append(p))
    assert seen == [(number, 6) for number in range(1, 7)]


def test_an_epoch_ends_after_max_batches():
    seen = []
    training = dataclasses.replace(CPU, epochs=2, batch_size=10, max_batches=3)
    result = train(Largest(), initial_arrays(Largest(), 1), SITE, training, seed=1, progress=lambda *p: seen.append(p))
    assert seen[-1] == (6, 6)
    assert result.num_examples == 50


def test_the_report_says_how_it_went():
    report = train(Largest(), initial_arrays(Largest(), 1), SITE, CPU, seed=1).report
    assert (report.device, report.precision, report.micro_batch_size, report.out_of_memory) == (
        "cpu",
        "float32",
        32,
        0,
    )
    assert report.peak_memory_bytes > 10 << 20  # torch alone is more
    assert 50 / report.samples_per_s <= report.wall_s
    assert report.energy_j is None
    assert report.cpu_s is not None
    assert 0 < report.cpu_s <= time.process_time()


def test_a_loss_that_uses_only_part_of_the_model_still_has_metrics():
    class FirstLayer(Largest):
        def loss(self, model, inputs, targets):
            return model[0](inputs).square().mean()

    result = train(FirstLayer(), initial_arrays(FirstLayer(), 1), SITE, CPU, seed=1)
    assert result.metrics.keys() == {"loss", "accuracy"}


def test_frozen_parameters_stay():
    class Frozen(Largest):
        def model(self):
            model = super().model()
            model[0].requires_grad_(False)
            return model

    result = train(Frozen(), initial_arrays(Frozen(), 1), SITE, dataclasses.replace(CPU, proximal_mu=0.1), seed=1)
    assert not result.update["0.weight"].any()
    assert result.update["4.weight"].any()


def test_a_site_with_no_examples_is_named():
    with pytest.raises(TaskError, match="site ward-3 has no examples for training"):
        train(Largest(number=0), initial_arrays(Largest(), 1), SITE, CPU, seed=1)


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(TaskError, match="this dataset has no examples for evaluation"):
        evaluate(Largest(), initial_arrays(Largest(), 1), examples(0), CPU)


def test_a_dataset_without_a_length_is_refused():
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(TaskError, match="the evaluation data of this dataset has no length"):
        evaluate(Largest(), initial_arrays(Largest(), 1), Endless(), CPU)


def test_a_dataset_of_something_else_than_pairs_is_refused():
    with pytest.raises(TaskError, match="something else than"):
        evaluate(Largest(), initial_arrays(Largest(), 1), TensorDataset(torch.zeros(4, 6)), CPU)


def test_arrays_of_another_model_are_refused():
    class Wider(Largest):
        def model(self):
            return nn.Linear(6, 3)

    with pytest.raises(TaskError, match="these parameters are not of this model: weight is missing"):
        train(Wider(), initial_arrays(Largest(), 1), SITE, CPU, seed=1)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", 0, "training.epochs is 0, must be at least 1"),
        ("batch_size", 0, "training.batch_size is 0, must be at least 1"),
        ("learning_rate", 0.0, "training.learning_rate is 0.0, must be above 0"),
        ("learning_rate", float("nan"), "training.learning_rate is nan, must be a finite number"),
        ("momentum", 1.0, "training.momentum is 1.0, must be below 1"),
        ("weight_decay", -1.0, "training.weight_decay is -1.0, must be at least 0"),
        ("cpu_threads", 0, "training.cpu_threads is 0, must be at least 1"),
        ("proximal_mu", -0.1, "training.proximal_mu is -0.1, must be at least 0"),
        ("max_batches", 0, "training.max_batches is 0, must be at least 1"),
    ],
)
def test_training_values_out_of_range_are_refused(key, value, message):
    with pytest.raises(ConfigError, match=message):
        TrainingConfig(**{key: value})
