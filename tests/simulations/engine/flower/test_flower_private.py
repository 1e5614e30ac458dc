"""Flower's private parts that the simulator uses take what we pass, and do what we rely on."""

from __future__ import annotations

import importlib
import inspect
import pickle

import pytest

from simulations.engine.flower import private


def found(name):
    module, _, path = name.partition(":")
    thing = importlib.import_module(module)
    for attribute in path.split("."):
        thing = getattr(thing, attribute)
    return thing


@pytest.mark.parametrize("name", [name for name, wanted in private.PRIVATE.items() if wanted.startswith("(")])
def test_a_private_function_takes_what_we_pass(name):
    wanted = {word.strip() for word in private.PRIVATE[name].strip("()").split(",")}
    parameters = inspect.signature(found(name)).parameters
    assert wanted <= set(parameters)
    required = {key for key, parameter in parameters.items() if parameter.default is parameter.empty}
    assert required <= wanted


def test_what_a_node_is_has_a_number():
    assert private.NodeInfo(node_id=2**63).node_id == 2**63


def test_records_hold_their_entries_where_we_write():
    from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

    for record in (ConfigRecord({"a": 1}), MetricRecord({"a": 1}), ArrayRecord(), RecordDict()):
        assert private.entries(record) == dict(record)
        record.clear()
        assert private.entries(record) == {}
        assert private.entries(record.copy()) is not private.entries(record)
        assert type(pickle.loads(pickle.dumps(record))) is type(record)


def test_messages_are_made_in_the_name_that_we_set_and_the_one_before_comes_back():
    from flwr.app import Message, RecordDict

    with private.identity(7, private.SUPERLINK_NODE_ID):
        with private.identity(7, 1234):
            assert Message(RecordDict(), 1, "train").metadata.src_node_id == 1234
        message = Message(RecordDict(), 5, "train")
    assert (message.metadata.run_id, message.metadata.src_node_id) == (7, private.SUPERLINK_NODE_ID)
    assert message.metadata.message_id == ""
    private.set_message_id(message, "number")
    assert message.metadata.message_id == "number"
    assert Message(RecordDict(), reply_to=message).metadata.reply_to_message_id == "number"


def test_the_run_of_the_grid_has_what_we_say_of_it():
    run = private.Run.create_empty(3)
    assert {"fab_id", "fab_version", "override_config", "primary_task_id", "federation_id"} <= set(vars(run))
