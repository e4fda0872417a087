"""Heat maps of who holds which classes show the partition that the runs had."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tree
from reporting import drawn, records_of

from repro import report
from repro.data import labels
from repro.errors import ReproError
from repro.registry import store
from repro.report import shards

NAMES = [name for name in report.ARTEFACTS if name.endswith("extra-shards")]
MANIFESTS = tree.REPOSITORY / "data/manifests"


def test_every_source_has_one() -> None:
    assert [name.partition(".")[0] for name in NAMES] == ["e1", "e2", "e3", "lb"]


def test_devices_hold_the_classes_that_their_run_recorded() -> None:
    """What the run says of itself, from the images that it trained on."""
    found = [r for r in store.current("e3", "smoke", tree.REPOSITORY).records if r.run.startswith("e3-fedavg-noniid-")]
    assert found
    for record in found:
        held = [np.flatnonzero(row).tolist() for row in shards.images_by_class(record, tree.REPOSITORY)]
        assert held == record.rows[-1]["classes_of_clients"]


@pytest.mark.parametrize("name", NAMES)
def test_every_image_is_held_once_and_cells_are_shares_of_a_client(name: str) -> None:
    records = list(records_of(name.partition(".")[0]))
    for record in (r for r in records if r.run in report.ARTEFACTS[name].runs and r.seed == 1):
        held = shards.images_by_class(record, tree.REPOSITORY)
        assert len(held) == record.spec["workers"]
        if not record.spec.get("drop_uncovered"):
            assert held.sum() == record.spec["train_images"]
        if per_client := record.spec.get("labels_per_client"):
            assert set((held > 0).sum(axis=1)) == {per_client}
    for axes in drawn(name, records).axes:
        cells = np.ma.filled(axes.collections[0].get_array(), 0.0).reshape(len(held), -1)
        assert cells.sum(axis=1) == pytest.approx(100)


def test_another_seed_or_alpha_gives_other_shards() -> None:
    one = next(r for r in records_of("e1") if r.run == "e1-federated-alpha1")
    others = (replace(one, seed=one.seed + 1), replace(one, spec=one.spec | {"dirichlet_alpha": 0.1}))
    own = shards.images_by_class(one, tree.REPOSITORY)
    assert not any((own == shards.images_by_class(other, tree.REPOSITORY)).all() for other in others)


def test_labels_are_those_of_the_manifest_or_refused_in_a_line(tmp_path: Path) -> None:
    known = labels.read("cifar10", MANIFESTS)
    assert np.bincount(known).tolist() == [5000] * 10
    (tmp_path / "cifar10.json").write_text((MANIFESTS / "cifar10.json").read_text())
    with pytest.raises(ReproError, match=r"cifar10\.labels\.txt cannot be read .*python -m repro data cifar10"):
        labels.read("cifar10", tmp_path)
    labels.write("cifar10", np.roll(known, 1), tmp_path)
    with pytest.raises(ReproError, match="other labels than the manifest beside it states"):
        labels.read("cifar10", tmp_path)
    labels.write("cifar10", known, tmp_path)
    assert (labels.read("cifar10", tmp_path) == known).all()


def test_labels_are_those_of_the_file_as_it_is_now(tmp_path: Path) -> None:
    for kind in ("json", "labels.txt"):
        shutil.copy(MANIFESTS / f"cifar10.{kind}", tmp_path)
    assert len(labels.read("cifar10", tmp_path)) == 50_000
    (tmp_path / "cifar10.labels.txt").write_text("0\n1\n")
    with pytest.raises(ReproError, match="other labels than the manifest"):
        labels.read("cifar10", tmp_path)
    (tmp_path / "cifar10.labels.txt").write_text("cat\n")
    with pytest.raises(ReproError, match="a label a line was expected"):
        labels.read("cifar10", tmp_path)
