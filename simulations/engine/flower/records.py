"""Handing records over without serialising them: each side owns its containers, and they share the immutable bytes.

What an app can write to is a record's dictionary, a list in it, an ``Array``'s fields, and a message's metadata; those
are copied. An array's data is ``bytes``, which nobody can write to, so a model of any size is passed as a reference.
"""

from __future__ import annotations

import copy
from typing import Any

from flwr.app import Array, ArrayRecord, Context, Error, Message, RecordDict

from simulations.engine.flower.private import entries, make_message


def own_records(records: RecordDict) -> RecordDict:
    """A copy that shares nothing which can be written to; in the time of a few dictionary copies."""
    owned = records.copy()
    for name, record in records.items():
        mine = record.copy()
        held = entries(mine)
        if isinstance(record, ArrayRecord):
            held.update({key: _own_array(array) for key, array in held.items()})
        else:
            held.update({key: list(value) for key, value in held.items() if isinstance(value, list)})
        entries(owned)[name] = mine
    return owned


def own_message(message: Message) -> Message:
    """The same for a message, with its metadata or its error."""
    metadata = copy.copy(message.metadata)
    if message.has_error():
        return make_message(metadata, error=Error(message.error.code, message.error.reason))
    return make_message(metadata, content=own_records(message.content))


def own_context(context: Context) -> Context:
    """The same for a context."""
    return Context(
        context.run_id,
        context.node_id,
        dict(context.node_config),
        own_records(context.state),
        dict(context.run_config),
        context.series_id,
    )


def _own_array(array: Any) -> Array:
    # Past ``Array.__init__``, which looks at every argument; bytes(…) of bytes is no copy.
    owned = Array.__new__(Array)
    owned.dtype, owned.shape, owned.stype, owned.data = array.dtype, array.shape, array.stype, bytes(array.data)
    return owned
