"""Large federations in one process. Sites make their updates when asked, so that memory holds one at a time."""

from __future__ import annotations

import functools
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest

from fl.secagg import identity
from tests.fl.secagg.federation import Federation


class LargeFederation(Federation):
    """Updates are made anew from their seeds whenever they are looked at, and masked vectors are not kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.updates = Updates(self.parameters)
        self.vectors = Nothing()


class Updates(dict[str, Any]):
    def __init__(self, parameters: int) -> None:
        super().__init__()
        self._parameters = parameters

    def __getitem__(self, name: str) -> Any:
        rng = np.random.default_rng(int(name.removeprefix("site-")))
        return rng.uniform(-1, 1, self._parameters).astype(np.float32)


class Nothing(dict[str, Any]):
    def __setitem__(self, name: str, value: Any) -> None:
        pass


def expected_mean(federation: Federation, survivors: tuple[str, ...]) -> np.ndarray:
    total = np.zeros(federation.parameters)
    for name in survivors:
        total += federation.weight(name) * federation.updates[name].astype(np.float64)
    return total / sum(federation.weight(name) for name in survivors)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hundred_sites_with_a_million_parameters_and_five_dropouts() -> None:
    federation = LargeFederation(100, parameters=1_000_000)
    names = federation.names
    started = time.perf_counter()
    result = federation.run({"share": {names[3]}, "mask": {names[20], names[50], names[70]}, "agree": {names[99]}})
    print(f"100 sites, 1 M parameters, 5 dropouts: {time.perf_counter() - started:.1f} s")
    assert len(result.survivors) == 96
    assert np.abs(result.mean_P - expected_mean(federation, result.survivors)).max() <= federation.bound(
        result.survivors
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_sites_with_a_sparse_mask_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    # In one process each of the thousand sites would check the same two thousand signatures; one check each will do.
    monkeypatch.setattr("fl.secagg.messages.verify", functools.cache(identity.verify))
    federation = LargeFederation(1000, parameters=10_000, settings={"max_dropout_fraction": 0.05})
    names = federation.names
    started = time.perf_counter()
    result = federation.run({"mask": set(names[100:110]), "unmask": {names[-1]}})
    print(f"1,000 sites, 10 k parameters, 11 dropouts: {time.perf_counter() - started:.1f} s")
    assert len(result.survivors) == 990
    assert np.abs(result.mean_P - expected_mean(federation, result.survivors)).max() <= federation.bound(
        result.survivors
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_server_holds_three_vectors_whatever_the_number_of_sites() -> None:
    """What the server allocates while vectors arrive and while it unmasks, beyond what it held before."""
    for count in (4, 12):
        federation = LargeFederation(count, parameters=1_000_000)
        federation.play_until("mask")
        replies = {
            name: federation.site_handles(name, federation.server.request_for(name)) for name in federation.names
        }
        one_vector = 4 * federation.server.config.length
        tracemalloc.start()
        for name, reply in replies.items():
            assert reply.vector is not None
            view = memoryview(reply.vector).cast("B")
            federation.server.receive(name, reply.payload, (view[k : k + 65536] for k in range(0, len(view), 65536)))
        federation.server.close_stage()
        federation.play("agree")
        federation.play("unmask")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3.1 * one_vector
