"""The smoke run of a rollout: a run file's round, asked of the canary sites and nobody else."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

from fl.errors import ConfigError
from fl.rounds.config import RunConfig


def text_for(run_file: Path, sites: Sequence[str]) -> str:
    """A run file's text with these sites as the only ones that are asked.

    Counts that ask for more sites than there are come down to them: all of the canaries have to answer then.

    Args:
        run_file: The fleet file's ``rollout.smoke``.
        sites: The canaries.

    Raises:
        ConfigError: If the file cannot be used, or names sites of which none is a canary.

    Example::

        text = text_for(Path("smoke.toml"), ["berlin", "lyon"])
    """
    config = RunConfig.from_file(run_file)
    chosen = tuple(site for site in sites if not config.round.sites or site in config.round.sites)
    if not chosen:
        raise ConfigError(
            f"round.sites of {run_file} has none of the sites that were upgraded, {', '.join(sites[:3])}",
            hint="leave round.sites out: the rollout names the sites itself",
        )
    rounds = dataclasses.replace(
        config.round,
        sites=chosen,
        min_online=min(config.round.min_online, len(chosen)),
        cohort=_at_most(config.round.cohort, len(chosen)),
        quorum=_at_most(config.round.quorum, len(chosen)),
    )
    return tomli_w.dumps(_without_none(dataclasses.replace(config, round=rounds).to_dict()))


def _at_most(wanted: int | float, count: int) -> int | float:
    """A share stays; a count cannot be more than there are."""
    return min(wanted, count) if isinstance(wanted, int) else wanted


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    """TOML has no word for what is not set."""
    return {
        key: _without_none(value) if isinstance(value, dict) else value
        for key, value in table.items()
        if value is not None
    }
