"""The built-in task ``digits``: handwritten digits, real and small enough for a laptop.

1,797 images of 8 × 8 pixels in 17 grey levels, from the test set of the UCI collection "Optical Recognition
of Handwritten Digits" (Alpaydin and Kaynak, 1998), which scikit-learn carries. A fixed fifth of them belongs
to the centre and reaches no site; the rest is the *pool* that is divided among sites.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fl import seeding
from fl.arrays import F32
from fl.config import check_range
from fl.errors import TaskError
from fl.tasks import shards
from fl.tasks.base import Site, Task
from fl.tasks.extras import require

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

I64 = npt.NDArray[np.int64]

SHARD = "digits.npz"
"""Name of a site's file: ``images`` (n, 8, 8) from 0 to 16, and ``labels`` (n,) from 0 to 9."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Digits(Task):
    """Handwritten digits: 1,797 real images of 8 × 8 pixels, ten classes.

    A site's data is ``digits.npz`` in its data directory; a site without one takes its part of the pool.
    """

    network: Literal["cnn", "mlp"] = "cnn"
    """Two convolutions before the hidden layer, or none."""

    hidden: int = 64
    """Width of the hidden layer."""

    def __post_init__(self) -> None:
        check_range("task.hidden", self.hidden, at_least=1)

    def model(self) -> nn.Module:
        """About 38,000 parameters as a CNN and 5,000 as an MLP, with the default width."""
        require("torch")
        from torch import nn

        if self.network == "mlp":
            return nn.Sequential(nn.Flatten(), nn.Linear(64, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 10))
        return nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, self.hidden),
            nn.ReLU(),
            nn.Linear(self.hidden, 10),
        )

    def train_data(self, site: Site) -> Dataset[Any]:
        """Four fifths of the site's digits."""
        return _dataset(*_at_site(site, part="training"))

    def evaluation_data(self, site: Site) -> Dataset[Any]:
        """The other fifth of the site's digits."""
        return _dataset(*_at_site(site, part="evaluation"))

    def centre_data(self) -> Dataset[Any]:
        """The 359 digits that no site has."""
        held_out, _ = _division()
        images, labels = _all()
        return _dataset(images[held_out], labels[held_out])

    def labels(self, source: Path | None) -> I64:
        """The digits of the pool; there is no other source."""
        return _pool(source)[1]

    def write_shard(self, source: Path | None, indices: I64, directory: Path) -> None:
        """Write digits of the pool as a site's ``digits.npz``."""
        images, labels = _pool(source)
        with (directory / SHARD).open("wb") as file:
            np.savez(file, images=images[indices].astype(np.uint8), labels=labels[indices].astype(np.uint8))


@functools.cache
def _all() -> tuple[F32, I64]:
    require("torch", "sklearn")
    # scikit-learn's own loader would import all of it first, which takes longer than some simulations.
    package = Path(importlib.util.find_spec("sklearn").origin).parent  # type: ignore[union-attr, arg-type]
    table = np.loadtxt(package / "datasets" / "data" / "digits.csv.gz", delimiter=",", dtype=np.uint8)
    return table[:, :-1].reshape(-1, 8, 8).astype(np.float32), table[:, -1].astype(np.int64)


def _division() -> tuple[I64, I64]:
    """Which digits the centre holds and which form the pool: the same everywhere, whatever the run's seed."""
    order = seeding.generator(0, "digits", "held out").permutation(len(_all()[1]))
    held_out = len(order) // 5
    return order[:held_out], order[held_out:]


def _pool(source: Path | None) -> tuple[F32, I64]:
    if source is not None:
        raise TaskError(f"the task digits brings its own data and takes none from {source}")
    _, pool = _division()
    images, labels = _all()
    return images[pool], labels[pool]


def _at_site(site: Site, *, part: shards.Part) -> tuple[F32, I64]:
    if site.data_dir is None:
        images, labels = _pool(None)
        mine = shards.partition(len(labels), site)
        images, labels = images[mine], labels[mine]
    else:
        images, labels = _read(site, site.data_dir / SHARD)
    chosen = shards.divide(len(labels), site, part)
    return images[chosen], labels[chosen]


def _read(site: Site, path: Path) -> tuple[F32, I64]:
    try:
        with np.load(path, allow_pickle=False) as file:
            images, labels = np.asarray(file["images"]), np.asarray(file["labels"])
    except FileNotFoundError as err:
        raise TaskError(f"site {site.id} has no {path}", hint=f"give the directory that holds {SHARD}") from err
    except Exception as err:  # what NumPy raises for a damaged file is not documented
        raise TaskError(f"cannot read {path}: {err}") from err
    if images.ndim != 3 or images.shape[1:] != (8, 8) or labels.shape != images.shape[:1]:
        raise TaskError(
            f"{path} holds images {list(images.shape)} and labels {list(labels.shape)}, must be [n, 8, 8] and [n]"
        )
    if images.dtype.kind not in "uif" or labels.dtype.kind not in "ui":
        raise TaskError(
            f"{path} holds images of type {images.dtype} and labels of type {labels.dtype}, must be numbers"
        )
    if labels.size and not 0 <= labels.min() <= labels.max() <= 9:
        raise TaskError(f"{path} holds the labels {labels.min()} to {labels.max()}, must be 0 to 9")
    return images.astype(np.float32), labels.astype(np.int64)


def _dataset(images: F32, labels: I64) -> Dataset[Any]:
    import torch
    from torch.utils.data import TensorDataset

    return TensorDataset(torch.from_numpy(images[:, None] / 16), torch.from_numpy(labels))
