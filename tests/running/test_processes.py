"""Server and clients in processes of their own: the simulation's record, its bytes, and the same after a kill."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import toy
import tree

from repro import checkpoint, cli, files
from repro.data.batches import Batches
from repro.distributed.start import Started
from repro.registry import specs, store
from repro.registry.specs import Spec
from repro.results import records
from repro.results.records import Record
from repro.running import processes, rerun, runner
from repro.training.averages import WeightedMean

pytestmark = [pytest.mark.data, pytest.mark.usefixtures("data")]
SEED = 3


def _take_part(rank: int, *, spec: Spec, root: Path, timeout: float, work: Callable | None, options: dict) -> None:
    checkpoint._SLOW = math.inf  # checkpoints are written as often as a test asks for
    if work is not None:
        work(rank)
    made = processes.run(spec, SEED, root, timeout=timeout, **options)
    if made is not None:
        runner.save(*made, root)


def together(size: int, spec: Spec, root: Path, *, timeout: float = 60, work=None, **options: Any) -> Started:
    """``size`` processes that compute a run; the first one writes it. What is given is sent to them, so no closures."""
    given = {"spec": spec, "root": root, "timeout": timeout, "work": work, "options": options}
    return Started(size, partial(_take_part, **given), root)


def computed(size: int, spec: Spec, root: Path, **options: Any) -> tuple[Record, dict[str, Any]]:
    """The record and provenance that they wrote."""
    started = together(size, spec, root, **options)
    assert started.ended(120) == [0] * size, [started.said(rank) for rank in range(size)]
    (path,) = (root / "data/records/smoke/e1").glob("*.json")
    return records.read(path), files.read_json(records.provenance_path(path))


LARGE_BATCH = {"momentum": 0.9, "weight_decay": 1e-3, "precision": "fp32", "sparsity_warmup": 0.5}


@pytest.mark.parametrize(
    ("size", "method", "changes"),
    [
        (2, "large_batch", {"codec": "int8"}),
        (4, "large_batch", {"codec": "dgc", "track": ["gradient_norm"]}),
        (3, "large_batch", {"codec": "int8", "buffers": "local", "quantised_weights": True}),
        (2, "federated", {"codec": "dense", "track": ["per_class"]}),
        (4, "federated", {"codec": "int8", "local_momentum": "average"}),
        (3, "federated", {"codec": "1-bit", "local_momentum": "keep", "buffers": "local"}),
    ],
)
def test_the_record_is_that_of_the_simulation_and_its_bytes_came_over_the_wire(
    size: int, method: str, changes: dict[str, Any], root: Path
) -> None:
    spec = toy.spec(method, **LARGE_BATCH | changes)
    simulated, _ = runner.run(spec, SEED, root, checkpoint_seconds=math.inf)
    record, provenance = computed(size, spec, root)
    assert record.body() == simulated.body()
    assert provenance["processes"] == size
    last = record.rows[-1]
    assert provenance["transport"] == {
        "backend": "gloo", "bytes_up": last["bytes_up"], "bytes_down": last["bytes_down"]
    }  # fmt: skip
    assert last["bytes_up"] > 0


@pytest.mark.parametrize("size", [2, 4])
def test_dense_gradients_are_summed_worker_by_worker(size: int, root: Path) -> None:
    """To the last bit as in ``plain``; ``fast`` computes the sum in one pass, and so differs by round-off."""
    spec = toy.spec("large_batch", momentum=0.9, precision="fp64")
    separate, _ = runner.run(spec, SEED, root, checkpoint_seconds=math.inf, separate=True)
    fast, _ = runner.run(spec, SEED, root, checkpoint_seconds=math.inf)
    record, provenance = computed(size, spec, root)
    assert record.body() == separate.body()
    for ours, theirs in zip(record.rows, fast.rows, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)
        assert (ours["bytes_up"], ours["bytes_down"]) == (theirs["bytes_up"], theirs["bytes_down"])
    assert provenance["transport"]["bytes_up"] == record.rows[-1]["bytes_up"]
    assert rerun.rerun(spec, SEED, root).verdict == rerun.IDENTICAL, "it is repeated with the sums in this order"


# One of them ends -------------------------------------------------------------------------------------------------

DGC = {"codec": "dgc", "momentum": 0.9, "buffers": "local", "sparsity_warmup": 0.5}


def _die(rank: int, *, victim: int, how: signal.Signals, at: int) -> None:
    if rank != victim:
        return
    owner, name = (Batches, "get") if rank else (WeightedMean, "add")
    wrapped, calls = getattr(owner, name), []

    def counted(self: Any, *arguments: Any) -> Any:
        calls.append(self)
        if len(calls) == at + (rank == 0):
            os.kill(os.getpid(), how)
        return wrapped(self, *arguments)

    setattr(owner, name, counted)


def dies(victim: int, how: signal.Signals, at: int) -> Callable[[int], None]:
    """What makes a process send itself a signal in round ``at``, after something was sent and before all was."""
    return partial(_die, victim=victim, how=how, at=at)


@pytest.mark.parametrize(
    ("size", "victim", "method", "changes", "at", "later"),
    [
        (4, 2, "large_batch", DGC, 4, 2),
        (3, 0, "large_batch", DGC, 10, 3),
        (3, 1, "federated", {"codec": "int8"}, 14, 4),
    ],
)
def test_a_run_goes_on_after_a_process_was_killed_in_a_round(
    size: int, victim: int, method: str, changes: dict[str, Any], at: int, later: int, root: Path
) -> None:
    spec = toy.spec(method, **changes)
    undisturbed, _ = runner.run(spec, SEED, root, checkpoint_seconds=math.inf)
    broken = together(size, spec, root, work=dies(victim, signal.SIGKILL, at), checkpoint_seconds=0)
    codes = broken.ended(120)
    assert codes == [-signal.SIGKILL if rank == victim else 2 for rank in range(size)]
    for rank in {*range(size)} - {victim}:
        (line,) = broken.said(rank)
        assert f"of {size} has ended, so that process {rank} ends, too; start the same command again" in line
    assert not list(root.rglob("data/records/**/*.json"))
    done = root / "rounds"
    record, provenance = computed(later, spec, root, checkpoint_seconds=0, report=partial(append, done))
    assert record.body() == undisturbed.body()
    assert provenance["transport"]["bytes_up"] == record.rows[-1]["bytes_up"]
    assert provenance["interruptions"] == 1
    assert len(done.read_text().split()) < len(record.series["train_loss"]), "it started from the beginning"
    assert not list(root.rglob("*.pt"))


def append(path: Path, share: float) -> None:
    with path.open("a") as file:
        file.write(f"{share}\n")


def test_a_process_that_is_silent_is_not_waited_for_longer_than_was_said(root: Path) -> None:
    spec = toy.spec("large_batch", codec="int8")
    silent = together(2, spec, root, work=dies(1, signal.SIGSTOP, 2), timeout=10)
    assert silent.ended(60) == [2, None]
    (line,) = silent.said(0)
    assert "process 1 of 2 sent and took nothing for 10 s, so that process 0 ends, too" in line


def test_a_process_that_is_asked_to_end_says_so_and_so_do_the_others(root: Path) -> None:
    asked = together(2, toy.spec("large_batch", codec="int8"), root, work=dies(1, signal.SIGTERM, 2))
    assert asked.ended(60) == [2, 128 + signal.SIGTERM]
    assert [line.split(",")[0] for line in asked.said(1)] == ["repro: ended from outside"]
    assert "process 1 of 2 has ended" in asked.said(0)[-1]


def test_where_there_is_nothing_to_do_all_end_at_once(root: Path) -> None:
    started = together(3, toy.spec("large_batch"), root, wanted=False)
    assert started.ended(60) == [0, 0, 0]
    assert not list(root.rglob("data/records/**/*.json"))


def _has_other_settings(rank: int) -> None:
    if rank == 1:
        processes.store.fingerprint = lambda *_: "0" * 64


def test_a_process_with_other_settings_is_refused(root: Path) -> None:
    started = together(3, toy.spec("large_batch"), root, work=_has_other_settings)
    assert started.ended(60) == [2, 2, 2]
    assert "process 1 has other settings, data or numerics than the server" in started.said(1)[-1]


def _does_not_come(rank: int) -> None:
    if rank:
        raise SystemExit(3)


def test_processes_that_do_not_all_come_end_in_time(root: Path) -> None:
    started = together(2, toy.spec("large_batch"), root, work=_does_not_come, timeout=3)
    assert started.ended(60) == [2, 3]
    assert "process 0 of 2: not all others could be reached within 3 s" in started.said(0)[-1]


def test_a_diverged_training_is_the_same_record_and_no_error(root: Path) -> None:
    spec = toy.spec("large_batch", norm="group", codec="int8", schedule={"kind": "constant", "lr": 1e200})
    simulated, _ = runner.run(spec, SEED, root)
    record, _ = computed(3, spec, root)
    assert record.status == "diverged"
    assert record.body() == simulated.body()


# The command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "size", "says"),
    [
        ("e1-central", "2", "a training by large batch or federated averaging was expected; start it without torchrun"),
        ("e1-union-law", "2", "nothing to spread over the 2 processes"),
        ("e1-large-batch", "1", "1 processes for a server and"),
        ("e1-large-batch", "99", "were expected; change --nproc-per-node"),
    ],
)
@pytest.mark.parametrize("rank", ["0", "1"])
def test_what_does_not_fit_is_said_once(run, size, says, rank, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tree.plant(tmp_path))
    for name, value in {"RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    if rank == "0":
        assert cli.main(["run", run, "--profile", "smoke"]) == 2
        assert says in capsys.readouterr().err
    else:
        with pytest.raises(SystemExit) as ended:
            cli.main(["run", run, "--profile", "smoke"])
        assert ended.value.code == 2
        assert capsys.readouterr().err == ""


def test_torchrun_starts_them_and_the_first_one_writes(root: Path) -> None:
    for name in ("pipelines", "params.yaml", "data/learning_rates", "data/published.yaml", "data/study.yaml"):
        (root / name).symlink_to(tree.REPOSITORY / name)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "repro"]
    command += ["run", "e2-federated-gq", "--profile", "smoke", "--timeout", "120"]
    environment = os.environ | {"PYTHONPATH": str(tree.REPOSITORY), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    spec = specs.find("e2-federated-gq", "smoke", root)
    (seed,) = specs.first_seeds("e2", "smoke", root)[:1]
    simulated, _ = runner.run(spec, seed, root, checkpoint_seconds=math.inf)
    record = store.stored(spec, seed, root)
    assert record is not None
    assert record.body() == simulated.body()
    assert done.stdout.count("completed in") == 1
