"""How noisy and how sparse are gradients? Many batches of each size at the same weights (paper, Equations 4 and 9)."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from repro.checkpoint import Checkpoint
from repro.data.batches import Batches, Images
from repro.randomness import generator
from repro.results.records import Record
from repro.running.job import Job, Report
from repro.running.prepare import at_one_rate, prepare
from repro.training import plain
from repro.training.looking import looking, of_batch
from repro.training.steps import Optimisation

LARGEST = 0.001
"""Share of a gradient's values that ``top_share`` and ``top_cosine`` are of."""


def describe(vectors: Sequence[Tensor]) -> dict[str, float]:
    """Signal, noise and sparsity of R gradients of independent batches of one size.

    Returns:
        ``squared_norm``: their mean squared norm. ``noise``: the trace of their covariance, an unbiased estimate.
        ``signal``: the squared norm of their expectation, an unbiased estimate that can be negative. ``top_share``:
        mean share of the squared norm in the largest 0.1 % of the values. ``cosine``: mean cosine of a gradient with
        the mean of the others, and ``top_cosine``: that of its largest values with the same.
    """
    stacked, n = torch.stack(list(vectors)), len(vectors)
    mean = stacked.mean(dim=0)
    noise = float((stacked - mean).square().sum() / (n - 1))
    most = max(1, round(LARGEST * stacked.shape[1]))
    shares, cosines, kept = [], [], []
    for own in stacked:
        others = (n * mean - own) / (n - 1)
        top = own.abs().topk(most).indices
        largest = own[top]
        shares.append(float(largest.square().sum() / own.square().sum()))
        cosines.append(float(own @ others / own.norm() / others.norm()))
        kept.append(float(largest @ others[top] / largest.norm() / others.norm()))
    return {
        "squared_norm": float(stacked.square().sum() / n), "noise": noise,
        "signal": float(mean.square().sum()) - noise / n, "top_share": float(np.mean(shares)),
        "cosine": float(np.mean(cosines)), "top_cosine": float(np.mean(kept)),
    }  # fmt: skip


def at_weights(
    model: nn.Module, images: Images, sizes: Sequence[int], repetitions: int, random: np.random.Generator
) -> list[dict[str, Any]]:
    """One row of ``describe`` for each batch size; the model, its running statistics included, stays as it is.

    Images are drawn with replacement, so that the noise of a network without batch statistics is 1 / b times that of
    one image. Dropout is off.
    """
    rows = []
    with looking(model):
        for size in sizes:
            drawn = [random.integers(0, len(images), size=size) for _ in range(repetitions)]
            found = describe([of_batch(model, images, index) for index in drawn])
            rows.append({"batch": size, "repetitions": repetitions, **found})
    return rows


@dataclass
class _Progress:
    """Finished steps and rows of an unfinished measurement; the model's weights are apart."""

    step: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Looks:
    """What is looked at.

    Attributes:
        steps: finished steps of training after which gradients are looked at; 0 is before training.
        sizes: batch sizes b.
        repetitions: batches of each size, at least 2.
    """

    steps: Collection[int]
    sizes: Sequence[int]
    repetitions: int


def measure(
    model: nn.Module, batches: Batches, optimisation: Optimisation, looks: Looks, seed: int, *,
    checkpoint: Checkpoint | None = None, report: Report = lambda share: None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Train on one client, and look at the gradients of many batches after the given steps.

    Args:
        model: the network; it is trained in place.
        batches: of one client, from whose images the looked-at batches are drawn, too.
        optimisation: of the training. Looked-at gradients are float32, because bfloat16 adds noise of its own.
        looks: when, and at which batches.
        seed: of the draws.
        checkpoint: where the state is kept, and where the training goes on from.
        report: called with the finished share (0..1) after every step.

    Returns:
        One row for each step and size: ``step``, ``batch``, ``repetitions`` and what ``describe`` returns.
    """
    optimiser, last = optimisation.optimiser(model), max(looks.steps)
    restored = checkpoint.restore(lambda state: _restored(state, model, optimiser)) if checkpoint else None
    done = restored or _Progress(step=-1)
    for step in range(done.step + 1, last + 1):
        if step > 0:
            list(plain.centralised(model, optimiser, batches, optimisation, range(step - 1, step)))
        if step in looks.steps:
            random = generator(seed, "gradients", step)
            rows = at_weights(model, batches.images, looks.sizes, looks.repetitions, random)
            done.rows += [{"step": step, **row} for row in rows]
        done.step = step
        report((step + 1) / (last + 1))
        if checkpoint and step < last and checkpoint.due():
            state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "progress": vars(done)}
            checkpoint.save(state)
    return done.rows


def _restored(state: Mapping[str, Any], model: nn.Module, optimiser: torch.optim.Optimizer) -> _Progress:
    """The progress in a checkpoint's ``state``; sets model and optimiser, or leaves both if it does not fit."""
    kept = copy.deepcopy((model.state_dict(), optimiser.state_dict()))
    try:
        progress = _Progress(**state["progress"])
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, ValueError, KeyError, TypeError):
        model.load_state_dict(kept[0])
        optimiser.load_state_dict(kept[1])
        raise
    return progress


def run(job: Job) -> Record:
    """Look at the gradients of a spec of kind ``gradients``."""
    spec, setting = job.spec, prepare(job.spec, job.seed, job.root)
    optimisation = at_one_rate(spec)
    looks = Looks(spec.measured_steps or [0], spec.batch_sizes or [], spec.repetitions)
    rows = measure(
        setting.model, setting.batches, optimisation, looks, job.seed, checkpoint=job.checkpoint, report=job.report
    )
    return job.record(data=setting.data, rows=rows)
