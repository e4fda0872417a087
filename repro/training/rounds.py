"""One round of a distributed method: what it did, and how that is counted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes:
        number: rounds finished, this one included (from 1).
        lr: learning rate of the round's first step.
        loss: mean training loss over the round's images, NaN or infinite if training diverged.
        correct, images: training images classified correctly, and seen, in this round.
        bytes_up, bytes_down: length of all payloads from the workers to the server, and back, in this round.
        clients_top1_by_class: where asked for, the accuracy of each class (None: no image of it) for each client's own
            model, before the aggregation.
        synchronisations: how often the round averages gradients or models; of central training, how often workers that
            share its images would.
        further: training images besides ``images`` whose gradients the round took, as often as it took them.
    """

    number: int
    lr: float
    loss: float
    correct: int
    images: int
    bytes_up: int
    bytes_down: int
    clients_top1_by_class: list[list[float | None]] | None = None
    synchronisations: int = 1
    further: int = 0


@dataclass
class Tally:
    """Sums over the images of a round.

    Attributes:
        loss: sum of the losses of all images.
        correct, images: images classified correctly, and seen.
        up, down: bytes sent by workers, and to them.
    """

    loss: float = 0.0
    correct: int = 0
    images: int = 0
    up: int = 0
    down: int = 0

    def count(self, loss: float, correct: int, images: int) -> None:
        """Add a batch of ``images`` with the mean loss ``loss``."""
        self.loss, self.correct, self.images = self.loss + loss * images, self.correct + correct, self.images + images

    def add(self, other: Tally) -> None:
        """Add the sums of another part of the round."""
        self.loss, self.correct = self.loss + other.loss, self.correct + other.correct
        self.images, self.up, self.down = self.images + other.images, self.up + other.up, self.down + other.down

    def round(self, number: int, lr: float, scores: list[list[float | None]] | None = None) -> Round:
        """The round, ``number`` of which are finished."""
        return Round(number, lr, self.loss / self.images, self.correct, self.images, self.up, self.down, scores)
