"""``repro run``: one run, one record; under torchrun the clients are in its processes, and the first one writes."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from repro.commands import console, named
from repro.errors import ReproError
from repro.registry import specs, store
from repro.registry.specs import Spec
from repro.results.records import Record
from repro.running import bill

BY_TORCHRUN = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
"""What torchrun tells its processes in their environment."""


def run(options: Namespace, root: Path) -> int:
    """Compute a run that has no valid record; 1 if it diverged though it was not expected to."""
    spec, seed = named.task(options, root)
    valid, shared = store.stored(spec, seed, root) is not None, os.environ.keys() >= BY_TORCHRUN
    if valid and not (shared and int(os.environ["RANK"])):
        path = store.record_path(spec, seed, root)
        print(f"{path} is valid; nothing to do (`repro rerun {spec.run}` repeats it and compares)")
    if valid and not shared:
        return 0
    if not shared or not int(os.environ["RANK"]):
        console.note(_announced(spec, seed, root))
    made = _together(spec, seed, root, options, wanted=not valid) if shared else _alone(spec, seed, root, options)
    if made is None:
        return 0
    from repro.running import runner

    record, provenance = made
    path = runner.save(record, provenance, root)
    print(f"{path}: {record.status} in {provenance['seconds']} s" + (f"; {record.reason}" if record.reason else ""))
    return int(record.status == "diverged" and not spec.expects_divergence)


def _announced(spec: Spec, seed: int, root: Path) -> str:
    """What is computed, what it costs as far as other seeds tell, and how to stop it."""
    planned = specs.runs_and_waiting(spec.source, spec.profile, spec.group, root)[0]
    seconds = bill.expected(bill.times([task for task in planned if task[0].run == spec.run], root)).get(spec.run)
    cost = "its cost is not known, no seed was timed" if seconds is None else f"about {seconds / 3600:.2g} core-hours"
    return (
        f"{spec.run} seed {seed} at profile {spec.profile}: {cost}; Ctrl-C stops it, and the same command goes on from "
        "its last checkpoint"
    )


def _alone(spec: Spec, seed: int, root: Path, options: Namespace) -> tuple[Record, dict[str, Any]]:
    from repro.running import runner  # which imports torch

    with console.progress(f"{spec.run} seed {seed}") as report:
        return runner.run(spec, seed, root, processes=options.processes, report=report)


def _together(
    spec: Spec, seed: int, root: Path, options: Namespace, *, wanted: bool
) -> tuple[Record, dict[str, Any]] | None:
    """This process's part: the record and its provenance from the first one, None from the others."""
    from repro.running import processes

    if options.processes > 1:
        raise ReproError("--processes under torchrun, whose processes hold the clients; leave the option out")
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        processes.expect_possible(spec, size)
    except ReproError:
        if rank:  # the first process says it
            raise SystemExit(2) from None
        raise
    if rank:
        return processes.run(spec, seed, root, timeout=options.timeout)
    with console.progress(f"{spec.run} seed {seed}") as report:
        return processes.run(spec, seed, root, timeout=options.timeout, report=report, wanted=wanted)
