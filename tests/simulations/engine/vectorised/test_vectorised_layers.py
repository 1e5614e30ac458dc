"""Each layer and optimiser, side by side as alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fl.tasks import TrainingConfig
from simulations.engine.vectorised.executor import TOLERANCE
from simulations.engine.vectorised.program import Kernels, program_for
from tests.simulations.engine.vectorised import made_up
from tests.simulations.engine.vectorised.made_up import CPU, MadeUp, alone, distance, kept, same_metrics

TRAINING = TrainingConfig(epochs=2, batch_size=5, learning_rate=0.1, device="cpu")

PICTURE = (3, 8, 8)


def tail(inputs: int) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(inputs, 3)]


class Inline(nn.Module):
    """What no kernel exists for: a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.last(x + torch.tanh(self.first(x)))
        return y


def shared() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(6, 3))


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    model[0].bias.requires_grad_(False)
    return model


KERNELS: dict[str, dict[str, Any]] = {
    "linear": {"make": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))},
    "linear on sequences": {
        "make": lambda: nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Flatten(), nn.Linear(30, 3)),
        "shape": (6, 4),
    },
    "nested sequences": {"make": lambda: nn.Sequential(nn.Sequential(nn.Linear(6, 8), nn.Tanh()), nn.Linear(8, 3))},
    "dropout": {"make": lambda: nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Dropout(0.4), nn.Linear(20, 3))},
    "two dropouts": {
        "make": lambda: nn.Sequential(nn.Dropout(0.1), nn.Linear(6, 20), nn.Dropout(0.5), nn.Linear(20, 3))
    },
    "layer norm": {"make": lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))},
    "group norm": {
        "make": lambda: nn.Sequential(nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), *tail(6 * 36)),
        "shape": PICTURE,
    },
    "embedding": {
        "make": lambda: nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Linear(24, 3)),
        "words": 11,
    },
    "convolution": {
        "make": lambda: nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), *tail(5 * 16)),
        "shape": PICTURE,
    },
    "convolution of one channel": {
        "make": lambda: nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.MaxPool2d(2), *tail(5 * 9)),
        "shape": (1, 8, 8),
    },
    "convolution with stride, groups and no bias": {
        "make": lambda: nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3, bias=False), nn.Tanh(), *tail(6 * 16)
        ),
        "shape": PICTURE,
    },
    "dilated convolution": {
        "make": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2), nn.ReLU(), *tail(4 * 16)),
        "shape": PICTURE,
    },
    "pool of odd sides": {
        "make": lambda: nn.Sequential(nn.Conv2d(3, 4, 2), nn.MaxPool2d(2), nn.ReLU(), *tail(4 * 9)),
        "shape": PICTURE,
    },
    "two convolutions": {
        "make": lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), *tail(6 * 4),
        ),
        "shape": PICTURE,
    },
    "other pools": {
        "make": lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.MaxPool2d(3, 1), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), *tail(4)
        ),
        "shape": PICTURE,
    },
    "activations": {
        "make": lambda: nn.Sequential(
            nn.Linear(6, 8), nn.LeakyReLU(0.2, inplace=True), nn.Softplus(), nn.SiLU(), nn.ELU(),
            nn.Hardtanh(), nn.Identity(), nn.Linear(8, 3),
        )
    },
}  # fmt: skip

FUNCTIONAL: dict[str, dict[str, Any]] = {
    "a module of its own": {"make": Inline},
    "frozen parameters": {"make": frozen},
    "padding with a border": {
        "make": lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU(), *tail(4 * 64)),
        "shape": PICTURE,
    },
    "one dimension": {
        "make": lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 4, 3)),
        "shape": (3, 6),
    },
    "attention": {
        "make": lambda: nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, 0.0, batch_first=True), *tail(24)),
        "shape": (6, 4),
    },
}


def compare(task: MadeUp, training: TrainingConfig = TRAINING, program: str = "", **options: float) -> None:
    model, jobs = made_up.start_of(task), made_up.jobs_of(task, **options)
    executor = made_up.side_by_side(task, training)
    assert executor.program.name.startswith(program)
    mine = kept(executor.execute(jobs, model))
    theirs = kept(alone(task, training).execute(jobs, model))
    assert distance(mine, theirs) < TOLERANCE
    same_metrics(mine, theirs)
    assert all(reply.report["device"] == "cpu" for reply in mine)


@pytest.mark.parametrize("name", KERNELS)
def test_a_layer_trains_side_by_side_as_alone(name: str) -> None:
    compare(MadeUp(**KERNELS[name]), program="batched kernels")


@pytest.mark.parametrize("name", KERNELS)
def test_a_layer_keeps_nothing_of_a_step_that_is_over(name: str) -> None:
    task = MadeUp(**KERNELS[name])
    executor = made_up.side_by_side(task, TRAINING)
    kept(executor.execute(made_up.jobs_of(task), made_up.start_of(task)))
    program: Any = executor.program
    for layer in program._layers[program._first :]:
        for part in (layer, *getattr(layer, "_apart", ())):
            assert not [name for name, value in vars(part).items() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_a_model_without_kernels_trains_side_by_side_as_alone(name: str) -> None:
    compare(MadeUp(**FUNCTIONAL[name]), program="torch.func")


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("make", [mlp, Inline], ids=["kernels", "torch.func"])
@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.0},
        {"momentum": 0.5, "weight_decay": 0.05},
        {"proximal_mu": 0.3},
        {"optimiser": "adam", "learning_rate": 0.01},
        {"optimiser": "adam", "learning_rate": 0.01, "weight_decay": 0.05},
        {"optimiser": "adamw", "learning_rate": 0.01, "weight_decay": 0.05},
        {"max_batches": 1},
        {"batch_size": 100},
        {"batch_size": 1, "epochs": 1},
    ],
    ids=str,
)
def test_an_optimiser_takes_the_same_steps_side_by_side_as_alone(
    make: Callable[[], nn.Module], settings: dict[str, Any]
) -> None:
    compare(MadeUp(make=make), TrainingConfig(**{"epochs": 3, "batch_size": 5, "device": "cpu"} | settings))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("make", [mlp, Inline], ids=["kernels", "torch.func"])
def test_sites_with_whole_batches_only_take_the_same_steps_side_by_side_as_alone(
    make: Callable[[], nn.Module], momentum: float
) -> None:
    training = TrainingConfig(epochs=3, batch_size=5, momentum=momentum, device="cpu")
    compare(MadeUp(make=make, sizes=(10, 10, 10)), training)


def test_the_strategys_proximal_term_reaches_sites_side_by_side() -> None:
    compare(MadeUp(make=mlp), proximal_mu=0.4)


@pytest.mark.parametrize("make", [mlp, Inline], ids=["sequence", "module"])
def test_mixed_precision_side_by_side_is_as_near_to_float32_as_alone(make: Callable[[], nn.Module]) -> None:
    """Roundings of bfloat16 (8 bits) differ with the order of sums, so the bound is that of the format."""
    task, training = MadeUp(make=make), TrainingConfig(batch_size=5, device="cpu", precision="bfloat16")
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    mine = kept(made_up.side_by_side(task, training).execute(jobs, model))
    theirs = kept(alone(task, training).execute(jobs, model))
    assert {reply.report["precision"] for reply in mine} == {"bfloat16"}
    assert 0 <= distance(mine, theirs) < 4 * 2**-8


@pytest.mark.slow
def test_compiled_pools_give_the_same_bits() -> None:
    task = MadeUp(**KERNELS["two convolutions"])
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    plain = kept(made_up.side_by_side(task, TRAINING).execute(jobs, model))
    program, _ = program_for(task, TRAINING, CPU)
    assert program
    assert program.can_compile
    program.compile()
    compiled = kept(made_up.side_by_side(task, TRAINING, of=program).execute(jobs, model))
    assert distance(compiled, plain) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("convolution", "side", "rectified"),
    [
        ({"kernel_size": 3, "padding": 1}, 8, True),
        ({"kernel_size": (2, 3), "padding": (0, 2), "bias": False}, 9, False),
    ],
    ids=["square", "oblong, odd, without bias or ReLU"],
)
def test_a_compiled_first_convolution_trains_side_by_side_as_alone(
    convolution: dict[str, Any], side: int, rectified: bool
) -> None:
    def make() -> nn.Module:
        first = [nn.Conv2d(1, 5, **convolution), *([nn.ReLU()] * rectified), nn.MaxPool2d(2)]
        width = nn.Sequential(*first)(torch.zeros(1, 1, side, side)).numel()
        return nn.Sequential(*first, nn.Tanh(), *tail(width))

    task = MadeUp(make=make, shape=(1, side, side))
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    program, _ = program_for(task, TRAINING, CPU)
    assert isinstance(program, Kernels)
    program.compile()
    theirs = kept(alone(task, TRAINING).execute(jobs, model))
    for width in (8, 2):
        executor = made_up.side_by_side(task, TRAINING, of=program, width=width)
        assert distance(kept(executor.execute(jobs, model)), theirs) < TOLERANCE
        assert executor.problem is None


@pytest.mark.slow
def test_a_compiled_model_trains_side_by_side_as_alone() -> None:
    task = MadeUp(make=Inline, sizes=(10, 10, 10))
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    program, _ = program_for(task, TRAINING, CPU)
    assert program
    program.compile()
    mine = kept(made_up.side_by_side(task, TRAINING, of=program).execute(jobs, model))
    assert "compiled" in program.name
    assert distance(mine, kept(alone(task, TRAINING).execute(jobs, model))) < TOLERANCE


BATCH_NORM = "1 (BatchNorm1d) keeps statistics of the batches that it has seen"


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)), BATCH_NORM),
        (shared, "layers share parameters"),
    ],
    ids=["batch norm", "shared parameters"],
)
def test_what_cannot_train_side_by_side_says_why(make: Callable[[], nn.Module], reason: str) -> None:
    assert program_for(MadeUp(make=make), TRAINING, CPU) == (None, reason)


def test_one_activation_in_two_places_works_in_both() -> None:
    def twice() -> nn.Module:
        tanh = nn.Tanh()
        return nn.Sequential(nn.Linear(6, 8), tanh, nn.Linear(8, 8), tanh, nn.Linear(8, 3))

    compare(MadeUp(make=twice), program="batched kernels")


def test_convolved_updates_differ_only_in_rounding_however_many_sites_are_side_by_side() -> None:
    task = MadeUp(**KERNELS["two convolutions"])
    model, jobs = made_up.start_of(task), made_up.jobs_of(task)
    all_at_once = kept(made_up.side_by_side(task, TRAINING, width=8).execute(jobs, model))
    for width in (1, 2, 3):
        some = kept(made_up.side_by_side(task, TRAINING, width=width).execute(jobs, model))
        assert distance(some, all_at_once) < 1e-5
