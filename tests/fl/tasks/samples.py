"""Small tasks for the tests of the loop: made-up data, exact answers."""

import dataclasses

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from fl.tasks import Task


def examples(number=50, seed=0):
    """Examples in three classes: six inputs, and which of the first three is the largest."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, 6, generator=generator)
    return TensorDataset(inputs, inputs[:, :3].argmax(dim=1))


@dataclasses.dataclass(frozen=True)
class Largest(Task):
    """Which of three numbers is the largest."""

    number: int = 50
    fits: int = 1_000_000  # more examples at once than this exhaust a pretended memory
    fails_after_forward: bool = True
    normalised: bool = False
    dropout: float = 0.0

    def model(self):
        return nn.Sequential(
            nn.Linear(6, 8),
            nn.BatchNorm1d(8) if self.normalised else nn.Identity(),
            nn.Tanh(),
            nn.Dropout(self.dropout),
            nn.Linear(8, 3),
        )

    def train_data(self, site):
        return examples(self.number)

    def evaluation_data(self, site):
        return examples(40, seed=1)

    def loss(self, model, inputs, targets):
        if not self.fails_after_forward:
            self.use_memory(len(targets))
        loss = super().loss(model, inputs, targets)
        self.use_memory(len(targets))
        return loss

    def use_memory(self, number):
        if number > self.fits:
            raise torch.OutOfMemoryError(f"no room for {number} examples")


class Items(Dataset):
    """The same examples as dicts of tensors and one by one, as a tokeniser would give them."""

    def __init__(self, number=50):
        self.tensors = examples(number)

    def __len__(self):
        return len(self.tensors)

    def __getitem__(self, index):
        inputs, target = self.tensors[index]
        return {"left": inputs[:3], "right": inputs[3:]}, target


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, inputs):
        return self.layer(torch.cat([inputs["left"], inputs["right"]], dim=1))


@dataclasses.dataclass(frozen=True)
class FromDicts(Largest):
    """The same from dicts."""

    def model(self):
        return TwoInputs()

    def train_data(self, site):
        return Items(self.number)
