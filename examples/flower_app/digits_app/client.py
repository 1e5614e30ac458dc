"""A site: trains the model that comes on its own part of the digits."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.nn.functional import cross_entropy

from digits_app.task import loader, model

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    net = model()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    batches = loader(context.node_config["partition-id"], context.node_config["num-partitions"])
    optimiser = torch.optim.SGD(net.parameters(), lr=context.run_config["learning-rate"], momentum=0.9)
    for _ in range(context.run_config["epochs"]):
        for pixels, labels in batches:
            optimiser.zero_grad()
            loss = cross_entropy(net(pixels), labels)
            loss.backward()
            optimiser.step()
    metrics = MetricRecord({"loss": loss.item(), "num-examples": len(batches.dataset)})
    return Message(RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=message)
