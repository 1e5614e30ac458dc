"""Dividing one data set among sites, evenly or not: for demos and simulations. NumPy only.

Every example goes to exactly one site. Kinds:

``iid``
    At random, in equal numbers.
``dirichlet``
    Each label's examples are divided in proportions drawn from a Dirichlet distribution (Hsu et al. 2019,
    "Measuring the Effects of Non-Identical Data Distribution"): the smaller ``alpha``, the more a site's
    labels differ.
``label``
    Each site knows ``labels_per_site`` of the labels (after McMahan et al. 2017), each label is divided
    equally.
``quantity``
    At random, in numbers that follow a power law: the site of rank r gets a share proportional to r **
    -exponent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from fl import seeding
from fl.config import check_range, unknown
from fl.errors import ConfigError

I64 = npt.NDArray[np.int64]
Kind = Literal["iid", "dirichlet", "label", "quantity"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """The ``[split]`` table: how a data set is divided among the sites of a demo or simulation."""

    TABLE: ClassVar[str] = "split"

    kind: Kind = "iid"
    """How: evenly (``iid``), by a Dirichlet distribution, by label, or by quantity."""

    alpha: float = 0.5
    """Concentration of ``dirichlet``: 0.1 gives sites of few labels, 100 is close to ``iid``."""

    labels_per_site: int = 2
    """How many labels each site knows, for ``label``."""

    exponent: float = 1.0
    """Steepness of the power law of ``quantity``; 0 gives equal numbers."""

    minimum: int = 1
    """Examples that every site gets at least."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise unknown("split", self.kind, get_args(Kind))
        check_range("split.alpha", self.alpha, above=0)
        check_range("split.labels_per_site", self.labels_per_site, at_least=1)
        check_range("split.exponent", self.exponent, at_least=0)
        check_range("split.minimum", self.minimum, at_least=1)

    def split(self, labels: npt.NDArray[Any], sites: int, seed: int, names: Sequence[str] | None = None) -> list[I64]:
        """Divide; see the function ``split``."""
        return split(labels, sites, self.kind, seed, names=names, **{key: getattr(self, key) for key in _SHAPE})


_SHAPE = ("alpha", "labels_per_site", "exponent", "minimum")


def split(
    labels: npt.NDArray[Any], sites: int, kind: Kind, seed: int, *, names: Sequence[str] | None = None, **shape: Any
) -> list[I64]:
    """Divide examples among sites.

    Args:
        labels: The label of each example, shape ``(N,)``; whole numbers or texts.
        sites: How many sites there are.
        kind: One of ``iid``, ``dirichlet``, ``label``, ``quantity``.
        seed: The same seed gives the same division.
        names: What the sites are called, for errors; ``site 0`` and so on without them.
        shape: Other keys of ``SplitConfig``.

    Returns:
        For each site the indices of its examples, sorted. Together they hold each example once.

    Raises:
        ConfigError: If a value is out of range, or a site would have fewer examples than the minimum (which
            site, how many it would have). ``dirichlet`` first moves examples from the largest sites to those
            below the minimum.

    Example:
        >>> [len(part) for part in split(np.array([0, 0, 0, 1, 1, 1]), 2, "label", seed=1, labels_per_site=1)]
        [3, 3]
    """
    config = SplitConfig(kind=kind, **shape)
    check_range("sites", sites, at_least=1)
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels have shape {labels.shape}, expected one dimension")
    if len(labels) < sites * config.minimum:
        raise ConfigError(
            f"{len(labels)} examples do not suffice for {sites} sites with at least {config.minimum} each",
            hint=f"take at most {len(labels) // config.minimum} sites",
        )
    random = seeding.generator(seed, "split", kind)
    parts = {"iid": _iid, "dirichlet": _dirichlet, "label": _by_label, "quantity": _by_quantity}[kind](
        labels, sites, config, random
    )
    site = min(range(sites), key=lambda site: len(parts[site]))
    if (fewest := len(parts[site])) < config.minimum:
        name = names[site] if names else f"site {site}"
        others = "take fewer sites, more labels_per_site, or another seed"
        raise ConfigError(
            f"{name} would have {fewest} examples, at least {config.minimum} needed",
            hint=f"split.minimum = {fewest} lets this pass; or {others}"
            if fewest
            else f'{others}; or kind = "dirichlet", which fills every site up to split.minimum',
        )
    return [np.sort(part).astype(np.int64) for part in parts]


def _iid(labels: npt.NDArray[Any], sites: int, config: SplitConfig, random: np.random.Generator) -> list[I64]:
    return np.array_split(random.permutation(len(labels)), sites)


def _dirichlet(labels: npt.NDArray[Any], sites: int, config: SplitConfig, random: np.random.Generator) -> list[I64]:
    pieces: list[list[I64]] = [[] for _ in range(sites)]
    for label in _classes(labels, config):
        examples = random.permutation(np.flatnonzero(labels == label))
        # Gamma draws that all underflow (a tiny alpha) make proportions of NaN: then one site has the label
        # alone.
        proportions = np.nan_to_num(random.dirichlet(np.full(sites, config.alpha)))
        if proportions.sum() == 0:
            proportions[random.integers(sites)] = 1
        cuts = np.rint(np.cumsum(proportions)[:-1] * len(examples)).astype(np.int64)
        for pile, piece in zip(pieces, np.split(examples, np.minimum(cuts, len(examples))), strict=True):
            pile.append(piece)
    parts = [random.permutation(np.concatenate(pile)) for pile in pieces]
    sizes = np.array([len(part) for part in parts])
    for site in np.flatnonzero(sizes < config.minimum):
        while sizes[site] < config.minimum:
            donor = int(np.argmax(sizes))
            parts[site] = np.append(parts[site], parts[donor][-1])
            parts[donor] = parts[donor][:-1]
            sizes[site] += 1
            sizes[donor] -= 1
    return parts


def _by_label(labels: npt.NDArray[Any], sites: int, config: SplitConfig, random: np.random.Generator) -> list[I64]:
    classes, each = _classes(labels, config), config.labels_per_site
    if each > len(classes):
        raise ConfigError(
            f"split.labels_per_site is {each}, and there are {len(classes)} labels",
            hint=f"labels_per_site = {len(classes)} gives every site all of them",
        )
    if sites * each < len(classes):
        raise ConfigError(
            f"{sites} sites with {each} labels each leave some of the {len(classes)} labels to nobody",
            hint=f"labels_per_site = {-(-len(classes) // sites)} covers them",
        )
    # Each site in turn takes the labels that the fewest sites have so far, at random among equals.
    holders: list[list[int]] = [[] for _ in classes]
    for site in random.permutation(sites):
        rarest = np.lexsort((random.random(len(classes)), np.array([len(held) for held in holders])))
        for label in rarest[:each]:
            holders[label].append(int(site))
    pieces: list[list[I64]] = [[] for _ in range(sites)]
    for label, held_by in zip(classes, holders, strict=True):
        examples = random.permutation(np.flatnonzero(labels == label))
        for site, piece in zip(held_by, np.array_split(examples, len(held_by)), strict=True):
            pieces[site].append(piece)
    return [np.concatenate(pile) for pile in pieces]


def _by_quantity(labels: npt.NDArray[Any], sites: int, config: SplitConfig, random: np.random.Generator) -> list[I64]:
    shares = np.arange(1, sites + 1) ** -config.exponent
    beyond = len(labels) - sites * config.minimum
    cuts = np.rint(np.cumsum(shares / shares.sum())[:-1] * beyond).astype(np.int64)
    sizes = np.diff(np.concatenate([[0], cuts, [beyond]])) + config.minimum
    sizes = random.permutation(sizes)  # so that the first site is not always the largest
    return np.split(random.permutation(len(labels)), np.cumsum(sizes)[:-1])


def _classes(labels: npt.NDArray[Any], config: SplitConfig) -> npt.NDArray[Any]:
    if labels.dtype.kind == "f":
        raise ConfigError(
            f"a split of kind {config.kind} needs labels, and these are decimal numbers",
            hint='use kind = "iid" or "quantity"',
        )
    return np.unique(labels)
