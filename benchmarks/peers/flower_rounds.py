"""Federated averaging by Flower: ``python flower_rounds.py FILE``, with the file of ``given``.

Its default way of use: ``run_simulation`` with Ray, two actors of one processor each, ``FedAvg`` over whole state
dictionaries, evaluation on the server.
"""

from __future__ import annotations

import os

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}

import torch
import torch.nn.functional as F
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from given import loaded, main_argument, say

ACTORS = 2


def client_app() -> ClientApp:
    """What a client does in a round."""
    app, path = ClientApp(), main_argument().resolve()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        given = loaded(path)
        shard = given.shards[int(context.node_config["partition-id"])]
        net = given.network().train()
        net.load_state_dict(message.content["arrays"].to_torch_state_dict())
        optimiser = torch.optim.SGD(net.parameters(), lr=given.settings["lr"])
        for index in given.batches(shard):
            x, y = given.load(index)
            optimiser.zero_grad()
            with given.autocast():
                loss = F.cross_entropy(net(x), y)
            loss.backward()
            optimiser.step()
        content = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": len(shard)})}
        return Message(content=RecordDict(content), reply_to=message)

    return app


def server_app() -> ServerApp:
    """The rounds."""
    app, path = ServerApp(), main_argument().resolve()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        given = loaded(path)
        net, rounds, clients = given.network(), given.settings["rounds"], len(given.shards)

        def after(number: int, arrays: ArrayRecord) -> MetricRecord | None:
            say(f"round {number}" if number else "ready")
            if number == rounds:
                net.load_state_dict(arrays.to_torch_state_dict())
                say(f"top1 {given.top1(net)}")
            return None

        strategy = FedAvg(
            fraction_evaluate=0.0, min_train_nodes=clients, min_available_nodes=clients
        )  # fmt: skip
        strategy.start(
            grid=grid, initial_arrays=ArrayRecord(net.state_dict()), train_config=ConfigRecord(),
            num_rounds=rounds, evaluate_fn=after,
        )  # fmt: skip

    return app


if __name__ == "__main__":
    run_simulation(
        server_app=server_app(), client_app=client_app(), num_supernodes=len(loaded(main_argument().resolve()).shards),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}, "init_args": {"num_cpus": ACTORS}},
    )  # fmt: skip
