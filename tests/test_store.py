"""A record counts only if it is what its fingerprint stands for, also where its checksum was made to fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tree

from repro import files
from repro.errors import ReproError
from repro.registry import specs, store
from repro.registry.specs import Spec
from repro.results import records

SEED = 11


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tree.plant(tmp_path)


def forge(run: Spec, root: Path, **changes: Any) -> Path:
    """Change top-level fields of the stored record of ``run``, and make its checksum fit again."""
    path = store.record_path(run, SEED, root)
    content = json.loads(path.read_text())
    del content["checksum"]
    content |= changes
    path.write_text(files.canonical_json(content | {"checksum": files.sha256(content)}))
    return path


def test_an_unedited_record_counts_and_a_stale_one_does_not(root: Path) -> None:
    spec = specs.find("e1-federated", "study", root)
    made = tree.record(spec, SEED, root)
    assert store.stored(spec, SEED, root) == made
    tree.record(spec, SEED, root, fingerprint="0" * 64)
    assert store.stored(spec, SEED, root) is None


@pytest.mark.parametrize("wrong", ["spec", "data", "group", "kind", "profile", "source"])
def test_contents_that_cannot_have_led_to_the_fingerprint_are_refused(wrong: str, root: Path) -> None:
    spec = specs.find("e1-federated", "study", root)
    made = tree.record(spec, SEED, root)
    changed: dict[str, Any] = {
        "spec": made.spec | {"method": "central"}, "data": made.data | {"sha256": "0" * 64}, "group": "control",
        "kind": "payloads", "profile": "paper", "source": "e2",
    }  # fmt: skip
    path = forge(spec, root, **{wrong: changed[wrong]})
    if wrong == "kind":
        path = forge(spec, root, rows=[])  # rows of messages have other keys, none of which is looked at here
    with pytest.raises(ReproError, match=f"its {wrong} is not what its fingerprint stands for") as caught:
        store.stored(spec, SEED, root)
    assert "\n" not in str(caught.value)
    assert f"git checkout -- {path}" in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": []}, r"its last epoch \(0 of 40\) is not"),
        ({"epoch": 1.0}, r"its last epoch \(1 of 40\) is not"),
        ({"series": {}}, r"its number of losses \(0 of 2 rounds\) is not"),
        ({"series": {"train_loss": [2.25, 1.5, 1.25]}}, r"its number of losses \(3 of 2 rounds\) is not"),
        ({"data": {"classes": None}}, "its number of classes is not"),
        ({"data": {"name": "cifar100"}}, "its data is not"),
    ],
)
def test_a_training_that_says_completed_went_to_its_end(changes: dict[str, Any], says: str, root: Path) -> None:
    spec = specs.find("e1-federated", "study", root)
    made = tree.record(spec, SEED, root)
    if "epoch" in changes:
        changes = {"rows": [made.rows[0] | changes]}
    if "data" in changes:
        changes = {"data": made.data | changes["data"]}
    forge(spec, root, **changes)
    with pytest.raises(ReproError, match=says):
        store.stored(spec, SEED, root)


@pytest.mark.parametrize("change", ["a row less", "another batch", "a row twice"])
def test_a_look_at_gradients_has_every_step_and_batch_once(change: str, root: Path) -> None:
    spec = specs.find("lb-gradients-vgg11", "study", root)
    rows = tree.record(spec, SEED, root).rows
    assert store.stored(spec, SEED, root) is not None
    other = {"a row less": [], "another batch": [rows[-1] | {"batch": 5}], "a row twice": [rows[-1], rows[-1]]}
    forge(spec, root, rows=rows[:-1] + other[change])
    with pytest.raises(ReproError, match="its set of steps and batches is not"):
        store.stored(spec, SEED, root)


def test_the_record_of_another_run_under_this_ones_name_and_fingerprint_is_refused(root: Path) -> None:
    spec, other = (specs.find(run, "study", root) for run in ("e1-federated", "e1-central"))
    tree.record(spec, SEED, root)
    better = tree.record(other, SEED, root, top1=0.9)
    forge(spec, root, spec=better.spec, rows=better.rows)
    with pytest.raises(ReproError, match="its spec is not"):
        store.stored(spec, SEED, root)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("test_top1", 17.5, "row 1, test_top1: 17.5; a fraction from 0 to 1 was expected"),
        ("test_top1", -0.01, "row 1, test_top1: -0.01; a fraction"),
        ("test_top5", "0.9", "key rows[1].test_top5: "),
        ("test_top5_by_batch", "0.9", "row 1, test_top5_by_batch: '0.9'; a fraction"),
        ("test_top1_by_class", [[0.5, 1.5]], "row 1, test_top1_by_class: 1.5; a fraction"),
        ("bytes_up", -1, "row 1, bytes_up: -1; a number from 0 up was expected"),
        ("epoch", True, "key rows[1].epoch: "),
    ],
)
def test_a_value_that_no_run_can_have_is_refused(name: str, value: Any, says: str, root: Path) -> None:
    spec = specs.find("e1-federated", "study", root)
    made = tree.record(spec, SEED, root)
    path = forge(spec, root, rows=[made.rows[0] | {name: value}])
    with pytest.raises(ReproError) as caught:
        records.read(path)
    assert says in str(caught.value)


@pytest.mark.parametrize("name", ["epoch", "round", "bytes_up", "bytes_down"])
def test_what_is_cumulative_never_falls(name: str, root: Path) -> None:
    spec = specs.find("e1-federated", "study", root)
    (row,) = tree.record(spec, SEED, root).rows
    records.read(forge(spec, root, rows=[row, row, row | {name: row[name] + 1}]))
    path = forge(spec, root, rows=[row, row | {name: row[name] + 1}, row])
    with pytest.raises(ReproError, match=f"row 3, {name}: "):
        records.read(path)


def test_the_edges_of_what_can_be_are_accepted(root: Path) -> None:
    spec = specs.find("e1-federated", "study", root)
    (row,) = tree.record(spec, SEED, root).rows
    edges = row | {"test_top1": 0, "test_top5": 1, "train_top1": 1.0, "bytes_up": 0, "test_top1_by_class": [None, 0]}
    assert records.read(forge(spec, root, rows=[edges])).rows == [edges]


def test_a_message_without_a_length_and_an_unknown_status_are_refused(root: Path) -> None:
    spec = specs.find("e1-federated", "study", root)
    tree.record(spec, SEED, root)
    with pytest.raises(ReproError, match=r"rows\[1\]\.bytes: a number \(0\); a number above 0 was expected"):
        records.read(
            forge(
                spec,
                root,
                kind="payloads",
                rows=[{"step": 1, "what": "gradient", "codec": "int8", "bytes": 0, "dense_bytes": 4}],
            )
        )
    with pytest.raises(ReproError, match="one of completed, diverged was expected"):
        records.read(forge(spec, root, status="done"))
