"""Phases without work: one message out to every node, one answer back. ``how`` is Flower's own loop, or ours."""

import json
import time
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

app = ServerApp()
client = ClientApp()


@client.query()
def query(message: Message, context: Context) -> Message:
    return Message(RecordDict({"answer": ConfigRecord({"ok": 1})}), reply_to=message)


@app.main()
def main(grid: Grid, context: Context) -> None:
    config = context.run_config
    sites = int(config["sites"])
    while len(nodes := sorted(grid.get_node_ids())) < sites:
        time.sleep(0.2)
    if config["how"] == "ours":
        from fl.flower.mail import GatewayLine

        line = GatewayLine.from_environment(grid.run.run_id)

    def phase(number: int) -> float:
        messages = [Message(RecordDict({"ask": ConfigRecord({"phase": number})}), node, "query") for node in nodes]
        began = time.monotonic()
        if config["how"] == "flower":
            replies = list(grid.send_and_receive(messages, timeout=300))
        else:
            waiting, replies = set(grid.push_messages(messages)), []
            line.mail(nodes)
            while waiting and time.monotonic() - began < 300:
                came = list(grid.pull_messages(list(waiting)))
                replies += came
                waiting -= {reply.metadata.reply_to_message_id for reply in came}
                if waiting:
                    line.wait(0.5)
        assert len(replies) == sites
        assert not any(reply.has_error() for reply in replies)
        return time.monotonic() - began

    first = phase(0)  # starts processes, fetches the app
    took = [phase(number) for number in range(1, int(config["phases"]) + 1)]
    time.sleep(float(config["idle-s"]))
    after_idle = phase(-1)
    Path(str(config["out"])).write_text(json.dumps({"first": first, "phases": took, "after_idle": after_idle}))
