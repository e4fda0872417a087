"""A run is a function of its spec and its seed: not of interruptions, processes, or what ran before."""

import dataclasses
import json
import math

import numpy as np
import pytest
import toy

from repro import numerics, records, runner, store
from repro.errors import ReproError

pytestmark = pytest.mark.data


@pytest.fixture
def root(tmp_path):
    """A repository root of its own for records and checkpoints, with this repository's data."""
    (tmp_path / "data").mkdir()
    for name in ("prepared", "raw", "manifests", "sources.yaml"):
        (tmp_path / "data" / name).symlink_to(toy.ROOT / "data" / name)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def data():
    from repro import datasets

    datasets.prepare("cifar10", toy.ROOT / "data")


@pytest.mark.parametrize("method", ["central", "large_batch", "federated"])
def test_the_same_run_twice_is_bit_identical(method, root):
    spec = toy.spec(method, precision="bf16")
    first, _ = runner.run(spec, 3, root)
    second, _ = runner.run(spec, 3, root, processes=2)
    assert first.body() == second.body()
    other, _ = runner.run(spec, 4, root)
    assert other.rows != first.rows


class Killed(Exception):
    pass


@pytest.mark.parametrize(
    ("method", "momentum", "codec"),
    [
        ("central", 0.9, "dense"),
        ("large_batch", 0.0, "dense"),
        ("large_batch", 0.9, "dense"),
        ("large_batch", 0.9, "dgc"),
        ("federated", 0.9, "int8"),
    ],
)
def test_a_run_killed_after_a_checkpoint_goes_on_to_the_same_record(method, momentum, codec, root):
    spec = toy.spec(method, epochs=3, momentum=momentum, codec=codec, precision="bf16", sparsity_warmup=0.5)
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


def test_a_diverging_run_stops_and_its_record_says_so(root):
    spec = toy.spec("large_batch", norm="group", schedule={"kind": "constant", "lr": 1e200})
    record, provenance = runner.run(spec, 3, root)
    assert record.status == "diverged"
    assert "round" in record.reason
    assert "finite" in record.reason
    assert len(record.series["train_loss"]) < 8
    path = runner.save(record, provenance, root)
    assert records.read(path).status == "diverged"


def test_a_stored_record_is_valid_only_while_its_fingerprint_holds(root, monkeypatch):
    spec = toy.spec("central")
    assert store.stored(spec, 3, root) is None
    path = runner.save(*runner.run(spec, 3, root), root)
    assert store.stored(spec, 3, root) == records.read(path)
    assert store.stored(dataclasses.replace(spec, epochs=4), 3, root) is None
    monkeypatch.setitem(numerics.VERSIONS, "engines", 99)
    assert store.stored(spec, 3, root) is None


def test_a_saved_run_leaves_a_record_its_provenance_and_no_checkpoint(root):
    spec = toy.spec("large_batch", epochs=3)
    record, provenance = runner.run(spec, 3, root, checkpoint_seconds=0)
    path = runner.save(record, provenance, root)
    assert path == root / "data/records/smoke/e1/toy-large-batch.s3.json"
    assert records.read(path) == record
    stored = json.loads(records.provenance_path(path).read_text())
    assert {"machine", "commit", "seconds", "precision", "fingerprint"} <= stored.keys()
    assert not list((root / "data/checkpoints").rglob("*.pt"))


def test_rows_count_rounds_images_and_bytes(root):
    record, _ = runner.run(toy.spec("large_batch"), 3, root)
    assert [row["epoch"] for row in record.rows] == [1, 2]
    assert [row["round"] for row in record.rows] == [4, 8]  # 32 images a worker in batches of 8
    assert record.rows[1]["bytes_up"] == 2 * record.rows[0]["bytes_up"]
    federated, _ = runner.run(toy.spec("federated"), 3, root)
    assert [row["round"] for row in federated.rows] == [1, 2]
    central, _ = runner.run(toy.spec("central"), 3, root)
    assert central.rows[-1]["bytes_up"] == central.rows[-1]["bytes_down"] == 0


def test_grid_runs_never_train_on_what_they_are_evaluated_on(root):
    everything = toy.spec("central", evaluate_on="held_out", train_images=45_000, test_images=5_000)
    setting = runner.prepare(everything, 1, root)
    assert (len(setting.batches.images), len(setting.evaluation)) == (45_000, 5_000)
    flat = [images.centre(0, len(images))[0].flatten(1) for images in (setting.batches.images, setting.evaluation)]
    seen = {row.numpy().tobytes() for row in flat[0]}
    twice = sum(row.numpy().tobytes() in seen for row in flat[1])
    assert twice <= 5, "8 px copies of different images hardly ever coincide"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": 60_000}, "60000 training images; cifar10 has 50000"),
        ({"test_images": 20_000}, "20000 evaluation images; 10000 exist"),
        ({"train_images": 45_001, "evaluate_on": "held_out"}, "50000 of which 5000 are held out"),
        ({"image_size": 7}, "a divisor of the data set's 32 px"),
        ({"workers": 97}, "client"),
        ({"partition": "labels", "labels_per_client": 11}, "label"),
        ({"dataset": "cifar11"}, "cifar11"),
    ],
)
def test_impossible_requests_fail_before_training(changes, message, root):
    with pytest.raises(ReproError, match=message) as caught:
        runner.run(toy.spec("federated", **changes), 3, root)
    assert "\n" not in str(caught.value)


def test_the_definition_of_dgc_is_judged_by_the_warm_up_that_runs_follow(root, monkeypatch):
    """One function maps epochs to sparsity, for runs and for statement e2.c9: changed, both change."""
    from repro import codecs, definitions

    spec = toy.spec("large_batch", codec="dgc", momentum=0.9, sparsity_warmup=0.5, epochs=4)

    def sent():
        rows = runner.run(spec, 3, root, checkpoint_seconds=math.inf)[0].rows
        return np.diff([0, *(row["bytes_up"] for row in rows)])

    usual, settings = sent(), definitions.of_codec(spec.as_dict())
    assert (settings["warm_up_epochs"], settings["warm_up_epochs_here"]) == (50, 2)
    assert usual[0] > usual[1] > usual[2] == pytest.approx(usual[3], rel=0.01), "two of four epochs warm up"
    monkeypatch.setattr(codecs, "warm_up", lambda share, epochs: lambda epoch: 0.0)
    stays = sent()
    assert stays == pytest.approx(np.full(4, stays[0]), rel=0.05)
    assert stays[3] > usual[0] > usual[3]
    assert definitions.of_codec(spec.as_dict())["warm_up_epochs"] == 100


def test_a_machine_is_known_by_its_zlib_too():
    import zlib

    assert runner.machine()["zlib"] == zlib.ZLIB_RUNTIME_VERSION
