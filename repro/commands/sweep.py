"""``repro sweep``: all runs that have no valid record, one process per core or on a cluster."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro.commands import console, named
from repro.errors import ReproError
from repro.registry import order, specs, store, study
from repro.running import sweep, tuning


def run(options: Namespace, root: Path) -> int:
    """Compute what is missing; 1 if a run failed, diverged unexpectedly or could not start."""
    if options.in_order:
        return _in_order(options, root)
    tasks = []
    for source in named.sources(options):
        if options.only == "recorded":
            planned, _ = specs.runs_and_waiting(source, options.profile, options.group, root)
            tasks += [task for task in planned if store.was_run(*task, root)]
        else:
            tasks += specs.runs(source, options.profile, options.group, root)
    if options.group != "grid":
        console.problems(_stale_rates(options, root))
    done = sweep.sweep(tasks, root, time_budget=options.time_budget, **_executor(options))
    for source in named.sources(options):
        store.keep_folders(options.profile, source, options.group, root)
    print(f"{done.valid} of {len(tasks)} runs are valid; {done.computed} computed now, {done.left} left for later")
    _note_left(options, done)
    return console.problems(done.problems)


def _note_left(options: Namespace, done: sweep.Outcome) -> None:
    if options.executor != sweep.LOCAL and done.left:
        console.note(f"{done.left} measurements are left: they compare times of one machine, as --executor local does")


def _executor(options: Namespace) -> dict[str, Any]:
    """Where runs are computed, as ``sweep.sweep`` takes it."""
    return {name: getattr(options, name) for name in ("jobs", "executor", "gpus")}


def _stale_rates(options: Namespace, root: Path) -> Iterator[str]:
    """A line for each learning rate that is no longer what its grid would choose."""
    for source in named.sources(options):
        if options.only == "recorded" and not specs.rates_chosen(source, options.profile, root):
            continue  # no run of this source has a record that waits for them
        for grid in tuning.stale(source, options.profile, root):
            yield (
                f"the learning rate of {source} {grid} was chosen with other code, data or settings; "
                f"`{specs.remedy(options.profile)}` chooses again"
            )


def _in_order(options: Namespace, root: Path) -> int:
    """What is left of the study, in the order of ``data/study.yaml`` (``repro.registry.order.steps``)."""
    if options.profile != study.PROFILE or options.source or options.group != "artefact" or options.only != "all":
        raise ReproError(
            f"--in-order computes all runs of profile {study.PROFILE}; neither --source, --group, --only nor another "
            "profile was expected beside it"
        )
    started, problems = time.monotonic(), list[str]()
    for step in order.steps(root):
        rest = None if options.time_budget is None else options.time_budget - (time.monotonic() - started)
        tasks = step.tasks(root)
        console.note(f"== {step.name}: {len(tasks)} runs")
        done = sweep.sweep(sweep.by_seed(tasks), root, time_budget=rest, in_order=True, **_executor(options))
        print(f"{step.name}: {done.valid} of {len(tasks)} runs are valid; {done.computed} computed now", flush=True)
        _note_left(options, done)
        problems += done.problems
        if step.tune and done.valid == len(tasks):
            tuning.write(step.tune, options.profile, root)
    for source in specs.SOURCES:
        for group in ("artefact", "control"):
            if waiting := specs.runs_and_waiting(source, options.profile, group, root)[1]:
                problems.append(f"{len(waiting)} runs of {source} ({group}) wait for their learning rates")
            store.keep_folders(options.profile, source, group, root)
    return console.problems(problems)
