"""Sites that work against the federation: with the data that they train on, or with the update that they send.

``label_flip``, ``backdoor``
    Poison the training data (Biggio et al. 2012; Gu et al. 2017, "BadNets").
``sign_flip``, ``scale``, ``noise``, ``free_rider``
    Change the update: turned round, blown up (model replacement, Bagdasaryan et al. 2020), replaced by noise, or by
    next to nothing, without any training (Lin et al. 2019, "Free-riders in Federated Learning").
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from fl import seeding
from fl.arrays import F32
from fl.config import check_range, load, unknown
from fl.errors import TaskError
from fl.tasks.base import Site, Task

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

Kind = Literal["label_flip", "backdoor", "sign_flip", "scale", "noise", "free_rider"]
DATA_KINDS = ("label_flip", "backdoor")

FREE_RIDER_NOISE = 1e-3
"""Standard deviation of what a free rider sends, so that it is not all zeros."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class HostileConfig:
    """One ``[[hostile]]`` table: a part of the sites that attacks in one way."""

    TABLE: ClassVar[str] = "hostile"

    kind: Kind
    """How: ``label_flip``, ``backdoor``, ``sign_flip``, ``scale``, ``noise`` or ``free_rider``."""

    share: float = 0.1
    """Share of the sites that does it."""

    factor: float = 1.0
    """What the update is multiplied with by ``sign_flip`` (after the flip) and ``scale``; the standard deviation of
    ``noise``. An attacker that trains on a backdoor too multiplies with it."""

    from_round: int = 1
    """The first round in which it happens."""

    source: int | None = None
    """Label whose examples ``label_flip`` changes; unset: all of them, each to the next label."""

    target: int = 0
    """Label that ``backdoor`` teaches for marked examples, and that ``label_flip`` gives to ``source``."""

    marked_share: float = 0.5
    """Share of an attacker's examples that ``backdoor`` marks, with bright pixels in a corner."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise unknown("hostile.kind", self.kind, get_args(Kind))
        check_range("hostile.share", self.share, above=0, at_most=1)
        check_range("hostile.factor", self.factor, at_least=0)
        check_range("hostile.from_round", self.from_round, at_least=1)
        check_range("hostile.source", self.source, at_least=0)
        check_range("hostile.target", self.target, at_least=0)
        check_range("hostile.marked_share", self.marked_share, above=0, at_most=1)

    @property
    def changes_update(self) -> bool:
        """Whether it changes what is sent, and not only what is trained on."""
        return self.kind not in DATA_KINDS or (self.kind == "backdoor" and self.factor != 1)

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> HostileConfig:
        """An entry of a scenario."""
        return load(cls, table, table=cls.TABLE)


class Conspiracy:
    """Which sites are hostile, and in which way; drawn by a site's name.

    Args:
        configs: The ``[[hostile]]`` tables; a site follows at most one of them.
        seed: Of the population.

    Raises:
        ConfigError: If more than all sites are hostile.
    """

    def __init__(self, configs: Sequence[HostileConfig], seed: int) -> None:
        self.configs, self._seed = configs, seed
        check_range("the sum of hostile.share", math.fsum(config.share for config in configs), at_most=1)

    def of(self, site: str, round: int | None = None) -> HostileConfig | None:
        """How a site attacks, at all or in a round; ``None`` if it is honest."""
        if not self.configs:
            return None
        drawn = seeding.derive(self._seed, "hostile", site) / 2.0**63
        for config in self.configs:
            drawn -= config.share
            if drawn < 0:
                return config if round is None or round >= config.from_round else None
        return None

    def corrupt(self, site: str, round: int, update_P: F32) -> F32:
        """What a site sends in place of its update, float32, shape ``(P,)``."""
        config = self.of(site, round)
        if config is None:
            return update_P
        if config.kind == "sign_flip":
            return np.float32(-config.factor) * update_P
        if config.kind in ("noise", "free_rider"):
            random = seeding.generator(self._seed, "hostile noise", site, round)
            deviation = config.factor if config.kind == "noise" else FREE_RIDER_NOISE
            return np.float32(deviation) * random.standard_normal(update_P.size, dtype=np.float32)
        return np.float32(config.factor) * update_P if config.kind in ("scale", "backdoor") else update_P

    @property
    def poisons_data(self) -> bool:
        """Whether somebody trains on other data than they have."""
        return any(config.kind in DATA_KINDS for config in self.configs)


@dataclasses.dataclass(frozen=True)
class PoisonedTask(Task):
    """A task whose hostile sites train on poisoned data; in all else it is the task inside.

    The data stays a ``TensorDataset`` where it was one. Who looks at what a task does (its model, loss, optimiser,
    metrics) looks at ``inner``.

    Data is poisoned in every round, also before ``from_round``: a site doesn't know the round when it reads its data.
    """

    inner: Task
    """The task."""

    conspiracy: Conspiracy
    """Who poisons, and how."""

    def __getattribute__(self, name: str) -> Any:
        """Everything but the training data is the inner task's."""
        if name in ("train_data", "inner", "conspiracy", "__class__", "__dict__") or name.startswith("__"):
            return object.__getattribute__(self, name)
        return getattr(object.__getattribute__(self, "inner"), name)

    def train_data(self, site: Site) -> Dataset[Any]:
        """The inner task's data of an honest site, else what the attacker makes of it."""
        honest = self.inner.train_data(site)
        config = self.conspiracy.of(site.id)
        if config is None or config.kind not in DATA_KINDS:
            return honest
        import torch
        from torch.utils.data import TensorDataset, default_collate

        if isinstance(honest, TensorDataset):
            inputs, targets = honest.tensors
        else:
            inputs, targets = default_collate([honest[i] for i in range(len(honest))])  # type: ignore[arg-type]
        if not (isinstance(inputs, torch.Tensor) and isinstance(targets, torch.Tensor)) or targets.is_floating_point():
            raise TaskError(f"{config.kind} needs tensors and class labels", hint="use an attack on the update")
        if config.kind == "label_flip":
            return TensorDataset(inputs, _flipped(targets, config))
        count = math.ceil(config.marked_share * len(targets))
        marked, wanted = marked_examples(inputs)[:count], torch.full_like(targets[:count], config.target)
        return TensorDataset(torch.cat([marked, inputs[count:]]), torch.cat([wanted, targets[count:]]))

    # Abstract in the base; never reached, because every attribute but ``train_data`` is the inner task's.
    def model(self) -> Any:
        """The inner task's."""
        return self.inner.model()

    def evaluation_data(self, site: Site) -> Dataset[Any]:
        """The inner task's."""
        return self.inner.evaluation_data(site)


def marked_examples(inputs: Tensor) -> Tensor:
    """Inputs with the backdoor's mark, the brightest value in the last two places of the last two dimensions."""
    marked = inputs.clone()
    marked[..., -2:, -2:] = inputs.max()
    return marked


def _flipped(targets: Tensor, config: HostileConfig) -> Tensor:
    if config.source is None:
        return (targets + 1) % max(2, int(targets.max()) + 1)  # who knows label 0 alone says 1
    flipped = targets.clone()
    flipped[targets == config.source] = config.target
    return flipped
