"""What came out of a run, in figures, and whether it is what the scenario expects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fl.errors import FLError
from fl.rounds.events import RoundCommitted
from fl.rounds.journal import read
from fl.rounds.state import Record, RunState
from simulations.devices import HOUR_S
from simulations.scenario import Bound, Scenario


class ExpectationError(FLError):
    """A run missed what its scenario expects of it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Expected:
    """One expectation, and what came out.

    Attributes:
        figure: Of what.
        bound: What is expected.
        reached: What came out; ``None`` if the run has no such figure.
    """

    figure: str
    bound: Bound
    reached: float | None

    @property
    def is_met(self) -> bool:
        """Whether it holds."""
        return self.reached is not None and self.bound.holds(self.reached)

    def __str__(self) -> str:
        reached = f"there is no figure {self.figure}" if self.reached is None else f"reached {self.reached:.4g}"
        return f"{self.figure} {self.bound} expected, {reached}"


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """A run that is over.

    Attributes:
        directory: Its journal.
        name: Of the run.
        status: ``completed``, or how else it ended.
        figures: See ``figures_of``.
        expected: What the scenario expects, and what came out.
        model_digest: SHA-256 of the last model's file.
    """

    directory: Path
    name: str
    status: str
    figures: Mapping[str, float]
    expected: tuple[Expected, ...]
    model_digest: str | None

    @classmethod
    def of(cls, directory: Path, state: RunState, scenario: Scenario) -> Outcome:
        """The outcome of a run of a scenario."""
        figures = figures_of(read(directory), is_timed=scenario.is_timed)
        expected = tuple(
            Expected(figure, bound, figures.get(figure)) for figure, bound in scenario.scenario.expect.items()
        )
        return cls(directory, scenario.config.run.name, state.status, figures, expected, state.model_digest)

    def check(self) -> None:
        """Hold it against what is expected.

        Raises:
            ExpectationError: Naming each figure that misses its bound.
        """
        missed = [str(expected) for expected in self.expected if not expected.is_met]
        if missed:
            known = ", ".join(sorted(self.figures))
            hint = f"figures: {known}" if any(expected.reached is None for expected in self.expected) else None
            raise ExpectationError(f"{self.name}: {'; '.join(missed)}", hint=hint)

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "run": self.name,
            "status": self.status,
            "journal": str(self.directory),
            "model_digest": self.model_digest,
            "figures": dict(self.figures),
            "expected": [
                {
                    "figure": expected.figure,
                    **{key: value for key, value in dataclasses.asdict(expected.bound).items() if value is not None},
                    "reached": expected.reached,
                    "met": expected.is_met,
                }
                for expected in self.expected
            ],
        }


def figures_of(records: Sequence[Record], *, is_timed: bool) -> dict[str, float]:
    """The figures of a run: the metrics of its last model, ``rounds``, and ``simulated_hours`` until that model.

    A metric is that of the centre if it was evaluated there, else the mean over the sites, else over the examples
    that were trained on in the last round.

    Args:
        records: The run's journal.
        is_timed: Whether its clock is simulated; the hours are left out if it is not.
    """
    state = RunState.of(records)
    figures: dict[str, float] = {"rounds": state.committed_rounds}
    last = state.rounds.get(state.committed_rounds)
    if last and last.committed:
        figures |= last.committed.metrics
        for place in ("sites", "centre"):
            if place in last.evaluated:
                figures |= last.evaluated[place].metrics
    if is_timed:
        figures["simulated_hours"] = max(
            (record.clock_s / HOUR_S for record in records if isinstance(record.event, RoundCommitted)), default=0.0
        )
    return figures
