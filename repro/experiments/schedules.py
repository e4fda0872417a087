"""Learning-rate schedules as closed forms of training progress.

Time is progress in epochs as a float: ``step / steps_per_epoch`` for the step about to be taken, so 0.0 at
the first step. Compute it by that division rather than by adding up fractions, so that whole epochs are
exact. A profile that shrinks the steps per epoch then keeps the shape of a schedule. Learning rates have no
unit.

A schedule is immutable. ``lr(epoch)`` is its value. ``observe(metric, epoch)`` returns the schedule that
follows an evaluation; only the plateau rule, whose state is explicit, answers with a changed one. ``state()``
and ``with_state()`` carry that state through a checkpoint. `build` makes a schedule from a plain mapping.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from repro.errors import ReproError

# torch.optim.lr_scheduler.ReduceLROnPlateau's ``eps``: a smaller cut is not made.
SMALLEST_CUT = 1e-8


class Schedule(ABC):
    """What every schedule answers; see the module's text for the time axis."""

    @abstractmethod
    def lr(self, epoch: float) -> float:
        """Return the learning rate of the step taken at ``epoch`` (>= 0, in epochs)."""

    def observe(self, metric: float, epoch: float) -> Self:
        """Return the schedule after ``metric`` (lower is better) measured at ``epoch``; most ignore it."""
        return self

    def state(self) -> dict[str, Any]:
        """Return what observations have changed, as plain JSON values; empty for a schedule without state."""
        return {}

    def with_state(self, state: Mapping[str, Any]) -> Self:
        """Return this schedule with ``state`` as `state` gave it; raises ReproError if its keys differ."""
        if strange := sorted(map(str, set(state) ^ set(self.state()))):
            expected = ", ".join(self.state()) or "none"
            raise ReproError(f"schedule state with or without {strange[0]!r}: expected {expected}; correct it")
        return self


@dataclass(frozen=True)
class Constant(Schedule):
    """The same learning rate throughout."""

    base_lr: float

    def lr(self, epoch: float) -> float:
        """Return ``base_lr``."""
        _progress(epoch)
        return float(self.base_lr)


@dataclass(frozen=True)
class Step(Schedule):
    """``base_lr`` times ``factor`` for every milestone (in epochs) that has been reached.

    >>> [round(Step(0.1, (2.0, 4.0), 0.1).lr(epoch), 6) for epoch in (0, 1.99, 2, 4, 100)]
    [0.1, 0.1, 0.01, 0.001, 0.001]
    """

    base_lr: float
    milestones: tuple[float, ...]
    factor: float

    def __post_init__(self) -> None:
        if any(a >= b for a, b in zip(self.milestones, self.milestones[1:], strict=False)):
            raise ReproError(f"milestones are {list(self.milestones)}: expected increasing epochs; correct them")

    def lr(self, epoch: float) -> float:
        """Return base_lr * factor^(number of milestones <= epoch)."""
        return self.base_lr * self.factor ** bisect_right(self.milestones, _progress(epoch))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from ``base_lr`` at ``start`` to zero at ``epochs`` (Loshchilov & Hutter 2017).

    Exactly ``base_lr`` up to ``start`` and exactly 0 from ``epochs`` on; the last step of training comes
    before that.

    >>> [Cosine(0.1, 20).lr(epoch) for epoch in (0, 20, 21)]
    [0.1, 0.0, 0.0]
    >>> round(Cosine(0.1, 20).lr(10), 12)
    0.05
    """

    base_lr: float
    epochs: float
    start: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.epochs:
            raise ReproError(
                f"the cosine would run from epoch {self.start} to {self.epochs}:"
                " expected 0 <= start < epochs; shorten the warm-up or add epochs"
            )

    def lr(self, epoch: float) -> float:
        """Return base_lr * (1 + cos(pi t)) / 2, t the share of start..epochs that has passed, within 0..1."""
        passed = (_progress(epoch) - self.start) / (self.epochs - self.start)
        return self.base_lr * (1 + math.cos(math.pi * min(max(passed, 0.0), 1.0))) / 2


@dataclass(frozen=True)
class Plateau(Schedule):
    """Multiply by ``factor`` once more than ``patience`` observations in a row have brought no improvement.

    The rule and defaults of torch.optim.lr_scheduler.ReduceLROnPlateau with mode "min", relative threshold
    and no cool-down: an observation improves if it is below best * (1 - threshold). ``best``,
    ``bad_observations`` (since the last improvement or cut) and ``cuts`` are the state. Observe once per
    epoch, so that patience is in epochs.

    >>> schedule = Plateau(0.1, factor=0.5, patience=1)
    >>> for epoch, loss in enumerate([2.0, 1.0, 1.0, 1.0], start=1):
    ...     schedule = schedule.observe(loss, epoch)
    >>> schedule.lr(4), schedule.state()
    (0.05, {'best': 1.0, 'bad_observations': 0, 'cuts': 1})
    """

    base_lr: float
    factor: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    best: float | None = None
    bad_observations: int = 0
    cuts: int = 0

    def __post_init__(self) -> None:
        if self.best is not None:
            _number("best", self.best)
        _count("bad_observations", self.bad_observations)
        _count("cuts", self.cuts)

    def lr(self, epoch: float) -> float:
        """Return base_lr * factor^cuts: the current state's learning rate, whatever the epoch."""
        _progress(epoch)
        return self.base_lr * self.factor**self.cuts

    def observe(self, metric: float, epoch: float) -> Self:
        """Return the schedule after one observation; ``metric`` must be finite (a diverged run has ended)."""
        metric = _number("the observed metric", metric)
        if self.best is None or metric < self.best * (1 - self.threshold):
            return dataclasses.replace(self, best=metric, bad_observations=0)
        bad = self.bad_observations + 1
        if bad <= self.patience:
            return dataclasses.replace(self, bad_observations=bad)
        cut = self.lr(epoch) * (1 - self.factor) > SMALLEST_CUT
        return dataclasses.replace(self, bad_observations=0, cuts=self.cuts + cut)

    def state(self) -> dict[str, Any]:
        """Return best, bad_observations and cuts."""
        return {"best": self.best, "bad_observations": self.bad_observations, "cuts": self.cuts}

    def with_state(self, state: Mapping[str, Any]) -> Self:
        """Return this schedule with the given best, bad_observations and cuts."""
        return dataclasses.replace(super().with_state(state), **state)


@dataclass(frozen=True)
class Warmup(Schedule):
    """A straight line from ``start_lr`` at epoch 0 to the start of ``then`` at ``epochs``, then ``then``.

    Per iteration, as in Goyal et al. 2017 (section 2.2). ``then`` keeps the same clock: its epochs count from
    the beginning of training. ``start_lr`` must be positive, so the first step is never lost, and not above
    the learning rate it leads to. Observations made before the warm-up ends are not passed on, since a loss
    that stalls while the learning rate is still rising is no plateau.

    >>> schedule = Warmup(0.1, 6, then=Constant(0.8))  # post 3, GroupNorm, batch 1k
    >>> schedule.lr(0), round(schedule.lr(3), 12), schedule.lr(6)
    (0.1, 0.45, 0.8)
    """

    start_lr: float
    epochs: float
    then: Constant | Step | Cosine | Plateau

    def __post_init__(self) -> None:
        if self.then.lr(0.0) != self.then.lr(self.epochs):
            raise ReproError(
                f"the schedule changes within the warm-up of {self.epochs} epochs:"
                " expected its first change after it; shorten the warm-up or move the milestones"
            )
        if self.start_lr > self.then.base_lr:
            raise ReproError(
                f"warmup_from is {self.start_lr}: expected at most the learning rate it leads to,"
                f" {self.then.base_lr}; lower it"
            )

    def lr(self, epoch: float) -> float:
        """Return the warm-up's line before ``epochs`` and then.lr(epoch) from there on."""
        if _progress(epoch) >= self.epochs:
            return self.then.lr(epoch)
        passed = epoch / self.epochs
        return (1 - passed) * self.start_lr + passed * self.then.base_lr

    def observe(self, metric: float, epoch: float) -> Self:
        """Return the schedule after one observation, which counts if the warm-up is over at ``epoch``."""
        if _progress(epoch) < self.epochs:
            return self
        return dataclasses.replace(self, then=self.then.observe(metric, epoch))

    def state(self) -> dict[str, Any]:
        """Return the state of the schedule that follows."""
        return self.then.state()

    def with_state(self, state: Mapping[str, Any]) -> Self:
        """Return this schedule with the state of the schedule that follows."""
        return dataclasses.replace(self, then=self.then.with_state(state))


def build(spec: Mapping[str, Any]) -> Schedule:
    """Make a schedule from a plain mapping such as a spec's ``schedule``.

    Keys: ``kind`` ("constant", "step", "cosine" or "plateau"), ``lr``, what the kind takes (step: milestones
    and factor; cosine: epochs, counted from the start of training; plateau: factor, patience and threshold,
    which default to torch's), and for a warm-up both ``warmup_epochs`` and ``warmup_from``. All times in
    epochs.
    Raises ReproError, naming the key, for anything unknown, missing or out of range.

    >>> build({"kind": "cosine", "lr": 0.1, "epochs": 20, "warmup_epochs": 5, "warmup_from": 0.01})
    Warmup(start_lr=0.01, epochs=5, then=Cosine(base_lr=0.1, epochs=20, start=5))
    """
    from repro.experiments import settings  # whose import takes a while
    from repro.validation import fitting

    given = fitting(settings.AnySchedule, spec, "schedule")
    for name in ("lr", "epochs"):
        if hasattr(given, name) and getattr(given, name) is None:
            raise ReproError(f"schedule, key {name}: missing; a value was expected; add it")
    if given.warmup is not None:
        raise ReproError("schedule: unknown key 'warmup'; it says how a warm-up shrinks, and goes when it has shrunk")
    main: Constant | Step | Cosine | Plateau
    if isinstance(given, settings.ConstantSchedule):
        main = Constant(given.lr)
    elif isinstance(given, settings.StepSchedule):
        main = Step(given.lr, tuple(given.milestones), given.factor)
    elif isinstance(given, settings.CosineSchedule):
        main = Cosine(given.lr, given.epochs, start=given.warmup_epochs or 0.0)
    else:
        options = given.given()
        main = Plateau(
            given.lr, **{name: options[name] for name in ("factor", "patience", "threshold") if name in options}
        )
    return Warmup(given.warmup_from, given.warmup_epochs, then=main) if given.warmup_epochs else main


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ReproError(f"{name} is {value!r}: expected a finite number; correct it")
    return value


def _count(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ReproError(f"{name} is {value!r}: expected an integer >= 0; correct it")


def _progress(epoch: float) -> float:
    if _number("epoch", epoch) < 0:
        raise ReproError(f"epoch is {epoch!r}: expected progress >= 0 in epochs; pass step / steps_per_epoch")
    return epoch
