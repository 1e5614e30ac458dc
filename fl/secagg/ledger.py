"""What a site remembers for good: which attempts it took part in, what it revealed, which roster it saw.

A session is memory and dies with its process; the ledger outlives it. The caller stores it *before* it sends the
reply that the entry is about, so that a site which is killed at any instant reveals shares for a round at most once.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from fl.secagg.config import RoundConfig
from fl.secagg.errors import AttemptError, SecAggError

FORMAT = "fl-secagg-ledger/v1"


@dataclasses.dataclass(slots=True)
class RunEntry:
    """A site's memory of one run."""

    round: int = 0
    """The latest round that it was in."""

    attempt: int = 0
    """The latest attempt at it."""

    stage: int = 0
    """The latest stage of that attempt that it was asked for."""

    revealed: bool = False
    """Whether shares were revealed for it; then no other attempt at this round is answered."""

    survivors: tuple[str, ...] = ()
    """Sites of the last sum that it helped to unmask."""


@dataclasses.dataclass(slots=True)
class Ledger:
    """A site's durable memory."""

    roster_version: int = 0
    """Newest roster seen."""

    roster_digest: bytes = b""
    """And its hash."""

    runs: dict[str, RunEntry] = dataclasses.field(default_factory=dict)
    """By run id."""

    def open_attempt(self, config: RoundConfig) -> None:
        """Enter an attempt.

        Raises:
            AttemptError: If it, or a later one, was entered before, or shares of this round were revealed.
        """
        entry = self.runs.setdefault(config.run_id, RunEntry())
        where = f"round {config.round} of run {config.run_id}"
        if config.round < entry.round:
            raise AttemptError(f"{where} is over: this site is in round {entry.round}")
        if config.round == entry.round:
            if entry.revealed:
                raise AttemptError(f"{where} was unmasked before; its update is summed once")
            if config.attempt <= entry.attempt:
                raise AttemptError(f"attempt {config.attempt} at {where} was used before")
        entry.round, entry.attempt, entry.stage, entry.revealed = config.round, config.attempt, 0, False

    def enter(self, config: RoundConfig, stage: int) -> None:
        """Enter a later stage of an attempt, so that an older copy of its session cannot answer the stage again.

        Raises:
            AttemptError: If that stage was entered before, or a later attempt has begun.
        """
        entry = self.runs.get(config.run_id, RunEntry())
        if (entry.round, entry.attempt) != (config.round, config.attempt) or stage <= entry.stage:
            raise AttemptError(
                f"stage {stage} of attempt {config.attempt} at round {config.round} was answered, or given up, before"
            )
        entry.stage = stage

    def reveal(self, config: RoundConfig, survivors: tuple[str, ...]) -> None:
        """Note that shares of an attempt are about to be revealed.

        Raises:
            AttemptError: If they were before, or a later attempt has begun.
        """
        entry = self.runs.get(config.run_id, RunEntry())
        if (entry.round, entry.attempt) != (config.round, config.attempt) or entry.revealed:
            raise AttemptError(f"round {config.round} of run {config.run_id} was unmasked, or begun anew, before")
        entry.revealed, entry.survivors = True, survivors

    def last_survivors(self, run_id: str) -> frozenset[str]:
        """Sites of the last sum of a run that this site helped to unmask."""
        return frozenset(self.runs.get(run_id, RunEntry()).survivors)

    def encode(self) -> bytes:
        """The ledger as JSON."""
        document = {
            "format": FORMAT,
            "roster_version": self.roster_version,
            "roster_digest": self.roster_digest.hex(),
            "runs": {run: dataclasses.asdict(entry) for run, entry in self.runs.items()},
        }
        return json.dumps(document, indent=1).encode()

    @classmethod
    def decode(cls, data: bytes) -> Ledger:
        """The ledger of ``encode``.

        Raises:
            SecAggError: If it is damaged; a site that lost its memory must not go on as if it were new.
        """
        try:
            document: dict[str, Any] = json.loads(data)
            if document["format"] != FORMAT:
                raise ValueError("another format")
            runs = {
                str(run): RunEntry(
                    round=int(entry["round"]),
                    attempt=int(entry["attempt"]),
                    stage=int(entry["stage"]),
                    revealed=bool(entry["revealed"]),
                    survivors=tuple(entry["survivors"]),
                )
                for run, entry in document["runs"].items()
            }
            return cls(int(document["roster_version"]), bytes.fromhex(document["roster_digest"]), runs)
        except (ValueError, KeyError, TypeError, AttributeError) as err:
            raise SecAggError(
                "the site's secure aggregation ledger is damaged", hint="restore it from a backup"
            ) from err
