"""What a site's node tells an app about the site, and what it keeps for the app from one message to the next.

A site tells its apps about itself through Flower's node config: ``site`` (its id), ``data-dir`` (its data), and
``partition-id`` and ``num-partitions``, which simulated sites have instead of data of their own, and ``secagg-dir``,
where its keys for secure aggregation are (``fl.rounds.secure_site``).
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path

from flwr.app import ConfigRecord, Context

from fl.rounds.secure_site import SecureSite
from fl.tasks.base import Site

RECORD = "secagg"


def site_of(context: Context) -> Site:
    """What this node is told about its site."""
    config = context.node_config
    data_dir = config.get("data-dir")
    return Site(
        id=str(config.get("site", f"node-{context.node_id}")),
        data_dir=Path(str(data_dir)) if data_dir else None,
        partition_id=int(config.get("partition-id", 0)),
        num_partitions=int(config.get("num-partitions", 1)),
    )


def secure_site_of(context: Context) -> SecureSite | None:
    """The site's part in secure aggregation, if its node was told where its keys are."""
    directory = context.node_config.get("secagg-dir")
    return SecureSite(Path(str(directory)), _Memory(context)) if directory else None


class _Memory(MutableMapping[str, bytes]):
    """What the SuperNode keeps in memory from one message of a run to the next: the context's state."""

    def __init__(self, context: Context) -> None:
        if RECORD not in context.state:
            context.state[RECORD] = ConfigRecord()
        self._record = context.state.config_records[RECORD]

    def __getitem__(self, key: str) -> bytes:
        value = self._record[key]
        assert isinstance(value, bytes)
        return value

    def __setitem__(self, key: str, value: bytes) -> None:
        self._record[key] = value

    def __delitem__(self, key: str) -> None:
        del self._record[key]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._record))

    def __len__(self) -> int:
        return len(self._record)
