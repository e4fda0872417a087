"""Records as one table: what stands in it is what the records say."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import tree

from repro.cli import main
from repro.errors import ReproError
from repro.registry import specs
from repro.results import frame, metrics, records


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained runs with a seed each, one diverged, and a measurement."""
    made = tree.plant(tmp_path_factory.mktemp("checkout"))
    planned = {
        spec.run: (spec, seed) for source in ("e1", "lb") for spec, seed in specs.runs(source, "smoke", root=made)
    }
    tree.record(*planned["e1-central"], made, top1=0.25)
    tree.record(*planned["e1-federated"], made, status="diverged", reason="the loss is nan", rows=[])
    tree.record(*planned["lb-perf-vgg11"], made)
    return made


def test_a_folder_that_is_not_there_is_refused_and_not_made(root: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(root)
    assert main(["export", "--profile", "smoke", str(tmp_path / "absent/x.csv")]) == 2
    assert f"its folder {tmp_path / 'absent'} does not exist" in capsys.readouterr().err
    assert not (tmp_path / "absent").exists()


def test_a_row_a_run_and_seed_holds_identity_settings_and_the_end(root: Path) -> None:
    rows = {row["run"]: row for row in frame("smoke", root)}
    assert set(rows) == {"e1-central", "e1-federated", "lb-perf-vgg11"}
    assert len({tuple(row) for row in rows.values()}) == 1
    for path in records.every(root):
        record, row = records.read(path), rows[records.read(path).run]
        assert (row["seed"], row["status"], row["fingerprint"]) == (record.seed, record.status, record.fingerprint)
        assert row["spec.width"] == record.spec["width"]
        if record.kind == "train":
            assert row["spec.schedule.kind"] == record.spec["schedule"]["kind"]
            assert row["end_top1"] == metrics.end_top1(record)
    assert (rows["e1-central"]["test_top1"], rows["e1-federated"]["test_top1"]) == (0.25, None)
    assert rows["lb-perf-vgg11"]["end_top1"] is None


def test_evaluations_have_a_row_each(root: Path) -> None:
    every = sum(max(1, len(records.read(path).rows)) for path in records.every(root))
    rows = frame("smoke", root, evaluations=True)
    assert len(rows) == every > 3
    assert {row["batch"] for row in rows if row["run"] == "lb-perf-vgg11"} >= {1, 1024}


def test_no_record_is_one_line(root: Path) -> None:
    with pytest.raises(ReproError, match="no records; run `python -m repro sweep --profile paper`"):
        frame("paper", root)


def test_the_command_writes_the_same_as_csv_and_json(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    assert main(["export", "--profile", "smoke"]) == 0
    printed = capsys.readouterr().out
    assert main(["export", "--csv", "--profile", "smoke", str(tmp_path / "records.csv")]) == 0
    assert (tmp_path / "records.csv").read_text() == printed
    assert main(["export", "--json", "--profile", "smoke"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert as_json == frame("smoke", Path())
    as_csv = list(csv.DictReader(io.StringIO(printed)))
    assert as_csv == [{k: "" if v is None else str(v) for k, v in row.items()} for row in frame("smoke", Path())]
