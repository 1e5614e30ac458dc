"""What happens when memory runs out: pretended in this process, real in a child with little of it."""

import dataclasses
import hashlib
import json
import logging
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from fl.errors import TaskError
from fl.tasks import Site, TrainingConfig, create
from fl.tasks.loop import evaluate, initial_arrays, train
from fl.tasks.memory import explained, is_out_of_memory
from tests.fl.tasks.samples import Largest, examples

SITE = Site("ward-3")
CPU = TrainingConfig(device="cpu", batch_size=32)


def close(one, other):
    return all(np.allclose(one[name], other[name], rtol=1e-4, atol=1e-6) for name in one)


@pytest.mark.parametrize(("fits", "micro_batch_size", "halvings"), [(31, 16, 1), (16, 16, 1), (5, 4, 3), (1, 1, 5)])
def test_smaller_pieces_give_the_same_update(fits, micro_batch_size, halvings):
    task = Largest(number=80)  # batches of 32, 32 and 16
    arrays = initial_arrays(task, 1)
    unhindered = train(task, arrays, SITE, CPU, seed=1)
    hindered = train(dataclasses.replace(task, fits=fits), arrays, SITE, CPU, seed=1)
    assert close(hindered.update, unhindered.update)
    assert hindered.metrics == pytest.approx(unhindered.metrics, abs=1e-5)
    assert (hindered.report.micro_batch_size, hindered.report.out_of_memory) == (micro_batch_size, halvings)


def test_it_is_said_when_memory_runs_out(caplog):
    with caplog.at_level(logging.WARNING, logger="fl.tasks"):
        train(Largest(fits=20), initial_arrays(Largest(), 1), SITE, CPU, seed=1)
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory on cpu with 32 examples at once: going on with 16, the gradient stays the same"
    ]


def test_a_failed_attempt_leaves_no_trace_in_running_means():
    task = Largest(normalised=True, fits=20)
    arrays = initial_arrays(task, 1)
    late = train(task, arrays, SITE, CPU, seed=1)
    early = train(dataclasses.replace(task, fails_after_forward=False), arrays, SITE, CPU, seed=1)
    assert all(np.array_equal(late.update[name], early.update[name]) for name in late.update)


def test_pieces_that_went_well_before_memory_ran_out_are_not_counted_twice():
    calls = []

    class Later(Largest):
        def loss(self, model, inputs, targets):
            calls.append(len(targets))
            if len(calls) in (1, 3):  # the whole batch, then its second half, when a neighbour takes memory too
                raise torch.OutOfMemoryError("no room")
            return super().loss(model, inputs, targets)

    arrays = initial_arrays(Largest(), 1)
    training = dataclasses.replace(CPU, batch_size=50)
    hindered = train(Later(), arrays, SITE, training, seed=1)
    unhindered = train(Largest(), arrays, SITE, training, seed=1)
    assert calls == [50, 25, 25, 12, 12, 12, 12, 2]
    assert close(hindered.update, unhindered.update)
    assert hindered.metrics == pytest.approx(unhindered.metrics, abs=1e-5)


def test_evaluation_goes_on_in_smaller_pieces_too():
    arrays = initial_arrays(Largest(), 1)
    hindered = evaluate(Largest(fits=3), arrays, examples(), CPU)
    unhindered = evaluate(Largest(), arrays, examples(), CPU)
    assert hindered.metrics == pytest.approx(unhindered.metrics, abs=1e-6)


def test_memory_for_not_even_one_example_ends_the_training():
    with pytest.raises(TaskError, match="out of memory on cpu with one example at a time: no room for 1") as caught:
        train(Largest(fits=0), initial_arrays(Largest(), 1), SITE, CPU, seed=1)
    assert caught.value.hint


def test_other_errors_pass_as_they_are():
    class Broken(Largest):
        def loss(self, model, inputs, targets):
            raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        train(Broken(), initial_arrays(Largest(), 1), SITE, CPU, seed=1)


def test_memory_that_smaller_pieces_cannot_save_is_explained():
    message = "the model, its gradients and its optimiser do not fit into the memory of cpu"
    with pytest.raises(TaskError, match=message), explained(torch.device("cpu")):
        raise MemoryError


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_allocators_are_understood(error, expected):
    assert is_out_of_memory(error) is expected


WIDE = """
    import dataclasses, torch
    from torch import nn
    from torch.utils.data import TensorDataset
    from fl.tasks import Site, Task, TrainingConfig

    class Wide(nn.Module):
        '''Few parameters and large activations: 256 KiB an example and layer.'''

        def __init__(self, width):
            super().__init__()
            self.width = width
            self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 2)

        def forward(self, inputs):
            hidden = self.first(inputs).unsqueeze(2).expand(-1, -1, self.width) + torch.zeros(self.width)
            return self.last(hidden.tanh().mean(dim=2))

    @dataclasses.dataclass(frozen=True)
    class WideTask(Task):
        width: int = 4096

        def model(self):
            return Wide(self.width)

        def train_data(self, site):
            inputs = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
            return TensorDataset(inputs, (inputs[:, 0] > 0).long())

        evaluation_data = train_data

    TRAINING = TrainingConfig(device="cpu", batch_size=256, epochs=2)
"""

CHILD = """
    import hashlib, json, logging, resource, sys
    from fl.errors import TaskError
    from fl.tasks import create
    from fl.tasks.loop import initial_arrays, train

    logging.basicConfig(stream=sys.stderr)
    digits = create("digits", {})
    digits_update = train(digits, initial_arrays(digits, 1), Site("a"), TrainingConfig(device="cpu"), seed=1).update
    digest = hashlib.sha256(b"".join(array.tobytes() for array in digits_update.values())).hexdigest()

    task, arrays = WideTask(), initial_arrays(WideTask(), 1)
    train(task, arrays, Site("a"), dataclasses.replace(TRAINING, batch_size=8, max_batches=1), seed=1)  # warms up
    size_bytes = 4096 * int(open("/proc/self/statm").read().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (size_bytes + (64 << 20), size_bytes + (64 << 20)))
    result = train(task, arrays, Site("a"), TRAINING, seed=1)
    refusals = []
    for width in (1 << 24, 1 << 40):  # a GiB and more for one example
        try:
            train(WideTask(width), arrays, Site("a"), TRAINING, seed=1)
        except TaskError as error:
            refusals.append(error.message)
    print(json.dumps({
        "digest": digest,
        "update": {name: array.tolist() for name, array in result.update.items()},
        "metrics": result.metrics,
        "report": dataclasses.asdict(result.report),
        "refusals": refusals,
    }))
"""


@pytest.fixture(scope="module")
def child():
    """What a child process with 64 MiB of memory to spare reports; a full batch there takes more than 200."""
    code = textwrap.dedent(WIDE) + textwrap.dedent(CHILD)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "log": done.stderr}


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
def test_a_real_lack_of_memory_is_survived_with_the_same_update(child):
    names: dict = {}
    exec(textwrap.dedent(WIDE), names)
    task = names["WideTask"]()
    unhindered = train(task, initial_arrays(task, 1), SITE, names["TRAINING"], seed=1)
    assert unhindered.report.out_of_memory == 0
    assert child["report"]["out_of_memory"] >= 1
    assert 1 <= child["report"]["micro_batch_size"] < 256
    assert close({name: np.array(values) for name, values in child["update"].items()}, unhindered.update)
    assert child["metrics"] == pytest.approx(unhindered.metrics, abs=1e-4)
    assert "out of memory on cpu with 256 examples at once: going on with 128" in child["log"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are Linux's")
def test_a_real_lack_of_memory_for_one_example_is_an_error(child):
    assert len(child["refusals"]) == 2
    assert all("out of memory on cpu with one example at a time: " in message for message in child["refusals"])


@pytest.mark.skipif(sys.platform != "linux", reason="the child needs Linux")
def test_another_process_computes_the_same_bits(child):
    digits = create("digits", {})
    update = train(digits, initial_arrays(digits, 1), Site("a"), TrainingConfig(device="cpu"), seed=1).update
    assert hashlib.sha256(b"".join(array.tobytes() for array in update.values())).hexdigest() == child["digest"]
