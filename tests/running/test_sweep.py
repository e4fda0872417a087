"""A sweep survives being killed, keeps what is finished, and goes on past a run that fails."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import toy

from repro.errors import ReproError
from repro.registry import store
from repro.results import records
from repro.running import runner, sweep

pytestmark = [pytest.mark.data, pytest.mark.usefixtures("data")]

SCRIPT = """
import sys
sys.path[:0] = [{tests!r}, {repo!r}]
import toy
from pathlib import Path
from repro.running import runner, sweep

runner.CHECKPOINT_SECONDS = 0.2
tasks = [(toy.spec("central", epochs=2), 1), (toy.spec("federated", train_images=192, epochs={epochs}), 1)]
if __name__ == "__main__":
    print(sweep.sweep(tasks, Path({root!r}), jobs=2))
"""


def bodies(root):
    return {path.name: path.read_bytes() for path in records.every(root)}


def test_a_sweep_does_not_depend_on_the_number_of_processes(root, tmp_path):
    tasks = [(toy.spec(method, precision="bf16"), seed) for method in ("central", "federated") for seed in (1, 2)]
    assert sweep.sweep(tasks, root, jobs=2).computed == 4
    first = bodies(root)
    for path in records.every(root):
        path.unlink()
    assert sweep.sweep(tasks, root, jobs=1).computed == 4
    assert bodies(root) == first
    again = sweep.sweep(tasks, root, jobs=2)
    assert (again.valid, again.computed, again.problems) == (4, 0, ())


def test_a_sweep_killed_in_mid_run_goes_on_where_it_was(root, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(toy.ROOT / "tests"), repo=str(toy.ROOT), root=str(root), epochs=30))
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.DEVNULL)
    finished = root / "data/records/smoke/e1/toy-central.s1.json"
    checkpoint = root / "data/checkpoints/smoke/e1/toy-federated.s1.pt"
    deadline = time.monotonic() + 60
    while not (finished.exists() and checkpoint.exists()):
        assert time.monotonic() < deadline, "no record and checkpoint in time"
        assert process.poll() is None, "the sweep ended by itself; the test shows nothing"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(1.5)  # the workers notice that their parent is gone
    assert not list((root / "data/records").rglob("toy-federated*"))
    kept = (finished.stat().st_mtime_ns, finished.read_bytes())
    at = checkpoint.stat().st_mtime_ns
    time.sleep(1.0)
    assert checkpoint.stat().st_mtime_ns == at, "a worker outlived the sweep"

    tasks = [(toy.spec("central", epochs=2), 1), (toy.spec("federated", train_images=192, epochs=30), 1)]
    resumed_from = runner.checkpoint_path(tasks[1][0], 1, root)
    assert resumed_from == checkpoint
    shares = []
    resumed, _ = runner.run(*tasks[1], root, report=shares.append)
    assert shares[0] > 1.5 / 30, "it started from the beginning"
    assert (finished.stat().st_mtime_ns, finished.read_bytes()) == kept
    checkpoint.unlink()
    undisturbed, _ = runner.run(*tasks[1], root)
    assert resumed.body() == undisturbed.body()


def test_a_sweep_goes_on_past_a_diverging_run_and_fails_at_the_end_with_the_list(root):
    wild = toy.spec("large_batch", run="toy-wild", norm="group", schedule={"kind": "constant", "lr": 1e200})
    meant = toy.spec(
        "large_batch",
        run="toy-meant",
        norm="group",
        schedule={"kind": "constant", "lr": 1e200},
        expects_divergence=True,
    )
    tasks = [(wild, 1), (toy.spec("central"), 1), (meant, 1)]
    done = sweep.sweep(tasks, root, jobs=1)
    assert done.valid == 3
    assert len(done.problems) == 1
    assert "toy-wild seed 1 diverged" in done.problems[0]
    again = sweep.sweep(tasks, root, jobs=1)
    assert (again.computed, again.problems) == (0, done.problems)


def test_runs_whose_data_are_missing_are_named_and_the_others_complete(root):
    (root / "data/sources.yaml").unlink()
    (root / "data/prepared").unlink()
    (root / "data/sources.yaml").write_text((toy.ROOT / "data/sources.yaml").read_text().replace("cifar10:", "other:"))
    law = toy.spec("large_batch", run="toy-law", kind="law", train_images=24)
    done = sweep.sweep([(toy.spec("central"), 1), (toy.spec("central"), 2), (law, 1)], root, jobs=1)
    assert (done.valid, done.computed) == (1, 1)
    assert len(done.problems) == 1
    assert "2 runs on cifar10 could not start" in done.problems[0]


def test_no_further_run_is_started_after_the_time_budget(root):
    done = sweep.sweep([(toy.spec("central"), seed) for seed in (1, 2, 3)], root, jobs=1, time_budget=0.0)
    assert done.computed + done.left == 3
    assert done.left >= 1


def test_a_tampered_record_stops_the_sweep_before_anything_is_computed(root):
    task = (toy.spec("central"), 1)
    sweep.sweep([task], root, jobs=1)
    path = store.record_path(*task, root)
    body = json.loads(path.read_text())
    body["rows"][-1]["test_top1"] = 0.99
    path.write_text(json.dumps(body))
    with pytest.raises(ReproError, match="edited or damaged"):
        sweep.sweep([task, (toy.spec("federated"), 1)], root, jobs=1)
    assert not list((root / "data/records").rglob("toy-federated*"))
