"""A run is a function of its spec and its seed: not of interruptions, processes, or what ran before."""

import dataclasses
import json
import math

import numpy as np
import pytest
import toy

from repro import machine
from repro.errors import ReproError
from repro.experiments import numerics, stepup
from repro.registry import published, specs, store
from repro.results import records
from repro.running import prepare, runner

pytestmark = [pytest.mark.data, pytest.mark.usefixtures("data")]


@pytest.mark.parametrize("method", ["central", "large_batch", "federated"])
def test_the_same_run_twice_is_bit_identical(method, root):
    spec = toy.spec(method, precision="bf16")
    first, _ = runner.run(spec, 3, root)
    second, _ = runner.run(spec, 3, root, processes=2)
    assert first.body() == second.body()
    other, _ = runner.run(spec, 4, root)
    assert other.rows != first.rows


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


def test_held_out_images_are_at_most_a_fifth_of_a_data_set(root, monkeypatch):
    from repro.data import sets

    whole = sets.load("cifar10", root / "data")
    small = dataclasses.replace(whole, train_images=whole.train_images[:1000], train_labels=whole.train_labels[:1000])
    monkeypatch.setattr(sets, "load", lambda *_: small)
    setting = prepare.prepare(toy.spec("central", evaluate_on="held_out", train_images=800, test_images=200), 3, root)
    assert (len(setting.batches.images), len(setting.evaluation)) == (800, 200)
    with pytest.raises(ReproError, match="801 training images; cifar10 has 1000 of which 200 are held out"):
        prepare.prepare(toy.spec("central", evaluate_on="held_out", train_images=801), 3, root)


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


def test_as_many_local_steps_as_an_epoch_has_are_an_epoch(root):
    by_steps, _ = runner.run(toy.spec("federated", epochs=3, local_steps=4), 3, root)
    by_epochs, _ = runner.run(toy.spec("federated", epochs=3), 3, root)
    assert (by_steps.rows, by_steps.series) == (by_epochs.rows, by_epochs.series)


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
