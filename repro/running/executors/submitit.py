"""Runs as jobs of Slurm, in arrays, through submitit.

This process waits for them; jobs write records and checkpoints themselves into the checkout, which all nodes share. A
job that Slurm stops and requeues (preemption, a node that fails, the end of its time) goes on from the checkpoint of
its run; one that ends without an answer is handed in once more. Partition, account and the like come from Slurm's own
variables (``SBATCH_PARTITION``, ``SBATCH_ACCOUNT``), which sbatch reads and which go before what is asked for here.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import submitit
from submitit.core.utils import FailedSubmissionError, UncompletedJobError

from repro.errors import ReproError
from repro.registry import store
from repro.running.executors import Resources, Work, caught, needs
from repro.running.workers import Answer

LOGS = Path("data/logs")
MOST_IN_ARRAY = 1000
"""Jobs of an array; Slurm's own limit is 1001 unless a cluster raises it."""
MOST_TIMEOUTS = 20
"""How often a job whose time is over is requeued."""
LOOK_SECONDS, QUEUE_SECONDS = 0.5, 10.0
"""How often this process looks for results, and asks Slurm which jobs there are."""
_Runs = list[tuple[int, needs.Task]]  # with the number of each
_Submitted = tuple[submitit.Job[Any], _Runs]


class Job(submitit.helpers.Checkpointable):
    """What a job does: some runs, one after the other; those that have a record by then are done."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self, tasks: Sequence[needs.Task], root: Path) -> list[str | Exception]:
        """The answer of each run."""
        answers = []
        for task in tasks:
            answers.append(answer := caught(self._run, *task, root))
            if isinstance(answer, UncompletedJobError):  # submitit's own, at the end of the job's time
                raise answer
        return answers

    def _run(self, spec: Any, seed: int, root: Path) -> str:
        if store.stored(spec, seed, root) is not None:
            return f"{spec.run} seed {seed}: computed before the job was requeued"
        return self.work.keep(*self.work.compute(spec, seed, root), root)


class Executor:
    """See ``repro.running.executors.Pool``. What ``submit`` takes is handed to Slurm when ``answers`` is called."""

    remedy = f"read its log under {LOGS}"
    at_once: int | None = None  # Slurm limits those that run

    def __init__(self, work: Work, root: Path, resources: Resources) -> None:
        if missing := [name for name in ("sbatch", "srun", "squeue") if shutil.which(name) is None]:
            raise ReproError(
                f"--executor submitit: no {missing[0]} on the PATH; a machine from which jobs of Slurm are submitted "
                "was expected; log in to one, or use --executor local"
            )
        if resources.gpus != int(resources.gpus):
            raise ReproError(f"--gpus {resources.gpus:g} with submitit; a whole number was expected: Slurm shares none")
        self._root, self._jobs, self._gpus = root, resources.jobs, int(resources.gpus)
        self._job = Job(work)
        self._slurm = submitit.SlurmExecutor(root / LOGS / "slurm", max_num_timeout=MOST_TIMEOUTS)
        self._waiting: dict[tuple[str, int], tuple[int, needs.Task]] = {}
        self._busy: list[_Submitted] = []
        self._submitted, self._asked = 0, 0.0
        self._absent: set[str] = set()
        self._apart: set[tuple[str, int]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if left := [job.job_id for job, _ in self._busy]:
            subprocess.run(["scancel", *left], check=False)

    def submit(self, spec: Any, seed: int, root: Path, /) -> int:
        """Take a run; it is handed in with all others that wait then."""
        self._submitted += 1
        self._waiting[spec.run, seed] = self._submitted, (spec, seed)
        return self._submitted

    def answers(self) -> Iterator[tuple[int, Answer]]:
        """Wait until a job ends; the numbers and answers of its runs."""
        self._hand_in()
        while not (ended := self._ended()):
            time.sleep(LOOK_SECONDS)
        self._busy = [each for each in self._busy if each not in ended]
        for job, runs in ended:
            yield from self._of_job(job, runs) if job.paths.result_pickle.exists() else self._without_answer(runs)

    def _hand_in(self) -> None:
        """Submit what waits: arrays of jobs that ask for the same."""
        together = [task for name, (_, task) in self._waiting.items() if name not in self._apart]
        apart = [task for name, (_, task) in self._waiting.items() if name in self._apart]
        for array in needs.arrays(together, self._root, self._jobs) + needs.arrays(apart, self._root, apart=True):
            self._slurm.update_parameters(
                job_name="repro", time=array.minutes, cpus_per_task=1, stderr_to_stdout=True,
                array_parallelism=self._jobs or MOST_IN_ARRAY, setup=[self._path()],
                additional_parameters={"requeue": True} | ({} if array.gib is None else {"mem": f"{array.gib}G"}),
                **({"gpus_per_node": self._gpus} if self._gpus else {}),
            )  # fmt: skip
            for start in range(0, len(array.jobs), MOST_IN_ARRAY):
                part = array.jobs[start : start + MOST_IN_ARRAY]
                try:
                    with self._slurm.batch():
                        jobs = [self._slurm.submit(self._job, tasks, self._root) for tasks in part]
                except (FailedSubmissionError, UncompletedJobError, subprocess.CalledProcessError) as error:
                    raise ReproError(
                        f"Slurm refused jobs of {array.minutes} minutes and {array.gib or 'any'} GiB: {_last(error)}; "
                        "`python -m repro plan --executor submitit` shows what is asked for"
                    ) from error
                for job, tasks in zip(jobs, part, strict=True):
                    self._busy.append((job, [self._waiting.pop((spec.run, seed)) for spec, seed in tasks]))
                    self._name_logs(job, tasks)

    def _path(self) -> str:
        """A line of the job's script: the code of this checkout, wherever Slurm starts it."""
        return f"export PYTHONPATH={shlex.quote(str(self._root))}${{PYTHONPATH:+:$PYTHONPATH}}"

    def _name_logs(self, job: submitit.Job[Any], tasks: Sequence[needs.Task]) -> None:
        """A link named by run and seed to the log of the job that computes it."""
        for spec, seed in tasks:
            link = self._root / LOGS / spec.profile / spec.source / f"{spec.run}.s{seed}.log"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(job.paths.stdout, link.parent))

    def _ended(self) -> list[_Submitted]:
        """Jobs with an answer, and those that Slurm did not know when it was asked twice."""
        ended = [each for each in self._busy if each[0].paths.result_pickle.exists()]
        if ended or time.monotonic() - self._asked < QUEUE_SECONDS:
            return ended
        self._asked = time.monotonic()
        # Not sacct, on which submitit relies: it needs accounting, which small clusters do not have.
        asked = subprocess.run(["squeue", "--me", "-h", "-r", "-o", "%i"], capture_output=True, text=True, check=False)
        if asked.returncode:
            return []  # the controller is busy or restarts; jobs go on without it
        absent = {job.job_id for job, _ in self._busy} - set(asked.stdout.split())
        # Once is not enough: the file of an answer may come late through a shared folder.
        gone, self._absent = absent & self._absent, absent
        return [each for each in self._busy if each[0].job_id in gone]

    def _of_job(self, job: submitit.Job[Any], runs: _Runs) -> list[tuple[int, Answer]]:
        try:
            answers: list[Answer] = job.result()
        except Exception as error:  # the job's own, not a run's: its time is over too often, its work cannot be loaded
            answers = [ReproError(f"{_last(error)}; {self.remedy}")] * len(runs)
        for path in (job.paths.result_pickle, job.paths.submitted_pickle):
            path.unlink(missing_ok=True)
        return [(number, answer) for (number, _), answer in zip(runs, answers, strict=True)]

    def _without_answer(self, runs: _Runs) -> list[tuple[int, Answer]]:
        """Of a job that was ended: which runs it had finished, and the one that it computed; the others wait again."""
        found: list[tuple[int, Answer]] = []
        left: _Runs = []
        for number, (spec, seed) in runs:
            if store.stored(spec, seed, self._root) is not None:
                found.append((number, f"{spec.run} seed {seed}: computed"))
            else:
                left.append((number, (spec, seed)))
        for number, (spec, seed) in left[:1]:
            self._apart.add((spec.run, seed))  # what ended the job may be this run: it shares none again
            found.append((number, None))
        self._waiting |= {(spec.run, seed): (number, (spec, seed)) for number, (spec, seed) in left[1:]}
        return found


def _last(error: Exception) -> str:
    """The line that says what went wrong: after a trace submitit adds where its logs are."""
    said = str(error).partition("You can check full logs")[0].strip(" -\n")
    return (said.splitlines() or [type(error).__name__])[-1]
