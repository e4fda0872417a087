"""The pieces of ``benchmarks/gpu.py``: what is packed comes out the same, and what is planned is what is published."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from repro import files
from repro.data.sets.declarations import array_sha256, combined_sha256
from repro.errors import ReproError
from repro.registry import specs

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

pytest.importorskip("PIL")
gpu, gpu_speed, parcels = (pytest.importorskip(name) for name in ("gpu_run", "gpu_speed", "parcels"))


@pytest.fixture
def tiny(monkeypatch):
    """A data set of 1 203 and 7 images of 8 px, under the name of the real one; returns its arrays."""
    random = np.random.default_rng(3)
    arrays = {}
    for kind, count in (("train", 1203), ("test", 7)):
        arrays[f"{kind}_images"] = random.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        arrays[f"{kind}_labels"] = random.integers(0, 10, count)
    loaded = type("Loaded", (), arrays)
    monkeypatch.setattr(parcels.sets, "load", lambda name, root: loaded)
    return arrays


def manifest(root, arrays):
    hashes = {name: array_sha256(values) for name, values in arrays.items()}
    facts = {name: {"shape": list(values.shape), "sha256": hashes[name]} for name, values in arrays.items()}
    files.write_atomic(
        root / "data/manifests/cifar10.json", json.dumps({"arrays": facts, "sha256": combined_sha256(hashes)})
    )


def test_images_travel_in_parts_without_loss(tiny, tmp_path):
    manifest(tmp_path, tiny)
    parts = parcels.pack_data(tmp_path / "parcel", 0.21, tmp_path)
    assert len(parts) > 1
    assert all(sum(path.stat().st_size for path in part.glob("*.webp")) <= 2.1e5 for part in parts)
    parcels.unpack_data(tmp_path / "parcel", tmp_path)
    for name, values in tiny.items():
        assert np.array_equal(np.load(tmp_path / "data/prepared/cifar10" / f"{name}.npy"), values)


def test_a_part_that_lacks_or_differs_is_refused(tiny, tmp_path):
    manifest(tmp_path, tiny)
    parts = parcels.pack_data(tmp_path / "parcel", 0.21, tmp_path)
    manifest(tmp_path, tiny | {"test_labels": tiny["test_labels"] + 1})
    with pytest.raises(ReproError, match="pack them again"):
        parcels.unpack_data(tmp_path / "parcel", tmp_path)
    shutil.rmtree(parts[-1])
    with pytest.raises(ReproError, match="is missing; all parts"):
        parcels.unpack_data(tmp_path / "parcel", tmp_path)
    assert not (tmp_path / "data/prepared").exists()


def test_what_comes_back_is_what_was_there(tmp_path):
    content = {
        "data/records/paper/lb/a.s11.json": b"{}",
        "data/provenance/paper/lb/a.s11.json": b"[]",
        "data/checkpoints/paper/lb/b.s11.pt": bytes(range(256)) * 40,
    }
    for name, values in content.items():
        (tmp_path / "there" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / name).write_bytes(values)
    parcels.gather(tmp_path / "out", tmp_path / "there", "paper", 2e-4)
    assert len(list((tmp_path / "out").glob("checkpoints.zip.*"))) > 1
    assert sorted(parcels.take(tmp_path / "out", tmp_path / "home")) == sorted(content)
    assert all((tmp_path / "home" / name).read_bytes() == values for name, values in content.items())


def test_the_plan_is_that_of_the_published_figures_and_tables():
    from repro import report

    planned = dict(zip((entry[0] for entry in gpu.ORDER), gpu.planned(), strict=True))
    runs = {name: {spec.run for spec, _ in tasks} for name, tasks in planned.items()}
    large = {
        run for artefact in ("lb.fig3", "lb.fig6") for run in report.ARTEFACTS[artefact].runs if run.endswith("1024")
    }
    assert runs["lb.fig3 and lb.fig6, batch 1024"] == large
    stepped = {run for run in report.ARTEFACTS["lb.fig7"].runs if re.match("lb-step", run)}
    assert runs["lb.fig7"] == stepped
    assert runs["e3.table1"] == set(report.ARTEFACTS["e3.table1"].runs)
    assert runs["e1, learning rates"] == {spec.run for spec, _ in specs.runs("e1", "paper", "grid", ROOT)}
    for tasks in planned.values():
        assert [seed for _, seed in tasks] == sorted(seed for _, seed in tasks)


def test_the_estimate_counts_images_and_a_stop_is_heard(monkeypatch):
    monkeypatch.setattr(gpu_speed, "seconds_of_image", lambda spec, root: 1e-6)
    clock = gpu.Clock(1.0)
    records = gpu.Records(clock, "paper", ["lb-batch-vgg11-1024"], 1.0)
    spec, seed = records.todo[0]
    assert records._estimate(spec, seed) == pytest.approx(1.2 * 100 * 50_000 * 1e-6)
    clock._stop()
    with pytest.raises(gpu.Stopped):
        next(records.compute())


@pytest.mark.data
def test_what_is_measured_makes_a_table_with_every_arm():
    speed = dict(gpu_speed.measure(gpu_speed.TINY, ROOT))
    of_large, of_round = speed["images/s, large batch"], speed["images/s, federated round"]
    assert all(rate > 0 for arms in (of_large, of_round) for rates in arms.values() for rate in rates)
    assert set(of_large) == {"ours", "plain"}
    assert set(of_round) == {"ours", "ours, stacked", "plain"}
    shown = gpu_speed.table(
        {"speed": speed, "sizes": vars(gpu_speed.TINY), "records": ["a line"], "date": "2026-12-01",
         "machine": {"device": "a processor", "torch": "2", "python": "3"}, "code": {"commit": "0123456789abcdef"}}
    )  # fmt: skip
    assert all(f"| {name} |" in shown for name in of_round)
    assert "- a line" in shown


def test_what_lacks_is_said_in_a_line_before_anything_else(tmp_path):
    """With nothing but the standard library."""
    program = [sys.executable, "-S", "-E", str(ROOT / "benchmarks/gpu.py"), "run", str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"gpu\.py: missing here: torch, numpy, .*pydantic.*\n", done.stderr)
