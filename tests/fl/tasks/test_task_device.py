"""Which processor trains, and in which precision."""

import pytest
import torch

from fl.errors import ConfigError
from fl.tasks import Site, TrainingConfig, create
from fl.tasks.device import PREFERENCE, available, choose, choose_precision
from fl.tasks.loop import evaluate, initial_arrays, train


def test_auto_takes_the_best_that_is_there():
    assert choose("auto").type == available()[0]
    assert available()[-1] == "cpu"


def test_a_device_that_is_not_there_is_refused_with_what_is():
    absent = next(name for name in PREFERENCE if name not in available())
    with pytest.raises(ConfigError, match=f"training.device is {absent}, and this machine has none") as caught:
        choose(absent)
    assert caught.value.hint == f"there is {', '.join(available())}; auto takes {available()[0]}"


def test_a_misspelt_device_names_the_right_one():
    with pytest.raises(ConfigError, match="unknown device cdua") as caught:
        choose("cdua")
    assert caught.value.hint == "did you mean cuda?"


def test_a_cpu_computes_in_float32_unless_asked():
    cpu = torch.device("cpu")
    assert [choose_precision(name, cpu) for name in ("auto", "float32", "bfloat16")] == [
        "float32",
        "float32",
        "bfloat16",
    ]


@pytest.mark.gpu
def test_a_gpu_trains_in_bfloat16_and_reports_memory_and_energy():
    digits = create("digits", {})
    arrays = initial_arrays(digits, 1)
    result = train(digits, arrays, Site("a"), TrainingConfig(device="cuda", epochs=30, batch_size=128), seed=1)
    assert (result.report.device, result.report.precision) == ("cuda", "bfloat16")
    assert 0 < result.report.peak_memory_bytes < 1 << 30
    assert result.report.energy_j is None or result.report.energy_j > 0
    final = {name: arrays[name] + result.update[name] for name in arrays}
    on_gpu = evaluate(digits, final, digits.centre_data(), TrainingConfig(device="cuda", precision="float32"))
    on_cpu = evaluate(digits, final, digits.centre_data(), TrainingConfig(device="cpu"))
    assert on_gpu.metrics["accuracy"] > 0.95
    assert on_gpu.metrics["loss"] == pytest.approx(on_cpu.metrics["loss"], rel=0.01)


@pytest.mark.gpu
def test_a_gpu_without_room_goes_on_in_smaller_pieces():
    digits = create("digits", {"hidden": 4096})
    arrays = initial_arrays(digits, 1)
    training = TrainingConfig(device="cuda", precision="float32", batch_size=1024)
    unhindered = train(digits, arrays, Site("a"), training, seed=1)
    torch.cuda.empty_cache()
    total_bytes = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction(
            (torch.cuda.memory_reserved() + 0.6 * unhindered.report.peak_memory_bytes) / total_bytes
        )
        hindered = train(digits, arrays, Site("a"), training, seed=1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert hindered.report.out_of_memory >= 1
    for name, array in unhindered.update.items():
        assert hindered.update[name] == pytest.approx(array, abs=1e-3)
