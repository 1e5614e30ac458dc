"""Each site fits a line to measurements of its own; ``secagg_mod`` hides what comes of it."""

import time

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fl.flower.secagg import secagg_mod

app = ClientApp(mods=[secagg_mod])  # the line that changed: ClientApp() before

SLOPE, OFFSET = 3.0, -2.0
STEPS, RATE = 50, 0.2


def measurements(number: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A site's own data: every site looks at another part of one line, with noise."""
    rng = np.random.default_rng(number)
    x = number % 3 - rng.uniform(0.0, 1.5, count)
    return x, SLOPE * x + OFFSET + rng.normal(0.0, 0.1, count)


@app.train()
def train(message: Message, context: Context) -> Message:
    """A few steps of gradient descent from the model that came."""
    config = message.content["config"]
    time.sleep(float(config["pause-s"]))
    slope, offset = message.content["arrays"].to_numpy_ndarrays()
    number = int(context.node_config["partition-id"])
    x, y = measurements(number, int(config["examples"]) * (number + 1))
    for _ in range(STEPS):
        error = slope * x + offset - y
        slope = slope - RATE * np.mean(error * x)
        offset = offset - RATE * np.mean(error)
    metrics = MetricRecord({"num-examples": len(x), "loss": float(np.mean(error**2))})
    model = ArrayRecord([np.asarray(slope), np.asarray(offset)])
    return Message(RecordDict({"arrays": model, "metrics": metrics}), reply_to=message)
