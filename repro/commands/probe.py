"""Measuring for an advice: the memory of child processes at growing batches, and the time of steps.

Memory is that of the whole process, which is what a limit is set on: it is probed in child processes, at batches that
grow until they fill most of the budget (the paper's "extreme batch-sizes"), and goes on as a line. malloc keeps what it
may need again, so that the line bends by some percent; therefore the batch that it predicts is tried out, lowered until
it fits, and raised while the line through what fitted leaves room. What a probe advises has been trained.

On a GPU the memory is what torch reserves there. The context that the driver keeps for each process and the code of
kernels (some hundred MB) are not in it, so that a budget must leave them free; nor are the images, which stay with the
host.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repro import machine
from repro.commands.advice import Evidence, line_of
from repro.errors import ReproError
from repro.performance import measure, peak, timing
from repro.performance.workload import Trainer, Workload
from repro.registry import specs, store
from repro.results import batch_costs, measurements, records
from repro.results.batch_costs import gibibytes
from repro.results.records import Record

FIRST_PROBE = 16
FILLED = 0.6
"""Probing stops once a child's growth over its libraries fills this share of what the budget leaves for it."""
LOWER = 0.93
"""Factor by which a predicted batch is lowered while trying it out shows that it does not fit."""
CLOSE = 1.02
"""A prediction less than this factor above a batch that fitted is not tried out: processes differ by as much."""
BLOCKS, REPETITIONS = 3, 3
SIZES = (1, 8, 32, 64, 128, 256, 512, 1024)
LONGEST_STEP = 4.0
"""Seconds: larger batches are not timed by a probe, their time is extrapolated."""


def probe_memory(workload: Workload, budget: int, device: str = "cpu") -> dict[int, float]:
    """Peak bytes of children at growing batches, each twice the one before, until they fill ``FILLED`` of the budget.

    Small batches can share one peak, that of loading the images, which no line through two of them shows. Probing
    therefore goes on, between sizes where doubling does not fit, until the last but one exceeds the first by more than
    the share of the budget by which processes differ anyway.

    Raises:
        ReproError: not even one image fits, too few images to probe two batches, or a child failed.
    """
    peaks: dict[int, float] = {}
    batch, over = max(1, min(FIRST_PROBE, workload.images // 2)), workload.images + 1
    full = False
    while True:
        found = peak.train(workload, batch, limit=budget, device=device)
        if found.finished:
            peaks[batch] = found.peak
            full = found.peak - found.base > FILLED * (budget - found.base)
        elif batch == 1:
            raise ReproError(
                f"{gibibytes(budget)} of memory; training {workload.model} at batch 1 needs more; allow more"
            )
        else:
            over = batch
        if not peaks:
            batch = 1
            continue
        sizes = sorted(peaks)
        grown = len(sizes) > 1 and peaks[sizes[-2]] - peaks[sizes[0]] > batch_costs.MARGIN * budget
        doubled = 2 * sizes[-1]
        if grown and (full or doubled >= over):
            return peaks
        batch = doubled if doubled < over else (sizes[-1] + over) // 2
        if batch in peaks:  # nothing lies between the largest that fits and the smallest that does not
            if len(peaks) > 1:
                return peaks
            raise ReproError(f"{workload.images} images are too few to probe two batch sizes; at least 2 were expected")


def try_out(workload: Workload, peaks: Mapping[int, float], budget: int, device: str = "cpu") -> dict[int, float]:
    """``peaks``, and those of predicted batches that really trained within the budget; the largest is to be advised.

    A prediction that does not fit is lowered by ``LOWER`` until it does. After one that fits the line goes through it,
    and its prediction is tried in turn, while it is not ``CLOSE`` already and nothing has failed.

    Raises:
        ReproError: a child failed for another reason than memory.
    """
    peaks, failed = dict(peaks), False
    batch = min(workload.images, batch_costs.advised_batch(line_of(peaks), budget))
    while batch > max(peaks):
        found = peak.train(workload, batch, limit=budget, device=device)
        if not found.finished:
            failed, batch = True, math.floor(LOWER * batch)
            continue
        peaks[batch] = found.peak
        better = min(workload.images, batch_costs.advised_batch(line_of(peaks), budget))
        if failed or better < CLOSE * batch:
            break
        batch = better
    return peaks


def probe_time(workload: Workload, largest: int, device: str = "cpu") -> tuple[dict[int, np.ndarray], float]:
    """Seconds of steps at sizes up to ``largest``, as (blocks, repetitions) by batch, and the machine's noise.

    A line on stderr for each size and each block says how far it is.
    """
    trainer = Trainer(workload, device=torch.device(device))
    wanted = sorted({*(size for size in SIZES if size <= largest), min(largest, SIZES[-1])})
    sizes: list[int] = []
    for size in wanted:
        batches = trainer.batches(size)
        trainer.train(batches, 0)
        sizes.append(size)
        taken = timing.seconds(trainer, lambda batches=batches: trainer.train(batches, 0))  # type: ignore[misc]
        print(f"probe: {workload.model}, batch {size}: {taken:.3g} s a step", file=sys.stderr, flush=True)
        if len(sizes) > 1 and taken > LONGEST_STEP:
            break

    def say(share: float) -> None:
        if (done := round(share * BLOCKS, 6)).is_integer():
            print(f"probe: {workload.model}, block {done:.0f} of {BLOCKS} timed", file=sys.stderr, flush=True)

    made = timing.measure(trainer, sizes, blocks=BLOCKS, repetitions=REPETITIONS, report=say)
    steps = {size: np.reshape(made.samples["step", size], (BLOCKS, -1)) for size in sizes}
    return steps, measurements.noise_of(made.probe)


def probe(workload: Workload, budget: int, device: str = "cpu") -> Evidence:
    """Measure here and now. Raises as ``probe_memory``."""
    torch.set_num_threads(1)
    peaks = try_out(workload, probe_memory(workload, budget, device), budget, device)
    steps, noise = probe_time(workload, max(peaks), device)
    return Evidence("probed now on this machine", peaks, steps, noise, tried=True)


def stored(workload: Workload, dataset: str, device: str, root: Path = Path()) -> Evidence | None:
    """Evidence from a committed measurement of the same workload on the same kind of machine, or None.

    Its children held another number of images in memory; the difference is counted, but on a GPU, where images stay
    with the host.
    """
    here = measure.machine_kind(machine.describe(), torch.device(device)) | {"threads": 1}
    for record in _measurements(root):
        spec = record.spec
        same = {name: spec.get(name) for name in _SAME}
        wanted = workload.as_dict()
        if any(value != wanted[name] for name, value in same.items()) or spec["dataset"] != dataset:
            continue
        sizes, peaks = measurements.bytes_of(record, "peak")
        if record.machine != here or len(sizes) < 2 or "probe" not in record.series:
            continue
        image = (workload.image_size + 2 * max(1, workload.image_size // 8) * workload.augment) ** 2 * 3
        more = (workload.images - spec["train_images"]) * image * (device == "cpu")
        steps = {size: measurements.samples(record, "step", size) for size in measurements.batches(record)}
        origin = f"{records.path_of(record).as_posix()}, measured on this kind of machine"
        return Evidence(
            origin, {s: p + more for s, p in zip(sizes, peaks, strict=True)}, steps, measurements.noise(record)
        )
    return None


_SAME = ("model", "width", "norm", "image_size", "precision", "augment", "momentum", "patch", "depth")
"""Settings that a stored measurement must share with what is advised on."""


def _measurements(root: Path) -> list[Record]:
    """Valid measurement records of all profiles."""
    tasks = [task for profile in specs.PROFILES for task in specs.runs("lb", profile, "artefact", root)]
    stored = (store.stored(*task, root) for task in tasks if task[0].kind == "measure")
    return [record for record in stored if record is not None]


def check(workload: Workload, batch: int, budget: int, device: str = "cpu") -> dict[str, Any]:
    """Really train at ``batch`` and at twice that under the limit, watched from outside."""
    once = peak.train(workload, batch, limit=budget, device=device)
    found: dict[str, Any] = {"batch": batch, "fits": once.finished, "peak_bytes": once.peak}
    if 2 * batch <= workload.images:
        twice = peak.train(workload, 2 * batch, limit=budget, device=device)
        found |= {"twice_fits": twice.finished, "twice_peak_bytes": twice.peak}
    return found
