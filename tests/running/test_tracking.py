"""What is tracked is added to the rows, and changes nothing else."""

import dataclasses

import pytest
import toy

from repro.results import records
from repro.running import prepare, runner, train

pytestmark = [pytest.mark.data, pytest.mark.usefixtures("data")]
TWO_LABELS = {"workers": 5, "train_images": 200, "partition": "labels", "labels_per_client": 2}


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


def test_sharpness_is_tracked_at_the_end(root):
    record, _ = runner.run(toy.spec("central", epochs=2, track=["sharpness"]), 3, root)
    last = record.rows[-1]
    assert last["hessian_top_eigenvalue"] > 0
    assert isinstance(last["hessian_converged"], bool)
    assert 1 <= last["hessian_iterations"] <= 200
    assert 0 < last["hessian_images"] <= 500
    assert "hessian_top_eigenvalue" not in record.rows[0]


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
