"""A run that is killed goes on to the record that it would have had; time counts in all its parts."""

import json
import math
import time

import pytest
import toy

from repro import checkpoint
from repro.registry import store
from repro.results import records
from repro.running import runner

pytestmark = [pytest.mark.data, pytest.mark.usefixtures("data")]
TWO_LABELS = {"workers": 5, "train_images": 200, "partition": "labels", "labels_per_client": 2}
PER_CLASS = {"test_top1_by_class", "clients_top1_by_class", "classes_of_clients"}
PLATEAU = {"kind": "plateau", "lr": 0.05, "patience": 0, "threshold": 0.3, "factor": 0.5}


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch):
    """However slow this disk is, every checkpoint that is asked for is written."""
    monkeypatch.setattr(checkpoint, "_SLOW", math.inf)


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("method", "momentum", "codec"),
    [
        ("central", 0.9, "dense"),
        ("large_batch", 0.0, "dense"),
        ("large_batch", 0.9, "dense"),
        ("large_batch", 0.9, "dgc"),
        ("large_batch", 0.9, "dgc-without-correction+zip"),
        ("federated", 0.9, "int8"),
        ("federated", "keep", "int8"),
        ("federated", "average", "1-bit"),
    ],
)
def test_a_run_killed_after_a_checkpoint_goes_on_to_the_same_record(method, momentum, codec, root):
    spec = toy.spec(
        method, epochs=3, codec=codec, precision="bf16", sparsity_warmup=0.5, weight_decay=1e-3,
        **({"momentum": 0.9, "local_momentum": momentum} if isinstance(momentum, str) else {"momentum": momentum}),
    )  # fmt: skip
    undisturbed, _ = runner.run(spec, 3, root, checkpoint_seconds=math.inf)
    seen = []

    def kill(share):
        seen.append(share)
        if share > 0.6:
            raise Killed

    with pytest.raises(Killed):
        runner.run(spec, 3, root, checkpoint_seconds=0, report=kill)
    again, _ = runner.run(spec, 3, root, checkpoint_seconds=math.inf)
    assert again.body() == undisturbed.body(), "infinity neither reads nor writes checkpoints"
    rounds_before = len(seen)
    seen.clear()
    resumed, _ = runner.run(spec, 3, root, checkpoint_seconds=0, report=seen.append)
    assert resumed.body() == undisturbed.body()
    assert len(seen) <= len(undisturbed.series["train_loss"]) - rounds_before + 1, "it started from the beginning"


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("federated", {"local_steps": 3, "track": ["per_class"]}),
        ("federated", {"local_steps": 3, "track": ["per_class"], "stacked": 2}),
        ("large_batch", {"codec": "int8", "track": ["batch_statistics", "gradient_norm", "per_class"]}),
    ],
)
def test_a_killed_run_goes_on_with_each_workers_statistics_and_all_that_it_tracks(method, changes, root):
    spec = toy.spec(method, epochs=3, momentum=0.9, buffers="local", precision="bf16", **TWO_LABELS, **changes)
    undisturbed, _ = runner.run(spec, 3, root, checkpoint_seconds=math.inf)
    assert undisturbed.rows[-1].keys() & (PER_CLASS | {"batch_statistics"})
    seen = []

    def kill(share):
        seen.append(share)
        if share > 0.6:
            raise Killed

    with pytest.raises(Killed):
        runner.run(spec, 3, root, checkpoint_seconds=0, report=kill)
    rounds_before = len(seen)
    seen.clear()
    resumed, _ = runner.run(spec, 3, root, checkpoint_seconds=0, report=seen.append)
    assert resumed.body() == undisturbed.body()
    assert len(seen) <= len(undisturbed.series["train_loss"]) - rounds_before + 1, "it started from the beginning"


def test_a_killed_step_up_run_goes_on_with_the_norm_of_its_last_gradient(root):
    spec = toy.spec("central", epochs=4, momentum=0.9, step_up={"factor": 4, "threshold": 0.2})
    undisturbed, _ = runner.run(spec, 3, root, checkpoint_seconds=math.inf)
    factors = undisturbed.series["step_up_factor"]
    assert {1.0, 4.0} == set(factors), "the gate never switched; the test shows nothing"

    def kill(share):
        if share > 0.6:
            raise Killed

    with pytest.raises(Killed):
        runner.run(spec, 3, root, checkpoint_seconds=0, report=kill)
    seen = []
    resumed, _ = runner.run(spec, 3, root, checkpoint_seconds=0, report=seen.append)
    assert resumed.body() == undisturbed.body()
    assert len(seen) < len(factors) / 2, "it started from the beginning"


def test_a_schedule_with_a_state_survives_an_interruption(root):
    schedule = {"kind": "plateau", "lr": 0.05, "patience": 0, "threshold": 0.5, "factor": 0.5}
    spec = toy.spec("large_batch", epochs=6, schedule=schedule)
    undisturbed, _ = runner.run(spec, 3, root, checkpoint_seconds=math.inf)
    assert len({row["lr"] for row in undisturbed.rows}) > 1, "the plateau never cut the rate; the test shows nothing"

    def kill(share):
        if share > 0.7:
            raise Killed

    with pytest.raises(Killed):
        runner.run(spec, 3, root, checkpoint_seconds=0, report=kill)
    assert runner.run(spec, 3, root)[0].body() == undisturbed.body()


@pytest.mark.parametrize("changes", [{"final_evaluations": 5}, {"evaluate_at": [1, 7, 30, 31, 33, 47]}])
def test_further_evaluations_do_not_move_a_plateau(changes, root):
    usual, _ = runner.run(toy.spec("central", epochs=4, schedule=PLATEAU), 3, root)
    spec = toy.spec("central", epochs=4, schedule=PLATEAU, **changes)
    more, _ = runner.run(spec, 3, root)
    assert len({row["lr"] for row in usual.rows}) > 1, "the plateau never cut the rate; the test shows nothing"
    assert len(more.rows) > len(usual.rows)
    assert more.series == usual.series
    tested = ("epoch", "lr", "test_loss", "test_top1")
    by_round = {row["round"]: row for row in more.rows}
    for row in usual.rows:
        assert [by_round[row["round"]][k] for k in tested] == [row[k] for k in tested]
    # A killed run goes on in the middle of what the schedule has still to observe.
    total = usual.rows[-1]["round"]

    def kill(share):
        if share * total > total - 2.5:
            raise Killed

    with pytest.raises(Killed):
        runner.run(spec, 3, root, checkpoint_seconds=0, report=kill)
    assert runner.run(spec, 3, root)[0].body() == more.body()


def test_a_full_disk_ends_checkpoints_and_not_the_run(root, monkeypatch, capsys):
    spec = toy.spec("central")
    undisturbed, _ = runner.run(spec, 3, root, checkpoint_seconds=math.inf)

    def full(file, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_write", full)
    record, _ = runner.run(spec, 3, root, checkpoint_seconds=0)
    assert record.body() == undisturbed.body()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("no checkpoint can be written (No space left on device); the run goes on without")
    assert not [path for path in (root / "data/checkpoints").rglob("*") if path.is_file()]


def test_a_clock_that_is_set_back_loses_no_checkpoint_and_no_time(root, monkeypatch):
    wrong = iter(range(10**9, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(wrong)))
    saved = []
    monkeypatch.setattr(checkpoint.Checkpoint, "save", lambda self, state: saved.append(state))
    _, provenance = runner.run(toy.spec("central"), 3, root, checkpoint_seconds=0)
    assert len(saved) == 23, "after each of 24 rounds but the last"
    assert 0 <= provenance["seconds"] < 600
    assert 0 <= provenance["cpu_seconds"] < 600


def test_seconds_of_a_run_in_parts_are_those_of_all_parts(root, monkeypatch):
    spec, spent = toy.spec("central"), checkpoint.Spent
    first = checkpoint.Checkpoint(runner.checkpoint_path(spec, 3, root), store.fingerprint(spec, 3, root), 0)
    monkeypatch.setattr(first, "spent", lambda: spent(seconds=1000.0, cpu_seconds=900.0, interruptions=1))
    monkeypatch.setattr(checkpoint, "Checkpoint", lambda *_: first)

    def kill(share):
        if share > 0.4:
            raise Killed

    monkeypatch.setattr(runner, "Checkpoint", lambda *_: first)
    with pytest.raises(Killed):
        runner.run(spec, 3, root, checkpoint_seconds=0, report=kill)
    monkeypatch.undo()
    _, provenance = runner.run(spec, 3, root)
    assert 1000 < provenance["seconds"] < 1100
    assert 900 < provenance["cpu_seconds"] < 1000
    assert provenance["interruptions"] == 2
    path = runner.save(*runner.run(spec, 3, root), root)
    assert json.loads(records.provenance_path(path).read_text())["interruptions"] == 2


def test_a_damaged_checkpoint_is_said_and_not_used(root, capsys):
    spec = toy.spec("central")
    undisturbed, _ = runner.run(spec, 3, root)
    path = root / "data/checkpoints/smoke/e1/toy-central.s3.pt"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"PK\x03\x04 half of a checkpoint")
    again, _ = runner.run(spec, 3, root)
    assert again.body() == undisturbed.body()
    assert "damaged checkpoint" in capsys.readouterr().err


def test_a_checkpoint_of_another_spec_is_not_used(root):
    def kill(share):
        if share > 0.4:
            raise Killed

    with pytest.raises(Killed):
        runner.run(toy.spec("central"), 3, root, checkpoint_seconds=0, report=kill)
    other = toy.spec("central", schedule={"kind": "constant", "lr": 0.01})
    assert runner.run(other, 3, root)[0].body() == runner.run(other, 3, root)[0].body()
    assert runner.run(other, 3, root)[0].rows[0]["lr"] == 0.01
