"""A checkpoint is used whole or not at all, and counts the time of all parts of a run."""

from __future__ import annotations

import multiprocessing
import random
import sys
import time
from pathlib import Path

import pytest
import torch

from repro import checkpoint, files
from repro.checkpoint import Checkpoint, Spent
from repro.errors import ReproError
from repro.registry import published
from repro.results import records

STATE = {
    "model": {"weight": torch.arange(600, dtype=torch.float32).reshape(20, 30)},
    "progress": {"rounds": 7, "rows": [{"loss": 0.5, "reason": None}], ("step", 32): [1.5, 2.5], 4: "four"},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints/run.pt"


def same(state: dict) -> dict:
    return state


def of(path: Path, fingerprint: str = "print", pause: float = 0.0) -> Checkpoint:
    return Checkpoint(path, fingerprint, pause)


def test_what_was_saved_is_restored(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of(path).save(STATE)
    found = of(path).restore(same)
    assert found is not None
    assert torch.equal(found["model"]["weight"], STATE["model"]["weight"])
    assert found["progress"] == STATE["progress"]
    assert of(path, "another").restore(same) is None, "of another spec, seed, data or numerics"
    assert of(path, pause=float("inf")).restore(same) is None
    assert of(path.with_name("none")).restore(same) is None
    assert capsys.readouterr().err == ""


def damaged(raw: bytes, chance: random.Random) -> bytes:
    """``raw`` with one of the accidents that storage has; never as it was."""
    made = bytearray(raw)
    kind = chance.choice(("bits", "cut", "swapped", "zeroed", "longer"))
    if kind == "bits":
        for _ in range(chance.choice((1, 1, 2, 9))):
            made[chance.randrange(len(made))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del made[chance.randrange(len(made)) :]
    elif kind == "longer":
        made += chance.randbytes(chance.randrange(1, 99))
    else:
        size = chance.choice((16, 64, 512))
        a, b = (size * chance.randrange(len(made) // size) for _ in range(2))
        other = made[b : b + size] if kind == "swapped" else bytes(size)
        made[b : b + size], made[a : a + size] = made[a : a + size], other
    return bytes(made) if made != raw else raw[:-1]


def test_a_checkpoint_damaged_in_any_way_is_refused_in_one_line(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    of(path).save(STATE)
    raw, chance = path.read_bytes(), random.Random(0)
    for _ in range(200):
        path.write_bytes(damaged(raw, chance))
        assert of(path).restore(same) is None
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"{path}: damaged checkpoint (")
        assert line.endswith("); the run starts from the beginning")
    path.write_bytes(raw)
    assert of(path).restore(same) is not None


def test_a_state_that_does_not_fit_the_code_is_refused_in_one_line(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of(path).save(STATE)

    def misfit(state: dict) -> dict:
        raise TypeError("unexpected keyword argument 'older'\nand more")

    again = of(path)
    assert again.restore(misfit) is None
    assert capsys.readouterr().err.count("\n") == 1
    assert again.spent().interruptions == 0


def test_a_bug_in_a_state_is_no_full_disk(path: Path) -> None:
    with pytest.raises(Exception, match=r"pickle|lambda|local"):
        of(path).save({"function": lambda: None})
    assert not path.exists()
    assert not list(path.parent.iterdir()), "nothing half-written stays behind"


def test_a_full_disk_is_said_once_and_the_last_checkpoint_stays(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        """A disk with room for 1 000 bytes more."""

        def __init__(self, file) -> None:
            self.file, self.left = file, 1000

        def write(self, data) -> int:
            self.left -= len(data)
            if self.left < 0:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

    ours = of(path)
    ours.save(STATE)
    raw, write = path.read_bytes(), checkpoint._write
    monkeypatch.setattr(checkpoint, "_write", lambda file, content: write(Full(file), content))
    ours.save(STATE)
    ours.save(STATE)
    assert capsys.readouterr().err == (
        f"{path}: no checkpoint can be written (No space left on device); the run goes on without\n"
    )
    assert [other.read_bytes() for other in path.parent.iterdir()] == [raw]
    monkeypatch.undo()
    ours.save({"later": 1})
    assert of(path).restore(same) == {"later": 1}


def test_it_is_due_by_a_clock_that_never_goes_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "time", lambda: -now[0])
    ours = of(path, pause=20)
    for at, due in ((1019, False), (1020, True), (1021, True)):
        now[0] = at
        assert ours.due() is due
    ours.save(STATE)
    for at, due in ((1040, False), (1041, True)):
        now[0] = at
        assert ours.due() is due
    assert ours.spent().seconds == 41
    assert not of(path, pause=float("inf")).due()


def test_a_state_that_takes_long_to_write_is_written_less_often_but_within_a_minute(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    for took, pause in ((0.5, 20), (3.0, 30), (10.0, 40)):
        ours = of(path, pause=20)

        def slow(file, content, took=took) -> None:
            now[0] += took

        monkeypatch.setattr(checkpoint, "_write", slow)
        ours.save(STATE)
        assert ours.pause == pytest.approx(pause)
    assert checkpoint.LONGEST_PAUSE < 60


def test_time_is_that_of_all_parts(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, busy = [100.0], [5.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint, "cpu_seconds", lambda: busy[0])
    first = of(path)
    now[0], busy[0] = 130.0, 25.0
    assert first.spent() == Spent(30.0, 20.0, 0)
    first.save(STATE)
    now[0], busy[0] = 0.0, 0.0  # another process, after a restart of the machine
    second = of(path)
    assert second.restore(same) is not None
    now[0], busy[0] = 7.0, 3.0
    assert second.spent() == Spent(37.0, 23.0, 1)
    second.save(STATE)
    third = of(path)
    third.restore(same)
    assert third.spent() == Spent(37.0, 23.0, 2)


def spin(ready, end) -> None:
    stop = time.process_time() + 0.3
    while time.process_time() < stop:
        pass
    ready.set()
    end.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of running children")
def test_processor_time_counts_children_that_run_and_that_have_ended() -> None:
    context = multiprocessing.get_context("fork")
    ready, end = context.Event(), context.Event()
    before = checkpoint.cpu_seconds()
    child = context.Process(target=spin, args=(ready, end))
    child.start()
    assert ready.wait(30)
    running = checkpoint.cpu_seconds() - before
    end.set()
    child.join()
    ended = checkpoint.cpu_seconds() - before
    assert 0.25 < running < 2
    assert running - 0.05 <= ended < running + 0.5, "counted once"


def test_no_interval_is_measured_by_a_clock_that_can_be_set() -> None:
    package = Path(checkpoint.__file__).parent
    for place in (package, package.parent / "benchmarks"):
        assert not [path for path in place.rglob("*.py") if "time.time()" in path.read_text()]


# What stands in provenance and records ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ('{"seconds": 720.5, "cpu_seconds": 31}', 31.0),
        ('{"seconds": 12}', 12.0),
        ("{}", None),
        (None, None),
    ],
)
def test_costs_count_processor_seconds_where_they_are_known(
    text: str | None, seconds: float | None, path: Path
) -> None:
    if text is not None:
        files.write_atomic(path, text)
    assert records.core_seconds(path) == seconds


@pytest.mark.parametrize("text", ["[]", '{"seconds": "12"}', '{"seconds": -3449}', '{"seconds": true}', "{"])
def test_damaged_provenance_is_one_line(text: str, path: Path) -> None:
    files.write_atomic(path, text)
    with pytest.raises(ReproError, match=r"was expected; restore it from git") as caught:
        records.core_seconds(path)
    assert "\n" not in str(caught.value)


def test_rules_of_a_run_are_those_of_the_statements_that_name_it(tmp_path: Path, monkeypatch) -> None:
    def statement(name: str, *parts: dict) -> published.Statement:
        return published.Statement(name, "e1", "result", "", "", None, None, {"why": "so", "parts": list(parts)})

    known = [
        statement("e1.a", {"contrast": {"e1-central": 1, "e1-federated": -1}, "margin": 2}),
        statement("e1.b", {"runs": ["e1-grid-large-batch", "e1-grid-central"]}),
        published.Statement("e1.c", "e1", "result", "", "", None, None, None),
    ]
    monkeypatch.setattr(published, "load_published", lambda root: published.Published([], known))
    code = published.judging_code_hash()
    hashes = {each.id: published.rule_hash(each) for each in known}
    assert published.rules_of("e1-central") == {"e1.a": hashes["e1.a"], "code": code}
    assert published.rules_of("e1-grid-large-batch-lr0_1") == {"e1.b": hashes["e1.b"], "code": code}
    assert published.rules_of("e1-grid-large-batch-x4-lr0_1") == {"code": code}, "another arm"
    wider = statement("e1.a", {"margin": 3, "contrast": {"e1-federated": -1, "e1-central": 1}})
    narrower = statement("e1.a", {"margin": 2, "contrast": {"e1-federated": -1, "e1-central": 1}})
    assert published.rule_hash(wider) != hashes["e1.a"] == published.rule_hash(narrower), "order does not count"
    assert published.judging_code_hash(("verdicts/rules.py",)) not in (code, published.judging_code_hash(()))
