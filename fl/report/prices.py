"""What energy, time and traffic cost: the ``[prices]`` table, of the control room and of ``fl report --prices``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from fl.config import check_range, load, read_toml
from fl.errors import ConfigError

J_PER_KWH = 3.6e6
GIB = 1 << 30
GPUS = ("cuda", "xpu", "mps")
"""Devices whose time is that of a GPU."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """The ``[prices]`` table of ``server.toml``: what energy and time cost. Without it only amounts are shown."""

    kwh: float = 0.0
    """Price of a kilowatt-hour that a GPU was measured to draw."""

    gpu_hour: float = 0.0
    """Price of an hour in which a GPU trained."""

    cpu_hour: float = 0.0
    """Price of an hour of one core's time."""

    gib: float = 0.0
    """Price of a GiB that travelled, either way."""

    currency: str = "EUR"
    """What the prices are in."""

    def __post_init__(self) -> None:
        for name in ("kwh", "gpu_hour", "cpu_hour", "gib"):
            check_range(f"prices.{name}", getattr(self, name), at_least=0)

    @property
    def is_set(self) -> bool:
        """Whether anything has a price."""
        return any((self.kwh, self.gpu_hour, self.cpu_hour, self.gib))

    def cost(
        self, *, energy_j: float | None, gpu_s: float | None, cpu_s: float | None, size_bytes: float | None
    ) -> float | None:
        """What all of it costs, in ``currency``; the unknown costs nothing. ``None`` where nothing has a price."""
        if not self.is_set:
            return None
        return (
            self.kwh * (energy_j or 0.0) / J_PER_KWH
            + self.gpu_hour * (gpu_s or 0.0) / 3600
            + self.cpu_hour * (cpu_s or 0.0) / 3600
            + self.gib * (size_bytes or 0.0) / GIB
        )


NO_PRICES = Prices()


def read_prices(path: Path) -> Prices:
    """The ``[prices]`` of a file, which may be a whole ``server.toml``.

    Raises:
        ConfigError: If the file cannot be read, has no such table, or a price is none.
    """
    table: dict[str, Any] | None = read_toml(path).get("prices")
    if table is None:
        raise ConfigError(f"{path} has no [prices]", hint="[prices] with kwh, gpu_hour, cpu_hour, gib, currency")
    return load(Prices, table, table="prices")
