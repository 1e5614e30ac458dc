"""Strategies: how the updates of a round become the next model. Arrays in, arrays out; no I/O, no Flower."""

from fl.strategies.base import Strategy, Update
from fl.strategies.fold import FoldedBlock, fold
from fl.strategies.registry import available, create

__all__ = ["FoldedBlock", "Strategy", "Update", "available", "create", "fold"]
