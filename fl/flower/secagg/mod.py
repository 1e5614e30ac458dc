"""A site's end: a mod around any app's train function."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from fl.arrays import Arrays, Layout
from fl.errors import ConfigError, FLError
from fl.flower import records
from fl.flower.node import secure_site_of, site_of
from fl.flower.secagg.wire import RECORD, VECTOR, float32, is_training, model_of
from fl.rounds.port import Failure, Reply, Request
from fl.rounds.secure_site import answer_securely
from fl.secagg.errors import SecAggError, UpdateError
from fl.secagg.local import LocalUpdate

if TYPE_CHECKING:
    from flwr.clientapp.typing import ClientAppCallable


def secagg_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Answer the stages of secure aggregation around an app's train function.

    A request to train in clear is refused, whatever the server says; other messages go to the app.

    Raises:
        SecAggError: If the server asks for an update in clear, or for something else that the site's policy forbids.
        ConfigError: If the site has no keys.
    """
    site, secure = site_of(context).id, secure_site_of(context)
    if not is_training(message.metadata.message_type):
        if secure:
            secure.policy().check_clear(message.metadata.message_type)
        return call_next(message, context)
    asked = message.content.config_records.get(RECORD)
    if asked is None:
        raise SecAggError("the server asks for an update in clear", hint="its app has no SecureGrid")
    if secure is None:
        raise ConfigError("this site has no keys for secure aggregation", hint="fl site run --authority FILE")
    request = Request(
        phase="secagg", round=_int(asked, "round"), attempt=_int(asked, "attempt"), seed=0, stage=str(asked["stage"])
    )
    payload = asked["payload"]
    del message.content[RECORD]
    arrays = float32(model_of(message.content, "the request")[1]) if request.stage == "mask" else None
    train = partial(_train, message, context, call_next)
    try:
        assert isinstance(payload, bytes)
        reply = answer_securely(site, secure, request, payload, arrays, train)
    except FLError as err:
        failure = Failure(code="task_failed", reason=err.message)
        reply = Reply(site=site, request=request, failure=failure)
    return Message(_content(reply), reply_to=message)


def _train(message: Message, context: Context, call_next: ClientAppCallable, arrays: Arrays) -> LocalUpdate:
    """What the app's train function made of the model that came."""
    before = {name: array.numpy() for name, array in model_of(message.content, "the request")[1].items()}
    reply = call_next(message, context)
    if reply.has_error():
        raise UpdateError(f"the app failed: {reply.error.reason}"[:256])
    after = {name: array.numpy() for name, array in model_of(reply.content, "the app's reply")[1].items()}
    if difference := Layout.of(before).difference(Layout.of(after)):
        raise UpdateError(f"the app's reply: {difference}")
    metrics: dict[str, Any] = {}
    for record in reply.content.metric_records.values():
        metrics |= record
    if records.NUM_EXAMPLES not in metrics:
        raise UpdateError(f"the app's reply has no metric {records.NUM_EXAMPLES}")
    # In float64, and only then rounded: both models have more digits than their difference needs.
    parts = [np.ravel(after[name].astype(np.float64) - before[name]) for name in before]
    return LocalUpdate(
        vector_P=np.concatenate(parts).astype(np.float32),
        num_examples=int(metrics[records.NUM_EXAMPLES]),
        metrics={name: float(value) for name, value in metrics.items() if isinstance(value, int | float)},
    )


def _content(reply: Reply) -> RecordDict:
    """A site's reply: the protocol's message and the masked vector, and nothing else of the app's."""
    if reply.failure:
        return RecordDict({RECORD: ConfigRecord({"failure": reply.failure.reason})})
    content = RecordDict({RECORD: ConfigRecord({"payload": reply.payload})})
    if isinstance(reply.vector, np.ndarray):
        content[VECTOR] = ArrayRecord({"vector": records.encode_array(reply.vector)})
    return content


def _int(record: ConfigRecord, key: str) -> int:
    value = record[key]
    assert isinstance(value, int)
    return value
