"""A training: rounds, evaluations, checkpoints and what its record holds."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from repro import codecs, files
from repro.checkpoint import Checkpoint
from repro.errors import Diverged, NotFinite, ReproError
from repro.experiments import schedules
from repro.experiments.stepup import StepUp
from repro.machine import device
from repro.randomness import derive
from repro.registry import specs, store
from repro.registry.specs import Spec
from repro.results.metrics import step_up_share
from repro.results.records import Record
from repro.running.clock import Clock
from repro.running.prepare import Setting, evaluation_parts_of, prepare
from repro.training import Round, fast, probe
from repro.training.buffers import Buffers
from repro.training.evaluate import evaluate_shared
from repro.training.gate import Gate
from repro.training.momenta import Momenta
from repro.training.sharpness import hessian_top_eigenvalue
from repro.training.steps import gradient_norm, sgd

SHARPNESS_IMAGES = 500


@dataclass
class State:
    """The part of a run's state that is not in the model: what a checkpoint holds besides weights and momentum.

    ``epoch_...`` count since the last row, ``observed_...`` since the last evaluation that the schedule observed.
    """

    rounds: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    gradient_norms: list[float] = field(default_factory=list)
    factors: list[float] = field(default_factory=list)
    bytes_up: int = 0
    bytes_down: int = 0
    epoch_loss: float = 0.0
    epoch_correct: int = 0
    epoch_images: int = 0
    observed_loss: float = 0.0
    observed_images: int = 0
    schedule: dict[str, Any] = field(default_factory=dict)
    states: list[codecs.State] = field(default_factory=list)
    own_buffers: list[dict[str, torch.Tensor]] = field(default_factory=list)
    momenta: list[dict[str, torch.Tensor]] = field(default_factory=list)

    def count(self, done: Round) -> None:
        """Add a finished round."""
        self.rounds = done.number
        self.losses.append(done.loss)
        self.bytes_up += done.bytes_up
        self.bytes_down += done.bytes_down
        self.epoch_loss += done.loss * done.images
        self.epoch_correct += done.correct
        self.epoch_images += done.images
        self.observed_loss += done.loss * done.images
        self.observed_images += done.images


def train(
    spec: Spec, seed: int, root: Path, identity: dict[str, Any], processes: int, checkpoint: Checkpoint,
    report: Callable[[float], None],
) -> Record:  # fmt: skip
    """Train one run, from its checkpoint where there is one, and return its record.

    Args:
        spec: of kind ``train``.
        seed: of everything random.
        root: root of the repository.
        identity: fields of the record that tell which run it is of.
        processes: processes that the clients of federated averaging are spread over.
        checkpoint: from which the run goes on, and into which its state is saved.
        report: called with the finished share (0..1) after every round.

    Raises:
        ReproError: bad data or settings.
    """
    _expect_meaningful(spec)
    setting = prepare(spec, seed, root)
    model, batches = setting.model, setting.batches
    on_workers = _corrects_momentum(spec)  # then momentum and weight decay are not the server's
    optimiser = sgd(model, 0.0 if on_workers else spec.momentum, 0.0 if on_workers else spec.weight_decay)
    schedule = schedules.build(spec.schedule)
    progress = checkpoint.restore(lambda state: _restored(state, model, optimiser)) or State()
    if progress.schedule:
        schedule = schedule.with_state(progress.schedule)
    if not progress.states:
        codec, stream = _codec(spec), derive(seed, "codec")
        progress.states = [codec.new_state(stream, client) for client in range(batches.clients)]
        progress.own_buffers = Buffers.start(spec.buffers, model, batches.clients).own
        progress.momenta = Momenta.start(spec.local_momentum, model, batches.clients).own
    buffers, track = Buffers(spec.buffers, progress.own_buffers), spec.track or []
    clock, step_up = Clock.of(spec, batches), _step_up(spec, seed, root)
    gate = Gate(step_up, seed, progress.gradient_norms, progress.factors) if step_up else None
    total = clock.total
    reason = None
    try:
        with ExitStack() as stack:
            lr = lambda epoch: schedule.lr(epoch)  # noqa: E731  (reads the schedule as it stands then)
            rounds, evaluation = _rounds(
                spec, setting, optimiser, lr, progress, clock, processes, buffers, gate, stack
            )  # fmt: skip
            for done in rounds:
                if "gradient_norm" in track:
                    progress.gradient_norms.append(gradient_norm(model))
                progress.count(done)
                if spec.diverges_above is not None and done.loss > spec.diverges_above:
                    raise Diverged(
                        f"the training loss is {done.loss:g}; at most {spec.diverges_above:g} was expected "
                        "(diverges_above); lower the learning rate"
                    )
                if clock.evaluates(done.number):
                    found = evaluation(clock.final(done.number))
                    row = _row(done, progress, clock.epoch(done.number), found)
                    if "per_class" in track:
                        row["test_top1_by_class"] = found["top1_by_class"]
                    if "training_sample" in track:
                        row |= _on_training_sample(spec, setting, buffers)
                    if done.number == total:
                        row |= _at_the_end(spec, seed, setting, done, buffers)
                    progress.rows.append(row)
                    progress.epoch_loss, progress.epoch_correct, progress.epoch_images = 0.0, 0, 0
                if clock.regular(done.number):
                    observed = progress.observed_loss / progress.observed_images
                    schedule = schedule.observe(observed, clock.epoch(done.number))
                    progress.observed_loss, progress.observed_images = 0.0, 0
                report(done.number / total)
                if done.number < total and checkpoint.due():
                    progress.schedule = schedule.state()
                    checkpoint.save(
                        {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "progress": vars(progress)}
                    )
    except Diverged as error:
        reason = f"after {progress.rounds} of {total} rounds: {error}"
    return Record(
        **identity, data=setting.data, status="completed" if reason is None else "diverged", reason=reason,
        rows=progress.rows, series=_series(spec, progress),
    )  # fmt: skip


def _series(spec: Spec, progress: State) -> dict[str, list[float]]:
    """What a record holds of every round, to six digits: a training may have tens of thousands of rounds."""
    series = {"train_loss": progress.losses}
    if "gradient_norm" in (spec.track or []) or spec.step_up:
        series["gradient_norm"] = progress.gradient_norms
    if spec.step_up:
        series["step_up_factor"] = progress.factors
    return {name: [files.rounded(value) for value in values] for name, values in series.items()}


def _restored(state: Mapping[str, Any], model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> State:
    """The progress in a checkpoint's ``state``; sets model and optimiser, or leaves both if it does not fit."""
    progress = State(**state["progress"])
    kept = copy.deepcopy((model.state_dict(), optimiser.state_dict()))
    try:
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    except (RuntimeError, ValueError, KeyError):
        model.load_state_dict(kept[0])
        optimiser.load_state_dict(kept[1])
        raise
    return progress


def _on_training_sample(spec: Spec, setting: Setting, buffers: Buffers) -> dict[str, float]:
    """Accuracy and mean loss on a sample of the training images, without augmentation, evaluated as test images are."""
    found = evaluate_shared(setting.model, setting.training_sample(), spec.precision, buffers)
    _expect_finite("training sample", found["loss"])
    return {"train_sample_top1": found["top1"], "train_sample_loss": found["loss"]}


def _expect_meaningful(spec: Spec) -> None:
    """Raise a ReproError for settings that the run's method or network could only ignore."""
    track = spec.track or []
    for given, meant, remedy in (
        (spec.step_up is not None, spec.method == "central", "step_up: central"),
        (spec.evaluate_at is not None, spec.method != "federated", "evaluate_at: central or large_batch"),
        (spec.buffers != "average", spec.method != "central", f"buffers {spec.buffers}: large_batch or federated"),
        ("gradient_norm" in track, spec.method != "federated", "track gradient_norm: central or large_batch"),
        ("batch_statistics" in track, spec.method == "large_batch", "track batch_statistics: large_batch"),
    ):
        if given and not meant:
            raise ReproError(f"{spec.run}: method {spec.method} with {remedy} was expected; correct the spec")
    if "gradient_norm" in track and spec.step_up is not None:
        raise ReproError(f"{spec.run}: track gradient_norm with step_up, which records it anyway; leave it out")
    if "batch_statistics" in track and spec.norm != "batch":
        raise ReproError(f"{spec.run}: norm {spec.norm} with track batch_statistics: batch was expected; correct it")


def _step_up(spec: Spec, seed: int, root: Path) -> StepUp | None:
    """The rule by which gradients are stepped up; its share is that of another run's record where the spec says so."""
    if spec.step_up is None:
        return None
    share, other = 0.0, spec.step_up.get("share_of")
    if other is not None:
        record = store.stored(specs.sibling(other, spec, root), seed, root)
        if record is None:
            raise ReproError(
                f"{spec.run}: it steps up as often as {other}, which has no valid record of seed {seed}; "
                f"run `python -m repro run {other} --profile {spec.profile}` first"
            )
        share = step_up_share(record) or 0.0  # None if it diverged at once
    return StepUp.of(specs.described(spec.step_up, share))


def _at_the_end(spec: Spec, seed: int, setting: Setting, done: Round, buffers: Buffers) -> dict[str, Any]:
    """What the last row holds besides, where it is tracked; ``done`` is the last round.

    ``classes_of_clients``: the labels in each client's shard. ``clients_top1_by_class``: for each client the accuracy
    of each class that its own model had before the last aggregation (None: no evaluation image of that class).
    ``batch_statistics``: ``probe.statistics_against_union``. ``train_images_top1``: accuracy on the training images,
    without augmentation and in evaluation mode. ``hessian_top_eigenvalue``: of the mean loss on the first
    ``hessian_images`` training images, likewise, after ``hessian_iterations`` products with the Hessian, enough for it
    to settle where ``hessian_converged``.
    """
    track, found = spec.track or [], dict[str, Any]()
    if "per_class" in track and spec.method != "central":
        found["classes_of_clients"] = [list(classes) for classes in probe.own_classes(setting.batches)]
    if done.clients_top1_by_class is not None:
        found["clients_top1_by_class"] = done.clients_top1_by_class
    if "batch_statistics" in track:
        found["batch_statistics"] = probe.statistics_against_union(
            setting.model, setting.batches, done.number, setting.evaluation, buffers, spec.precision
        )
    if "training_images" in track:
        parts = evaluation_parts_of(setting.batches.images)
        found["train_images_top1"] = evaluate_shared(setting.model, parts, spec.precision, buffers)["top1"]
    if "sharpness" in track:
        x, y = setting.batches.images.centre(0, SHARPNESS_IMAGES)
        top = hessian_top_eigenvalue(setting.model, x, y, derive(seed, "sharpness"))
        found |= {
            "hessian_top_eigenvalue": top.value, "hessian_iterations": top.iterations,
            "hessian_converged": top.converged, "hessian_images": len(y),
        }  # fmt: skip
    return found


def _rounds(
    spec: Spec, setting: Setting, optimiser: torch.optim.Optimizer, lr: Callable[[float], float],
    progress: State, clock: Clock, processes: int, buffers: Buffers, gate: Gate | None, stack: ExitStack,
) -> tuple[Iterator[Round], Callable[[bool], Mapping[str, Any]]]:  # fmt: skip
    """The rounds of the spec's method that are left, and the evaluation of the model between them.

    The evaluation is told whether it is one of the last ones.
    """
    model, batches = setting.model, setting.batches
    todo, states = range(progress.rounds, clock.total), progress.states

    def here(final: bool) -> Mapping[str, Any]:
        return evaluate_shared(model, setting.evaluation_parts(final), spec.precision, buffers)

    if spec.method == "central":
        return fast.centralised(model, optimiser, batches, lr, todo, spec.precision, before_step=gate), here
    codec, download = _codec(spec), codecs.build("int8" if spec.quantised_weights else "dense")
    told = codecs.warm_up(spec.sparsity_warmup, spec.epochs)
    if spec.method == "large_batch":
        rounds = fast.large_batch(
            model, optimiser, batches, codec, lr, todo, spec.precision, states=states, download=download,
            progress=told, buffers=buffers, weight_decay=spec.weight_decay if _corrects_momentum(spec) else 0.0,
        )  # fmt: skip
        return rounds, here
    momenta = Momenta(spec.local_momentum, progress.momenta)
    # A schedule with a state changes in this process only, so its clients must run here too.
    alone = device().type != "cpu" or bool(schedules.build(spec.schedule).state())
    pool = fast.client_pool(
        model, batches, codec, lr, local_epochs=spec.local_epochs, momentum=spec.momentum,
        weight_decay=spec.weight_decay, precision=spec.precision, download=download, progress=told,
        evaluation=setting.evaluation_parts(), processes=1 if alone else processes, buffers=buffers,
        local_steps=clock.local_steps, momenta=momenta, final=setting.evaluation_parts(final=True),
    )  # fmt: skip
    clients = stack.enter_context(pool)
    rounds = fast.federated_averaging(
        model, clients, batches, codec, lr, todo, spec.local_epochs, states=states, download=download,
        buffers=buffers, local_steps=clock.local_steps, momenta=momenta, weights=spec.weights,
        score_clients_in=clock.total - 1 if "per_class" in (spec.track or []) else None,
    )  # fmt: skip
    return rounds, partial(clients.evaluate, model)


def _codec(spec: Spec) -> codecs.Codec:
    return codecs.of_run(
        spec.codec, spec.method, spec.momentum, workers=spec.workers, options=spec.codec_options
    )  # fmt: skip


def _corrects_momentum(spec: Spec) -> bool:
    """Whether workers, instead of the server, apply momentum and weight decay."""
    return spec.method == "large_batch" and _codec(spec).corrects_momentum


def _expect_finite(what: str, loss: float) -> None:
    if not math.isfinite(loss):
        raise NotFinite(f"the {what} loss is {loss}; a finite loss was expected; lower the learning rate")


def _row(done: Round, progress: State, epoch: float, found: Mapping[str, Any]) -> dict[str, Any]:
    _expect_finite("evaluation", found["loss"])
    return {
        "epoch": epoch,
        "round": done.number,
        "lr": done.lr,
        "train_loss": progress.epoch_loss / progress.epoch_images,
        "train_top1": progress.epoch_correct / progress.epoch_images,
        "test_loss": found["loss"],
        "test_top1": found["top1"],
        "test_top5": found["top5"],
        "bytes_up": progress.bytes_up,
        "bytes_down": progress.bytes_down,
    }
