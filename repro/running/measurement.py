"""Runs of kind ``measure``: time and memory of one network against the batch size, on real images."""

from __future__ import annotations

import numpy as np

from repro import machine
from repro.data import sets
from repro.data.batches import shrink
from repro.performance import measure
from repro.performance.workload import Trainer, Workload
from repro.results.records import Record
from repro.running.job import Job


def run(job: Job) -> Record:
    """Measure; the caller sees to it that nothing else runs on the machine meanwhile (``repro.running.sweep``).

    A data set with fewer images than the run asks for is repeated: costs depend on how many there are, not on which.
    """
    spec, where = job.spec, machine.device()
    loaded = sets.load(spec.dataset, job.root / "data")
    index = np.arange(spec.train_images) % len(loaded.train_labels)
    workload = Workload.of(spec.as_dict(), classes=loaded.n_classes, images=spec.train_images)
    pixels, labels = shrink(loaded.train_images[index], spec.image_size), loaded.train_labels[index]
    plan = measure.Plan(spec.batch_sizes or [], spec.blocks, spec.repetitions, spec.peak_sizes or [])
    rows, series = measure.measure(
        Trainer(workload, pixels, labels, where), plan, report=job.report, checkpoint=job.checkpoint
    )
    data = {"name": spec.dataset, "sha256": loaded.sha256, "reduced": loaded.reduced, "classes": workload.classes}
    return job.record(data=data, rows=rows, series=series, machine=measure.machine_kind(machine.describe(), where))
