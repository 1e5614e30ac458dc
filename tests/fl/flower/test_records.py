from __future__ import annotations

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.common.constant import ErrorCode

from fl.arrays import Layout
from fl.flower import records
from fl.flower.grid import FAILURES, site_id
from fl.rounds.port import Failure, Reply, Request

REQUEST = Request(phase="train", round=3, attempt=2, seed=99, options={"proximal_mu": 0.5})


CUT_SHORT = Array("float32", (2,), "numpy.ndarray", Array(np.zeros(2, "f4")).data[:-1])


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    return {
        "z.weight": rng.standard_normal((4, 3)).astype("f4"),
        "a.bias": rng.standard_normal(3).astype("f4"),
        "scale": np.array(2.5, "f4"),
        "empty": np.zeros((0, 2), "f4"),
    }


def test_a_job_comes_back_as_it_was_sent() -> None:
    job = records.Job(request=REQUEST, task={"name": "digits"}, training={"epochs": 2})
    content = records.encode_job(job, records.pack(arrays()))
    back, model, _ = records.decode_job(content)
    assert back == job
    assert model is not None
    assert list(model) == list(arrays()), "the order of the parameters is the layout"
    assert all(model[name].tobytes() == array.tobytes() for name, array in arrays().items())


def test_a_reply_comes_back_as_it_was_sent() -> None:
    reply = Reply(
        site="site-1",
        request=REQUEST,
        num_examples=17,
        metrics={"loss": 0.25, "accuracy": 1.0},
        arrays=arrays(),
        report={"device": "cpu", "energy_j": None},
    )
    back = records.decode_reply("site-1", REQUEST, records.encode_reply(reply))
    assert back.failure is None
    assert (back.num_examples, back.metrics, back.report) == (17, reply.metrics, reply.report)
    assert back.arrays is not None
    assert all(back.arrays[name].tobytes() == array.tobytes() for name, array in arrays().items())


def test_a_small_model_is_one_array_on_the_wire() -> None:
    reply = Reply(site="site-1", request=REQUEST, num_examples=17, arrays=arrays())
    (sent,) = records.encode_reply(reply).array_records["update"].values()
    assert (sent.dtype, sent.shape) == ("float32", (16,))
    assert sent.numpy().tobytes() == b"".join(array.tobytes() for array in arrays().values())


def test_packs_hold_whole_arrays_and_no_more_than_they_may() -> None:
    sizes = {"a": 400, "b": 3 << 20, "c": 2 << 20, "d": 9 << 20, "e": 4, "f": records.PACK_BYTES - 4, "g": 0, "h": 4}
    layout = Layout(tuple((name, (size // 4,)) for name, size in sizes.items()))
    assert records.pack_names(layout) == [["a", "b"], ["c"], ["d"], ["e", "f", "g"], ["h"]]
    model = {name: np.arange(size // 4, dtype="f4") for name, size in sizes.items()}
    released: list[int] = []
    packed = records.pack(model, lambda: released.append(1))
    assert len(packed.packs) == len(released) == 5
    reply = Reply(site="site-1", request=REQUEST, num_examples=1, arrays=model)
    back = records.decode_reply("site-1", REQUEST, records.encode_reply(reply)).arrays
    assert back is not None
    assert all((back[name] == array).all() for name, array in model.items())


def test_a_reply_with_arrays_under_their_own_names_is_read() -> None:
    content = records.encode_reply(Reply(site="site-1", request=REQUEST, num_examples=17))
    content["update"] = records.encode_arrays(arrays())
    back = records.decode_reply("site-1", REQUEST, content)
    assert back.arrays is not None
    assert Layout.of(back.arrays) == Layout.of(arrays())


@pytest.mark.parametrize(
    "layout",
    [
        "no",
        "[]",
        '[["a", [1]], ["a", [15]]]',
        '[["a", [-4]]]',
        '[["a", [1e9]]]',
        '[["a", [null]]]',
        "7",
        '[["a", [4194304]], ["b", [4194304]]]',
    ],
)
def test_a_layout_that_does_not_fit_its_packs_makes_a_failure(layout: str) -> None:
    content = records.encode_reply(Reply(site="site-1", request=REQUEST, num_examples=17, arrays=arrays()))
    content.config_records["reply"][records.LAYOUT] = layout
    reply = records.decode_reply("site-1", REQUEST, content)
    assert reply.failure is not None
    assert reply.failure.code == "malformed"


def test_a_failure_comes_back_with_its_reason() -> None:
    reply = Reply(site="site-1", request=REQUEST, failure=Failure(code="task_failed", reason="column age is missing"))
    assert records.decode_reply("site-1", REQUEST, records.encode_reply(reply)).failure == reply.failure


def test_flower_reads_our_arrays_and_we_read_flowers() -> None:
    mine = records.encode_arrays(arrays())
    assert all((mine[name].numpy() == array).all() for name, array in arrays().items())
    theirs = ArrayRecord({name: Array(array) for name, array in arrays().items()})
    assert all(records.decode_arrays(theirs)[name].tobytes() == array.tobytes() for name, array in arrays().items())


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"reply": ConfigRecord({"report": "{}"})}),
        RecordDict({"reply": ConfigRecord({"report": "not json"}), "metrics": MetricRecord({"num-examples": 1})}),
        RecordDict({"reply": ConfigRecord({"report": "{}"}), "metrics": MetricRecord({"num-examples": [1, 2]})}),
        RecordDict(
            {
                "reply": ConfigRecord({"report": "{}"}),
                "metrics": MetricRecord({"num-examples": 1}),
                "update": ArrayRecord({"w": Array("float32", (2,), "numpy.ndarray", b"garbage")}),
            }
        ),
        RecordDict(
            {
                "reply": ConfigRecord({"report": "{}"}),
                "metrics": MetricRecord({"num-examples": 1}),
                "update": ArrayRecord({"w": Array(np.zeros(2))}),
            }
        ),
        RecordDict(
            {
                "reply": ConfigRecord({"report": "{}"}),
                "metrics": MetricRecord({"num-examples": 1}),
                "update": ArrayRecord(
                    {"w": Array("float32", (2,), "numpy.ndarray", Array(np.zeros(2, "f4")).data[:-1])}
                ),
            }
        ),
    ],
    ids=["empty", "no metrics", "no report", "a list of counts", "garbage", "float64", "cut short"],
)
def test_a_message_that_is_no_reply_of_ours_becomes_a_failure(content: RecordDict) -> None:
    reply = records.decode_reply("site-1", REQUEST, content)
    assert reply.failure is not None
    assert reply.failure.code == "malformed"


@pytest.mark.parametrize("job", ["", "[]", "{}", json.dumps({"request": {"phase": "train"}})])
def test_a_message_that_is_no_request_of_ours_is_refused(job: str) -> None:
    with pytest.raises(records.MalformedRecordError, match="not a request of fedfleet"):
        records.decode_job(RecordDict({"request": ConfigRecord({"job": job})}))


def test_each_error_code_of_flower_has_its_word() -> None:
    codes = {value for name, value in vars(ErrorCode).items() if name.isupper()}
    assert codes - {ErrorCode.UNKNOWN} == set(FAILURES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("ward-7", "ward-7"), ("", "node-12"), ("../../etc", "node-12"), ("a b", "node-12"), ("x" * 80, "node-12")],
)
def test_a_site_is_known_by_its_name_if_that_can_name_a_file(name: str, expected: str) -> None:
    assert site_id(name, 12) == expected
