"""A task of one's own: which iris a flower is. Real data, 150 flowers (Fisher 1936)."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_iris
from torch import nn
from torch.utils.data import Subset, TensorDataset

from fl.tasks import Site, Task
from fl.tasks.shards import divide, partition


@dataclass(frozen=True)
class Flowers(Task):
    """Three kinds of iris, from the lengths and widths of their leaves."""

    hidden: int = 16
    """Width of the hidden layer."""

    def model(self):
        return nn.Sequential(nn.Linear(4, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 3))

    def train_data(self, site: Site):
        flowers = self._flowers(site)
        return Subset(flowers, divide(len(flowers), site, "training"))

    def evaluation_data(self, site: Site):
        flowers = self._flowers(site)
        return Subset(flowers, divide(len(flowers), site, "evaluation"))

    def _flowers(self, site: Site):
        if site.data_dir is not None:
            shard = np.load(site.data_dir / "flowers.npz")
            leaves_cm, kinds = shard["leaves_cm"], shard["kinds"]
        else:
            leaves_cm, kinds = (part[partition(150, site)] for part in load_iris(return_X_y=True))
        return TensorDataset(torch.from_numpy(leaves_cm).float(), torch.from_numpy(kinds))

    # Only for trials on one computer: how to divide the data among made-up sites.

    def labels(self, source):
        return load_iris().target

    def write_shard(self, source, indices, directory):
        leaves_cm, kinds = load_iris(return_X_y=True)
        np.savez(directory / "flowers.npz", leaves_cm=leaves_cm[indices], kinds=kinds[indices])
