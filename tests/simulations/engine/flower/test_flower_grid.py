"""The Grid inside one process keeps the rules of Flower's: numbers, times, refusals, and nobody's objects shared."""

from __future__ import annotations

import pytest

from simulations.app import simulate_app

ECHO = """
@app.train()
def train(message: Message, context: Context) -> Message:
    return Message(message.content, reply_to=message)
"""

SLOW = """
@app.train()
def train(message: Message, context: Context) -> Message:
    time.sleep(message.content["for"]["seconds"])
    return Message(RecordDict(), reply_to=message)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_messages_have_numbers_and_their_replies_refer_to_them(make_app, workers):
    app = make_app(
        """
        messages = ask(group_id="round 7", ttl=60.0)
        ids = list(grid.push_messages(messages))
        replies = []
        while len(replies) < len(ids):
            there = {reply.metadata.reply_to_message_id for reply in replies}
            replies += grid.pull_messages([key for key in ids if key not in there])
        assert [message.metadata.message_id for message in messages] == ids
        assert {reply.metadata.reply_to_message_id for reply in replies} == set(ids)
        assert len({*ids, *(reply.metadata.message_id for reply in replies)}) == 6
        for reply in replies:
            facts = reply.metadata
            assert facts.src_node_id in grid.get_node_ids() and facts.dst_node_id == messages[0].metadata.src_node_id
            assert facts.group_id == "round 7" and facts.message_type == "train" and 0 < facts.ttl <= 60
            assert facts.run_id == grid.run.run_id == context.run_id and facts.delivered_at
        context.state["it"] = MetricRecord({"replies": len(replies)})
        """,
        ECHO,
    )
    assert simulate_app(app, sites=3, workers=workers).metrics == {"it.replies": 3}


def test_replies_of_send_and_receive_come_in_the_order_of_the_messages(make_app):
    app = make_app(
        """
        messages = [
            Message(RecordDict({"for": MetricRecord({"seconds": seconds})}), node, "train")
            for node, seconds in zip(grid.get_node_ids(), (0.3, 0.0, 0.1))
        ]
        replies = grid.send_and_receive(messages)
        assert [reply.metadata.src_node_id for reply in replies] == grid.get_node_ids()
        """,
        SLOW,
    )
    assert simulate_app(app, sites=3, workers=3).answered == 3


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_late_is_left_out_and_can_be_pulled_afterwards(make_app, workers):
    app = make_app(
        """
        slow = RecordDict({"for": MetricRecord({"seconds": 0.6})})
        messages = ask(content=slow)
        replies = grid.send_and_receive(messages, timeout=0.3)
        assert replies == []
        late, waiting = [], {message.metadata.message_id for message in messages}
        while waiting:
            late += grid.pull_messages(waiting)
            waiting -= {reply.metadata.reply_to_message_id for reply in late}
        context.state["it"] = MetricRecord({"late": sum(reply.has_content() for reply in late)})
        """,
        SLOW,
    )
    assert simulate_app(app, sites=2, workers=workers).metrics == {"it.late": 2}


@pytest.mark.parametrize("workers", [1, 2])
def test_a_message_that_outlives_its_time_gets_flowers_error_and_the_run_goes_on(make_app, workers):
    app = make_app(
        """
        slow = RecordDict({"for": MetricRecord({"seconds": 0.6})})
        nodes = grid.get_node_ids()
        messages = [*ask(content=slow, ttl=0.3, nodes=nodes[:1]), *ask(content=slow, nodes=nodes[1:])]
        first, second = grid.send_and_receive(messages)
        assert second.has_content()
        assert first.error.code == 3 and first.metadata.reply_to_message_id
        quick = RecordDict({"for": MetricRecord({"seconds": 0.0})})
        (again,) = grid.send_and_receive(ask(content=quick, nodes=nodes[:1]))
        assert again.has_content()
        """,
        SLOW,
    )
    result = simulate_app(app, sites=2, workers=workers)
    assert {key: len(errors) for key, errors in result.errors.items()} == {0: 1}


def test_a_message_that_expires_in_the_queue_is_never_delivered(make_app):
    app = make_app(
        """
        slow = RecordDict({"for": MetricRecord({"seconds": 0.3})})
        nodes = grid.get_node_ids()
        ids = grid.push_messages([*ask(content=slow, nodes=nodes[:1]), *ask(content=slow, ttl=0.1, nodes=nodes[1:])])
        time.sleep(0.2)
        first, second = grid.pull_messages(ids)
        assert first.has_content() and second.error.code == 3
        """,
        SLOW,
    )
    assert simulate_app(app, sites=2).answered == 1


def test_a_reply_that_is_pulled_after_its_own_time_is_an_error(make_app):
    app = make_app(
        """
        ids = grid.push_messages(ask())
        assert grid.send_and_receive(ask("query"))[0].has_content()
        time.sleep(0.2)
        (reply,) = grid.pull_messages(ids)
        assert reply.error.code == 4
        """,
        """
        @app.train()
        def train(message, context):
            return Message(RecordDict(), reply_to=message, ttl=0.1)

        @app.query()
        def query(message, context):
            return Message(RecordDict(), reply_to=message)
        """,
    )
    assert len(simulate_app(app, sites=1).errors[0]) == 1


def test_what_flower_refuses_is_refused(make_app, flower_log):
    app = make_app(
        """
        content = RecordDict()
        assert list(grid.push_messages([Message(content, 12345, "train")])) == []
        message = Message(content, grid.get_node_ids()[0], "train")
        message.metadata.ttl = -1.0
        for wrong in (message, Message(content, reply_to=message)):
            try:
                grid.push_messages([wrong])
            except ValueError:
                continue
            raise AssertionError(wrong)
        ids = list(grid.push_messages(ask()))
        assert len(grid.pull_messages(ids)) == 2
        again = grid.pull_messages([*ids, "never sent"])
        assert [reply.error.code for reply in again] == [3, 3, 3]
        """,
        ECHO,
    )
    simulate_app(app, sites=2)
    assert "Invalid destination node ID for Message: 12345" in flower_log.text


def test_nodes_and_the_deprecated_way_to_make_a_message(make_app):
    app = make_app(
        """
        assert [node.node_id for node in grid.get_nodes()] == list(grid.get_node_ids())
        message = grid.create_message(RecordDict(), "train", grid.get_node_ids()[1], "3", ttl=5.0)
        (reply,) = grid.send_and_receive([message])
        assert reply.metadata.group_id == "3"
        assert (grid.run.fab_id, grid.run.fab_version) == ("tests/written", "1.2.3")
        assert grid.run.override_config == {"rate": 2}
        grid.set_run(grid.run)
        """,
        ECHO,
        "rate = 1",
    )
    assert simulate_app(app, sites=3, run_config={"rate": 2}).answered == 1


# Both sides write to all that they are given, and to what they have given away.
MUTATING_SERVER = """
shared = RecordDict({
    "arrays": ArrayRecord({"w": Array(np.zeros(2))}),
    "config": ConfigRecord({"names": ["as", "sent"]}),
    "metrics": MetricRecord({"values": [1, 2]}),
})
messages = ask(content=shared)
ids = list(grid.push_messages(messages))
shared["arrays"]["w"].data = b"changed after the push"
shared["config"]["names"].append("changed after the push")
shared["metrics"]["values"][0] = 99
del shared["arrays"]
messages[0].metadata.group_id = "changed"
replies = []
while ids:
    new = grid.pull_messages(ids)
    replies += new
    ids = [key for key in ids if key not in {reply.metadata.reply_to_message_id for reply in new}]
assert messages[1].content is shared and list(shared) == ["config", "metrics"]
for reply in replies:
    found = reply.content["found"]
    assert found["names"] == ["as", "sent"] and found["values"] == [1, 2] and found["sum"] == 0.0, found
    assert found["run"] == 1 and found["group"] == "", found
    reply.content["kept"]["list"].append("server")
    reply.content["arrays"]["w"].data = b""
for reply in grid.send_and_receive(ask("evaluate")):
    assert reply.content["kept"]["list"] == ["state"], reply.content["kept"]
    assert reply.content["arrays"]["w"].numpy().tolist() == [1.0, 1.0]
    assert reply.content["seen"]["run"] == 2 and reply.content["seen"]["size"] == 3
context.run_config["rate"] = 50
for reply in grid.send_and_receive(ask("evaluate")):
    assert reply.content["seen"]["run"] == 2
"""

MUTATING_CLIENT = """
leaked = []

@app.train()
def train(message: Message, context: Context) -> Message:
    config, metrics, arrays = (message.content[key] for key in ("config", "metrics", "arrays"))
    found = {"names": list(config["names"]), "values": list(metrics["values"]), "sum": arrays["w"].numpy().sum().item()}
    found |= {"run": context.run_config["rate"], "group": message.metadata.group_id}
    config["names"].append("client")
    metrics["values"].clear()
    arrays["w"].data = b"client"
    arrays["w"].shape = (0,)
    message.content["more"] = ConfigRecord()
    message.metadata.group_id = "client"
    context.run_config["rate"] = 2
    context.node_config["more"] = 1
    context.state["kept"] = ConfigRecord({"list": ["state"]})
    context.state["arrays"] = ArrayRecord({"w": Array(np.ones(2))})
    content = RecordDict({name: context.state[name] for name in ("kept", "arrays")})
    content["found"] = ConfigRecord(found)
    leaked.append((context, content))
    return Message(content, reply_to=message)

@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    for old, content in leaked:
        old.state.clear()
        content["kept"]["list"].append("leaked")
        old.run_config["rate"] = 77
    kept = context.state["kept"].copy()
    seen = MetricRecord({"run": context.run_config["rate"], "size": len(context.node_config)})
    return Message(RecordDict({"kept": kept, "arrays": context.state["arrays"], "seen": seen}), reply_to=message)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_nobody_sees_what_another_writes(make_app, workers):
    app = make_app(MUTATING_SERVER, MUTATING_CLIENT, "rate = 1")
    result = simulate_app(app, sites=3, workers=workers)
    assert result.errors == {}
    assert result.answered == 9


def test_a_model_is_passed_without_a_copy_of_its_bytes(make_app):
    app = make_app(
        """
        model = ArrayRecord([np.ones(100_000)])
        (reply,) = grid.send_and_receive(ask(content=RecordDict({"arrays": model})))
        assert reply.content["arrays"]["0"] is not model["0"]
        assert reply.content["arrays"]["0"].data is model["0"].data
        """,
        ECHO,
    )
    assert simulate_app(app, sites=1).answered == 1


def test_only_nodes_with_something_to_remember_are_kept():
    from flwr.app import MetricRecord

    from simulations.engine.flower.contexts import Contexts

    contexts = Contexts(7, range(10**12, 10**12 + 10**6), {"rate": 1})
    assert contexts.of(10**12 + 5).node_config == {"partition-id": 5, "num-partitions": 10**6}
    used, unchanged, configured = (contexts.of(10**12 + place) for place in (1, 2, 3))
    used.state["seen"] = MetricRecord({"times": 1})
    configured.run_config["rate"] = 2
    for context in (used, unchanged, configured):
        contexts.keep(context)
    assert len(contexts) == 2
    used = contexts.of(10**12 + 1)
    del used.state["seen"]
    contexts.keep(used)
    assert len(contexts) == 1
