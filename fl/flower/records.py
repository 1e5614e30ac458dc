"""Requests and replies as Flower's records, without copying arrays more often than the wire needs.

A request travels as ``{"model": ArrayRecord, "request": ConfigRecord}``, a reply as ``{"update": ArrayRecord,
"metrics": MetricRecord, "reply": ConfigRecord}``. The metric record carries ``num-examples``, as Flower's own
strategies expect it.

SuperLink takes some milliseconds for each object of a message, whatever its size, and Flower makes two of each array.
So a model travels in *packs*, flat arrays of shape ``(n,)`` that each hold whole arrays one after the other, up to
``PACK_BYTES`` or a single larger one; the layout of the model, names and shapes in order, travels in the request or
reply. A reply whose arrays come under their own names, as from another app, is read, too.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fl.arrays import F32, Arrays, Layout
from fl.errors import FLError
from fl.rounds.port import Failure, Reply, Request

NUM_EXAMPLES = "num-examples"
LAYOUT = "layout"
PACK_BYTES = 4 << 20
"""Most that a pack of several arrays holds: one chunk of Flower's."""


class MalformedRecordError(FLError):
    """A message that is not one of ours."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a site gets: the request, and the tables of the run file that it needs to answer."""

    request: Request
    task: dict[str, Any]
    training: dict[str, Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Packed:
    """A model as it travels, made once for all sites."""

    layout: str
    """Names and shapes in order, as JSON."""
    packs: ArrayRecord


def encode_job(job: Job, model: Packed | None, payload: bytes = b"") -> RecordDict:
    """A job as the content of a message, with the site's message of secure aggregation beside it."""
    request = ConfigRecord({"job": json.dumps(dataclasses.asdict(job))})
    content = RecordDict({"request": request})
    if model is not None:
        request[LAYOUT], content["model"] = model.layout, model.packs
    if payload:
        content["secagg"] = ConfigRecord({"payload": payload})
    return content


def decode_job(content: RecordDict) -> tuple[Job, Arrays | None, bytes]:
    """The job in a message, the model if there is one, and the payload of secure aggregation.

    Raises:
        MalformedRecordError: If it is not a job of ours.
    """
    try:
        fields = json.loads(str(content.config_records["request"]["job"]))
        job = Job(request=Request(**fields["request"]), task=fields["task"], training=fields["training"])
        layout = layout_in(content, "request")
    except (KeyError, TypeError, ValueError) as err:
        raise MalformedRecordError(f"not a request of fedfleet: {err!r}") from err
    model = content.array_records.get("model")
    return job, None if model is None else _arrays(model, layout), _payload(content)


def encode_reply(reply: Reply) -> RecordDict:
    """A site's reply as the content of a message."""
    facts: dict[str, str] = {"report": json.dumps(dict(reply.report))}
    if reply.failure:
        facts |= {"failure_code": reply.failure.code, "failure_reason": reply.failure.reason}
    packed = None if reply.arrays is None else pack(reply.arrays)
    if packed is not None:
        facts[LAYOUT] = packed.layout
    content = RecordDict({"reply": ConfigRecord(dict(facts))})
    content["metrics"] = MetricRecord({**reply.metrics, NUM_EXAMPLES: reply.num_examples})
    if packed is not None:
        content["update"] = packed.packs
    if reply.payload:
        content["secagg"] = ConfigRecord({"payload": reply.payload})
    if isinstance(reply.vector, np.ndarray):
        content["vector"] = ArrayRecord({"vector": encode_array(reply.vector)})
    return content


def decode_reply(
    site: str,
    request: Request,
    content: RecordDict,
    *,
    update: Arrays | None = None,
    vector: Iterable[bytes] | None = None,
) -> Reply:
    """The reply in a message; what is not one of ours becomes a failure.

    Args:
        site: Who answered.
        request: What was asked.
        content: The message's records.
        update: The arrays, if they come apart from the other records.
        vector: The masked vector, likewise.
    """
    try:
        facts = content.config_records["reply"]
        metrics = {name: float(np.asarray(value)) for name, value in content.metric_records["metrics"].items()}
        num_examples = int(metrics.pop(NUM_EXAMPLES))
        report: Mapping[str, Any] = json.loads(str(facts["report"]))
        if update is None and (record := content.array_records.get("update")) is not None:
            update = _arrays(record, layout_in(content, "reply"))
        if vector is None and (record := content.array_records.get("vector")) is not None:
            vector = without_header([record["vector"].data])
        failure = None
        if "failure_code" in facts:
            failure = Failure(code=str(facts["failure_code"]), reason=str(facts["failure_reason"]))
    except (KeyError, TypeError, ValueError, MalformedRecordError) as err:
        return malformed(site, request, err)
    return Reply(
        site=site,
        request=request,
        num_examples=num_examples,
        metrics=metrics,
        arrays=update,
        report=report,
        payload=_payload(content),
        vector=vector,
        failure=failure,
    )


def malformed(site: str, request: Request, err: Exception) -> Reply:
    """What stands for a reply that cannot be read."""
    failure = Failure(code="malformed", reason=f"not a reply of fedfleet: {err!r}"[:256])
    return Reply(site=site, request=request, failure=failure)


def without_header(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The bytes of one array, without the header that NumPy's format begins with.

    Raises:
        ValueError: If they do not begin with one.
    """
    pieces = iter(pieces)
    first = next(pieces, b"")
    head = io.BytesIO(first[:4096])
    np.lib.format.read_magic(head)
    np.lib.format.read_array_header_1_0(head)
    yield first[head.tell() :]
    yield from pieces


def _payload(content: RecordDict) -> bytes:
    record = content.config_records.get("secagg")
    payload = record.get("payload") if record is not None else None
    return payload if isinstance(payload, bytes) else b""


def pack(arrays: Arrays, release: Callable[[], None] = lambda: None) -> Packed:
    """A model in packs, each array copied once.

    Args:
        arrays: The model.
        release: Called after each pack, to give back the memory of what was copied.
    """
    layout, packs = Layout.of(arrays), ArrayRecord()
    for number, names in enumerate(pack_names(layout)):
        flat = [np.ascontiguousarray(arrays[name], np.dtype("<f4")).reshape(-1) for name in names]
        packs[str(number)] = _encode(np.dtype("<f4"), (sum(part.size for part in flat),), flat)
        del flat
        release()
    return Packed(json.dumps(layout.entries), packs)


def pack_names(layout: Layout) -> list[list[str]]:
    """Which arrays lie in each pack, in order."""
    packs: list[list[str]] = []
    room = 0
    for name, shape in layout.entries:
        size = 4 * math.prod(shape)
        if not packs or size > room:
            packs.append([])
            room = PACK_BYTES
        packs[-1].append(name)
        room -= size
    return packs


def unpack(layout: Layout, names: Sequence[str], flat_n: F32) -> dict[str, F32]:
    """One pack's arrays, which share its memory.

    Raises:
        MalformedRecordError: If it has not their size.
    """
    shapes = dict(layout.entries)
    part = Layout(tuple((name, shapes[name]) for name in names))
    if flat_n.shape != (part.size,):
        raise MalformedRecordError(f"a pack has shape {list(flat_n.shape)}, its layout says [{part.size}]")
    return part.split(flat_n)


def layout_in(content: RecordDict, record: str) -> Layout | None:
    """The layout in a request or reply; ``None`` if it names none.

    Raises:
        ValueError: If it is none.
    """
    written = content.config_records[record].get(LAYOUT)
    if written is None:
        return None
    entries = [(str(name), tuple(int(size) for size in shape)) for name, shape in json.loads(str(written))]
    if len(dict(entries)) != len(entries) or any(size < 0 for _, shape in entries for size in shape):
        raise ValueError("a layout with a name twice, or a negative size")
    return Layout(tuple(entries))


def _arrays(record: ArrayRecord, layout: Layout | None) -> dict[str, F32]:
    if layout is None:
        return decode_arrays(record)
    packs, found = pack_names(layout), {}
    if list(record) != [str(number) for number in range(len(packs))]:
        raise MalformedRecordError(f"{len(record)} packs, the layout says {len(packs)}")
    for names, (number, array) in zip(packs, record.items(), strict=True):
        found.update(unpack(layout, names, decode_array(number, array)))
    return found


def encode_arrays(arrays: Arrays) -> ArrayRecord:
    """Named arrays as a record, each copied once."""
    return ArrayRecord({name: encode_array(array) for name, array in arrays.items()})


def decode_arrays(record: ArrayRecord) -> dict[str, F32]:
    """A record as named read-only arrays that share its memory.

    Raises:
        MalformedRecordError: If an array is not float32 in NumPy's format.
    """
    return {name: decode_array(name, array) for name, array in record.items()}


def encode_array(array: npt.NDArray[Any]) -> Array:
    """One array in Flower's form, little-endian, copied once."""
    array = np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")
    return _encode(array.dtype, array.shape, [array])


def _encode(dtype: np.dtype[Any], shape: tuple[int, ...], parts: Sequence[npt.NDArray[Any]]) -> Array:
    head = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(head, facts)
    # Flower's own constructor goes through np.save and copies three times.
    data = b"".join([head.getbuffer(), *(part.reshape(-1).view(np.uint8).data for part in parts)])
    return Array(str(dtype), shape, "numpy.ndarray", data)


def decode_array(name: str, array: Array) -> F32:
    """One array of a record, read-only and sharing its memory.

    Raises:
        MalformedRecordError: If it is not float32 in NumPy's format.
    """
    head = io.BytesIO(memoryview(array.data)[:4096])
    try:
        if np.lib.format.read_magic(head) != (1, 0):
            raise ValueError("unknown version")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
        if fortran and len(shape) > 1:
            raise ValueError("columns first")
        if dtype != np.dtype("<f4"):
            raise ValueError(f"{dtype}, expected float32")
        return np.frombuffer(array.data, dtype, offset=head.tell()).reshape(shape)
    except ValueError as err:
        raise MalformedRecordError(f"array {name}: {err}") from err
