"""The ``[engine]`` table: how simulated sites are trained on this computer."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from fl.config import check_range

Mode = Literal["auto", "sequential", "pool", "vectorised"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The ``[engine]`` table: how sites are trained on this computer."""

    TABLE: ClassVar[str] = "engine"

    mode: Mode = "auto"
    """``sequential``: one site after the other; ``pool``: the same in several processes; ``vectorised``: several sites
    in one computation; ``auto``: what a short trial finds to be fastest."""

    workers: int | None = None
    """Processes, or threads of a native function; unset: one process, or one a core or GPU, whichever is faster. The
    result doesn't depend on it."""

    width: int | None = None
    """How many sites ``vectorised`` trains in one computation; unset: as many as pay."""

    compile: bool | None = None
    """Whether what ``vectorised`` computes is compiled; unset: where the run is long enough for it."""

    def __post_init__(self) -> None:
        check_range("engine.workers", self.workers, at_least=1, at_most=1024)
        check_range("engine.width", self.width, at_least=1)
