"""Sends an array to every node that is online, waits for answers, and prints what came, round by round."""

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from fl.flower.mail import GatewayLine

client = ClientApp()


@client.query()
def query(message: Message, context: Context) -> Message:
    """Send back what came."""
    return Message(message.content, reply_to=message)


server = ServerApp()


def push(grid: Grid, nodes: list[int], content: dict[str, ConfigRecord | ArrayRecord]) -> set[str]:
    """Send a message to each node; once more if SuperLink died while it took them, which Flower tells by an error."""
    while True:
        try:
            messages = [Message(RecordDict(content), node, "query") for node in nodes]
            return {message_id for message_id in grid.push_messages(messages) if message_id}
        except Exception as err:  # its class is private
            print(f"sending again: {err}")
            time.sleep(0.5)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """One message a node and round; a round begins once enough nodes are online."""
    config = context.run_config
    line = GatewayLine.from_environment(grid.run.run_id) if config["tell"] else None
    values = np.random.default_rng(0).standard_normal(int(float(config["size-mib"]) * 2**18), dtype=np.float32)
    for number in range(int(config["rounds"])):
        while len(nodes := sorted(grid.get_node_ids())) < int(config["nodes"]):
            time.sleep(0.1)
        began = time.monotonic()
        content = {"config": ConfigRecord({"round": number}), "arrays": ArrayRecord([values])}
        waiting = push(grid, nodes, content)
        if line:
            line.mail(nodes)
        told, answered, failed = 0, [], {}
        while waiting and time.monotonic() - began < float(config["timeout-s"]):
            for reply in grid.pull_messages(list(waiting)):
                waiting.discard(reply.metadata.reply_to_message_id)
                if reply.has_error():
                    failed[reply.metadata.src_node_id] = reply.error.reason
                else:
                    answered.append(reply.metadata.src_node_id)
            if waiting:
                told += line.wait(0.5) if line else bool(time.sleep(0.2))
        facts = {"s": time.monotonic() - began, "missing": len(waiting), "told": told}
        with Path(str(config["out"])).open("a") as out:
            out.write(json.dumps({**facts, "nodes": nodes, "answered": answered, "failed": failed}) + "\n")
