"""Metrics of one run, read from its record: how accurate it ends, and how long it takes to get there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from repro.errors import ReproError
from repro.experiments.sizes import local_steps
from repro.results.records import Record
from repro.results.traffic import rounds

TARGET_AT_FULL_SCALE = 0.80
"""Target accuracy of post e1, table 2."""
TARGET_BELOW = 0.65
"""Target accuracy below full scale, as a share of what the run that sets it reaches at the end: ours, so low that runs
with few steps get there, too (``data/ledger.yaml``, e1-target)."""
CENTRAL_AT_FULL_SCALE = 0.9302
"""What ResNet18 reaches centrally on CIFAR-10: README of github.com/kuangliu/pytorch-cifar."""
EARLY = 0.25
"""Early training (paper lb, figure 6): this share of the iterations of the run that has the fewest."""

FIRST_ITERATIONS = 100
"""Iterations within which the largest norm of a gradient is looked for."""


class Target(NamedTuple):
    """What sets the accuracy that the runs of a source are timed against.

    Attributes:
        run: a share of its mean accuracy at the end is the target: at full scale that of post e1, 0.80 / 0.9302,
            below it ``TARGET_BELOW``.
        at_full_scale: the target at the profile ``paper`` where the source gives one (a fraction).
    """

    run: str
    at_full_scale: float | None


TARGETS = {"e1": Target("e1-central", TARGET_AT_FULL_SCALE), "e2": Target("e2-large-batch", None)}

SCALES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "log2_global_batch": lambda spec: math.log2(spec["workers"] * spec["local_batch"]),
    "log2_local_epochs": lambda spec: math.log2(spec["local_epochs"]),
    "log2_local_steps": lambda spec: math.log2(spec["local_steps"]),
    "log2_step_up": lambda spec: math.log2((spec.get("step_up") or {"factor": 1.0})["factor"]),
    "log2_workers": lambda spec: math.log2(spec["workers"]),
    "log2_alpha": lambda spec: math.log2(spec["dirichlet_alpha"]),
    "log2_base_rate": lambda spec: math.log2(spec["schedule"]["lr"]),
}
"""What a trend can run over, from the spec of a run."""


class Measured(NamedTuple):
    """Metric of one run and seed.

    Attributes:
        value: in the metric's unit; where the run ended before it got there, the end of the run.
        reached: whether it got there.
        step: distance between neighbouring values that the metric can take; 0 where it is interpolated.
    """

    value: float
    reached: bool = True
    step: float = 0.0

    @property
    def earliest(self) -> float:
        """The value; for what was not reached the next evaluation after the last, a lower bound."""
        return self.value if self.reached else self.value + self.step


def tidy(difference: float) -> float:
    """Without round-off: 0.8 - 0.5 - 0.8 + 0.5 is 0 here, so that equal arms cannot beat each other."""
    return round(difference, 12) + 0.0


def _rows(record: Record) -> list[dict[str, Any]]:
    if record.kind != "train":
        raise ReproError(
            f"record {record.run}.s{record.seed}: kind {record.kind} has no accuracies; a record of kind train was "
            "expected; name another run"
        )
    if not record.rows and record.status == "completed":
        raise ReproError(
            f"record {record.run}.s{record.seed}: completed without an evaluation; at least one row was "
            f"expected; run `python -m repro rerun {record.run}`"
        )
    return record.rows


def _epoch(row: Mapping[str, Any]) -> float:
    return round(float(row["epoch"]), 6)


# Accuracy ----------------------------------------------------------------------------------------------------


def final_top1(record: Record) -> float:
    """Top-1 accuracy at the last (not the best) evaluation, a fraction; a diverged run counts as chance.

    Raises:
        ReproError: a completed record holds no evaluation.
    """
    rows = _rows(record)
    return record.chance if record.status == "diverged" else float(rows[-1]["test_top1"])


def final_top5(record: Record) -> float:
    """As :func:`final_top1`, top-5; a diverged run counts as chance.

    Raises:
        ReproError: a completed record holds no evaluation.
    """
    rows = _rows(record)
    if record.status == "diverged":
        return min(1.0, 5 / int(record.data["classes"]))
    return float(rows[-1]["test_top5"])


def end_top1(record: Record) -> float:
    """Top-1 accuracy at the end of training, a fraction: mean over the evaluations of its last tenth, at least three.

    One evaluation is a noisy draw. Of fewer than three evaluations all count; a diverged run counts as chance.

    Raises:
        ReproError: a completed record holds no evaluation.
    """
    rows = _rows(record)
    return record.chance if record.status == "diverged" else _mean_of(_last_tenth(rows), "test_top1")


def end_top5(record: Record) -> float:
    """As :func:`end_top1`, top-5; a diverged run counts as chance.

    Raises:
        ReproError: a completed record holds no evaluation.
    """
    rows = _rows(record)
    if record.status == "diverged":
        return min(1.0, 5 / int(record.data["classes"]))
    return _mean_of(_last_tenth(rows), "test_top5")


def top1_before_the_end(record: Record) -> float:
    """Top-1 accuracy at 65 to 75 % of training, a fraction: what that at the end is compared with to see it at rest.

    Mean over the evaluations there; where there is none, the one that is nearest to 70 %. A diverged run counts as
    chance at both places.

    Raises:
        ReproError: a completed record holds no evaluation.
    """
    rows = _rows(record)
    if record.status == "diverged":
        return record.chance
    share = [round(float(row["epoch"]) / float(rows[-1]["epoch"]), 9) for row in rows]
    window = [row for row, at in zip(rows, share, strict=True) if 0.65 <= at <= 0.75]
    nearest = min(range(len(rows)), key=lambda i: abs(share[i] - 0.7))
    return _mean_of(window or [rows[nearest]], "test_top1")


def _last_tenth(rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    start = round(0.9 * float(rows[-1]["epoch"]), 9)
    count = sum(float(row["epoch"]) > start for row in rows)
    return rows[-max(3, count) :]


def _mean_of(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return math.fsum(float(row[name]) for row in rows) / len(rows)


def planned_rounds(record: Record) -> int:
    """Rounds of the whole training (iterations, where training is central), also of a run that diverged before."""
    rows = _rows(record)
    return int(_budget(record)["round"] if record.status == "diverged" else rows[-1]["round"])


def top1_at(record: Record, at: int) -> float | None:
    """Top-1 accuracy (a fraction) at the evaluation after ``at`` rounds, None if there is none.

    A run that diverged before counts as chance there; one that diverged later had not diverged yet.
    """
    found = next((float(row["test_top1"]) for row in _rows(record) if row["round"] == at), None)
    if found is None and record.status == "diverged" and len(record.series.get("train_loss", [])) <= at:
        return record.chance
    return found


def last_quarter_gain(record: Record) -> float:
    """Top-1 gained (a fraction) since the last evaluation in the first three quarters of training, chance if none.

    0 for a diverged run: it is not on its way anywhere.

    Raises:
        ReproError: a completed record holds no evaluation.
    """
    if record.status == "diverged":
        return 0.0
    rows = _rows(record)
    early = [float(row["test_top1"]) for row in rows if row["epoch"] <= 0.75 * rows[-1]["epoch"]]
    return tidy(final_top1(record) - (early[-1] if early else record.chance))


def common_epochs(records: Iterable[Record]) -> list[float]:
    """Epochs at which every completed run was evaluated, ascending; empty if there is none."""
    grids = [{_epoch(row) for row in record.rows} for record in records if record.status == "completed"]
    return sorted(set.intersection(*grids)) if grids else []


def mean_top1(record: Record, epochs: Sequence[float]) -> float:
    """Mean of the top-1 accuracy over ``epochs`` (trapezoid rule), a fraction: high if a run converges early.

    Evaluations that a diverged run did not reach count as chance.
    """
    curve = {_epoch(row): float(row["test_top1"]) for row in _rows(record)}
    if record.status == "diverged":
        curve = dict.fromkeys(epochs, record.chance) | curve
    heights = [curve[epoch] for epoch in epochs]
    if len(epochs) == 1:
        return heights[0]
    return float(np.trapezoid(heights, epochs) / (epochs[-1] - epochs[0]))


def regularisation_gap(record: Record) -> float:
    """Top-1 on the training images minus top-1 on test images, of the last model; 0 for a diverged run.

    Both are evaluated alike: without augmentation, in evaluation mode, with the weights at rest.

    Raises:
        ReproError: a completed record holds no evaluation, or none of its training images.
    """
    rows = _rows(record)
    if record.status == "diverged":
        return 0.0
    if "train_images_top1" not in rows[-1]:
        raise ReproError(
            f"record {record.run}.s{record.seed}: no accuracy on training images; a run that tracks training_images "
            "was expected; name another"
        )
    return tidy(rows[-1]["train_images_top1"] - rows[-1]["test_top1"])


def own_classes_top1(record: Record) -> float:
    """Accuracy (a fraction) of each client's own model, before the last aggregation, on the classes of its shard.

    Mean over its classes, then over clients; a diverged run counts as chance.

    Raises:
        ReproError: the run did not record the accuracies of its clients' models.
    """
    return _of_clients(record, own=True)


def other_classes_top1(record: Record) -> float:
    """As :func:`own_classes_top1`, on the classes that are not in the client's shard."""
    return _of_clients(record, own=False)


def _of_clients(record: Record, own: bool) -> float:
    rows = _rows(record)
    if record.status == "diverged":
        return record.chance
    accuracies, shards = (rows[-1].get(name) for name in ("clients_top1_by_class", "classes_of_clients"))
    if not accuracies or not shards:
        raise ReproError(
            f"record {record.run}.s{record.seed}: no accuracies of its clients' models by class; federated averaging "
            "with `track: [per_class]` was expected; correct the run's definition and run it again"
        )
    means = []
    for by_class, classes in zip(accuracies, shards, strict=True):
        # None: no test image of that class. A client that has every class knows no other.
        chosen = [top1 for label, top1 in enumerate(by_class) if (label in classes) is own and top1 is not None]
        if chosen:
            means.append(float(np.mean(chosen)))
    if not means:
        raise ReproError(
            f"record {record.run}.s{record.seed}: every client has every class; a run on label-skewed shards was "
            "expected; name another run"
        )
    return float(np.mean(means))


def divergence(record: Record) -> tuple[int, float] | None:
    """Rounds that a run recorded until it diverged, and the same in epochs; None if it did not diverge."""
    if record.status != "diverged":
        return None
    rounds = len(record.series.get("train_loss", []))
    return rounds, rounds / _rounds_per_epoch(record)


# Gradients, steps and sharpness (paper lb) ----------------------------------------------------------------------


def early_iterations(records: Iterable[Record]) -> int:
    """Iterations that count as early for all of ``records``: the share ``EARLY`` of the fewest planned, at least 1."""
    return max(1, math.ceil(EARLY * min(planned_rounds(record) for record in records)))


def mean_gradient_norm(record: Record, iterations: int) -> float | None:
    """Mean L2 norm of the unscaled gradient over the first ``iterations``; None if the run diverged before.

    It is the cumulative norm of paper lb, figure 6, divided by the iterations, which are the same for runs compared.

    Raises:
        ReproError: the run did not record the norm of every iteration.
    """
    _rows(record)
    norms = _series(record, "gradient_norm", "track: [gradient_norm]")
    if record.status == "diverged" and len(norms) < iterations:
        return None
    if len(norms) < iterations:
        raise ReproError(
            f"record {record.run}.s{record.seed}: {len(norms)} gradient norms; one for each of the first {iterations} "
            f"iterations was expected; run `python -m repro rerun {record.run}`"
        )
    return float(np.mean(norms[:iterations]))


def first_gradient_norm(record: Record) -> float | None:
    """L2 norm of the unscaled gradient in the first iteration; None if the run diverged before it was recorded.

    Raises:
        ReproError: the run did not record the norm of every iteration.
    """
    _rows(record)
    norms = _series(record, "gradient_norm", "track: [gradient_norm]")
    return float(norms[0]) if norms else None


def largest_early_gradient_norm(record: Record) -> float | None:
    """Largest L2 norm of the gradient within the first 100 iterations.

    A run that diverged in them counts with what it recorded until then; None if it recorded nothing.

    Raises:
        ReproError: the run did not record the norm of every iteration.
    """
    _rows(record)
    norms = _series(record, "gradient_norm", "track: [gradient_norm]")
    return float(max(norms[:FIRST_ITERATIONS])) if norms else None


def sent_total(record: Record) -> float | None:
    """Bytes that all workers sent to the server in the whole run, as they were sent; None for a diverged run.

    Raises:
        ReproError: a completed record holds no evaluation.
    """
    rows = _rows(record)
    return None if record.status == "diverged" else float(rows[-1]["bytes_up"])


def matched_loss(records: Sequence[Record]) -> float:
    """The training loss at which arms are compared: the largest of the smallest losses that each of them reached.

    It is that of a fixed sample of training images, evaluated as test images are.

    Raises:
        ReproError: a run did not record it.
    """
    return max(min(_sampled(record, "train_sample_loss")) for record in records)


def gap_at_loss(record: Record, loss: float) -> float:
    """Top-1 on the sample of training images minus top-1 on test images, where the training loss first is ``loss``.

    Both are interpolated between the two evaluations at which the loss crosses it; a run that starts below it counts
    with its first evaluation.

    Raises:
        ReproError: the run did not record them, or never came down to that loss.
    """
    losses = _sampled(record, "train_sample_loss")
    gaps = [
        top1 - float(row["test_top1"])
        for top1, row in zip(_sampled(record, "train_sample_top1"), _rows(record), strict=True)
    ]
    for i, found in enumerate(losses):
        if found <= loss:
            share = 0.0 if i == 0 else (losses[i - 1] - loss) / (losses[i - 1] - found)
            return tidy(gaps[i] if i == 0 else gaps[i - 1] + share * (gaps[i] - gaps[i - 1]))
    raise ReproError(
        f"record {record.run}.s{record.seed}: its training loss never fell to {loss:g}; a loss that it reached was "
        "expected; take `matched_loss` of the runs that are compared"
    )


def _sampled(record: Record, name: str) -> list[float]:
    rows = _rows(record)
    if not rows or any(row.get(name) is None for row in rows):
        raise ReproError(
            f"record {record.run}.s{record.seed}: {name} is missing; a run that tracks a sample of its training images "
            "at every evaluation was expected; name another run"
        )
    return [float(row[name]) for row in rows]


def step_up_share(record: Record) -> float | None:
    """Share of all iterations whose gradient was scaled by the factor X of the run's step function (paper lb, Eq. 6).

    The first iteration, which has no change of the gradient and is never scaled, counts. Of a diverged run the
    iterations until then count; None if there is none.

    Raises:
        ReproError: the run has no step function, or did not record its factors.
    """
    _rows(record)
    settings = record.spec.get("step_up")
    if not settings:
        raise ReproError(
            f"record {record.run}.s{record.seed}: no step function; a run with `step_up` was expected; name another run"
        )
    factors = _series(record, "step_up_factor", "step_up")
    if not factors and record.status == "diverged":
        return None
    return float(np.mean([factor == settings["factor"] for factor in factors]))


def top_eigenvalue(record: Record) -> float | None:
    """Top eigenvalue of the Hessian of the mean training loss at the last weights; None for a diverged run.

    Raises:
        ReproError: a completed run did not record it.
    """
    rows = _rows(record)
    if record.status == "diverged":
        return None
    if "hessian_top_eigenvalue" not in rows[-1]:
        raise ReproError(
            f"record {record.run}.s{record.seed}: no eigenvalue of the Hessian; a run that tracks it was expected; "
            "name another run"
        )
    return float(rows[-1]["hessian_top_eigenvalue"])


def _series(record: Record, name: str, setting: str) -> list[float]:
    if name not in record.series:
        raise ReproError(
            f"record {record.run}.s{record.seed}: no series {name}; a run with `{setting}` was expected; "
            "name another run"
        )
    return record.series[name]


# Learning rates ------------------------------------------------------------------------------------------------


class BestRate(NamedTuple):
    """log2 of the best learning rate of one curve of scores; ``edge``: the end of the grid at which it is highest."""

    log2: float
    edge: float | None


def best_rate(scores: Mapping[float, float]) -> BestRate:
    """Vertex of the least-squares parabola (over log2 of the rate) through the five rates around the maximum.

    The maximum is that of the curve smoothed by a moving mean of three, in which either end stands for itself; of equal
    ones it is that with the highest score of its own. The vertex is clipped to the span of the five rates. Where the
    parabola opens upwards there is no vertex, and the rate of the smoothed maximum counts.

    Args:
        scores: learning rate -> accuracy, a fraction.

    Raises:
        ReproError: fewer than three rates.
    """
    rates = sorted(scores)
    if len(rates) < 3:
        raise ReproError(f"a grid of {len(rates)} learning rates has no best one; at least three were expected")
    height = np.array([scores[rate] for rate in rates])
    smooth = height.copy()
    smooth[1:-1] = (height[:-2] + height[1:-1] + height[2:]) / 3
    at = max(range(len(rates)), key=lambda i: (round(float(smooth[i]), 12), height[i]))
    start = min(max(at - 2, 0), max(len(rates) - 5, 0))
    x, y = np.log2(rates[start : start + 5]), height[start : start + 5]
    centre = float(x.mean())
    square, slope, _ = np.polyfit(x - centre, y, 2)
    vertex = float(np.log2(rates[at]))
    if square < -1e-12:
        vertex = float(np.clip(centre - slope / (2 * square), x[0], x[-1]))
    return BestRate(vertex, rates[at] if at in (0, len(rates) - 1) else None)


# Epochs and rounds until something happens ---------------------------------------------------------------------


def target_accuracy(records: Iterable[Record], profile: str, source: str = "e1") -> float:
    """The accuracy that all arms and seeds of a source and profile are timed against, as a fraction.

    Post e1 (table 2): 0.80 at full scale. At smaller scales ``TARGET_BELOW`` of what centralised training reaches:
    the mean accuracy of ``e1-central`` at the end (``end_top1``) over its seeds. Post e2 gives no target; there it is
    a share of ``e2-large-batch``, 0.80 / 0.9302 at full scale, ``TARGET_BELOW`` below it. Pass current records only.

    Raises:
        ReproError: the source has no target, or ``records`` holds no run, or a diverged one, that sets it.
    """
    if source not in TARGETS:
        raise ReproError(f"no target accuracy is defined for {source}; one of {', '.join(TARGETS)} was expected")
    run, at_full_scale = TARGETS[source]
    if profile == "paper" and at_full_scale is not None:
        return at_full_scale
    baseline = [r for r in records if r.run == run and r.profile == profile]
    if lost := [str(r.seed) for r in baseline if r.status == "diverged"]:
        raise ReproError(
            f"the target accuracy is undecided: {run} diverged (seed {', '.join(lost)}); a completed run of "
            "every seed was expected; choose its learning rate again"
        )
    if not baseline:
        raise ReproError(
            f"no record of {run} at profile {profile}; the target is a share of what it reaches; "
            f"run `python -m repro run {run} --profile {profile}`"
        )
    share = TARGET_AT_FULL_SCALE / CENTRAL_AT_FULL_SCALE if profile == "paper" else TARGET_BELOW
    return share * float(np.mean([end_top1(r) for r in baseline]))


def epochs_to_target(record: Record, target: float) -> tuple[float, bool]:
    """Epochs until the running mean of three evaluations first crosses ``target`` (a fraction), and whether it does.

    See :func:`to_target`. Where it does not, the number is to be read as "> N". A diverged run never reaches it: its
    number is the whole budget of the run.
    """
    found = to_target(record, target, "epoch")
    return found.value, found.reached


def rounds_to_target(record: Record, target: float) -> tuple[float, bool]:
    """As :func:`epochs_to_target`, in communication rounds."""
    found = to_target(record, target, "round")
    return found.value, found.reached


def epochs_to_first_cut(record: Record) -> tuple[float, bool]:
    """Epochs until the first evaluation at a learning rate that reduce-on-plateau has cut, and whether it was cut.

    Where it was not, the number is the last evaluation, to be read as "> N". It was observed to have stalled one
    evaluation earlier.

    Raises:
        ReproError: the run has another schedule.
    """
    found = to_first_cut(record)
    return found.value, found.reached


def was_cut(record: Record) -> bool:
    """Whether reduce-on-plateau cut the learning rate before the last evaluation.

    Raises:
        ReproError: the run has another schedule.
    """
    return to_first_cut(record).reached


def was_measured_late(record: Record) -> bool:
    """Whether messages were measured beyond the first tenth of the steps of post 2's training."""
    return max(row["step"] for row in record.rows) >= rounds("large_batch") / 10


def has_settled_eigenvalue(record: Record) -> bool:
    """Whether the iteration for the top eigenvalue of the Hessian settled; a diverged run has none that could."""
    return record.status == "completed" and bool(record.rows[-1]["hessian_converged"])


CONDITIONS: dict[str, tuple[Callable[[Record], bool], str]] = {
    "cut": (was_cut, "never cut its learning rate"),
    "eigenvalue": (has_settled_eigenvalue, "has no top eigenvalue that settled"),
    "late": (was_measured_late, "was measured in the first tenth of the post's training only"),
}
"""What a part of a rule can need of a run in every seed, by name: the test, and what is said of a run that fails it."""


def to_target(record: Record, target: float, axis: str) -> Measured:
    """Place on ``axis`` (``epoch`` or ``round``) at which the running mean of top-1 first crosses ``target``.

    The running mean is that of an evaluation and its two predecessors, placed at the middle one, so that single noisy
    evaluations do not decide. The place is interpolated between neighbouring means; before the first one the curve
    starts at chance, at 0. A run that never crosses counts with the place of its last mean, a lower bound.
    """
    rows = [row for row in _rows(record) if row[axis] > 0]
    if record.status == "diverged":
        # Training is over: the budget is spent and nothing was reached, whatever the run showed before.
        return Measured(_budget(record)[axis], False)
    width = min(3, len(rows))
    before, height = 0.0, min(record.chance, target)
    for start in range(len(rows) - width + 1):
        window = rows[start : start + width]
        place, mean = float(np.median([row[axis] for row in window])), _mean_of(window, "test_top1")
        if tidy(mean - target) >= 0:
            share = (target - height) / (mean - height) if height < target < mean else float(height < target)
            return Measured(round(before + share * (place - before) if share else place, 6), True)
        before, height = place, mean
    return Measured(round(before, 6), False)


def to_first_cut(record: Record) -> Measured:
    """As :func:`epochs_to_first_cut`."""
    schedule = record.spec["schedule"]
    if schedule["kind"] != "plateau":
        raise ReproError(
            f"record {record.run}.s{record.seed}: schedule {schedule['kind']}; plateau was expected, "
            "the only one with cuts that depend on the run; name another run"
        )
    uncut = schedule["lr"] * (1 - 1e-9)
    return _first(record, "epoch", lambda row: bool(row["lr"] < uncut))


def _first(record: Record, axis: str, happened: Callable[[Mapping[str, Any]], bool]) -> Measured:
    rows = [row for row in _rows(record) if row[axis] > 0]
    places = [round(float(row[axis]), 6) for row in rows]
    step = float(max(np.diff([0.0, *places]), default=0.0))
    if record.status == "diverged":
        # Training is over: the budget is spent and nothing was reached, whatever the run showed before.
        return Measured(_budget(record)[axis], False, step)
    for place, row in zip(places, rows, strict=True):
        if happened(row):
            return Measured(place, True, step)
    return Measured(places[-1], False, step)


def _budget(record: Record) -> dict[str, float]:
    """Epochs and rounds that a run was given, from its spec: a diverged run has too few rows to tell."""
    epochs = record.spec["epochs"]
    return {"epoch": float(epochs), "round": float(round(epochs * _rounds_per_epoch(record)))}


def _rounds_per_epoch(record: Record) -> float:
    spec = record.spec
    steps = local_steps(math.ceil(spec["train_images"] / spec["workers"]), spec["local_batch"])
    if spec["method"] != "federated":
        return steps
    every = spec.get("local_steps")
    return 1 / spec["local_epochs"] if every is None else steps / every
