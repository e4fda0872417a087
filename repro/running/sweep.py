"""All runs that have no valid record, side by side, one process per core with one torch thread each.

A run whose process is killed is tried once more, and the others go on. Ctrl-C ends all processes; the records that were
written stay, and interrupted runs go on from their checkpoints.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from repro.errors import ReproError
from repro.registry.specs import Spec
from repro.results.records import Record
from repro.running import executors
from repro.running.workers import Workers
from repro.running.workers import start_worker as start_worker

MOST_JOBS = 4
"""Processes for each usable core that are accepted, at most; each holds a network and its images in memory."""
ATTEMPTS = 2
"""How often a run is started whose process is killed."""
LOCAL = "local"
"""The executor that computes in processes of this machine."""
Task = tuple[Spec, int]


@dataclass(frozen=True)
class Outcome:
    """What a sweep did, as counts and as one line for each run that needs attention."""

    valid: int
    computed: int
    left: int
    problems: tuple[str, ...]


def cost(task: Task) -> float:
    """Work of a run in training images, to start the longest first."""
    spec, _ = task
    return float(spec.train_images * spec.epochs) if spec.kind == "train" else 0.0


def default_jobs() -> int:
    """One process per core that this process may use; one in all where there is a GPU, which runs share badly."""
    from repro import machine

    return 1 if machine.device().type == "cuda" else machine.usable_cores()


def expect_possible(jobs: int | None, time_budget: float | None, executor: str = LOCAL, gpus: float = 0.0) -> None:
    """Raise a ReproError for a number of processes, a time, or GPUs, that no sweep with this executor can have."""
    from repro import machine

    if executor != LOCAL:
        if time_budget is not None:
            raise ReproError(
                f"a time budget with --executor {executor}, which is handed all runs at once; leave it out: Ctrl-C "
                "ends the sweep and unfinished runs go on from their checkpoint"
            )
        return
    if gpus:
        raise ReproError(
            "--gpus with --executor local, which takes the GPU that there is; expected with submitit or ray"
        )
    most = MOST_JOBS * max(2, machine.usable_cores())
    if jobs is not None and not 1 <= jobs <= most:
        raise ReproError(f"{jobs} processes on {machine.usable_cores()} usable cores; 1 to {most} were expected")
    if time_budget is not None and math.isnan(time_budget):
        raise ReproError("a time budget that is no number; seconds were expected")


def sweep(
    tasks: Sequence[Task],
    root: Path = Path(),
    *,
    jobs: int | None = None,
    time_budget: float | None = None,
    in_order: bool = False,
    executor: str = LOCAL,
    gpus: float = 0.0,
) -> Outcome:
    """Compute every task that has no valid record, and go on when one of them fails; measurements come last, alone.

    A run that steps up as often as another one did waits for that one, where both are among the tasks.

    Args:
        tasks: runs and seeds.
        root: root of the repository.
        jobs: processes; ``default_jobs`` when None. With another executor, the most jobs at a time; no limit when None.
        time_budget: seconds after which no further run is started; the runs in flight still finish. With 0 or less,
            none is started.
        in_order: start runs in the order of ``tasks`` instead of the longest first.
        executor: ``local``, or ``submitit`` or ``ray`` (``repro.running.executors``), which leave measurements: those
            compare times of one machine.
        gpus: GPUs of each run, with another executor than ``local``.

    Returns:
        What was done. A run that diverged without ``expects_divergence``, or that failed, is a problem; its
        neighbours are not affected.

    Raises:
        ReproError: a stored record is truncated or was edited, more processes or another time budget than there can
            be, or an executor that cannot be started; nothing is computed then.
        KeyboardInterrupt: the processes of runs in flight have been ended.
    """
    from repro.registry import store

    expect_possible(jobs, time_budget, executor, gpus)
    todo = [task for task in tasks if store.stored(*task, root) is None]
    if not in_order:
        todo.sort(key=cost, reverse=True)
    problems: list[str] = []
    todo = _with_data(todo, root, problems)
    started, computed, left = time.monotonic(), 0, 0
    # A measurement has the machine for itself: after all others, one at a time, each in a new process.
    alone = [task for task in todo if task[0].kind == "measure"]
    together = [task for task in todo if task not in alone]
    if executor != LOCAL:
        computed, left = _elsewhere(together, problems, root, executor, executors.Resources(jobs, gpus)), len(alone)
        together, alone = [], []
    for part, processes in ((together, jobs or default_jobs()), (alone, 1)):
        if part:
            rest = None if time_budget is None else time_budget - (time.monotonic() - started)
            batch = _Batch(list(part), problems)
            _compute(batch, root, processes, rest, pool=Workers(_run, renew=part is alone))
            computed, left = computed + batch.computed, left + len(batch.waiting)
    valid = _valid(tasks, root, problems)
    return Outcome(valid, computed, left, tuple(problems))


def _valid(tasks: Sequence[Task], root: Path, problems: list[str]) -> int:
    """How many tasks have a valid record; those that diverged and should not have are ``problems``."""
    from repro.registry import store

    valid = 0
    for spec, seed in tasks:
        record = store.stored(spec, seed, root)
        if record is None:
            continue
        valid += 1
        if record.status == "diverged" and not spec.expects_divergence:
            problems.append(f"{spec.run} seed {seed} diverged: {record.reason}")
    return valid


def _elsewhere(
    tasks: list[Task], problems: list[str], root: Path, executor: str, resources: executors.Resources
) -> int:
    """Compute ``tasks`` on a cluster; how many were."""
    batch = _Batch(list(tasks), problems)
    if tasks:
        pool = executors.start(executor, executors.Work(_record, _kept), root, resources)
        _compute(batch, root, pool.at_once or len(tasks), None, pool=pool)
    return batch.computed


def _with_data(todo: list[Task], root: Path, problems: list[str]) -> list[Task]:
    """The tasks whose data are there; the others are ``problems``."""
    from repro.data import sets

    for name in sorted({spec.dataset for spec, _ in todo if spec.kind != "law"}):
        try:
            sets.load(name, root / "data")
        except ReproError as error:
            waiting = [task for task in todo if task[0].kind != "law" and task[0].dataset == name]
            problems.append(f"{len(waiting)} runs on {name} could not start: {error}")
            todo = [task for task in todo if task not in waiting]
    return todo


def by_seed(tasks: Sequence[Task]) -> list[Task]:
    """All runs of the lowest seed first, then of the next; the longest first within a seed.

    A sweep that is interrupted so leaves complete seeds.
    """
    return sorted(tasks, key=lambda task: (task[1], -cost(task)))


@dataclass
class _Batch:
    """Runs that are computed side by side.

    Attributes:
        waiting: not started yet.
        problems: one line for each run that failed; the caller's.
        running: by the number that ``Workers`` gave each.
        killed: how often the process of a run ended without an answer.
        computed: finished runs.
        remedy: what to do about a run whose process is killed again and again.
    """

    waiting: list[Task]
    problems: list[str]
    running: dict[int, Task] = field(default_factory=dict)
    killed: dict[tuple[str, int], int] = field(default_factory=dict)
    computed: int = 0
    remedy: str = ""

    def next(self) -> Task | None:
        """The first run that waits for no other one; it waits no longer."""
        unfinished = [*self.waiting, *self.running.values()]
        task = next((task for task in self.waiting if not _waits(task, unfinished)), None)
        if task is not None:
            self.waiting.remove(task)
        return task

    def answered(self, task: Task, answer: str | Exception | None) -> bool:
        """Note how ``task`` ended; whether that was the last of it."""
        spec, seed = task
        name = f"{spec.run} seed {seed}"
        if answer is None:
            times = self.killed[spec.run, seed] = self.killed.get((spec.run, seed), 0) + 1
            if times < ATTEMPTS:
                tqdm.write(f"{name}: its process was killed (out of memory?); it is started again", sys.stderr)
                self.waiting.append(task)
                return False
            self.problems.append(f"{name}: its process was killed {times} times (out of memory?); {self.remedy}")
        elif isinstance(answer, Exception):
            kind = "" if isinstance(answer, ReproError) else f"{type(answer).__name__}: "
            self.problems.append(f"{name} failed: {kind}{answer}")
        else:
            self.computed += 1
        return True


def _compute(batch: _Batch, root: Path, jobs: int, time_budget: float | None, *, pool: executors.Pool) -> None:
    """Compute what waits, ``jobs`` runs at a time."""
    batch.remedy = pool.remedy
    started, total = time.monotonic(), len(batch.waiting)
    units, done = round(sum(map(cost, batch.waiting)) + total), 0
    with (
        pool as workers,
        tqdm(total=units, unit="img", unit_scale=True, disable=None, smoothing=0.1) as bar,
    ):
        while batch.waiting or batch.running:
            late = time_budget is not None and time.monotonic() - started > time_budget
            while len(batch.running) < jobs and not late and (task := batch.next()) is not None:
                try:
                    batch.running[workers.submit(*task, root)] = task
                except ReproError as error:  # this one run cannot be taken; the others go on
                    batch.answered(task, error)
            if not batch.running:
                break
            for number, answer in workers.answers():
                task = batch.running.pop(number)
                if batch.answered(task, answer):
                    done += 1
                    bar.update(round(cost(task) + 1))
                if isinstance(answer, str):
                    tqdm.write(f"[{done}/{total}] {answer}", sys.stderr)


def _waits(task: Task, unfinished: Sequence[Task]) -> bool:
    """Whether a run needs the record of one of ``unfinished`` with the same seed."""
    spec, seed = task
    other = (spec.step_up or {}).get("share_of")
    return other is not None and any((s.run, k) == (other, seed) for s, k in unfinished)


def _run(spec: Spec, seed: int, root: Path) -> str:
    return _kept(*_record(spec, seed, root), root)


def _record(spec: Spec, seed: int, root: Path) -> executors.Computed:
    from repro.running import runner

    return runner.run(spec, seed, root)


def _kept(record: Record, provenance: dict[str, Any], root: Path) -> str:
    """Write a record; a line on it."""
    from repro.running import runner

    runner.save(record, provenance, root)
    trained = record.kind == "train" and record.rows
    last = f"test top-1 {100 * record.rows[-1]['test_top1']:.1f} %" if trained else record.kind
    state = "" if record.status == "completed" else f", diverged ({record.reason})"
    return f"{record.run} seed {record.seed}: {last}{state} in {provenance['seconds']:.0f} s"
