"""A task that raises at some sites costs their updates and one traceback; the run goes on."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import pytest

from fl.rounds import events
from fl.rounds.journal import read
from fl.tasks import registry
from fl.tasks.digits import Digits
from simulations import Scenario, simulate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Broken(Digits):
    """Raises at two of four sites."""

    def train_data(self, site: Any) -> Any:
        if site.id in ("site-2", "site-3"):
            raise ValueError("broken")
        return super().train_data(site)


def test_an_error_of_many_sites_is_told_once_and_recorded_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "create", lambda name, *rest, **more: Broken(network="mlp"))
    scenario = Scenario.from_dict(
        {"task": {"name": "digits", "network": "mlp"}, "run": {"rounds": 3}, "population": {"sites": 4}}
    )
    with caplog.at_level(logging.WARNING):
        state = simulate(scenario, tmp_path / "run")
    assert state.status == "completed"
    assert state.rounds[3].closed
    assert state.rounds[3].closed.survivors == ("site-1", "site-4")
    assert caplog.text.count("Traceback (most recent call last)") == 1
    assert caplog.text.count("left out: ValueError: broken") == 1
    failed = [record.event for record in read(tmp_path / "run") if isinstance(record.event, events.ReplyFailed)]
    assert sorted((event.round, event.site) for event in failed) == [
        (number, site) for number in (1, 2, 3) for site in ("site-2", "site-3")
    ]
    assert not logging.getLogger("fl.rounds.site").filters
