"""One run in the processes that torchrun started: number 0 is the server and writes, the others hold the clients."""

from __future__ import annotations

import os
import signal
import sys
from math import inf
from pathlib import Path
from typing import Any, NoReturn

import torch

from repro.checkpoint import Checkpoint
from repro.distributed import AGAIN, dismiss, joined
from repro.errors import ReproError
from repro.registry import store
from repro.registry.specs import Spec
from repro.results.records import Record
from repro.running import runner
from repro.running.job import Job, Report
from repro.running.prepare import prepare
from repro.running.train import Training


def run(
    spec: Spec,
    seed: int,
    root: Path = Path(),
    *,
    timeout: float,
    checkpoint_seconds: float | None = None,
    report: Report = lambda share: None,
    wanted: bool = True,
) -> tuple[Record, dict[str, Any]] | None:
    """Take this process's part in a run.

    Args:
        spec, seed, root, checkpoint_seconds, report: as of ``runner.run``.
        timeout: seconds to wait for another process, after which all end.
        wanted: in the server's process, whether there is anything to do; else all end at once.

    Returns:
        In the server's process what ``runner.run`` returns, else None.

    Raises:
        ReproError: as ``runner.run``, and if another process has ended or is silent.
    """
    signal.signal(signal.SIGTERM, _ended)
    if torch.cuda.is_available():  # each process of a machine has a GPU of its own, as far as there are enough
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)) % torch.cuda.device_count())
    with joined(timeout) as group:
        if group.rank == 0 and wanted:
            return runner.run(spec, seed, root, checkpoint_seconds=checkpoint_seconds, report=report, group=group)
        if group.rank == 0:
            dismiss(group)
        else:
            runner.make_reproducible()
            none = Checkpoint(Path(os.devnull), store.fingerprint(spec, seed, root), inf)
            Training(Job(spec, seed, root, {}, none, 1, report, group=group), prepare(spec, seed, root)).serve()
    return None


def expect_possible(spec: Spec, size: int) -> None:
    """Raise a ReproError for a run, or a number of processes, that cannot be spread like this."""
    if spec.kind != "train" or spec.method == "central":
        raise ReproError(
            f"{spec.run}: nothing to spread over the {size} processes of torchrun; a training by large batch or "
            "federated averaging was expected; start it without torchrun"
        )
    if spec.stacked is not None:
        raise ReproError(
            f"{spec.run}: {spec.stacked} clients train together as one network, which the processes of torchrun do "
            "not; start it without torchrun"
        )
    if not 2 <= size <= spec.workers + 1:
        raise ReproError(
            f"{spec.run}: {size} processes for a server and {spec.workers} clients; 2 to {spec.workers + 1} were "
            "expected; change --nproc-per-node"
        )


def _ended(*_: object) -> NoReturn:
    """What follows a request to end: torchrun makes it of all others when a process has ended."""
    print(f"repro: ended from outside, as torchrun does when another process has ended; {AGAIN}", file=sys.stderr)
    raise SystemExit(128 + signal.SIGTERM)
