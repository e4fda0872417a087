"""When the rounds of a training end, and after which of them it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from repro.data.batches import Batches
from repro.registry.specs import Spec


@dataclass(frozen=True)
class Clock:
    """When the rounds of a run end, in epochs, and after which of them it is evaluated.

    Attributes:
        steps: steps in an epoch: rounds without local training, local steps with it.
        total: rounds of the run.
        every: rounds between regular evaluations; with ``local_steps`` epochs, because rounds need not end with one.
        also: further rounds after which it is evaluated.
        at_least: how many evaluations the last tenth of the run has at least; see ``ending``.
    """

    steps: int
    total: int
    every: int
    local_epochs: int | None = None
    local_steps: int | None = None
    also: tuple[int, ...] = ()
    at_least: int = 0

    @classmethod
    def of(cls, spec: Spec, batches: Batches) -> Clock:
        """The clock of a run over these batches."""
        steps = batches.rounds_per_epoch
        also, least = tuple(spec.evaluate_at or ()), spec.final_evaluations or 0
        if spec.method != "federated":
            return cls(steps, spec.epochs * steps, spec.evaluate_every * steps, also=also, at_least=least)
        if spec.local_steps is not None:
            every = min(spec.local_steps, spec.epochs * steps)
            total = spec.epochs * steps // every
            return cls(steps, total, spec.evaluate_every, local_steps=every, also=also, at_least=least)
        total, every = (max(1, epochs // spec.local_epochs) for epochs in (spec.epochs, spec.evaluate_every))
        return cls(steps, total, every, local_epochs=spec.local_epochs, also=also, at_least=least)

    def epoch(self, rounds: int) -> float:
        """Epochs that ``rounds`` rounds take, a fraction where they end within one."""
        if self.local_steps is not None:
            return rounds * self.local_steps / self.steps
        return float(rounds * self.local_epochs) if self.local_epochs is not None else rounds / self.steps

    def regular(self, rounds: int) -> bool:
        """Whether the model is evaluated after ``rounds`` rounds and its schedule observes the result.

        With ``local_steps`` it is after the first round that ends at or beyond each multiple of ``every`` epochs.
        """
        if rounds == self.total:
            return True
        if self.local_steps is None:
            return rounds % self.every == 0
        between = self.every * self.steps
        return rounds * self.local_steps // between > (rounds - 1) * self.local_steps // between

    @cached_property
    def ending(self) -> frozenset[int]:
        """Rounds with an evaluation that are added so that the last tenth of the run has ``at_least`` of them.

        None where the regular ones are enough. Else ``at_least`` evenly spaced ones, the last at the end: whole epochs
        where the tenth has so many, else rounds. A tenth with fewer rounds than that is evaluated after every round,
        and so are as many rounds before it as are missing.
        """
        first, end = 9 * self.total // 10 + 1, self.total
        if sum(map(self._asked_for, range(first, end + 1))) >= self.at_least:
            return frozenset()
        whole = self.steps if self.local_epochs is None and self.local_steps is None else 1  # rounds of an epoch
        unit = whole if self._units(first, whole) >= self.at_least else 1
        units = max(self.at_least, self._units(first, unit))
        chosen = (end - unit * (k * units // self.at_least) for k in range(self.at_least))
        return frozenset(rounds for rounds in chosen if rounds >= 1)

    def _units(self, first: int, unit: int) -> int:
        """How many multiples of ``unit`` rounds lie in the rounds from ``first`` to the end."""
        return self.total // unit - (first - 1) // unit

    def _asked_for(self, rounds: int) -> bool:
        return self.regular(rounds) or rounds in self.also

    def evaluates(self, rounds: int) -> bool:
        """Whether the model is evaluated after ``rounds`` rounds."""
        return self._asked_for(rounds) or rounds in self.ending

    def final(self, rounds: int) -> bool:
        """Whether an evaluation after ``rounds`` rounds belongs to the last tenth of the run, or to its ``ending``."""
        return 10 * rounds >= 9 * self.total or rounds in self.ending
