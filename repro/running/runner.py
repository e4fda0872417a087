"""One spec and one seed in, one record out: the only place where data, models, codecs and engines meet."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from repro import files, machine
from repro.checkpoint import Checkpoint
from repro.distributed import Group
from repro.errors import ReproError
from repro.experiments.spec import TORCHVISION
from repro.registry import published, store
from repro.registry.specs import Spec
from repro.results import records
from repro.results.records import Record
from repro.running import gradients, laws, measurement, payloads, teacher, train
from repro.running.job import Job, Report
from repro.running.provenance import CODE, peak_memory

KINDS: dict[str, Callable[[Job], Record]] = {
    "gradients": gradients.run,
    "law": laws.run,
    "measure": measurement.run,
    "payloads": payloads.run,
    "teacher": teacher.run,
    "train": train.run,
}
"""What executes a run of each kind."""
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
    report: Report = lambda share: None,
    group: Group | None = None,
    separate: bool = False,
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
        group: the other processes, where torchrun started several.
        separate: repeat what a group computed: see ``Job``.

    Returns:
        The record, and its provenance. There ``seconds`` are those of the wall clock while the run went on,
        ``cpu_seconds`` those of processors, child processes included, each over all parts of a run that was taken up
        again; ``interruptions`` tells how often it was. Only what is measured in time depends on that.

    Raises:
        ReproError: bad data or settings. A diverged training is no error but a record with status ``diverged``.
    """
    make_reproducible()
    fingerprint = store.fingerprint(spec, seed, root)
    pause = CHECKPOINT_SECONDS if checkpoint_seconds is None else checkpoint_seconds
    place = checkpoint_path(spec, seed, root, shared=group is not None)
    checkpoint = Checkpoint(place, fingerprint, pause)
    identity: dict[str, Any] = {
        "run": spec.run,
        "source": spec.source,
        "group": spec.group,
        "kind": spec.kind,
        "profile": spec.profile,
        "seed": seed,
        "spec": spec.as_dict(),
        "fingerprint": fingerprint,
        "rules": published.rules_of(spec.run, root) if spec.profile == STUDY else None,
    }
    job = Job(spec, seed, root, identity, checkpoint, processes, report, group=group, separate=separate)
    record = KINDS[spec.kind](job)
    provenance = _provenance(record, checkpoint, processes if group is None else group.size)
    provenance |= {"seconds_of": job.seconds} if job.seconds else {}
    if group is None:
        return record, provenance
    crossed = group.crossed
    provenance["cpu_seconds"] = round(provenance["cpu_seconds"] + crossed.cpu_seconds, 1)
    return record, provenance | {"transport": {"backend": "gloo", "bytes_up": crossed.up, "bytes_down": crossed.down}}


def make_reproducible() -> None:
    """One thread a process, and on a GPU only kernels that sum in a fixed order."""
    torch.set_num_threads(1)
    if machine.device().type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may sum in another order
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def _provenance(record: Record, checkpoint: Checkpoint, processes: int) -> dict[str, Any]:
    spent = checkpoint.spent()
    return {
        "run": record.run,
        "seed": record.seed,
        "fingerprint": record.fingerprint,
        "machine": machine.describe() | _torchvision(record.spec["model"]),
        **CODE,
        "precision": record.spec["precision"],
        "processes": processes,
        "threads_per_process": 1,
        "cores": os.cpu_count(),
        "peak_memory": peak_memory(),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(spent.seconds, 1),
        "cpu_seconds": round(spent.cpu_seconds, 1),
        "interruptions": spent.interruptions,
    }


def _torchvision(model: str) -> dict[str, str]:
    """The version of torchvision, whose networks may change with it, where the run's is one of them."""
    return {"torchvision": version("torchvision")} if model.startswith(TORCHVISION) else {}


def checkpoint_path(run: Spec | Record, seed: int, root: Path, *, shared: bool = False) -> Path:
    """Where the checkpoint of a run lies while it is not finished; ``shared``: of one in several processes."""
    name = f"{run.run}.s{seed}{'.processes' if shared else ''}.pt"
    return root / "data/checkpoints" / run.profile / run.source / name


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
    for shared in (False, True):
        checkpoint_path(record, record.seed, root, shared=shared).unlink(missing_ok=True)
    return path
