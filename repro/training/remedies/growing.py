"""Growing the batch where a schedule would cut the rate (Smith, Kindermans, Ying, Le 2018)."""

from __future__ import annotations

from collections.abc import Sequence

from repro.training.remedies.base import Course, Remedy, Step, Taken, expect_option, register
from repro.training.remedies.parts import Part, gradient, split
from repro.training.rounds import Tally


@register("growing", version=1)
class Growing(Remedy):
    """Steps of few images first, and of ``factor`` times as many from each milestone on, up to those of a round.

    "Don't decay the learning rate, increase the batch size": the noise of SGD falls with the rate over the batch, so
    that dividing one or multiplying the other anneals it alike. The rate stays that of the schedule.

    Args:
        course: the training that it is part of.
        start: images of the first steps.
        factor: by how much they grow at a milestone.
        milestones: shares of the training, ascending.
    """

    def __init__(
        self, course: Course, start: int = 64, factor: int = 4, milestones: Sequence[float] = (0.5, 0.75)
    ) -> None:
        expect_option("start", start, isinstance(start, int) and start > 0, "a whole number from 1 up")
        expect_option("factor", factor, isinstance(factor, int) and factor > 1, "a whole number from 2 up")
        rising = all(0 < share < 1 for share in milestones) and sorted(set(milestones)) == list(milestones)
        expect_option("milestones", milestones, rising, "ascending shares between 0 and 1")
        super().__init__(course)
        self.start, self.factor, self.milestones = start, factor, list(milestones)

    def take(self, step: Step) -> Taken:
        """See ``Remedy``."""
        passed = sum(step.number >= share * self.course.rounds for share in self.milestones)
        return small_steps(step, split(step, self.start * self.factor**passed))


def small_steps(step: Step, parts: Sequence[Part]) -> Taken:
    """A step of the optimiser on each part of a round, one after the other."""
    tally = Tally()
    for part in parts:
        found = gradient(step, part)
        step.optimiser.step()
        tally.count(found.loss, found.correct, found.images)
    return Taken(tally.loss / tally.images, tally.correct, len(parts))
