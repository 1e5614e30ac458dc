"""The built-in task ``images``: a folder at each site, with one folder of pictures for each class in it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from fl.config import check_range
from fl.errors import ConfigError, TaskError
from fl.tasks import shards
from fl.tasks.base import Site, Task
from fl.tasks.extras import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn
    from torch.utils.data import Dataset

I64 = npt.NDArray[np.int64]
U8 = npt.NDArray[np.uint8]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What counts as a picture; other files are passed over."""

KEPT_BYTES = 1 << 30
"""How much of a dataset's decoded pictures stays in memory; the rest is decoded each time."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Images(Task):
    """A folder of pictures for each class: classification by a small convolutional network.

    A site's data is its data directory with a folder a class in it; a site without one takes its part of
    ``path``. Pictures are brought to one size, their values from 0 to 255 to the range from -1 to 1.
    """

    classes: tuple[str, ...] = ()
    """The folders' names, in the order of the model's outputs; without them those in ``path``, sorted."""

    size: int = 32
    """Height and width that pictures are brought to, in pixels."""

    channels: Literal[1, 3] = 3
    """1 for grey, 3 for colour."""

    width: int = 32
    """Channels of the first convolution; the second has twice and the third four times as many."""

    path: Path | None = None
    """A folder that sites without a data directory share."""

    centre: Path | None = None
    """A folder that the centre evaluates on."""

    def __post_init__(self) -> None:
        check_range("task.size", self.size, at_least=8)
        check_range("task.width", self.width, at_least=8)
        if self.width % 8:
            raise ConfigError(f"task.width is {self.width}, must be a multiple of 8")
        if len(set(self.classes)) != len(self.classes):
            raise ConfigError("task.classes names a class twice")
        for name in self.classes:
            # Options come with the run, and a run has no business outside the site's data directory.
            if name != Path(name).name or name in ("", ".."):
                raise ConfigError(f"task.classes names {name!r}, which is not the name of a folder")
        if len(self.classes) == 1:
            raise ConfigError(f"task.classes names only {self.classes[0]}", hint="name two at least")

    def model(self) -> nn.Module:
        """Three convolutions with group normalisation, which unlike that of the batch has nothing to share."""
        require("torch")
        from torch import nn

        layers: list[nn.Module] = []
        widths = [self.channels, self.width, 2 * self.width, 4 * self.width]
        for width, following in itertools.pairwise(widths):
            convolution = nn.Conv2d(width, following, kernel_size=3, padding=1)
            layers += [convolution, nn.GroupNorm(8, following), nn.ReLU(), nn.MaxPool2d(2)]
        pooling = nn.AdaptiveAvgPool2d(1)
        return nn.Sequential(*layers, pooling, nn.Flatten(), nn.Linear(widths[-1], len(self._classes())))

    def train_data(self, site: Site) -> Dataset[Any]:
        """Four fifths of the site's pictures."""
        return self._at_site(site, "training")

    def evaluation_data(self, site: Site) -> Dataset[Any]:
        """The other fifth of the site's pictures."""
        return self._at_site(site, "evaluation")

    def centre_data(self) -> Dataset[Any] | None:
        """The pictures of ``task.centre``."""
        return None if self.centre is None else self._dataset(*self._files(self.centre))

    def labels(self, source: Path | None) -> I64:
        """The class of each picture, in the order of classes and then of names."""
        return self._files(self._source(source))[1]

    def write_shard(self, source: Path | None, indices: I64, directory: Path) -> None:
        """Put pictures into a folder a class: hard links where the disk allows, else copies."""
        files, _ = self._files(self._source(source))
        for name in self._classes():
            (directory / name).mkdir(exist_ok=True)
        for index in indices:
            copy = directory / files[index].parent.name / files[index].name
            try:
                os.link(files[index], copy)
            except OSError:  # another disk, or one without hard links
                shutil.copyfile(files[index], copy)

    def _source(self, source: Path | None) -> Path:
        path = source or self.path
        if path is None:
            raise TaskError("the task images has no folder to divide", hint='set task.path: path = "pictures"')
        return path

    def _classes(self) -> tuple[str, ...]:
        if self.classes:
            return self.classes
        if self.path is None:
            raise TaskError(
                "the task images does not know its classes", hint='set task.classes = ["…", "…"], or task.path'
            )
        found = tuple(folder.name for folder in _folders(self.path))
        if len(found) < 2:
            raise TaskError(f"{self.path} has {len(found)} folders, and each class needs one")
        return found

    def _files(self, directory: Path) -> tuple[list[Path], I64]:
        """The pictures in the folders of the classes, and the class of each."""
        classes = self._classes()
        files: list[Path] = []
        labels: list[int] = []
        for folder in _folders(directory):
            if folder.name not in classes:
                raise TaskError(f"{folder} is the folder of no class", hint=f"the classes are {', '.join(classes)}")
        for label, name in enumerate(classes):
            folder = directory / name  # a site need not have pictures of every class
            pictures = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
            files += pictures
            labels += [label] * len(pictures)
        return files, np.array(labels, np.int64)

    def _at_site(self, site: Site, part: shards.Part) -> Dataset[Any]:
        directory = site.data_dir or self.path
        if directory is None:
            raise TaskError(
                f"site {site.id} has no data directory, and task.path is not set",
                hint="give the directory that holds a folder of pictures for each class",
            )
        files, labels = self._files(directory)
        mine = np.arange(len(labels)) if site.data_dir else shards.partition(len(labels), site)
        chosen = mine[shards.divide(len(mine), site, part, where=directory)]
        return self._dataset([files[index] for index in chosen], labels[chosen])

    def _dataset(self, files: Sequence[Path], labels: I64) -> Dataset[Any]:
        require("torch", "PIL")
        return _pictures(files, labels, self.size, self.channels)


def decode(path: Path, size: int, channels: Literal[1, 3]) -> U8:
    """A picture as values from 0 to 255, shape ``(channels, size, size)``.

    Raises:
        TaskError: If it is unreadable, with its path.
    """
    from PIL import Image

    try:
        with Image.open(path) as picture:
            resized = picture.convert("L" if channels == 1 else "RGB").resize((size, size), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:  # Pillow raises all of these
        raise TaskError(f"cannot read the picture {path}: {err}", hint="remove it, or replace it") from err
    values = np.asarray(resized, np.uint8).reshape(size, size, channels)
    return np.array(values.transpose(2, 0, 1), order="C")  # a copy: Pillow's own memory is not writable


def _pictures(files: Sequence[Path], labels: I64, size: int, channels: Literal[1, 3]) -> Dataset[Any]:
    import torch
    from torch.utils.data import Dataset

    class Pictures(Dataset[Any]):
        """Pictures, decoded when they are asked for and then kept as long as there is room."""

        def __init__(self) -> None:
            self._kept: dict[int, U8] = {}
            self._room = KEPT_BYTES // (channels * size * size)

        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            values = self._kept.get(index)
            if values is None:
                values = decode(files[index], size, channels)
                if len(self._kept) < self._room:
                    self._kept[index] = values
            return torch.from_numpy(values).float() / 127.5 - 1, int(labels[index])

    return Pictures()


def _folders(directory: Path) -> list[Path]:
    """The folders in a directory, hidden ones left out, sorted by name."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            return sorted(p for p in directory.iterdir() if p.is_dir() and not p.name.startswith("."))
        except PermissionError as err:
            raise TaskError(f"cannot read {directory}: {err.strerror}") from err
    raise TaskError(f"there is no directory {directory}")
