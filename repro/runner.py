"""One spec and one seed in, one record out: the only place where data, models, codecs and engines meet."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import platform
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repro import codecs, datasets, laws, models, partition, payloads, published, records, schedules, specs, store
from repro.batches import Batches, Images, channel_moments, shrink
from repro.checkpoint import Checkpoint
from repro.engines import Round, bfloat16, fast, probe
from repro.engines.common import Buffers, Gate, Momenta, Part, evaluate_shared, gradient_norm, sgd
from repro.engines.sharpness import hessian_top_eigenvalue
from repro.errors import Diverged, NotFinite, ReproError
from repro.metrics import step_up_share
from repro.performance import measure
from repro.performance.workload import Trainer, Workload
from repro.randomness import derive, generator
from repro.records import Record
from repro.specs import HELD_OUT_IMAGES, Spec
from repro.stepup import StepUp

CHECKPOINT_SECONDS = 20.0
STUDY = "study"
"""The profile whose records say by which rules they are judged."""
EVALUATION_BATCH = 500
SHARPNESS_IMAGES = 500
TRAINING_SAMPLE = 2000
_DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.float32}


def device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@cache
def machine() -> dict[str, Any]:
    """What a bit-identical repetition needs to have in common: processor or GPU, instruction set, versions."""
    where = device()
    return {
        "device": torch.cuda.get_device_name() if where.type == "cuda" else _processor(),
        "instructions": torch.backends.cpu.get_cpu_capability()
        + (" bf16" if bfloat16.in_hardware() else " bf16 by float32"),
        "system": platform.system(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
    }


def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def _processor() -> str:
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _peak_memory() -> int | None:
    """Most bytes that this process held so far, or None where the system does not say (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(held if sys.platform == "darwin" else held * 1024)


def _code() -> dict[str, str]:
    """The commit that was checked out, and a hash of the package's code as it was when this process started.

    The hash identifies the code also where files differ from the commit, or where there is no git.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")

    def git(*arguments: str) -> str:
        command = ("git", *arguments)
        return subprocess.run(command, cwd=package.parent, capture_output=True, text=True, check=True).stdout.strip()

    try:
        head = git("rev-parse", "HEAD")
        changed = git("status", "--porcelain", "--", "repro", "pipelines", "requirements")
    except (OSError, subprocess.CalledProcessError):
        head, changed = "unknown", ""
    return {"commit": head + ("+changes" if changed else ""), "code": digest.hexdigest()}


CODE = _code()


@dataclass(frozen=True)
class Setting:
    """Everything that a training run needs, made from its spec; ``final``: what its last evaluations look at."""

    model: torch.nn.Module
    batches: Batches
    evaluation: Images
    classes: int
    data: dict[str, Any]
    final: Images | None = None

    def evaluation_parts(self, final: bool = False) -> list[Part]:
        """The batches of an evaluation, or of one of the last ones."""
        return _parts(self.final if final and self.final is not None else self.evaluation)

    def training_sample(self) -> list[Part]:
        """The first 2 000 training images, fewer if there are fewer, in batches of an evaluation."""
        return _parts(self.batches.images, TRAINING_SAMPLE)


def _parts(images: Images, most: int | None = None) -> list[Part]:
    """``images``, or the first ``most``, in batches of an evaluation, whose size is part of its numerics."""
    n = len(images) if most is None else min(most, len(images))
    return [partial(images.centre, at, min(at + EVALUATION_BATCH, n)) for at in range(0, n, EVALUATION_BATCH)]


def prepare(spec: Spec, seed: int, root: Path = Path()) -> Setting:
    """Load and shrink the data, spread it over the workers, and initialise the network.

    The images of a profile are one fixed subset, the same for all seeds. The 5 000 held-out images (a fifth, of a data
    set with fewer than 25 000) are the last of the same fixed order; runs that are evaluated on them never train on
    them. The ``test_images`` are the first of the ``final_test_images``.

    Raises:
        ReproError: missing or damaged data, more images or workers than there are, an impossible partition.
    """
    where, dtype = device(), _DTYPES[spec.precision]
    loaded = datasets.load(spec.dataset, root / "data")
    order = generator(0, "subset", spec.dataset).permutation(len(loaded.train_labels))
    held_out = min(HELD_OUT_IMAGES, len(order) // 5) if spec.evaluate_on == "held_out" else 0
    available = len(order) - held_out
    if spec.train_images > available:
        kept = f" of which {held_out} are held out" if held_out else ""
        raise ReproError(f"{spec.run}: {spec.train_images} training images; {spec.dataset} has {len(order)}{kept}")
    chosen = order[: spec.train_images]
    if spec.evaluate_on == "held_out":
        other, pixels, labels = order[available:], loaded.train_images, loaded.train_labels
    else:
        pixels, labels = loaded.test_images, loaded.test_labels
        other = generator(0, "subset", spec.dataset, "test").permutation(len(labels))
    for name, wanted in (("test_images", spec.test_images), ("final_test_images", spec.final_test_images or 0)):
        if wanted > len(other):
            raise ReproError(f"{spec.run}: {wanted} evaluation images; {len(other)} exist; lower {name}")

    train = shrink(loaded.train_images[chosen], spec.image_size)
    targets = np.asarray(loaded.train_labels[chosen])
    mean, std = channel_moments(train)
    padding = max(1, spec.image_size // 8) if spec.augment else 0
    images = Images(train, targets, mean, std, dtype=dtype, device=str(where), padding=padding)
    shards = partition.make(
        spec.partition, targets, spec.workers if spec.method != "central" else 1,
        generator(seed, "partition"), labels_per_client=spec.labels_per_client, alpha=spec.dirichlet_alpha,
        drop_uncovered=spec.drop_uncovered, batches=spec.local_batches,
    )  # fmt: skip

    def evaluated(n: int) -> Images:
        tested, of = shrink(pixels[other[:n]], spec.image_size), labels[other[:n]]
        return Images(tested, of, mean, std, dtype=dtype, device=str(where))

    return Setting(
        model=models.build(
            spec.model,
            classes=spec.classes or loaded.n_classes,
            width=spec.width,
            image_size=spec.image_size,
            norm=spec.norm,
            last_scale_zero=spec.last_scale_zero,
            seed=derive(seed, "weights"),
            dtype=dtype,
        ).to(where),
        batches=Batches(
            images, shards, spec.local_batch, seed, spec.augment, wait=spec.clients_wait, sizes=spec.local_batches
        ),
        evaluation=evaluated(spec.test_images),
        final=evaluated(spec.final_test_images) if spec.final_test_images is not None else None,
        classes=loaded.n_classes,
        data={
            "name": spec.dataset,
            "sha256": loaded.sha256,
            "reduced": loaded.reduced,
            "classes": loaded.n_classes,
        },
    )


@dataclass
class _Progress:
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


@dataclass(frozen=True)
class _Clock:
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
    def of(cls, spec: Spec, batches: Batches) -> _Clock:
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


def run(
    spec: Spec,
    seed: int,
    root: Path = Path(),
    *,
    processes: int = 1,
    checkpoint_seconds: float | None = None,
    report: Callable[[float], None] = lambda share: None,
) -> tuple[Record, dict[str, Any]]:
    """Execute one run and return its record and its provenance; nothing is written but checkpoints.

    Args:
        spec: what to run.
        seed: seed of everything random in the run.
        root: root of the repository.
        processes: processes that the clients of federated averaging are spread over; the record does not depend on it.
        checkpoint_seconds: least time between checkpoints (``CHECKPOINT_SECONDS`` when None); a run that was killed
            goes on from the last one. With infinity, checkpoints are neither written nor read.
        report: called with the finished share (0..1) after every round, step or measured size.

    Returns:
        The record, and its provenance. There ``seconds`` are those of the wall clock while the run went on,
        ``cpu_seconds`` those of processors, child processes included, each over all parts of a run that was taken up
        again; ``interruptions`` tells how often it was. Only what is measured in time depends on that.

    Raises:
        ReproError: bad data or settings. A diverged training is no error but a record with status ``diverged``.
    """
    torch.set_num_threads(1)
    if device().type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in another order
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print_ = store.fingerprint(spec, seed, root)
    pause = CHECKPOINT_SECONDS if checkpoint_seconds is None else checkpoint_seconds
    checkpoint = Checkpoint(_checkpoint_path(spec, seed, root), print_, pause)
    identity: dict[str, Any] = {
        "run": spec.run, "source": spec.source, "group": spec.group, "kind": spec.kind, "profile": spec.profile,
        "seed": seed, "spec": spec.as_dict(), "fingerprint": print_,
        "rules": published.rules_of(spec.run, root) if spec.profile == STUDY else None,
    }  # fmt: skip
    if spec.kind == "law":
        if spec.law == "label_split":
            numbers = laws.label_split(
                workers=spec.workers, local_batch=spec.local_batch, lr=spec.schedule["lr"], seed=seed
            )
        elif spec.law == "normalisation":
            numbers = laws.normalisation(
                images=spec.local_batch, image_size=spec.image_size, width=spec.width, seed=seed
            )
        else:
            numbers = laws.union_batch(
                workers=spec.workers, local_batch=spec.local_batch, image_size=spec.image_size, width=spec.width,
                lr=spec.schedule["lr"], seed=seed,
            )  # fmt: skip
        data = {"name": None, "sha256": None, "reduced": None, "classes": 10}
        record = Record(**identity, data=data, status="completed", law=numbers)
    elif spec.kind == "payloads":
        setting = prepare(spec, seed, root)
        rows = payloads.measure(
            setting.model, setting.batches, spec.schedule["lr"], spec.measured_steps or [1], seed, spec.precision,
            local_steps=spec.local_steps, memory_steps=spec.memory_steps, checkpoint=checkpoint, report=report,
        )  # fmt: skip
        record = Record(**identity, data=setting.data, status="completed", rows=rows)
    elif spec.kind == "measure":
        record = _measure(spec, root, identity, checkpoint, report)
    else:
        record = _train(spec, seed, root, identity, processes, checkpoint, report)
    spent = checkpoint.spent()
    provenance = {
        "run": spec.run, "seed": seed, "fingerprint": print_, "machine": machine(), **CODE,
        "precision": spec.precision, "processes": processes, "threads_per_process": 1, "cores": os.cpu_count(),
        "peak_memory": _peak_memory(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(spent.seconds, 1), "cpu_seconds": round(spent.cpu_seconds, 1),
        "interruptions": spent.interruptions,
    }  # fmt: skip
    return record, provenance


def _measure(
    spec: Spec, root: Path, identity: dict[str, Any], checkpoint: Checkpoint, report: Callable[[float], None]
) -> Record:
    """A measurement: the caller sees to it that nothing else runs on the machine meanwhile (``repro.sweep``).

    A data set with fewer images than the run asks for is repeated: costs depend on how many there are, not on which.
    """
    loaded, where = datasets.load(spec.dataset, root / "data"), device()
    index = np.arange(spec.train_images) % len(loaded.train_labels)
    workload = Workload.of(spec.as_dict(), classes=loaded.n_classes, images=spec.train_images)
    pixels, labels = shrink(loaded.train_images[index], spec.image_size), loaded.train_labels[index]
    rows, series = measure.measure(
        Trainer(workload, pixels, labels, where), spec.batch_sizes or [], blocks=spec.blocks,
        repetitions=spec.repetitions, peak_sizes=spec.peak_sizes or [], report=report, checkpoint=checkpoint,
    )  # fmt: skip
    data = {
        "name": spec.dataset, "sha256": loaded.sha256, "reduced": loaded.reduced, "classes": workload.classes,
    }  # fmt: skip
    kind = measure.machine_kind(machine(), where)
    return Record(**identity, data=data, status="completed", rows=rows, series=series, machine=kind)


def _train(
    spec: Spec, seed: int, root: Path, identity: dict[str, Any], processes: int, checkpoint: Checkpoint,
    report: Callable[[float], None],
) -> Record:  # fmt: skip
    _expect_meaningful(spec)
    setting = prepare(spec, seed, root)
    model, batches = setting.model, setting.batches
    on_workers = _corrects_momentum(spec)  # then momentum and weight decay are not the server's
    optimiser = sgd(model, 0.0 if on_workers else spec.momentum, 0.0 if on_workers else spec.weight_decay)
    schedule = schedules.build(spec.schedule)
    progress = checkpoint.restore(lambda state: _restored(state, model, optimiser)) or _Progress()
    if progress.schedule:
        schedule = schedule.with_state(progress.schedule)
    if not progress.states:
        codec, stream = _codec(spec), derive(seed, "codec")
        progress.states = [codec.new_state(stream, client) for client in range(batches.clients)]
        progress.own_buffers = Buffers.start(spec.buffers, model, batches.clients).own
        progress.momenta = Momenta.start(spec.local_momentum, model, batches.clients).own
    buffers, track = Buffers(spec.buffers, progress.own_buffers), spec.track or []
    clock, step_up = _Clock.of(spec, batches), _step_up(spec, seed, root)
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


def _series(spec: Spec, progress: _Progress) -> dict[str, list[float]]:
    """What a record holds of every round, to six digits: a training may have tens of thousands of rounds."""
    series = {"train_loss": progress.losses}
    if "gradient_norm" in (spec.track or []) or spec.step_up:
        series["gradient_norm"] = progress.gradient_norms
    if spec.step_up:
        series["step_up_factor"] = progress.factors
    return {name: [records.rounded(value) for value in values] for name, values in series.items()}


def _restored(state: Mapping[str, Any], model: torch.nn.Module, optimiser: torch.optim.Optimizer) -> _Progress:
    """The progress in a checkpoint's ``state``; sets model and optimiser, or leaves both if it does not fit."""
    progress = _Progress(**state["progress"])
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
        parts = _parts(setting.batches.images)
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
    progress: _Progress, clock: _Clock, processes: int, buffers: Buffers, gate: Gate | None, stack: ExitStack,
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


def _row(done: Round, progress: _Progress, epoch: float, found: Mapping[str, Any]) -> dict[str, Any]:
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


def _checkpoint_path(run: Spec | Record, seed: int, root: Path) -> Path:
    return root / "data/checkpoints" / run.profile / run.source / f"{run.run}.s{seed}.pt"


def save(record: Record, provenance: dict[str, Any], root: Path = Path()) -> Path:
    """Write a record and its provenance, both or neither, and drop its checkpoint.

    Raises:
        ReproError: a value is NaN or infinite, or a file cannot be written.
    """
    beside = records.provenance_path(records.path_of(record, root))
    before = beside.read_bytes() if beside.exists() else None
    records.write_atomic(beside, records.canonical_json(provenance))
    try:
        path = records.write(record, root)
    except ReproError:
        if before is None:
            beside.unlink()
        else:
            records.write_atomic(beside, before)
        raise
    _checkpoint_path(record, record.seed, root).unlink(missing_ok=True)
    return path
