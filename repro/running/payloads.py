"""How large are real messages? Every codec encodes the gradients, changes and weights of one training at some steps."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from repro import codecs
from repro.checkpoint import Checkpoint
from repro.codecs.expected import Expected
from repro.codecs.message import convolutions, flatten
from repro.codecs.sparse import density, kept
from repro.codecs.zipped import Zipped
from repro.data.batches import Batches
from repro.experiments.numerics import MEASURED_CODECS
from repro.experiments.post2 import SPARSITY, WARM_UP
from repro.results.records import Record
from repro.results.traffic import CHANGE, GRADIENT, WEIGHTS, dgc_at
from repro.running.job import Job, Report
from repro.running.prepare import prepare
from repro.training import plain
from repro.training.steps import Optimisation, gradients

_DGC = tuple(dgc_at(sparsity) for sparsity in (*WARM_UP, SPARSITY))
_ROWS: dict[str, dict[str, dict[str, Any]]] = {
    "dgc": {dgc_at(sparsity): {"sparsity": (sparsity,)} for sparsity in (*WARM_UP, SPARSITY)},
    "top-k": {"top-k": {"sparsity": SPARSITY}},
    "top-k-residual": {"top-k-residual": {"sparsity": SPARSITY}},
}
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    row: (codec, options) for codec in MEASURED_CODECS for row, options in _ROWS.get(codec, {codec: {}}).items()
}
"""Row of a record -> codec and options: what post 2 compares and names, and DGC at every sparsity of its warm-up."""

ZIPPED = ("int8", *_DGC)
"""Rows that have a second one, ``+zip``: the same message, zipped."""

REMEMBERING = (*_DGC, "top-k-residual", "1-bit")
"""Rows whose codec keeps what it did not send for the next message."""

QUANTISED = ("dense", "int8", "int8-affine")
"""Rows that exist for changes and weights, too: post 2 applies F2I alone to them."""


@dataclass
class _Progress:
    """All of an unfinished measurement that is not in the model.

    Attributes:
        step: finished steps.
        threshold: of the codec ``threshold``, once the first gradient is known.
        states: memory of each codec.
        before: step -> weights from which a change that ends there is counted.
        rows: finished rows.
    """

    step: int = 0
    threshold: float | None = None
    states: dict[str, codecs.State] = field(default_factory=dict)
    before: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def run(job: Job) -> Record:
    """Measure the messages of a spec of kind ``payloads``."""
    spec, setting = job.spec, prepare(job.spec, job.seed, job.root)
    when = Moments(spec.measured_steps or [1], spec.local_steps, spec.memory_steps)
    optimisation = Optimisation(lambda _: spec.schedule["lr"], precision=spec.precision)
    rows = measure(
        setting.model, setting.batches, optimisation, when, job.seed, checkpoint=job.checkpoint, report=job.report
    )
    return job.record(data=setting.data, rows=rows)


@dataclass(frozen=True)
class Moments:
    """When messages are measured.

    Attributes:
        steps: steps to measure at, counted from 1.
        local_steps: steps of a change (None: no change is measured).
        memory_steps: steps before each measured one that codecs with a memory see (None: all).
    """

    steps: Collection[int]
    local_steps: int | None = None
    memory_steps: int | None = None

    @property
    def last(self) -> int:
        """The last step."""
        return max(self.steps)

    def seen(self) -> set[int]:
        """Steps whose gradient some codec sees."""
        memory = self.last if self.memory_steps is None else self.memory_steps
        return {step for measured in self.steps for step in range(max(1, measured - memory), measured + 1)}


def measure(
    model: nn.Module,
    batches: Batches,
    optimisation: Optimisation,
    when: Moments,
    seed: int,
    *,
    checkpoint: Checkpoint | None = None,
    report: Report = lambda share: None,
) -> list[dict[str, Any]]:
    """Train with plain SGD on one client, and encode at the given steps what is sent after them.

    What is encoded, parameters only: ``gradient``, that of the step; ``change``, that of the weights over the last
    ``local_steps`` steps, the delta of federated averaging; ``weights``, after the step. A change is left out where
    so many steps have not been made. The threshold of the codec ``threshold`` is fixed by the first gradient: 0.1 % of
    its convolution weights reach it.

    A codec with a memory has one for the whole training, and is also given the gradients of the ``memory_steps``
    steps before each measured one: what piles up over a longer time is not seen. Steps that no codec sees may compute
    in bfloat16, all others compute at least in float32: gradients of bfloat16 layers end in zero bits, which zip would
    count as its own success.

    Args:
        model: the network; it is trained in place.
        batches: of one client.
        optimisation: learning rate, and precision where no codec sees the gradient.
        when: which steps.
        seed: of the codecs that draw at random.
        checkpoint: where the state is kept, and where the training goes on from.
        report: called with the finished share after every step.

    Returns:
        One row for each step, ``what`` and codec: ``step``, ``what``, ``codec``, ``bytes`` and ``dense_bytes``,
        lengths of real payloads that were decoded again.
    """
    optimiser, seen, local_steps = optimisation.optimiser(model), when.seen(), when.local_steps
    exact = replace(optimisation, precision="fp32" if optimisation.precision == "bf16" else optimisation.precision)
    done = checkpoint.restore(lambda state: _restored(state, model)) if checkpoint else None
    done = done or _Progress(before={local_steps: _weights(model)} if local_steps and local_steps in when.steps else {})
    made = {} if done.threshold is None else _build(done.threshold)
    for step in range(done.step + 1, when.last + 1):
        computed = exact if step == 1 or step in seen else optimisation  # the first one sets the threshold
        list(plain.centralised(model, optimiser, batches, computed, range(step - 1, step)))
        gradient = gradients(model)
        if not made:
            done.threshold = _threshold(gradient)
            made = _build(done.threshold)
            done.states = {name: codec.new_state(seed, 0) for name, codec in made.items()}
        if local_steps and step + local_steps in when.steps:
            done.before[step + local_steps] = _weights(model)
        if step in when.steps:
            done.rows += _rows_of_step(step, gradient, _weights(model), done, made)
        elif step in seen:
            for name in REMEMBERING:
                made[name].encode(done.states[name], gradient)
        done.step = step
        report(step / when.last)
        if checkpoint and step < when.last and checkpoint.due():
            checkpoint.save({"model": model.state_dict(), "progress": vars(done)})
    return done.rows


def _restored(state: Mapping[str, Any], model: nn.Module) -> _Progress:
    """The progress in a checkpoint's ``state``, and its weights in ``model``; an error leaves ``model`` as it was."""
    progress, before = _Progress(**state["progress"]), copy.deepcopy(model.state_dict())
    try:
        model.load_state_dict(state["model"])
    except RuntimeError:
        model.load_state_dict(before)
        raise
    return progress


def _rows_of_step(
    step: int,
    gradient: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    done: _Progress,
    made: Mapping[str, codecs.Codec],
) -> list[dict[str, Any]]:
    """The rows of a measured step: its gradient by every codec, change and weights by those of ``QUANTISED``."""
    rows = _rows(step, GRADIENT, gradient, made, done.states)
    plain_ones = {name: made[name] for name in QUANTISED}
    if step in done.before:
        start = done.before.pop(step)
        change = {name: tensor - start[name] for name, tensor in weights.items()}
        rows += _rows(step, CHANGE, change, plain_ones, done.states)
    return rows + _rows(step, WEIGHTS, weights, plain_ones, done.states)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def _threshold(first: Mapping[str, Tensor]) -> float:
    """The threshold that 0.1 % of the convolution weights of ``first`` reach."""
    magnitudes = torch.cat([flatten(tensor)[0].abs() for name, tensor in first.items() if convolutions(name, tensor)])
    most = magnitudes.topk(kept(len(magnitudes), density(SPARSITY)), sorted=False).values
    return float(most.min())


def _build(threshold: float) -> dict[str, codecs.Codec]:
    """The codecs of all rows."""
    fixed = {"threshold": {"threshold": threshold}}
    return {name: codecs.build(codec, **options, **fixed.get(name, {})) for name, (codec, options) in CODECS.items()}


def _rows(
    step: int,
    what: str,
    tensors: Mapping[str, Tensor],
    made: Mapping[str, codecs.Codec],
    states: Mapping[str, codecs.State],
) -> list[dict[str, Any]]:
    sizes: dict[str, int] = {}
    expected = Expected.like(tensors.values())
    for name, codec in made.items():
        payload = codec.encode(states[name], tensors)
        codec.decode(payload, expected)
        sizes[name] = len(payload)
        if name in ZIPPED:
            zipped = Zipped(codec)
            sent = zipped.zip(payload)
            zipped.decode(sent, expected)
            sizes[f"{name}+zip"] = len(sent)
    return [
        {"step": step, "what": what, "codec": name, "bytes": size, "dense_bytes": sizes["dense"]}
        for name, size in sizes.items()
    ]
