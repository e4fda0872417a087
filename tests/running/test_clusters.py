"""Runs through a real Slurm of one node and a real local Ray, killed in the middle: the records of the local pool.

Where programs or packages are missing, the tests are skipped and say which. `benchmarks/cluster.py` does the same
through the command line, with the runs of a source.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import toy

from repro import files
from repro.registry.specs import Spec
from repro.results import records
from repro.running import executors, runner, sweep

sys.path.insert(0, str(toy.ROOT / "benchmarks"))

processes = pytest.importorskip("processes")
slurm_here = pytest.importorskip("slurm_here")

pytestmark = [pytest.mark.data, pytest.mark.usefixtures("data")]
LONG = toy.spec("federated", train_images=192, epochs=60)
TASKS = [(LONG, 1), *((toy.spec("central", epochs=2), seed) for seed in (1, 2, 3))]


def lacking(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed (`pip install -e '.[cluster]'`)")


no_slurm = slurm_here.missing()
needs_slurm = pytest.mark.skipif(no_slurm is not None, reason=str(no_slurm))


def often(spec: Spec, seed: int, root: Path) -> executors.Computed:
    """A run that writes a checkpoint after every round."""
    return runner.run(spec, seed, root, checkpoint_seconds=0.0)


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs and workers import this file."""
    folders = [toy.ROOT, toy.ROOT / "tests", Path(__file__).parent]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, folders)))
    monkeypatch.setattr(sweep, "_record", often)


def bodies(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in records.every(root)}


def local(root: Path) -> dict[str, bytes]:
    """The records of the local pool, which are taken away again."""
    assert sweep.sweep(TASKS, root, jobs=2).computed == len(TASKS)
    found = bodies(root)
    for name in (records.every(root), (root / "data/provenance").rglob("*.json")):
        for path in list(name):
            path.unlink()
    return found


def meanwhile(root: Path, kill: Callable[[], object]) -> threading.Thread:
    """Once the long run has a checkpoint, ``kill`` is called, beside the sweep."""

    def wait() -> None:
        checkpoint = runner.checkpoint_path(LONG, 1, root)
        deadline = time.monotonic() + 300
        while not checkpoint.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        kill()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def interruptions(root: Path) -> int:
    return int(files.read_json(root / "data/provenance/smoke/e1/toy-federated.s1.json")["interruptions"])


def log(root: Path) -> Path:
    return root / "data/logs/smoke/e1/toy-federated.s1.log"


@needs_slurm
@lacking("submitit")
@pytest.mark.parametrize("how", ["requeue", "cancel"])
def test_a_job_of_slurm_that_is_killed_goes_on_and_records_are_those_of_the_local_pool(
    how: str, root: Path, path: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = local(root)
    with slurm_here.slurm(tmp_path_factory.mktemp("slurm")) as environment:
        monkeypatch.setenv("SLURM_CONF", environment["SLURM_CONF"])

        def kill() -> None:
            job = os.readlink(log(root)).rpartition("/")[2].removesuffix("_0_log.out")
            subprocess.run(["scontrol", "requeue", job] if how == "requeue" else ["scancel", job], check=True)
            if how == "requeue":  # Slurm waits two minutes before it starts a requeued job
                time.sleep(3)
                subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)

        thread = meanwhile(root, kill)
        done = sweep.sweep(TASKS, root, executor="submitit", jobs=2)
        thread.join()
    assert (done.valid, done.problems) == (len(TASKS), ())
    assert bodies(root) == expected
    assert interruptions(root) == 1, "it started from the beginning, or was not killed"
    assert "Starting with JobEnvironment" in log(root).read_text()
    assert not list((root / "data/logs/slurm").glob("*.pkl"))


@lacking("ray")
def test_a_run_whose_ray_worker_is_killed_goes_on_and_records_are_those_of_the_local_pool(
    root: Path, path: None, capfd: pytest.CaptureFixture[str]
) -> None:
    expected = local(root)

    def kill() -> None:
        for each in list(processes.tree(os.getpid())):
            if Path(f"/proc/{each}/cmdline").read_bytes().startswith(b"ray::caught"):
                os.kill(each, signal.SIGKILL)

    thread = meanwhile(root, kill)
    done = sweep.sweep(TASKS, root, executor="ray", jobs=2)
    thread.join()
    assert (done.valid, done.problems) == (len(TASKS), ())
    assert bodies(root) == expected
    assert interruptions(root) == 1, "it started from the beginning, or was not killed"
    assert (
        "toy-federated seed 1: its process was killed (out of memory?); it is started again" in capfd.readouterr().err
    )
