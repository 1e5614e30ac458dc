import pytest

from edge.link import limits, outbox, renewal, status, trust


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Look ten times as often as a site does, so that tests need not wait."""
    monkeypatch.setattr(status, "TICK_S", 0.1)
    monkeypatch.setattr(limits, "LOOK_AGAIN_S", 0.1)
    monkeypatch.setattr(renewal, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(trust, "LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(outbox, "LONGEST_PAUSE_S", 1.0)
