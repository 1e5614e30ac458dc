"""The centre: FedAvg over the sites, and the accuracy on digits that no site has."""

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from digits_app.task import accuracy, model

app = ServerApp()


def evaluate(round: int, arrays: ArrayRecord) -> MetricRecord:
    net = model()
    net.load_state_dict(arrays.to_torch_state_dict())
    return MetricRecord({"accuracy": accuracy(net)})


@app.main()
def main(grid: Grid, context: Context) -> None:
    rounds = context.run_config["rounds"]
    strategy = FedAvg(fraction_train=context.run_config["fraction"], fraction_evaluate=0.0)
    initial = ArrayRecord(model().state_dict())
    result = strategy.start(grid=grid, initial_arrays=initial, num_rounds=rounds, evaluate_fn=evaluate)
    context.state["result"] = MetricRecord(dict(result.evaluate_metrics_serverapp[rounds]))
