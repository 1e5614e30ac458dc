"""The ClientApp of every run file: answers messages. See ``fl.rounds.site`` for the work itself."""

from __future__ import annotations

import logging

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl.config import load
from fl.errors import FLError
from fl.flower import records
from fl.flower.node import secure_site_of, site_of
from fl.rounds.config import options
from fl.rounds.port import Failure, Reply, Request
from fl.rounds.site import Worker
from fl.tasks import registry
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
    return Worker(task, training, site, secure_site_of(context)).answer(job.request, arrays, payload)
