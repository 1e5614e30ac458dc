"""Each site knows its number plus one, and says so."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Answer with an array of this site's number, weighted as one example."""
    time.sleep(float(message.content["config"]["pause-s"]))
    own = np.full(3, float(context.node_config["partition-id"]) + 1.0)
    content = RecordDict({"arrays": ArrayRecord([own]), "metrics": MetricRecord({"num-examples": 1})})
    return Message(content, reply_to=message)
