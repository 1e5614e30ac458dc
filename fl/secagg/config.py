"""What the server proposes for one attempt at one round, and what every key of the session hangs on.

The configuration travels as canonical JSON; its received bytes are hashed into every signature and derived key. So
sites that were shown different configurations cannot unmask anything together.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Literal

from fl.config import check_range, load, to_dict
from fl.errors import ConfigError
from fl.secagg.encoding import PROTOCOL, H
from fl.secagg.errors import MessageError
from fl.secagg.parameters import MIN_SITES, Thresholds, thresholds
from fl.secagg.profiles import AES_SUITE, SUITES, Profile, profile_named

MAX_BYTES = 4 << 20


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RoundConfig:
    """The proposal for one attempt."""

    run_id: str
    """The run."""

    round: int
    """The round, from 1."""

    attempt: int
    """The attempt at this round, from 1."""

    aggregator: str
    """The aggregator's Ed25519 public key, in hexadecimal; it signs the receipt."""

    roster: str
    """``roster_hash`` of the roster's bytes, in hexadecimal."""

    schema: str
    """``schema_hash`` of the model's names and shapes, in hexadecimal."""

    sizes: tuple[int, ...]
    """Elements of each tensor, in order."""

    clips: tuple[float, ...]
    """Largest absolute value of an update's element, for each tensor."""

    n_max: int
    """Sites invited; bounds the largest quantised value."""

    n_min: int = MIN_SITES
    """Fewest sites that must advertise keys."""

    metrics: tuple[str, ...] = ()
    """Names of the metrics in the side vector."""

    weight_cap: int = 0
    """Examples from which on a site has full weight; 0 gives every site the same weight."""

    l2_clip: float = 0.0
    """Bound on the L2 norm of a whole update, applied before ``clips``; 0 sets none."""

    max_dropout_fraction: float = 1.0
    """A cap on dropouts after keys were advertised, as a fraction of the sites."""

    privacy: Literal["none", "site"] = "none"
    """``site``: sites add noise to their update before they mask it."""

    profile: str = "standard"
    """Ring and trailer: see ``fl.secagg.profiles``."""

    suite: str = AES_SUITE
    """Ciphers."""

    task: str = ""
    """Digest of the task and its code, as the engine knows it."""

    protocol: Literal["fl-secagg/v1"] = PROTOCOL  # type: ignore[assignment]
    """This protocol."""

    def __post_init__(self) -> None:
        check_range("round", self.round, at_least=1, below=2**40)
        check_range("attempt", self.attempt, at_least=1, below=2**20)
        check_range("n_min", self.n_min, at_least=MIN_SITES)
        check_range("n_max", self.n_max, at_least=self.n_min)
        check_range("weight_cap", self.weight_cap, at_least=0, at_most=2**31)
        check_range("l2_clip", self.l2_clip, at_least=0)
        check_range("max_dropout_fraction", self.max_dropout_fraction, at_least=0, at_most=1)
        if self.suite not in SUITES:
            raise ConfigError(f"suite is {self.suite[:80]!r}, must be one of {', '.join(SUITES)}")
        for name in ("aggregator", "roster", "schema"):
            _check_hex(name, getattr(self, name))
        if not 1 <= len(self.run_id) <= 128 or not self.run_id.isprintable():
            raise ConfigError("run_id must have 1 to 128 printable characters")
        if len(self.sizes) != len(self.clips) or not self.sizes:
            raise ConfigError(f"{len(self.sizes)} sizes and {len(self.clips)} clips: one of each a tensor is needed")
        if min(self.sizes) < 0 or not 0 < self.parameters < 2**40:
            raise ConfigError(f"the model has {self.parameters} parameters, at least one is needed")
        for clip in self.clips:
            check_range("clips", clip, above=0, at_most=1e30)
        if len(set(self.metrics)) != len(self.metrics) or len(self.metrics) > 256:
            raise ConfigError("metrics must be at most 256 different names")
        self.ring.q_max(self.n_max)  # more sites than the ring allows are refused before anybody trains

    @property
    def ring(self) -> Profile:
        """The profile that ``profile`` names."""
        return profile_named(self.profile)

    @property
    def parameters(self) -> int:
        """P: elements of the model."""
        return sum(self.sizes)

    @property
    def length(self) -> int:
        """Elements of a masked vector: parameters and trailer."""
        return self.parameters + self.ring.trailer

    def thresholds(self, n: int) -> Thresholds:
        """The thresholds of a session of ``n`` sites."""
        return thresholds(n, max_dropout_fraction=self.max_dropout_fraction)

    def is_sparse(self, n: int) -> bool:
        """Whether ``n`` sites mask with their neighbours only."""
        return n > self.ring.sparse_above

    def encode(self) -> bytes:
        """Canonical JSON: sorted keys, no spaces."""
        return json.dumps(to_dict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def decode_config(data: bytes) -> RoundConfig:
    """A configuration from its canonical bytes.

    Raises:
        MessageError: If they are not canonical, or not a configuration.
        ConfigError: If a value is out of its range.
        RingError: If the ring has no room for ``n_max`` sites.
    """
    if len(data) > MAX_BYTES:
        raise MessageError(f"the configuration has {len(data)} bytes, at most {MAX_BYTES} are read")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise MessageError("the configuration is not JSON") from err
    if not isinstance(values, dict):
        raise MessageError("the configuration is not a table")
    config = load(RoundConfig, values, table="secagg")
    if config.encode() != data:
        raise MessageError("the configuration is not in its canonical form")
    return config


def config_hash(data: bytes) -> bytes:
    """What keys and signatures are bound to: a hash of the configuration's received bytes."""
    return H("cfg", data)


def schema_hash(entries: tuple[tuple[str, tuple[int, ...]], ...]) -> bytes:
    """A hash of a model's names and shapes in order: ``fl.arrays.Layout.entries``."""
    return H("schema", *(part for name, shape in entries for part in (name, H("shape", *shape))))


def _check_hex(name: str, value: str) -> None:
    try:
        wrong = len(bytes.fromhex(value)) != 32 or value != value.lower()
    except ValueError:
        wrong = True
    if wrong:
        raise ConfigError(f"{name} must be 32 bytes in hexadecimal")
