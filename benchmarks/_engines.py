"""Other engines at the simulator's workloads: ``python _engines.py ENGINE SCHEDULE RESULT``.

``tight`` is a bare loop in one process, ``pool`` the same in as many processes as there are cores with the model in
shared memory, ``flower`` is Flower's simulation (Ray), ``pfl`` Apple's pfl-research (under torch.distributed.run).
The result is a file: the seconds of each round, and the final parameters.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as processes
from torch import Tensor, nn

from benchmarks._workloads import WORKLOADS, Schedule, data, model, order, train


def tight(schedule: Schedule) -> tuple[list[float], Tensor]:
    net, at = schedule.begin(), time.perf_counter()
    current, seconds = nn.utils.parameters_to_vector(net.parameters()).detach(), []
    for seed, sites in schedule.rounds:
        total = torch.zeros_like(current)
        for site in sites:
            nn.utils.vector_to_parameters(current.clone(), net.parameters())
            train(schedule.name, net, seed, site)
            total += nn.utils.parameters_to_vector(net.parameters()).detach() - current
        current = current + total / len(sites)
        seconds.append(-at + (at := time.perf_counter()))
    return seconds, current


def _pool_worker(name: str, current: Tensor, updates: Tensor, todo: Any, done: Any) -> None:
    torch.set_num_threads(1)
    net = model(name)
    while (job := todo.get()) is not None:
        place, seed, site = job
        nn.utils.vector_to_parameters(current.clone(), net.parameters())
        train(name, net, seed, site)
        updates[place] = nn.utils.parameters_to_vector(net.parameters()).detach() - current
        done.put(place)


def pool(schedule: Schedule) -> tuple[list[float], Tensor]:
    current = nn.utils.parameters_to_vector(schedule.begin().parameters()).detach().clone().share_memory_()
    updates = torch.empty(WORKLOADS[schedule.name].cohort, len(current)).share_memory_()
    context = processes.get_context("fork")
    todo, done = context.SimpleQueue(), context.SimpleQueue()
    count = len(os.sched_getaffinity(0))
    crew = [
        context.Process(target=_pool_worker, args=(schedule.name, current, updates, todo, done)) for _ in range(count)
    ]
    for worker in crew:
        worker.start()
    seconds, at = [], time.perf_counter()
    for seed, sites in schedule.rounds:
        for place, site in enumerate(sites):
            todo.put((place, seed, site))
        for _ in sites:
            done.get()
        current += updates.mean(0)
        seconds.append(-at + (at := time.perf_counter()))
    for _ in crew:
        todo.put(None)
    for worker in crew:
        worker.join()
    return seconds, current.clone()


def flower(schedule: Schedule) -> tuple[list[float], Tensor]:
    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.simulation import run_simulation

    server, client = ServerApp(), ClientApp()
    name, kept = schedule.name, {}

    @client.train()
    def _(message: Message, context: Context) -> Message:
        torch.set_num_threads(1)
        config = message.content["config"]
        net = kept.get("net") or kept.setdefault("net", model(name))
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        train(name, net, int(config["seed"]), str(config["site"]))
        content = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": 1})}
        return Message(content=RecordDict(content), reply_to=message)

    result: dict[str, Any] = {}

    @server.main()
    def _(grid: Grid, context: Context) -> None:
        state = schedule.begin().state_dict()
        while len(list(grid.get_node_ids())) < WORKLOADS[name].sites:
            time.sleep(0.05)
        seconds, at = [], time.perf_counter()
        for seed, sites in schedule.rounds:
            arrays = ArrayRecord(state)
            nodes = list(grid.get_node_ids())[: len(sites)]
            messages = [
                Message(
                    content=RecordDict({"arrays": arrays, "config": ConfigRecord({"seed": str(seed), "site": site})}),
                    dst_node_id=node,
                    message_type="train",
                )
                for node, site in zip(nodes, sites, strict=True)
            ]
            replies = [reply.content["arrays"].to_torch_state_dict() for reply in grid.send_and_receive(messages)]
            state = {key: torch.stack([reply[key] for reply in replies]).mean(0) for key in state}
            seconds.append(-at + (at := time.perf_counter()))
        result["seconds"] = seconds
        result["model"] = torch.cat([value.flatten() for value in state.values()])

    run_simulation(
        server_app=server,
        client_app=client,
        num_supernodes=WORKLOADS[name].sites,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    return result["seconds"], result["model"]


def pfl(schedule: Schedule) -> tuple[list[float], Tensor]:
    torch.set_num_threads(1)
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm.base import NNAlgorithmParams
    from pfl.algorithm.federated_averaging import FederatedAveraging
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data.federated_dataset import FederatedDataset
    from pfl.data.pytorch import PyTorchTensorDataset
    from pfl.hyperparam.base import NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel
    from torch.nn import functional

    name, work = schedule.name, WORKLOADS[schedule.name]

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = schedule.begin()

        def forward(self, inputs: Tensor) -> Tensor:
            return self.net(inputs)

        def loss(self, inputs: Tensor, targets: Tensor, is_eval: bool = False) -> Tensor:
            self.eval() if is_eval else self.train()
            return functional.cross_entropy(self(inputs), targets)

        def metrics(self, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
            return {}

    users = iter([f"{seed} {site}" for seed, sites in [*schedule.rounds, schedule.rounds[0]] for site in sites])

    def dataset(user: str) -> PyTorchTensorDataset:
        seed, site = user.split()
        inputs, targets = data(name, int(site.rpartition("-")[2]) - 1)
        places = order(name, int(seed), site)
        return PyTorchTensorDataset((inputs[places], targets[places]))

    class Watch(TrainingProcessCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []
            self.at = time.perf_counter()

        def on_train_begin(self, *, model: Any) -> Metrics:
            self.at = time.perf_counter()
            return Metrics()

        def after_central_iteration(self, *args: Any, **kwargs: Any) -> tuple[bool, Metrics]:
            self.seconds.append(-self.at + (now := time.perf_counter()))
            self.at = now
            return False, Metrics()

    net, watch = Net(), Watch()
    training = FederatedDataset(dataset, lambda: next(users))
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=len(schedule.rounds),
            evaluation_frequency=10 * len(schedule.rounds),
            train_cohort_size=work.cohort,
            val_cohort_size=None,
        ),
        SimulatedBackend(training_data=training, val_data=None),
        PyTorchModel(
            model=net,
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0),
        ),
        NNTrainHyperParams(local_num_epochs=1, local_learning_rate=work.rate, local_batch_size=work.batch),
        None,
        [watch],
        send_metrics_to_platform=False,
    )
    return watch.seconds, torch.cat([value.detach().flatten() for value in net.net.state_dict().values()])


if __name__ == "__main__":
    torch.set_num_threads(1)
    seconds, vector = globals()[sys.argv[1]](Schedule.read(Path(sys.argv[2])))
    if os.environ.get("RANK", "0") == "0":
        torch.save({"seconds": seconds, "model": vector}, sys.argv[3])
    if sys.argv[1] == "pfl":  # threads of its process group now and then end the process with SIGABRT at exit
        os._exit(0)
