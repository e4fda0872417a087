"""Federated averaging by pfl: ``torchrun --nproc_per_node 2 pfl_rounds.py FILE``, with the file of ``given``.

Its default way of use: a simulated backend, clients as datasets in memory, plain SGD on the server at rate 1. pfl
averages parameters; running statistics of BatchNorm stay with each process, where they go from client to client.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from given import Given, main_argument, say
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.internal.ops import pytorch_ops
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel
from torch import Tensor


class Client(Dataset):
    """The images of a client, loaded batch by batch."""

    def __init__(self, given: Given, client: int) -> None:
        super().__init__([given.shards[client]], user_id=str(client))
        self._given = given

    def iter(self, batch_size: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """The local batches of one epoch."""
        for index in self._given.batches(self.raw_data[0]):
            yield self._given.load(index)


class Say(TrainingProcessCallback):
    """Tells the benchmark that a round is over."""

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: Any, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """No reason to stop, and no metrics."""
        if pytorch_ops.distributed.global_rank == 0:
            say(f"round {central_iteration + 1}")
        return False, Metrics()


def main() -> None:
    torch.set_num_threads(1)
    given = Given(main_argument())
    settings, clients = given.settings, len(given.shards)
    torch.manual_seed(settings["seed"])
    network = given.network()

    def loss(x: Tensor, y: Tensor) -> Tensor:
        network.train()
        return F.cross_entropy(network(x), y)

    def metrics(x: Tensor, y: Tensor) -> dict[str, Weighted]:  # of every client in the first round, which is not timed
        network.eval()
        with torch.no_grad():
            return {"loss": Weighted(float(F.cross_entropy(network(x), y)), 1)}

    network.loss, network.metrics = loss, metrics  # type: ignore[assignment]
    model = PyTorchModel(
        model=network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
        amp_dtype=torch.bfloat16 if settings["bf16"] else None,
    )
    data = FederatedDataset(lambda client: Client(given, client), get_user_sampler("minimize_reuse", range(clients)))
    if pytorch_ops.distributed.global_rank == 0:
        say("ready")
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=settings["rounds"], evaluation_frequency=2 * settings["rounds"],
            train_cohort_size=clients, val_cohort_size=None,
        ),
        backend=SimulatedBackend(training_data=data, val_data=None),
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=settings["lr"], local_batch_size=settings["local_batch"]
        ),
        callbacks=[Say()],
        send_metrics_to_platform=False,
    )  # fmt: skip
    if pytorch_ops.distributed.global_rank == 0:
        say(f"top1 {given.top1(network)}")


if __name__ == "__main__":
    main()
