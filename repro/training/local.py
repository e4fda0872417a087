"""What a client of federated averaging does between two synchronisations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from repro.data.batches import Batches
from repro.training.momenta import RESTARTED, Momenta


@dataclass(frozen=True)
class LocalTraining:
    """How long clients train alone, and what becomes of it.

    Attributes:
        epochs: local epochs in a round.
        steps: local steps in a round (H), instead of ``epochs``. Every client then takes as many, so that one with a
            smaller shard sees its images more often; epochs are those of ``batches.rounds_per_epoch`` for all.
        momenta: what happens to local momentum between rounds.
        weights: in the average, clients count by the ``images`` of their shard, or ``equal``.
    """

    epochs: int = 1
    steps: int | None = None
    momenta: Momenta = RESTARTED
    weights: Literal["images", "equal"] = "images"

    def range(self, batches: Batches, client: int, number: int) -> tuple[range, int]:
        """Steps of ``client`` in round ``number`` (from 0), and steps in an epoch."""
        if self.steps is not None:
            return range(number * self.steps, (number + 1) * self.steps), batches.rounds_per_epoch
        per_epoch = batches.steps_per_epoch(client)
        return range(number * self.epochs * per_epoch, (number + 1) * self.epochs * per_epoch), per_epoch

    def epochs_before(self, batches: Batches, number: int) -> float:
        """Epochs that every client has trained when round ``number`` (from 0) begins."""
        steps, per_epoch = self.range(batches, 0, number)
        return steps.start / per_epoch

    def shares(self, batches: Batches) -> list[int]:
        """Weight of each client in the average: the images of its shard, or one."""
        return [len(shard) if self.weights == "images" else 1 for shard in batches.shards]


ONE_EPOCH = LocalTraining()
