"""A process that is killed harms no other task; and how many processes a machine is worth."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import toy

from repro import machine
from repro.errors import ReproError
from repro.running import sweep
from repro.running.workers import Workers

# Work of the processes, which import this module ----------------------------------------------------------------


def die(path: str, times: int) -> str:
    """Killed by the system ``times`` times; then the number of attempts."""
    with open(path, "a") as file:
        file.write("x")
    attempts = len(Path(path).read_text())
    if attempts <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return str(attempts)


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return str(os.getpid())


def fail() -> str:
    class Local(Exception):
        pass

    raise Local("cannot be pickled")


def run(spec, seed, root) -> str:
    """A run that is killed as often as the number of its epochs says, or waits to see that the others go on."""
    if spec.run == "toy-killed":
        return die(str(root / f"{spec.run}.s{seed}"), spec.epochs)
    time.sleep(0.5)
    (root / f"{spec.run}.s{seed}.done").touch()
    return f"{spec.run} seed {seed}: done"


# Laws -------------------------------------------------------------------------------------------------------------


def answers(workers: Workers, count: int) -> dict[int, object]:
    found = dict[int, object]()
    while len(found) < count:
        found |= dict(workers.answers())
    return found


def test_a_killed_process_answers_nothing_and_the_others_answer(tmp_path: Path) -> None:
    with Workers(die) as workers:
        killed = workers.submit(str(tmp_path / "a"), 1)
        fine = workers.submit(str(tmp_path / "b"), 0)
        assert answers(workers, 2) == {killed: None, fine: "1"}
        again = workers.submit(str(tmp_path / "a"), 1)
        assert answers(workers, 1) == {again: "2"}


@pytest.mark.parametrize("renew", [False, True])
def test_processes_are_used_again_unless_each_task_wants_a_new_one(renew: bool) -> None:
    with Workers(sleep, renew=renew) as workers:
        pids = []
        for _ in range(2):
            workers.submit(0.0)
            pids += answers(workers, 1).values()
    assert (len(set(pids)) == 2) == renew


def test_an_exception_comes_back_even_if_it_cannot_be_sent() -> None:
    with Workers(fail) as workers:
        number = workers.submit()
        error = answers(workers, 1)[number]
    assert isinstance(error, RuntimeError)
    assert "cannot be pickled" in str(error)


def test_who_still_works_when_the_context_ends_is_ended() -> None:
    with Workers(sleep) as workers:
        workers.submit(60.0)
        (worker,) = (worker for _, worker in workers._busy.values())
        started = time.monotonic()
    assert not worker.process.is_alive()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(("kills", "problems"), [(0, 0), (1, 0), (2, 1)])
def test_a_killed_run_is_started_once_more_and_the_others_go_on(
    kills: int, problems: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_run", run)
    monkeypatch.setattr("repro.data.sets.load", lambda *_: None)
    monkeypatch.setattr("repro.registry.store.stored", lambda *_: None)
    killed, other = toy.spec("central", run="toy-killed", epochs=kills), toy.spec("central", run="toy-other")
    done = sweep.sweep([(killed, 1), (other, 1), (other, 2), (other, 3)], tmp_path, jobs=2)
    assert len(list(tmp_path.glob("*.done"))) == 3
    assert (tmp_path / "toy-killed.s1").read_text() == "x" * min(kills + 1, sweep.ATTEMPTS)
    assert len(done.problems) == problems
    assert done.computed == 4 - problems
    if problems:
        assert done.problems[0].startswith("toy-killed seed 1: its process was killed 2 times (out of memory?)")


SCRIPT = """
import sys
sys.path[:0] = {paths!r}
import test_workers
import toy
from pathlib import Path
from repro.data import sets
from repro.registry import store
from repro.running import sweep

sweep._run = test_workers.run_long
sets.load = store.stored = lambda *_: None
if __name__ == "__main__":
    try:
        sweep.sweep([(toy.spec("central"), seed) for seed in (1, 2)], Path({root!r}), jobs=2)
    except KeyboardInterrupt:
        print("one line", file=sys.stderr)
        sys.exit(130)
"""


def run_long(spec, seed, root) -> str:
    (root / f"{seed}.pid").write_text(str(os.getpid()))
    time.sleep(60)
    return "never"


def test_an_interrupt_of_the_terminal_ends_all_processes_and_says_nothing_more(tmp_path: Path) -> None:
    """Ctrl-C reaches every process of the group: none of them may print a traceback."""
    script = tmp_path / "script.py"
    paths = [str(Path(__file__).parent), str(toy.ROOT / "tests"), str(toy.ROOT)]
    script.write_text(SCRIPT.format(paths=paths, root=str(tmp_path)))
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(pids := [path.read_text() for path in tmp_path.glob("*.pid")]) < 2 or not all(pids):
        assert time.monotonic() < deadline, "no run was started in time"
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "one line\n")
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


@pytest.mark.parametrize("jobs", [0, -1, 100_000])
def test_more_processes_than_a_machine_can_have_are_refused(jobs: int, tmp_path: Path) -> None:
    with pytest.raises(ReproError, match=r"processes on \d+ usable cores; 1 to \d+ were expected") as error:
        sweep.sweep([], tmp_path, jobs=jobs)
    assert "\n" not in str(error.value)


def test_a_time_budget_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReproError, match="seconds were expected"):
        sweep.sweep([], tmp_path, time_budget=float("nan"))


# Cores ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_cores_are_those_of_the_affinity() -> None:
    here = str(toy.ROOT)
    program = f"import os, sys; sys.path.insert(0, {here!r}); from repro import machine; print(machine.usable_cores())"
    one = f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}}); {program}"
    assert subprocess.run([sys.executable, "-c", one], capture_output=True, text=True, check=True).stdout == "1\n"


def groups(root: Path, own: str, **quotas: str) -> Path:
    """A file system whose process is in the control group ``own``; ``quotas``: text of ``cpu.max`` by group."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::{own}\n")
    for group, text in quotas.items():
        folder = root / "sys/fs/cgroup" / group.replace("_", "/").strip("/")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cpu.max").write_text(text)
    return root


@pytest.mark.parametrize(
    ("quotas", "cores"),
    [
        ({}, 8),
        ({"_": "max 100000"}, 8),
        ({"_": "200000 100000"}, 2),
        ({"a_b": "150000 100000"}, 1),
        ({"a_b": "50000 100000"}, 1),
        ({"a": "300000 100000", "a_b": "max 100000"}, 3),
        ({"a": "300000 100000", "a_b": "400000 100000"}, 3),
        ({"other": "100000 100000"}, 8),
        ({"a_b": "nonsense"}, 8),
    ],
)
def test_cores_are_no_more_than_a_quota_of_any_group_above_allows(
    quotas: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert machine.usable_cores(groups(tmp_path, "/a/b", **quotas)) == cores


def test_quotas_of_the_first_version_of_control_groups_count_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    folder = groups(tmp_path, "/") / "sys/fs/cgroup/cpu"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    for quota, cores in (("-1\n", 8), ("300000\n", 3)):
        (folder / "cpu.cfs_quota_us").write_text(quota)
        assert machine.usable_cores(tmp_path) == cores
