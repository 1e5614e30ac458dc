"""The ClientApp of every run file: what a site does when a message comes. See ``fl.rounds.site`` for the work itself.

A site tells its app about itself through Flower's node config: ``site`` (its id), ``data-dir`` (its data), and
``partition-id`` and ``num-partitions``, which simulated sites have instead of data of their own, and ``secagg-dir``,
where its keys for secure aggregation are (``fl.rounds.secure_site``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, MutableMapping
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message
from flwr.clientapp import ClientApp

from fl.config import load
from fl.errors import FLError
from fl.flower import records
from fl.rounds.config import options
from fl.rounds.port import Failure, Reply, Request
from fl.rounds.secure_site import SecureSite
from fl.rounds.site import Worker
from fl.tasks import registry
from fl.tasks.base import Site
from fl.tasks.training import TrainingConfig

app = ClientApp()


@app.train()
@app.evaluate()
@app.query()
def handle(message: Message, context: Context) -> Message:
    """Answer one message; an error becomes a reply that says so."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    return Message(records.encode_reply(_answer(message, context)), reply_to=message)


def _answer(message: Message, context: Context) -> Reply:
    site = site_of(context)
    nothing = Request(phase="evaluate", round=0, attempt=0, seed=0)
    try:
        job, arrays, payload = records.decode_job(message.content)
    except records.MalformedRecordError as err:
        return Reply(site=site.id, request=nothing, failure=Failure(code="malformed", reason=err.message))
    try:
        task = registry.create(job.task["name"], options(job.task))
        training = load(TrainingConfig, job.training, table="training")
    except FLError as err:
        return Reply(site=site.id, request=job.request, failure=Failure(code="task_failed", reason=err.message))
    return Worker(task, training, site, _secure(context)).answer(job.request, arrays, payload)


def _secure(context: Context) -> SecureSite | None:
    """The site's part in secure aggregation, if its node was told where its keys are."""
    directory = context.node_config.get("secagg-dir")
    return SecureSite(Path(str(directory)), _Memory(context)) if directory else None


class _Memory(MutableMapping[str, bytes]):
    """What the SuperNode keeps in memory from one message of a run to the next: the context's state."""

    def __init__(self, context: Context) -> None:
        if "secagg" not in context.state:
            context.state["secagg"] = ConfigRecord()
        self._record = context.state.config_records["secagg"]

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
