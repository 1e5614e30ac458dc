"""What is learned: a model, and each partition's part of scikit-learn's handwritten digits."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

pixels, labels = load_digits(return_X_y=True)
PIXELS = torch.tensor(pixels, dtype=torch.float32) / 16
LABELS = torch.tensor(labels)
TEST = slice(1500, None)  # at no partition


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def loader(partition: int, partitions: int) -> DataLoader:
    mine = slice(partition, TEST.start, partitions)
    return DataLoader(TensorDataset(PIXELS[mine], LABELS[mine]), batch_size=10, shuffle=True)


def accuracy(net: nn.Module) -> float:
    with torch.no_grad():
        return (net(PIXELS[TEST]).argmax(1) == LABELS[TEST]).float().mean().item()
