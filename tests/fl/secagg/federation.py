"""A federation in one process, for tests: honest parts throughout, and hooks where a test lies, drops or listens."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from fl.secagg.aggregator import AggregatorSession
from fl.secagg.config import RoundConfig, schema_hash
from fl.secagg.errors import SecAggError
from fl.secagg.identity import Identity
from fl.secagg.ledger import Ledger
from fl.secagg.local import LocalModel, LocalUpdate, Reply
from fl.secagg.masked_sum import RoundSum
from fl.secagg.messages import STAGES
from fl.secagg.policy import SitePolicy
from fl.secagg.roster import Entry, Roster, roster_hash, sign_roster
from fl.secagg.site import SiteSession
from fl.secagg.vectors import vector_digest

NOW_S = 1_800_000_000
DAY_S = 86_400
ANY_PROFILE = SitePolicy(profiles=("standard", "packed16", "tests_only"))


def random_source(*names: object) -> Callable[[int], bytes]:
    """Repeatable bytes with the signature of ``os.urandom``: SHAKE-256 of a name and a counter."""
    count = 0

    def draw(size: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(repr((*names, count)).encode()).digest(size)

    return draw


def identity(name: str) -> Identity:
    """The identity of a name, always the same."""
    return Identity.from_seed(name, hashlib.sha256(name.encode()).digest())


AUTHORITY = identity("authority")
SERVER = identity("server")


def site_names(count: int) -> list[str]:
    return [f"site-{number:04d}" for number in range(count)]


def make_roster(names: Collection[str], **changes: Any) -> Roster:
    entries = {name: Entry(identity(name).public, 1) for name in names}
    fields: dict[str, Any] = {
        "version": 1,
        "authority": AUTHORITY.public,
        "issued_s": NOW_S - DAY_S,
        "expires_s": NOW_S + 30 * DAY_S,
        "sites": entries,
    }
    return Roster(**(fields | changes))


@dataclasses.dataclass
class Federation:
    """``count`` sites, a roster, a model of ``parameters`` zeros, and one session after another."""

    count: int
    parameters: int = 40
    policy: SitePolicy = ANY_PROFILE
    seed: int = 7
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Changes to the configuration."""

    roster_changes: dict[str, Any] = dataclasses.field(default_factory=dict)
    now_s: float = NOW_S
    attempt: int = 1
    names: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = self.names or site_names(self.count)
        self.roster = sign_roster(make_roster(self.names, **self.roster_changes), AUTHORITY)
        self.model = np.zeros(self.parameters, np.float32)
        self.layout = (("weights", (self.parameters,)),)
        rng = np.random.default_rng(self.seed)
        self.updates = {name: rng.uniform(-1, 1, self.parameters).astype(np.float32) for name in self.names}
        self.num_examples = {name: int(rng.integers(1, 200)) for name in self.names}
        self.losses = {name: float(rng.uniform(0, 3)) for name in self.names}
        self.ledgers = {name: Ledger() for name in self.names}
        self.requests: dict[str, dict[str, bytes]] = {}
        self.replies: dict[str, dict[str, bytes]] = {}
        self.vectors: dict[str, Any] = {}
        self.receipts: dict[str, bytes] = {}
        self.errors: dict[str, SecAggError] = {}
        self.open()

    def config(self, **changes: Any) -> RoundConfig:
        fields: dict[str, Any] = {
            "run_id": "run-1",
            "round": 1,
            "attempt": self.attempt,
            "aggregator": SERVER.public.hex(),
            "roster": roster_hash(self.roster).hex(),
            "schema": schema_hash(self.layout).hex(),
            "sizes": (self.parameters,),
            "clips": (1.0,),
            "n_max": self.count,
            "metrics": ("loss",),
            "weight_cap": 100,
        }
        return RoundConfig(**(fields | self.settings | changes))

    def open(self, **changes: Any) -> None:
        """New sessions everywhere; ledgers stay."""
        self.server = self.new_server(**changes)
        self.sites = {name: self.new_site(name) for name in self.names}

    def new_server(self, **changes: Any) -> AggregatorSession:
        return AggregatorSession(
            self.config(**changes),
            self.roster,
            authority=AUTHORITY.public,
            identity=SERVER,
            sites=self.names,
            model=vector_digest(self.model),
            threads=1,
        )

    def new_site(self, name: str) -> SiteSession:
        return SiteSession(
            identity(name),
            policy=self.policy,
            ledger=self.ledgers[name],
            authority=AUTHORITY.public,
            now_s=self.now_s,
            random=random_source(name, self.seed, self.attempt),
            threads=1,
        )

    def local_model(self, name: str) -> LocalModel:
        return LocalModel(
            digest=vector_digest(self.model),
            schema=schema_hash(self.layout),
            train=lambda: LocalUpdate(
                vector_P=self.updates[name],
                num_examples=self.num_examples[name],
                metrics={"loss": self.losses[name]},
            ),
        )

    def site_handles(self, name: str, payload: bytes) -> Reply:
        return self.sites[name].handle(payload, model=self.local_model(name))

    def play(self, stage: str, dropped: Collection[str] = ()) -> None:
        """One stage: every site that is asked and has not dropped answers, and the server closes it."""
        assert self.server.stage == stage
        self.requests[stage] = {}
        self.replies[stage] = {}
        for name in self.server.asked:
            if name in dropped:
                continue
            request = self.server.request_for(name)
            self.requests[stage][name] = request
            reply = self.site_handles(name, request)
            self.replies[stage][name] = reply.payload
            if reply.vector is not None:
                self.vectors[name] = reply.vector
            if reply.receipt is not None:
                self.receipts[name] = reply.receipt
            self.server.receive(name, reply.payload, reply.vector)
        self.server.close_stage()

    def play_until(self, stage: str) -> None:
        """All stages before this one, with everybody."""
        for earlier in STAGES[: STAGES.index(stage)]:
            self.play(earlier)

    def run(self, drops: Mapping[str, Collection[str]] | None = None) -> RoundSum:
        """A whole round; ``drops`` names who is silent from which stage on."""
        gone: set[str] = set()
        for stage in STAGES:
            gone |= set((drops or {}).get(stage, ()))
            self.play(stage, gone)
        return self.server.result()

    def weight(self, name: str) -> float:
        cap = self.server.config.weight_cap
        return min(self.num_examples[name], cap) / cap if cap else 1.0

    def expected_mean(self, survivors: Collection[str]) -> Any:
        """The weighted mean in float64, straight from its definition."""
        total = sum(self.weight(name) for name in survivors)
        clip = self.server.config.clips[0]
        parts = [self.weight(name) * np.clip(self.updates[name].astype(np.float64), -clip, clip) for name in survivors]
        return np.sum(parts, axis=0) / total

    def bound(self, survivors: Collection[str]) -> float:
        """How far the decoded mean may be from it: one step a site, and float32's rounding of the result."""
        config = self.server.config
        q_max = config.ring.q_max(config.n_max)
        total = sum(self.weight(name) for name in survivors)
        return len(survivors) * config.clips[0] / (q_max * total) + 2.0**-24 * config.clips[0] + 1e-9
