"""One spec and one seed in, one record out: the only place where data, models, codecs and engines meet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repro import files, machine
from repro.checkpoint import Checkpoint
from repro.data import sets
from repro.data.batches import shrink
from repro.errors import ReproError
from repro.machine import device
from repro.performance import measure
from repro.performance.workload import Trainer, Workload
from repro.registry import published, store
from repro.registry.specs import Spec
from repro.results import records
from repro.results.records import Record
from repro.running import laws, payloads
from repro.running.prepare import prepare
from repro.running.provenance import CODE, peak_memory
from repro.running.train import train

CHECKPOINT_SECONDS = 20.0
STUDY = "study"
"""The profile whose records say by which rules they are judged."""


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
    checkpoint = Checkpoint(checkpoint_path(spec, seed, root), print_, pause)
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
        record = train(spec, seed, root, identity, processes, checkpoint, report)
    spent = checkpoint.spent()
    provenance = {
        "run": spec.run, "seed": seed, "fingerprint": print_, "machine": machine.describe(), **CODE,
        "precision": spec.precision, "processes": processes, "threads_per_process": 1, "cores": os.cpu_count(),
        "peak_memory": peak_memory(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(spent.seconds, 1), "cpu_seconds": round(spent.cpu_seconds, 1),
        "interruptions": spent.interruptions,
    }  # fmt: skip
    return record, provenance


def _measure(
    spec: Spec, root: Path, identity: dict[str, Any], checkpoint: Checkpoint, report: Callable[[float], None]
) -> Record:
    """A measurement: the caller sees to it that nothing else runs on the machine meanwhile (``repro.running.sweep``).

    A data set with fewer images than the run asks for is repeated: costs depend on how many there are, not on which.
    """
    loaded, where = sets.load(spec.dataset, root / "data"), device()
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
    kind = measure.machine_kind(machine.describe(), where)
    return Record(**identity, data=data, status="completed", rows=rows, series=series, machine=kind)


def checkpoint_path(run: Spec | Record, seed: int, root: Path) -> Path:
    """Where the checkpoint of a run lies while it is not finished."""
    return root / "data/checkpoints" / run.profile / run.source / f"{run.run}.s{seed}.pt"


def save(record: Record, provenance: dict[str, Any], root: Path = Path()) -> Path:
    """Write a record and its provenance, both or neither, and drop its checkpoint.

    Raises:
        ReproError: a value is NaN or infinite, or a file cannot be written.
    """
    beside = records.provenance_path(records.path_of(record, root))
    before = beside.read_bytes() if beside.exists() else None
    files.write_atomic(beside, files.canonical_json(provenance))
    try:
        path = records.write(record, root)
    except ReproError:
        if before is None:
            beside.unlink()
        else:
            files.write_atomic(beside, before)
        raise
    checkpoint_path(record, record.seed, root).unlink(missing_ok=True)
    return path
