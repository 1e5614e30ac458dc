"""What a site tells the centre about itself: one JSON document, with a version of its own.

Whoever reads one takes what it knows and leaves out the rest, so that a newer site can talk to an older centre.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

VERSION = 1
LONGEST_BYTES = 64 * 1024


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Work that the site's policy refused, counted by reason."""

    reason: str
    """In words, as the run was told."""
    count: int
    """How often since the link started."""
    last_s: float
    """When last, seconds since 1970, by the site's clock."""
    run_id: int
    """Which run asked last; 0 if none did."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SiteReport:
    """How a site is."""

    version: int = VERSION
    waits_for: str = ""
    """What the site waits for, in words; empty while it works or is ready to."""
    run_id: int = 0
    """The run of the message that it works on; 0 without one."""
    outbox_bytes: int = 0
    """Replies that are still to be sent."""
    refused: tuple[Refused, ...] = ()
    """What its policy refused."""
    given_up: tuple[str, ...] = ()
    """Replies that could not be delivered, with the reason."""
    bytes_left: int | None = None
    """What may travel today; ``None`` without a budget."""
    gpu_left_s: float | None = None
    """Seconds for which tasks may hold the GPU today; ``None`` without a budget."""
    certificate_ends_s: float | None = None
    """When its certificate runs out, seconds since 1970."""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What its probe found: ``edge.probe``."""

    def to_json(self) -> str:
        """The document."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, separators=(",", ":"))


def from_json(text: str) -> SiteReport:
    """The report of a document; keys that this version does not know are left out.

    Raises:
        ValueError: If it is none, or too long.
    """
    if len(text) > LONGEST_BYTES:
        raise ValueError(f"a report of {len(text)} characters is too long")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("a report is a JSON object")
    known = {field.name for field in dataclasses.fields(SiteReport)}
    values = {key: value for key, value in found.items() if key in known}
    names = {field.name for field in dataclasses.fields(Refused)}
    try:
        values["refused"] = tuple(
            Refused(**{key: value for key, value in entry.items() if key in names})
            for entry in values.get("refused", ())
        )
        values["given_up"] = tuple(map(str, values.get("given_up", ())))
        return SiteReport(**values)
    except (TypeError, AttributeError) as err:
        raise ValueError(f"a report with values that do not fit: {err}") from err
