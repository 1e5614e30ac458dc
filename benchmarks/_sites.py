"""The simulator's workloads as a task."""

from __future__ import annotations

import dataclasses

from torch import nn
from torch.utils.data import TensorDataset

from benchmarks._workloads import data, model
from fl.tasks import Site, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench(Task):
    """A workload by name; ``parameters`` makes a model of that size instead, which hardly computes."""

    workload: str = "w1"
    parameters: int = 0

    def model(self) -> nn.Module:
        if self.parameters:
            return nn.Sequential(nn.Linear(64, self.parameters // 74, bias=False), nn.Linear(self.parameters // 74, 10))
        return model(self.workload)

    def train_data(self, site: Site) -> TensorDataset:
        return TensorDataset(*data(self.workload, site.partition_id % 1000))

    def evaluation_data(self, site: Site) -> TensorDataset:
        return self.train_data(site)
