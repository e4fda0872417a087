"""All runs that have no valid record, side by side, one process per core with one torch thread each."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from repro.errors import ReproError
from repro.registry.specs import Spec

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
    """One process per core; one in all where there is a GPU, which runs share badly."""
    import torch

    return 1 if torch.cuda.is_available() else os.cpu_count() or 1


def sweep(
    tasks: Sequence[Task],
    root: Path = Path(),
    *,
    jobs: int | None = None,
    time_budget: float | None = None,
    in_order: bool = False,
) -> Outcome:
    """Compute every task that has no valid record, and go on when one of them fails; measurements come last, alone.

    A run that steps up as often as another one did waits for that one, where both are among the tasks.

    Args:
        tasks: runs and seeds.
        root: root of the repository.
        jobs: processes; ``default_jobs`` when None.
        time_budget: seconds after which no further run is started; the runs in flight still finish.
        in_order: start runs in the order of ``tasks`` instead of the longest first.

    Returns:
        What was done. A run that diverged without ``expects_divergence``, or that failed, is a problem; its
        neighbours are not affected.

    Raises:
        ReproError: a stored record is truncated or was edited; nothing is computed then.
    """
    from repro.data import sets
    from repro.registry import store

    todo = [task for task in tasks if store.stored(*task, root) is None]
    if not in_order:
        todo.sort(key=cost, reverse=True)
    problems: list[str] = []
    for name in sorted({spec.dataset for spec, _ in todo if spec.kind != "law"}):
        try:
            sets.load(name, root / "data")
        except ReproError as error:
            waiting = [task for task in todo if task[0].kind != "law" and task[0].dataset == name]
            problems.append(f"{len(waiting)} runs on {name} could not start: {error}")
            todo = [task for task in todo if task not in waiting]
    started, computed, left = time.monotonic(), 0, 0
    # A measurement has the machine for itself: after all others, one at a time, each in a new process.
    alone = [task for task in todo if task[0].kind == "measure"]
    together = [task for task in todo if task not in alone]
    for part, processes in ((together, jobs or default_jobs()), (alone, 1)):
        if part:
            rest = None if time_budget is None else time_budget - (time.monotonic() - started)
            now, later = _compute(part, root, processes, rest, problems, renew=part is alone)
            computed, left = computed + now, left + later
    valid = 0
    for spec, seed in tasks:
        record = store.stored(spec, seed, root)
        if record is None:
            continue
        valid += 1
        if record.status == "diverged" and not spec.expects_divergence:
            problems.append(f"{spec.run} seed {seed} diverged: {record.reason}")
    return Outcome(valid, computed, left, tuple(problems))


def by_seed(tasks: Sequence[Task]) -> list[Task]:
    """All runs of the lowest seed first, then of the next; the longest first within a seed.

    A sweep that is interrupted so leaves complete seeds.
    """
    return sorted(tasks, key=lambda task: (task[1], -cost(task)))


def _compute(
    todo: list[Task], root: Path, jobs: int, time_budget: float | None, problems: list[str], *, renew: bool = False
) -> tuple[int, int]:
    """Compute ``todo`` in ``jobs`` processes; with ``renew``, no process computes two runs."""
    started, computed = time.monotonic(), 0
    waiting, running = list(todo), dict[Future[str], Task]()
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(
            min(jobs, len(todo)),
            context,
            initializer=start_worker,
            initargs=(os.getpid(),),
            max_tasks_per_child=1 if renew else None,
        ) as pool,
        tqdm(
            total=round(sum(map(cost, todo)) + len(todo)),
            unit="img",
            unit_scale=True,
            disable=None,
            smoothing=0.1,
        ) as bar,
    ):
        while waiting or running:
            late = time_budget is not None and time.monotonic() - started > time_budget
            while len(running) < jobs and not late:
                task = next((t for t in waiting if not _waits(t, [*waiting, *running.values()])), None)
                if task is None:
                    break
                waiting.remove(task)
                running[pool.submit(_run, *task, root)] = task
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                spec, seed = running.pop(future)
                try:
                    tqdm.write(
                        f"[{len(todo) - len(waiting) - len(running)}/{len(todo)}] {future.result()}",
                        sys.stderr,
                    )
                    computed += 1
                except BrokenProcessPool:
                    problems.append(
                        f"{spec.run} seed {seed}: its process was killed (out of memory?); run the sweep again"
                    )
                    problems.extend(f"{s.run} seed {k} was not started" for s, k in waiting)
                    return computed, len(waiting)
                except Exception as error:  # whatever a run met, the others go on
                    kind = "" if isinstance(error, ReproError) else f"{type(error).__name__}: "
                    problems.append(f"{spec.run} seed {seed} failed: {kind}{error}")
                bar.update(round(cost((spec, seed)) + 1))
    return computed, len(waiting)


def _waits(task: Task, unfinished: Sequence[Task]) -> bool:
    """Whether a run needs the record of one of ``unfinished`` with the same seed."""
    spec, seed = task
    other = (spec.step_up or {}).get("share_of")
    return other is not None and any((s.run, k) == (other, seed) for s, k in unfinished)


def start_worker(parent: int) -> None:
    """Import torch once, and end with the parent: a killed sweep must not leave runs behind that nobody waits for."""
    import torch

    torch.set_num_threads(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run(spec: Spec, seed: int, root: Path) -> str:
    from repro.running import runner

    record, provenance = runner.run(spec, seed, root)
    runner.save(record, provenance, root)
    trained = spec.kind == "train" and record.rows
    last = f"test top-1 {100 * record.rows[-1]['test_top1']:.1f} %" if trained else spec.kind
    state = "" if record.status == "completed" else f", diverged ({record.reason})"
    return f"{spec.run} seed {seed}: {last}{state} in {provenance['seconds']:.0f} s"
