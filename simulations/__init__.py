"""Federations inside one process: the same tasks, strategies, engine and journal as deployment."""

from simulations.run import simulate

__all__ = ["simulate"]
