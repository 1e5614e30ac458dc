"""The simulated world: population, equipment, faults and conspiracy put together for the port to the sites."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from fl.arrays import Layout, VectorArrays, vector_of
from fl.errors import ConfigError
from fl.rounds.port import Failure, Reply, Request
from fl.tasks.base import Site, Task
from fl.tasks.training import TrainingConfig
from simulations.devices import HOUR_S, Equipment
from simulations.faults import FaultConfig, fate
from simulations.hostile import Conspiracy, PoisonedTask
from simulations.population import Population
from simulations.scenario import Scenario
from simulations.sites import Trip

MASKING = "mask"
"""The stage of secure aggregation in which a site trains."""

SITES_KEPT = 4_096
"""How many sites' lists of examples are kept, so that they aren't drawn anew in every round."""


def build(scenario: Scenario, task: Task) -> tuple[SimulatedWorld, Task]:
    """The world of a scenario, and its task as the sites there have it.

    Raises:
        ConfigError: If the tables do not fit together, or the task's data.
        TaskError: If the task's data cannot be divided.
    """
    config = scenario.config
    seed = config.run.seed
    population = Population(scenario.population, scenario.split, task, seed)
    equipment = Equipment(scenario.devices, scenario.links, population.seed, population.entries)
    conspiracy = Conspiracy(scenario.hostile, population.seed)
    scenario.check_counts(len(population))
    if config.secagg and (hostile := next((it for it in scenario.hostile if it.changes_update), None)):
        raise ConfigError(
            f"hostile.kind {hostile.kind} changes updates, which secure aggregation hides from the simulation",
            hint='kind = "label_flip", or "backdoor" with factor = 1.0',
        )
    world = SimulatedWorld(population, equipment, scenario.faults, conspiracy, config.training, seed)
    return world, PoisonedTask(task, conspiracy) if conspiracy.poisons_data else task


class SimulatedWorld:
    """See ``simulations.sites.World``.

    Args:
        population: Who the sites are.
        equipment: Their devices and links.
        faults: How reliable they are.
        conspiracy: How honest.
        training: How they train: what it costs depends on the epochs.
        seed: Of the run.

    Attributes:
        is_timed: Whether anything here takes simulated time, so that the run needs a clock of its own.
    """

    def __init__(
        self,
        population: Population,
        equipment: Equipment,
        faults: FaultConfig,
        conspiracy: Conspiracy,
        training: TrainingConfig,
        seed: int,
    ) -> None:
        self.population, self.equipment, self.faults, self.conspiracy = population, equipment, faults, conspiracy
        self._training, self._seed = training, seed
        self.is_timed = bool(equipment.devices or equipment.links) or faults != FaultConfig()
        self._sites: dict[str, Site] = {}
        self._hour: int | None = None
        self._online: Sequence[str] = population.names

    def online(self, now_s: float) -> Sequence[str]:
        """Sites that are there in this hour; where all always are, no list of them is made."""
        if self.equipment.is_always_there:
            return self.population.names
        hour = int(now_s / HOUR_S)
        if hour != self._hour:
            self._hour = hour
            there = (i for i, name in enumerate(self.population.names) if self.equipment.is_there(name, now_s))
            self._online = _Some(self.population.names, np.fromiter(there, np.int64))
        return self._online

    def site(self, name: str) -> Site:
        """A site and its examples."""
        site = self._sites.get(name)
        if site is None:
            if len(self._sites) >= SITES_KEPT:
                self._sites.clear()
            site = self._sites[name] = self.population.site(name)
        return site

    def trip(self, name: str, request: Request, *, down_bytes: int, up_bytes: int, now_s: float) -> Trip:
        """What a request costs and whether it is answered; faults strike while sites train."""
        if not self.is_timed:
            return Trip(facts=self._nature(name))
        trains = request.phase == "train" or request.stage == MASKING
        samples = self.population.examples_of(name) if trains or request.phase == "evaluate" else 0
        if trains:
            samples *= self._training.epochs
        cost = self.equipment.cost(name, samples=samples, down_bytes=down_bytes, up_bytes=up_bytes)
        drawn = fate(self.faults, self._seed, name, request.round, request.attempt)
        if trains and drawn.silent:
            return Trip(seconds=math.inf)
        compute_s, energy_j = cost.compute_s * drawn.slowdown, cost.energy_j * drawn.slowdown
        seconds = cost.down_s + compute_s + cost.up_s
        if trains and drawn.crashes:
            return Trip(seconds=seconds, failure=Failure(code="task_failed", reason="a simulated crash"))
        facts = {
            **self._nature(name),
            "device": cost.device,
            "link": cost.link,
            "simulated_s": round(seconds, 6),
            "down_s": round(cost.down_s, 6),
            "compute_s": round(compute_s, 6),
            "up_s": round(cost.up_s, 6),
            "down_bytes": cost.down_bytes,
            "up_bytes": cost.up_bytes,
            "energy_j": round(energy_j, 6),
        }
        return Trip(seconds=seconds, facts={key: value for key, value in facts.items() if value != ""})

    def disguise(self, reply: Reply) -> Reply:
        """A hostile site's update in place of the honest one."""
        request = reply.request
        if reply.arrays is None or request.phase != "train" or self.conspiracy.of(reply.site, request.round) is None:
            return reply
        update_P = vector_of(reply.arrays)
        sent_P = self.conspiracy.corrupt(reply.site, request.round, update_P)
        return dataclasses.replace(reply, arrays=VectorArrays(Layout.of(reply.arrays), sent_P))

    def _nature(self, name: str) -> dict[str, str]:
        hostile = self.conspiracy.of(name)
        return {"hostile": hostile.kind} if hostile else {}


class _Some(Sequence[str]):
    """Some of many names, sorted as those are: 8 bytes a name."""

    def __init__(self, names: Sequence[str], places: np.ndarray) -> None:
        self._names, self._places = names, places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: int | slice) -> str | Sequence[str]:  # type: ignore[override]
        if isinstance(place, slice):
            return [self._names[int(i)] for i in self._places[place]]
        return self._names[int(self._places[place])]

    def __contains__(self, name: object) -> bool:
        try:
            place = self._names.index(str(name))
        except ValueError:
            return False
        found = int(np.searchsorted(self._places, place))
        return found < len(self._places) and int(self._places[found]) == place
