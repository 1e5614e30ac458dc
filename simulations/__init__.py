"""Federations inside one process: the same tasks, strategies, engine and journal as deployment."""

from simulations.run import Progress, simulate
from simulations.scenario import Scenario

__all__ = ["Progress", "Scenario", "simulate"]
