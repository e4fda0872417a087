"""Can a gradient of a small batch be predicted from that of a large one? Runs of kind ``teacher`` (paper, Equation 5).

A network is trained on large batches. After some of its first steps pairs of gradients are drawn, and every teacher is
trained on them. What it then makes of large batches' gradients is held against those of small batches that it has not
seen: after *later* steps of the same training, and in *another* training, with other initial weights and another order
of images, after the same steps as the pairs.

No teacher can gain much over the identity. With the gradient M of all images and the covariance C of one image's, the
best prediction of the gradient of b images is M, whose R2 is |M|^2 / (|M|^2 + tr C / b). That of the gradient of B
other images is (|M|^2 - tr C / B) / (|M|^2 + tr C / b). The difference is less than b / B.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from repro.checkpoint import Checkpoint
from repro.data.batches import Batches, Images
from repro.experiments.sizes import SMALL_BATCHES
from repro.randomness import derive, generator
from repro.results.records import Record
from repro.results.teachers import ANOTHER, LATER, MEAN
from repro.running.job import Job, Report
from repro.running.prepare import at_one_rate, prepare
from repro.training import plain
from repro.training.looking import drawn, looking, of_batch
from repro.training.steps import Optimisation
from repro.training.teachers import TEACHERS, Learnt, Pairs


@dataclass(frozen=True)
class Plan:
    """What is drawn, and when.

    Attributes:
        steps: at least two finished steps of training after which pairs are drawn, ascending. Teachers are trained on
            those of the first half, and tested after the others.
        small: images b of a small batch.
        large: images B of large batches; there are teachers for each.
        pairs: large batches after each step; each has one small batch beside it in training, and several in testing.
    """

    steps: Sequence[int]
    small: int
    large: Sequence[int]
    pairs: int

    @property
    def fitted(self) -> Sequence[int]:
        """Steps whose pairs train the teachers; in the other training they are tested after the same."""
        return self.steps[: len(self.steps) // 2]

    @property
    def teachers(self) -> list[tuple[str, int]]:
        """Name and large batch of every teacher."""
        return [(name, batch) for batch in self.large for name in TEACHERS]

    def units(self) -> list[tuple[str, int]]:
        """The work in its order: steps of the own training, teachers to train, later steps, steps of the other one."""
        last = self.fitted[-1]
        own = [("own", step) for step in range(1, self.steps[-1] + 1)]
        teachers = [("teacher", number) for number in range(len(self.teachers))]
        return [*own[:last], *teachers, *own[last:], *(("other", step) for step in range(1, last + 1))]


class Student(NamedTuple):
    """A network in training, its optimiser, and its images."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    batches: Batches


def pairs_at(
    model: nn.Module, images: Images, plan: Plan, beside: int, random: np.random.Generator
) -> tuple[Tensor, dict[int, Tensor]]:
    """Gradients (pairs, d) of large batches by their size, and (pairs, beside, d) of small ones; the latter come first.

    The model stays as it is.
    """
    small, large = list[Tensor](), {size: list[Tensor]() for size in plan.large}
    with looking(model):
        for _ in range(plan.pairs):
            few, many = drawn(len(images), [plan.small] * beside, plan.large, random)
            small.append(torch.stack([of_batch(model, images, index).float() for index in few]))
            for size, index in zip(plan.large, many, strict=True):
                large[size].append(of_batch(model, images, index).float())
    return torch.stack(small), {size: torch.stack(found) for size, found in large.items()}


class Target(NamedTuple):
    """Gradients of the small batches beside each large one: their sum (pairs, d), sum of squares, and number beside."""

    total: Tensor
    squared: float
    beside: int


@dataclass
class Progress:
    """What is finished of an unfinished run; the network in training is apart.

    Attributes:
        done: finished units of work.
        pairs: what teachers are trained on, one entry a step: gradients of small batches, and of large ones by size.
        learnt: what each teacher has learnt, by its number.
        sums: by teacher, large batch and held-out set: squared error, squared norm of the predictions and of what is
            predicted, and number of pairs.
        seconds: that each teacher took to be trained.
    """

    done: int = 0
    pairs: list[tuple[Tensor, dict[int, Tensor]]] = field(default_factory=list)
    learnt: dict[int, Learnt] = field(default_factory=dict)
    sums: dict[str, list[float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class Measurement:
    """One run: its two trainings, its teachers, and how far it is.

    Args:
        student: makes the untrained network, the optimiser and the images of a training from its seed.
        optimisation: of both trainings. Looked-at gradients are float32.
        plan: what is drawn, and when.
        seed: of the run; the other training has one that is derived from it.
        checkpoint: where the state is kept, and where the run goes on from.
    """

    def __init__(
        self, student: Callable[[int], Student], optimisation: Optimisation, plan: Plan, seed: int,
        checkpoint: Checkpoint | None = None,
    ) -> None:  # fmt: skip
        self.make, self.optimisation, self.plan, self.seed = student, optimisation, plan, seed
        self.checkpoint, self.units = checkpoint, plan.units()
        self.student: Student | None = None
        self.progress = (checkpoint.restore(self._restored) if checkpoint else None) or Progress()

    def run(self, report: Report = lambda share: None) -> list[dict[str, Any]]:
        """Do what is left, and return a row for each held-out set, large batch and teacher.

        A row holds ``teacher``, ``held_out``, ``small`` and ``large`` (images), ``pairs``, ``r2`` (1 less the squared
        error over the squared norm of what is predicted), ``length`` (squared norm of the predictions over the same),
        and how many ``numbers`` the teacher keeps.
        """
        progress = self.progress
        for number in range(progress.done, len(self.units)):
            what, k = self.units[number]
            if what == "teacher":
                self._train_teacher(k)
            else:
                self._step(what, k)
            progress.done = number + 1
            report(progress.done / len(self.units))
            if self.checkpoint and progress.done < len(self.units) and self.checkpoint.due():
                self._save(self.checkpoint)
        return [
            self._row(name, batch, held_out)
            for held_out in (LATER, ANOTHER)
            for batch in self.plan.large
            for name in (*TEACHERS, MEAN)
        ]

    def _step(self, training: str, step: int) -> None:
        """A step of the own training or of the other one, and what is drawn after it."""
        if step == 1:
            self.student = self.make(self._seed_of(training))
        assert self.student is not None
        model, optimiser, batches = self.student
        list(plain.centralised(model, optimiser, batches, self.optimisation, range(step - 1, step)))
        if step not in self.plan.steps:
            return
        fitted, random = training == "own" and step in self.plan.fitted, generator(self.seed, "pairs", training, step)
        small, large = pairs_at(model, batches.images, self.plan, 1 if fitted else SMALL_BATCHES, random)
        if fitted:
            self.progress.pairs.append((small[:, 0], large))
        else:
            self._test(LATER if training == "own" else ANOTHER, step, small, large)

    def _seed_of(self, training: str) -> int:
        return self.seed if training == "own" else derive(self.seed, "another training")

    def _train_teacher(self, k: int) -> None:
        (name, batch), found = self.plan.teachers[k], self.progress.pairs
        assert self.student is not None
        pairs = Pairs(
            torch.cat([large[batch] for _, large in found]),
            torch.cat([small for small, _ in found]),
            [parameter.numel() for parameter in self.student.model.parameters()],
            batch,
            self.plan.small,
            derive(self.seed, "teacher", name, batch),
        )
        began = time.monotonic()
        self.progress.learnt[k] = TEACHERS[name].fit(pairs)
        self.progress.seconds[f"{name}, {batch} images"] = round(time.monotonic() - began, 3)
        if k + 1 == len(self.plan.teachers):
            found.clear()  # so that later checkpoints are small

    def _test(self, held_out: str, step: int, small: Tensor, large: Mapping[int, Tensor]) -> None:
        """Predict the gradients (pairs, beside, d) of small batches, teacher by teacher."""
        target = Target(small.double().sum(dim=1), _squared(small), small.shape[1])
        for k, (name, batch) in enumerate(self.plan.teachers):
            random = torch.Generator().manual_seed(derive(self.seed, "noise", name, batch, held_out, step))
            made = TEACHERS[name].predict(self.progress.learnt[k], large[batch], random)
            self._count((name, batch, held_out), made, target)
        for batch, vectors in large.items():
            self._count((MEAN, batch, held_out), vectors.mean(dim=0).expand_as(vectors), target)

    def _count(self, place: tuple[str, int, str], made: Tensor, target: Target) -> None:
        """Add predictions (pairs, d), of which each is of all small batches beside its large one."""
        predicted = target.beside * _squared(made)
        error = predicted - 2 * float((made * target.total).sum()) + target.squared
        sums = self.progress.sums.setdefault(str(place), [0.0, 0.0, 0.0, 0])
        for i, value in enumerate((error, predicted, target.squared, target.beside * len(made))):
            sums[i] += value

    def _row(self, name: str, batch: int, held_out: str) -> dict[str, Any]:
        error, predicted, small, pairs = self.progress.sums[str((name, batch, held_out))]
        learnt = {} if name == MEAN else self.progress.learnt[self.plan.teachers.index((name, batch))]
        return {
            "teacher": name, "held_out": held_out, "small": self.plan.small, "large": batch, "pairs": pairs,
            "r2": 1 - error / small, "length": predicted / small,
            "numbers": sum(tensor.numel() for tensor in learnt.values() if tensor.is_floating_point()),
        }  # fmt: skip

    def _save(self, checkpoint: Checkpoint) -> None:
        assert self.student is not None
        model, optimiser = self.student.model.state_dict(), self.student.optimiser.state_dict()
        checkpoint.save({"model": model, "optimiser": optimiser, "progress": vars(self.progress)})

    def _restored(self, state: Mapping[str, Any]) -> Progress:
        """The progress in a checkpoint's ``state``; makes the network that was in training."""
        progress = Progress(**state["progress"])
        trained = [what for what, _ in self.units[: progress.done] if what != "teacher"]
        student = self.make(self._seed_of(trained[-1]))
        student.model.load_state_dict(state["model"])
        student.optimiser.load_state_dict(state["optimiser"])
        self.student = student
        return progress


def _squared(vectors: Tensor) -> float:
    """Sum of squares."""
    return float(vectors.double().square().sum())


def run(job: Job) -> Record:
    """Measure what the teachers of a spec of kind ``teacher`` predict."""
    spec = job.spec
    optimisation = at_one_rate(spec)
    data: dict[str, Any] = {}

    def student(seed: int) -> Student:
        setting = prepare(spec, seed, job.root)
        data.update(setting.data)
        return Student(setting.model, optimisation.optimiser(setting.model), setting.batches)

    small, *large = spec.batch_sizes or []
    plan = Plan(spec.measured_steps or [], small, large, spec.repetitions)
    measurement = Measurement(student, optimisation, plan, job.seed, job.checkpoint)
    rows = measurement.run(job.report)
    job.seconds.update(measurement.progress.seconds)
    return job.record(data=data, rows=rows)
