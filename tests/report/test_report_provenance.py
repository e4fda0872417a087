"""What stands beside a figure and a table: every number's run and seed, hashes that hold, no date and no host."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from PIL import Image
from synthetic import e1_grid_records, e1_records

from repro import files, report
from repro.experiments import numerics
from repro.results.records import path_of, provenance_path

RECORDS = [*e1_records(), *e1_grid_records()]
IDS = ["e1.fig1", "e1.table1", "e1.table2", "e1.extra-grid"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    for record in RECORDS[:-1]:
        machine = {"device": "abacus", "torch": "2.0"}
        known = {"machine": machine, "precision": "bf16", "finished": "2001-02-03T04:05:06Z", "commit": "c0ffee"}
        known["code"] = "deadbeef"
        files.write_atomic(root / provenance_path(path_of(record)), json.dumps(known))
    for name in IDS:
        report.render(name, RECORDS, root / "figures", profile="study", root=root)
    return root / "figures"


@pytest.mark.parametrize("name", IDS)
def test_every_row_of_the_csv_is_a_run_and_seed_of_the_sidecar(name: str, folder: Path) -> None:
    beside = json.loads((folder / f"{name}.json").read_text())
    listed = {(run["run"], str(seed["seed"])) for run in beside["runs"] for seed in run["seeds"]}
    with (folder / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    named = {(row["run"], seed) for row in rows for seed in (row.get("seed") or row["seeds"]).split()}
    assert named == listed


@pytest.mark.parametrize("name", IDS)
def test_hashes_versions_and_paths_are_those_of_the_records(name: str, folder: Path) -> None:
    beside = json.loads((folder / f"{name}.json").read_text())
    stored = {(r.run, r.seed): r for r in RECORDS}
    assert beside["files"] == list(report.outputs(name))
    for run in beside["runs"]:
        for seed in run["seeds"]:
            record = stored[run["run"], seed["seed"]]
            assert seed["fingerprint"] == record.fingerprint
            assert seed["record"] == str(path_of(record))
            assert run["parameters"] == record.spec
            assert run["parameters_sha256"] == files.sha256(record.spec)
            assert run["code_versions"] == numerics.used_by(record.spec)
            known = record != RECORDS[-1]
            assert (seed["environment"] in beside["environments"]) == known
            assert seed["code"] == ("deadbeef" if known else None)
            assert (seed["provenance"] == str(provenance_path(path_of(record)))) == known
    assert list(beside["environments"].values()) == [{"device": "abacus", "torch": "2.0", "precision": "bf16"}]


def test_a_picture_carries_the_same_in_its_metadata(folder: Path) -> None:
    beside = json.loads((folder / "e1.fig1.json").read_text())
    with Image.open(folder / "e1.fig1.png") as picture:
        carried = json.loads(picture.text["Description"])  # type: ignore[attr-defined]
        assert picture.text["Title"].startswith("e1.fig1")  # type: ignore[attr-defined]
    assert [(r["run"], r["parameters_sha256"]) for r in carried["runs"]] == [
        (r["run"], r["parameters_sha256"]) for r in beside["runs"]
    ]
    for ours, theirs in zip(carried["runs"], beside["runs"], strict=True):
        assert ours["seeds"] == {str(s["seed"]): s["fingerprint"] for s in theirs["seeds"]}
    assert carried["environments"] == beside["environments"]
    assert "parameters_sha256" in (folder / "e1.fig1.svg").read_text()


def test_no_date_is_in_any_file(folder: Path) -> None:
    for path in folder.iterdir():
        assert b"2001-02" not in path.read_bytes(), path.name
        assert not re.search(rb"c0ffee", path.read_bytes()), path.name
