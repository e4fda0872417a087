"""A run is a function of its spec and its seed: not of interruptions, processes, or what ran before."""

import dataclasses
import json
import math
import time

import numpy as np
import pytest
import toy

from repro import checkpoint, machine
from repro.errors import ReproError
from repro.experiments import numerics, stepup
from repro.registry import published, specs, store
from repro.results import records
from repro.running import prepare, runner, train
from repro.running.clock import Clock

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
    from repro.data import sets

    sets.prepare("cifar10", toy.ROOT / "data")


@pytest.mark.parametrize("method", ["central", "large_batch", "federated"])
def test_the_same_run_twice_is_bit_identical(method, root):
    spec = toy.spec(method, precision="bf16")
    first, _ = runner.run(spec, 3, root)
    second, _ = runner.run(spec, 3, root, processes=2)
    assert first.body() == second.body()
    other, _ = runner.run(spec, 4, root)
    assert other.rows != first.rows


TWO_LABELS = {"workers": 5, "train_images": 200, "partition": "labels", "labels_per_client": 2}


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


PER_CLASS = {"test_top1_by_class", "clients_top1_by_class", "classes_of_clients"}


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("federated", {"local_steps": 3, "track": ["per_class"]}),
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


PLATEAU = {"kind": "plateau", "lr": 0.05, "patience": 0, "threshold": 0.3, "factor": 0.5}


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


def clock(steps=10, epochs=40, every=20, **changes):
    return Clock(steps, steps * epochs, every, **changes)


def test_final_evaluations_are_whole_epochs_where_the_tenth_has_so_many_else_rounds():
    def added(**changes):
        return sorted(clock(**changes).ending)

    assert added(at_least=3) == [380, 390, 400]  # epochs 38, 39 and 40; every other epoch would give 2
    assert added(at_least=2) == []
    assert added(at_least=4) == [370, 380, 390, 400]
    assert added(at_least=5) == [368, 376, 384, 392, 400]  # of 40 rounds; there are 4 epochs
    assert added(epochs=12, at_least=3) == [112, 116, 120]
    assert added(at_least=3, also=(365, 372)) == [], "those that the run asks for count"
    assert added(steps=1, epochs=10, every=2, at_least=3) == [8, 9, 10], "a tenth of one round: back to the third last"
    assert added(steps=1, epochs=2, every=2, at_least=3) == [1, 2], "not more than there are"
    federated = Clock(10, 40, 2, local_epochs=1, at_least=3)
    assert sorted(federated.ending) == [38, 39, 40]
    assert sorted(Clock(10, 30, 2, local_steps=7, at_least=3).ending) == [28, 29, 30]


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 10, 19, 40, 100])
@pytest.mark.parametrize("steps", [1, 3, 24])
def test_the_last_tenth_has_as_many_evaluations_as_asked_for(steps, epochs):
    total = steps * epochs
    for least in range(1, 8):
        for every in (1, 2, 5):
            ours, usual = (clock(steps, epochs, every * steps, at_least=n) for n in (least, 0))
            rounds = range(1, total + 1)
            evaluated = [r for r in rounds if ours.evaluates(r)]
            length = total - 9 * total // 10
            assert set(evaluated) == {r for r in rounds if usual.evaluates(r)} | ours.ending
            assert sum(r > total - max(length, least) for r in evaluated) >= min(least, total)
            assert [r for r in rounds if ours.regular(r)] == [r for r in rounds if usual.evaluates(r)]
            if ours.ending:
                assert len(ours.ending) == min(least, total)
                gaps = np.diff(sorted(ours.ending))
                assert len(gaps) == 0 or gaps.max() - gaps.min() <= (steps if gaps.min() % steps == 0 else 1)
            assert all(ours.final(r) for r in evaluated if r > total - length or r in ours.ending)


@pytest.mark.parametrize("method", ["central", "federated"])
def test_the_last_evaluations_look_at_more_images_of_which_the_first_are_the_same(method, root):
    settings = {"epochs": 3, "test_images": 100}
    few, _ = runner.run(toy.spec(method, **settings), 3, root)
    many, _ = runner.run(toy.spec(method, **settings | {"test_images": 700}), 3, root)
    spec = toy.spec(method, **settings, final_test_images=700)
    both, _ = runner.run(spec, 3, root, processes=2)
    assert both.rows == [*few.rows[:-1], many.rows[-1]]
    assert few.rows[-1] != many.rows[-1]
    setting = prepare.prepare(spec, 3, root)
    assert setting.final.labels[:100].tolist() == setting.evaluation.labels.tolist()
    with pytest.raises(ReproError, match="20000 evaluation images; 10000 exist; lower final_test_images"):
        runner.run(dataclasses.replace(spec, final_test_images=20_000), 3, root)


def test_clients_are_scored_on_the_images_of_the_last_evaluation(root):
    settings = {"test_images": 100, "track": ["per_class"], **TWO_LABELS}
    many, _ = runner.run(toy.spec("federated", **settings | {"test_images": 700}), 3, root)
    both, _ = runner.run(toy.spec("federated", **settings, final_test_images=700), 3, root)
    assert both.rows[-1] == many.rows[-1]


@pytest.mark.parametrize("method", ["central", "large_batch", "federated"])
def test_the_training_sample_is_the_first_training_images_at_every_evaluation(method, root, monkeypatch):
    plain, _ = runner.run(toy.spec(method), 3, root)
    tracked, _ = runner.run(toy.spec(method, track=["training_sample", "training_images"]), 3, root)
    assert tracked.series == plain.series
    for row, bare in zip(tracked.rows, plain.rows, strict=True):
        assert {name: row[name] for name in bare} == bare
        assert row["train_sample_loss"] > 0
    assert tracked.rows[-1]["train_sample_top1"] == tracked.rows[-1]["train_images_top1"], "96 images are fewer"
    monkeypatch.setattr(prepare, "TRAINING_SAMPLE", 8)
    sample, _ = runner.run(toy.spec(method, track=["training_sample"]), 3, root)
    assert all(8 * row["train_sample_top1"] == round(8 * row["train_sample_top1"]) for row in sample.rows)
    assert [row["train_sample_loss"] for row in sample.rows] != [row["train_sample_loss"] for row in tracked.rows]


def test_held_out_images_are_at_most_a_fifth_of_a_data_set(root, monkeypatch):
    from repro.data import sets

    whole = sets.load("cifar10", root / "data")
    small = dataclasses.replace(whole, train_images=whole.train_images[:1000], train_labels=whole.train_labels[:1000])
    monkeypatch.setattr(sets, "load", lambda *_: small)
    setting = prepare.prepare(toy.spec("central", evaluate_on="held_out", train_images=800, test_images=200), 3, root)
    assert (len(setting.batches.images), len(setting.evaluation)) == (800, 200)
    with pytest.raises(ReproError, match="801 training images; cifar10 has 1000 of which 200 are held out"):
        prepare.prepare(toy.spec("central", evaluate_on="held_out", train_images=801), 3, root)


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


@pytest.mark.parametrize("earlier", [False, True])
def test_a_record_that_cannot_be_written_leaves_no_provenance_of_it(earlier, root, monkeypatch):
    record, provenance = runner.run(toy.spec("central"), 3, root)
    beside = records.provenance_path(records.path_of(record, root))
    if earlier:
        runner.save(record, provenance, root)
    before = beside.read_text() if earlier else None

    def full(*_):
        raise ReproError("full")

    monkeypatch.setattr(records, "write", full)
    with pytest.raises(ReproError, match="full"):
        runner.save(record, provenance | {"seconds": 99.0}, root)
    assert (beside.read_text() if beside.exists() else None) == before


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


def test_a_record_of_the_study_says_by_which_rules_it_is_judged(root, monkeypatch):
    (root / "data/published.yaml").symlink_to(toy.ROOT / "data/published.yaml")
    statements = published.load_published(root).statements
    ours = {s.id: published.rule_hash(s) for s in statements if "e1-central" in published.runs_named(s)}
    spec = toy.spec("central", run="e1-central")
    plain, provenance = runner.run(spec, 3, root)
    assert plain.rules is None
    assert "rules" not in plain.body()
    monkeypatch.setattr(runner, "STUDY", "smoke")
    judged, _ = runner.run(spec, 3, root)
    assert judged.rules == ours | {"code": published.judging_code_hash()}
    assert len(ours) > 1
    assert records.read(runner.save(judged, provenance, root)) == judged
    assert records.differences(plain, judged) == [], "a rule is no number"


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


@pytest.mark.parametrize(
    ("local_steps", "epochs", "rounds"),
    [  # four local steps an epoch, twelve in all
        (1, [1, 2, 3], [4, 8, 12]),
        (3, [1.5, 2.25, 3], [2, 3, 4]),
        (4, [1, 2, 3], [1, 2, 3]),
        (5, [1.25, 2.5], [1, 2]),  # what is left after the last whole round is not trained
        (11, [2.75], [1]),
        (50, [3], [1]),
    ],
)
def test_rounds_of_local_steps_are_evaluated_once_an_epoch_is_full_and_at_the_end(local_steps, epochs, rounds, root):
    record, _ = runner.run(toy.spec("federated", epochs=3, local_steps=local_steps), 3, root)
    assert [row["epoch"] for row in record.rows] == epochs
    assert [row["round"] for row in record.rows] == rounds
    assert len(record.series["train_loss"]) == max(1, 12 // local_steps)


def test_an_evaluation_every_second_epoch_comes_with_the_first_round_at_or_beyond_it(root):
    record, _ = runner.run(toy.spec("federated", epochs=5, evaluate_every=2, local_steps=3), 3, root)
    assert [row["epoch"] for row in record.rows] == [2.25, 4.5]  # 9 of 8 steps, 18 of 16


def test_further_evaluations_add_rows_and_change_no_other_number(root):
    usual, _ = runner.run(toy.spec("central", epochs=2), 3, root)
    steps = usual.rows[0]["round"]
    also = [1, steps - 1, steps, 99 * steps]  # a round that is evaluated anyway, and one after the last
    more, _ = runner.run(toy.spec("central", epochs=2, evaluate_at=also), 3, root)
    assert [row["round"] for row in more.rows] == [1, steps - 1, steps, 2 * steps]
    tested = ("epoch", "round", "lr", "test_loss", "test_top1", "test_top5")
    at_epochs = [row for row in more.rows if row["epoch"] in (1.0, 2.0)]
    assert [[row[k] for k in tested] for row in at_epochs] == [[row[k] for k in tested] for row in usual.rows]
    assert more.series == usual.series


def test_a_step_up_run_records_norms_and_factors_and_follows_its_rule(root):
    stepped, _ = runner.run(toy.spec("central", epochs=3, step_up={"factor": 4, "threshold": 0.2}), 3, root)
    plain, _ = runner.run(toy.spec("central", epochs=3, track=["gradient_norm"]), 3, root)
    rule = stepup.StepUp(4, "above", 0.2)
    norms, factors = stepped.series["gradient_norm"], stepped.series["step_up_factor"]
    assert factors == [rule.factor_at(change, 0.0) for change in stepup.gradient_changes(norms)]
    first = factors.index(4.0)
    assert norms[: first + 1] == plain.series["gradient_norm"][: first + 1]  # until it is first stepped up
    assert norms[first + 1] != plain.series["gradient_norm"][first + 1]


def test_a_random_gate_needs_the_record_that_it_takes_its_share_of(root, monkeypatch):
    gated = toy.spec("central", epochs=3, step_up={"factor": 4, "threshold": 0.2})
    monkeypatch.setattr(specs, "sibling", lambda run, spec, root: gated)
    spec = dataclasses.replace(
        gated, run="toy-random", step_up={"factor": 4, "when": "random", "share_of": "toy"}, epochs=20
    )
    with pytest.raises(
        ReproError, match=r"steps up as often as toy, which has no valid record of seed 3; run "
    ) as caught:
        runner.run(spec, 3, root)
    assert "\n" not in str(caught.value)
    record, provenance = runner.run(gated, 3, root)
    runner.save(record, provenance, root)
    share = np.mean(np.array(record.series["step_up_factor"]) == 4)
    drawn = np.mean(np.array(runner.run(spec, 3, root)[0].series["step_up_factor"]) == 4)
    assert 0 < share < 1
    assert abs(drawn - share) < 4 * math.sqrt(share * (1 - share) / (20 * len(record.series["train_loss"]) / 3))


def test_a_record_that_reads_another_is_stale_when_that_one_changes(root, monkeypatch):
    gated = toy.spec("central", step_up={"factor": 4, "threshold": 0.2})
    spec = dataclasses.replace(gated, run="toy-random", step_up={"factor": 4, "when": "random", "share_of": "toy"})
    prints = set()
    for threshold in (0.2, 0.3):
        other = dataclasses.replace(gated, step_up={"factor": 4, "threshold": threshold})
        monkeypatch.setattr(specs, "sibling", lambda run, spec, root, other=other: other)
        prints.add(store.fingerprint(spec, 3, root))
    assert len(prints) == 2


def test_sharpness_is_tracked_at_the_end(root):
    record, _ = runner.run(toy.spec("central", epochs=2, track=["sharpness"]), 3, root)
    last = record.rows[-1]
    assert last["hessian_top_eigenvalue"] > 0
    assert isinstance(last["hessian_converged"], bool)
    assert 1 <= last["hessian_iterations"] <= 200
    assert 0 < last["hessian_images"] <= 500
    assert "hessian_top_eigenvalue" not in record.rows[0]


def test_as_many_local_steps_as_an_epoch_has_are_an_epoch(root):
    by_steps, _ = runner.run(toy.spec("federated", epochs=3, local_steps=4), 3, root)
    by_epochs, _ = runner.run(toy.spec("federated", epochs=3), 3, root)
    assert (by_steps.rows, by_steps.series) == (by_epochs.rows, by_epochs.series)


@pytest.mark.parametrize(
    ("method", "track", "in_rows", "in_last"),
    [
        ("central", ["gradient_norm", "per_class"], {"test_top1_by_class"}, set()),
        (
            "large_batch",
            ["gradient_norm", "per_class", "batch_statistics"],
            {"test_top1_by_class"},
            {"classes_of_clients", "batch_statistics"},
        ),
        ("federated", ["per_class"], {"test_top1_by_class"}, {"classes_of_clients", "clients_top1_by_class"}),
    ],
)
def test_what_is_tracked_is_added_and_nothing_else_changes(method, track, in_rows, in_last, root):
    changes = {} if method == "central" else TWO_LABELS
    plain, _ = runner.run(toy.spec(method, **changes), 3, root)
    tracked, _ = runner.run(toy.spec(method, track=track, **changes), 3, root, processes=2)
    assert tracked.fingerprint != plain.fingerprint
    usual = plain.rows[0].keys()
    for row, bare in zip(tracked.rows, plain.rows, strict=True):
        assert {name: row[name] for name in usual} == bare
    assert all(row.keys() - usual == in_rows for row in tracked.rows[:-1])
    assert tracked.rows[-1].keys() - usual == in_rows | in_last
    assert tracked.series["train_loss"] == plain.series["train_loss"]
    norms = tracked.series.get("gradient_norm", [])
    assert len(norms) == (len(plain.series["train_loss"]) if "gradient_norm" in track else 0)
    assert all(norm > 0 for norm in norms)
    assert set(tracked.series) == {"train_loss"} | ({"gradient_norm"} & set(track))
    assert records.read(records.write(tracked, root)) == tracked


def test_accuracies_by_class_are_of_all_classes_and_average_to_the_accuracy(root):
    spec = toy.spec("federated", track=["per_class"], test_images=300, **TWO_LABELS)
    record, _ = runner.run(spec, 3, root)
    labels = prepare.prepare(spec, 3, root).evaluation.labels.bincount(minlength=10).tolist()
    for row in record.rows:
        right = [share * n for share, n in zip(row["test_top1_by_class"], labels, strict=True)]
        assert sum(right) / 300 == pytest.approx(row["test_top1"])
    last = record.rows[-1]
    assert [len(found) for found in last["clients_top1_by_class"]] == [10] * 5
    assert all(len(classes) == 2 for classes in last["classes_of_clients"])
    assert sorted(label for classes in last["classes_of_clients"] for label in classes) == list(range(10))
    # A client's model knows its own two classes only, after training on them alone.
    for found, own in zip(last["clients_top1_by_class"], last["classes_of_clients"], strict=True):
        others = [share for label, share in enumerate(found) if label not in own]
        assert sum(others) / len(others) < 0.3


@pytest.mark.parametrize("buffers", ["local", "drop"])
@pytest.mark.parametrize("method", ["large_batch", "federated"])
def test_statistics_that_are_not_averaged_are_not_sent_and_change_the_evaluation(method, buffers, root):
    average, _ = runner.run(toy.spec(method), 3, root)
    other, _ = runner.run(toy.spec(method, buffers=buffers), 3, root, processes=2)
    assert all(theirs["bytes_up"] > ours["bytes_up"] for ours, theirs in zip(other.rows, average.rows, strict=True))
    assert all(theirs["bytes_down"] > ours["bytes_down"] for ours, theirs in zip(other.rows, average.rows, strict=True))
    assert [row["test_loss"] for row in other.rows] != [row["test_loss"] for row in average.rows]
    if method == "large_batch":  # what is trained does not depend on running statistics
        assert other.series == average.series


def test_a_training_loss_above_the_bound_ends_the_run(root):
    spec = toy.spec("large_batch", epochs=5, schedule={"kind": "constant", "lr": 3.0}, track=["gradient_norm"])
    whole, _ = runner.run(spec, 3, root)
    losses = whole.series["train_loss"]
    bound = sorted(losses)[-3] * (1 + 1e-5)  # series have six digits
    at = next(k for k, loss in enumerate(losses) if loss > bound)
    record, _ = runner.run(dataclasses.replace(spec, diverges_above=bound), 3, root)
    assert record.status == "diverged"
    assert record.reason.startswith(f"after {at + 1} of {len(losses)} rounds: the training loss is ")
    assert "diverges_above" in record.reason
    assert record.series == {name: values[: at + 1] for name, values in whole.series.items()}
    assert record.rows == whole.rows[: at // 4]
    kept, _ = runner.run(dataclasses.replace(spec, diverges_above=max(losses) * (1 + 1e-5)), 3, root)
    assert (kept.status, kept.rows) == ("completed", whole.rows)


def test_a_run_can_diverge_in_its_first_round_and_still_leaves_a_record(root):
    for changes in ({"diverges_above": 0.1}, {"schedule": {"kind": "constant", "lr": 1e200}, "norm": "group"}):
        record, provenance = runner.run(toy.spec("large_batch", track=["gradient_norm"], **changes), 3, root)
        assert (record.status, record.rows) == ("diverged", [])
        assert len(record.series["gradient_norm"]) == len(record.series["train_loss"])
        assert records.read(runner.save(record, provenance, root)) == record


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("central", {"buffers": "local"}),
        ("central", {"buffers": "drop"}),
        ("central", {"track": ["batch_statistics"]}),
        ("federated", {"track": ["batch_statistics"]}),
        ("federated", {"track": ["gradient_norm"]}),
        ("large_batch", {"track": ["batch_statistics"], "norm": "group"}),
        ("large_batch", {"step_up": {"factor": 2, "threshold": 0.5}}),
        ("federated", {"step_up": {"factor": 2, "threshold": 0.5}}),
        ("federated", {"evaluate_at": [1]}),
    ],
)
def test_what_a_method_or_network_could_only_ignore_is_refused(method, changes, root):
    with pytest.raises(ReproError, match=r"was expected; correct") as caught:
        runner.run(toy.spec(method, **changes), 3, root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["central", "large_batch", "federated"])
def test_training_images_are_evaluated_as_test_images_are(method, root, monkeypatch):
    prepared = prepare.prepare

    def tested_on_training_images(*arguments):
        setting = prepared(*arguments)
        return dataclasses.replace(setting, evaluation=setting.batches.images)

    monkeypatch.setattr(train, "prepare", tested_on_training_images)
    record, _ = runner.run(toy.spec(method, track=["training_images"]), 3, root)
    assert record.rows[-1]["train_images_top1"] == record.rows[-1]["test_top1"]
    assert all("train_images_top1" not in row for row in record.rows[:-1])


def test_grid_runs_never_train_on_what_they_are_evaluated_on(root):
    everything = toy.spec("central", evaluate_on="held_out", train_images=45_000, test_images=5_000)
    setting = prepare.prepare(everything, 1, root)
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
    from repro import codecs
    from repro.verdicts import definitions

    named = {"run": "e2-large-batch-dgc", "source": "e2"}  # by its name and profile, its warm-up is taken back to 0.5
    spec = toy.spec("large_batch", codec="dgc", momentum=0.9, sparsity_warmup=0.5, epochs=4, **named)

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

    assert machine.describe()["zlib"] == zlib.ZLIB_RUNTIME_VERSION
