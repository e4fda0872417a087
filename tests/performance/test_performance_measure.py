"""A run of kind ``measure``: what its record holds, that it is alone, and that a repetition is compared by interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy
import tree

from repro.checkpoint import Checkpoint
from repro.errors import ReproError
from repro.performance import measure, timing
from repro.performance.workload import Trainer, Workload
from repro.registry import specs, store
from repro.results import records
from repro.results.records import Record
from repro.running import rerun, runner, sweep

SPEC = toy.spec(
    "central", kind="measure", source="lb", run="toy-measure", width=4, image_size=16, precision="fp32", momentum=0.9,
    train_images=64, batch_sizes=[2, 8, 32], blocks=3, repetitions=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def made() -> Record:
    return runner.run(SPEC, 1, toy.ROOT)[0]


@pytest.mark.data
def test_a_record_holds_counts_quartiles_and_every_time(made: Record) -> None:
    assert [row["batch"] for row in made.rows] == [2, 8, 32]
    for row in made.rows:
        assert row["n"] == 6 == len(made.series[f"step {row['batch']}"])
        for part in timing.PARTS:
            low, middle, high = row[part]
            assert 0 < low <= middle <= high
        assert row["gradients"] == row["optimiser"] == 4 * row["parameters"]
        assert row["peak"] is None
        assert 0 < row["cpu_share"] < 1.1
        readings = made.series[f"loader {row['batch']}"]
        assert len(readings) == measure.LOADER_BLOCKS
        assert row["loader"] == sorted(readings)[len(readings) // 2]
    assert len(made.series["probe"]) == 3 * 3
    assert made.machine is not None
    assert made.machine["threads"] == 1
    assert made.rows[2]["activations"] > made.rows[0]["activations"]


@pytest.mark.parametrize("blocks_before", [1, 2])
def test_a_killed_measurement_keeps_its_finished_blocks_and_goes_on_with_the_next(
    blocks_before: int, tmp_path: Path
) -> None:
    workload = Workload(model="resnet18", classes=10, image_size=16, images=32, width=4)
    sizes, seen = [2, 4, 8], list[float]()

    def measured(report: Callable[[float], None]) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:
        kept = Checkpoint(tmp_path / "run.pt", "print", 0)
        return measure.measure(Trainer(workload), measure.Plan(sizes, 3, 1), report, kept)

    def kill(share: float) -> None:
        if share > (blocks_before + 0.5) / 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        measured(kill)
    held = Checkpoint(tmp_path / "run.pt", "print", 0).restore(measure._restored)
    assert held is not None
    assert held.timed is not None
    assert held.timed.finished == blocks_before
    rows, series = measured(seen.append)
    assert seen[0] == pytest.approx((blocks_before + 1 / 3) / 3), "it goes on with the next block"
    assert [row["n"] for row in rows] == [3, 3, 3]
    for (part, size), times in held.timed.samples.items():
        now = series[f"{part} {size}"]
        assert now[: len(times)] == [float(f"{each:.5g}") for each in times]
        assert len(now) == 3
    assert len(series["probe"]) == 9


@pytest.mark.data
def test_a_record_survives_the_disk_and_older_ones_have_no_machine(made: Record, tmp_path: Path) -> None:
    assert records.read(records.write(made, tmp_path)) == made
    assert "machine" not in replace(made, machine=None).body()


@pytest.mark.data
def test_a_repetition_agrees_by_interval_and_counts_must_be_equal(made: Record) -> None:
    assert rerun._measured_again(made, made).verdict == rerun.AGREES
    slower = [row | {"step": [1000 * each for each in row["step"]]} for row in made.rows]  # beyond any quartiles
    found = rerun._measured_again(made, replace(made, rows=slower))
    assert (found.verdict, "step at batch 2" in found.detail) == (rerun.DIFFERS, True)
    elsewhere = replace(made, rows=slower, machine={"device": "another"})
    assert rerun._measured_again(made, elsewhere).verdict == rerun.AGREES
    other = [row | {"activations": row["activations"] + 4} for row in made.rows]
    assert rerun._measured_again(made, replace(elsewhere, rows=other)).verdict == rerun.DIFFERS


def test_times_need_blocks_and_repetitions() -> None:
    trainer = Trainer(Workload(model="resnet18", classes=10, image_size=16, images=16, width=4))
    for blocks, repetitions in ((2, 1), (3, 0)):
        with pytest.raises(ReproError, match="at least 3 blocks of 1 were expected"):
            timing.measure(trainer, [4], blocks=blocks, repetitions=repetitions)


def test_steps_that_become_faster_do_not_part_the_sum_of_the_parts_from_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every step takes a tick less than the one before it, whichever way it is timed."""

    class Clock:
        now, left = 0.0, 1000.0
        images = range(64)

        def spend(self, share: float) -> None:
            self.now += share * self.left

        def batches(self, size: int) -> None: ...
        def wait(self) -> None: ...

        def move(self, batches: None, step: int) -> tuple[int, int]:
            self.spend(0.25)
            return 0, 0

        def compute(self, x: int, y: int) -> None:
            self.spend(0.5)

        def update(self) -> None:
            self.spend(0.25)
            self.left -= 1

        def train(self, batches: None, step: int) -> None:
            self.move(batches, step)
            self.compute(0, 0)
            self.update()

    clock = Clock()
    for name in ("perf_counter", "process_time"):
        monkeypatch.setattr(timing.time, name, lambda: clock.now)
    made = timing.measure(clock, [4, 8], blocks=3, repetitions=2)  # type: ignore[arg-type]
    for size in (4, 8):
        parts = sum(sum(made.samples[part, size]) for part in ("movement", "compute", "update"))
        assert parts == pytest.approx(sum(made.samples["step", size]))
        assert len(set(made.samples["step", size])) == 6, "no two steps take the same"


def test_measurements_run_after_all_others_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, calls = tree.plant(tmp_path), []
    monkeypatch.setattr("repro.data.sets.load", lambda *_: None)

    def compute(batch: Any, root: Path, jobs: int, *_: object, pool: Any) -> None:
        calls.append(({spec.kind for spec, _ in batch.waiting}, jobs, pool._renew))

    monkeypatch.setattr(sweep, "_compute", compute)
    tasks = [task for source in ("lb", "e1") for task in specs.runs(source, "smoke", root=root)]
    sweep.sweep(tasks, root, jobs=7)
    others = {"train", "law", "gradients", "teacher"}
    assert calls == [(others, 7, False), ({"measure"}, 1, True)]


def test_measurements_without_their_data_are_one_line_and_all_others_are_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, calls = tree.plant(tmp_path), []

    def load(name: str, _: Path) -> None:
        if name != "cifar10":
            raise ReproError(f"{name} is not there; run `repro data {name}`")

    def compute(batch: Any, *_: object, **__: object) -> None:
        calls.append({(spec.source, spec.dataset) for spec, _ in batch.waiting})

    monkeypatch.setattr("repro.data.sets.load", load)
    monkeypatch.setattr(sweep, "_compute", compute)
    tasks = [task for source in ("lb", "e1") for task in specs.runs(source, "smoke", root=root)]
    done = sweep.sweep(tasks, root)
    runs = Counter(spec.dataset for spec, _ in tasks if spec.kind != "law")
    assert ("e1", "cifar10") in calls[0]
    assert calls[1] == {("lb", "cifar10")}, "the measurement, alone"
    assert [line.split(":")[0] for line in done.problems] == [
        f"{runs[name]} runs on {name} could not start" for name in ("caltech101", "caltech256", "cifar100", "food101")
    ]


def test_batch_sizes_never_shrink_and_sizes_of_a_network_win(tmp_path: Path) -> None:
    root = tree.plant(tmp_path)
    for profile in specs.PROFILES:
        measured = [spec for spec, _ in specs.runs("lb", profile, root=root) if spec.kind == "measure"]
        sizes = Counter(tuple(spec.batch_sizes) for spec in measured)
        assert sizes == {(1, 32, 64, 128, 256, 512, 1024): 5, (1, 48, 160, 480, 1024): 4}
        assert {spec.precision for spec in measured} == {"fp32"}
    assert specs.find("lb-perf-alexnet", "study", root).image_size == 64
    assert specs.find("lb-perf-resnet50", "study", root).image_size == 16
    assert specs.sizes_of("lb", "study", "vit", root)["patch"] == specs.find("lb-perf-vit", "study", root).patch


def test_a_network_is_measured_as_it_is_trained_and_advised_on_as_it_is_measured(tmp_path: Path) -> None:
    """Width and precision are a measurement's own: the paper's GPU has float32 alone, and sizes shrink apart.

    So do pixels at profile smoke: of 8 ResNet50 leaves one, of which BatchNorm can measure no batch of 1.
    """
    root, compared = tree.plant(tmp_path), set()
    for profile in specs.PROFILES:
        alike = ("norm", "momentum", "augment", "last_scale_zero", *(("image_size",) if profile != "smoke" else ()))
        tasks = [spec for group in specs.GROUPS for spec, _ in specs.runs("lb", profile, group, root)]
        for measured in (spec for spec in tasks if spec.kind == "measure"):
            advised = specs.sizes_of("lb", profile, measured.model, root)
            assert {name: getattr(measured, name) for name in advised} == advised
            for spec in tasks:
                if (spec.kind, spec.model, spec.dataset) == ("train", measured.model, measured.dataset):
                    assert [getattr(spec, name) for name in alike] == [getattr(measured, name) for name in alike], spec
                    compared.add((profile, measured.run))
    runs = [f"lb-{what}-{network}" for what in ("perf", "capacity") for network in ("alexnet", "resnet50", "vgg11")]
    assert compared == {(profile, run) for profile in specs.PROFILES for run in runs}
    assert not specs.find("lb-perf-alexnet", "study", root).augment


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("pipelines/lb.yaml", "[1, 32, 64, 128, 256, 512, 1024]", "[1, 64, 32]", "at least three ascending sizes"),
        ("pipelines/lb.yaml", "[1, 32, 64, 128, 256, 512, 1024]", "[1, 32, 9999]", "to the 1024 images"),
        ("pipelines/lb.yaml", "peak_sizes: [32,", "peak_sizes: [3,", "key peak_sizes: 3; some of the batch sizes"),
        ("pipelines/smoke/params.yaml", "blocks: 3", "blocks: 2", "a number from 3 up"),
        ("pipelines/smoke/params.yaml", "vgg11: {image_size: 32}", "vgg11: {epochs: 3}", "unknown key 'epochs'"),
        ("pipelines/smoke/params.yaml", "vgg11: {image_size: 32}", "vgg12: {width: 3}", "models.vgg12: a mapping"),
    ],
)  # fmt: skip
def test_a_malformed_measurement_is_one_line(file: str, old: str, new: str, says: str, tmp_path: Path) -> None:
    root = tree.plant(tmp_path)
    tree.edit(root / file, old, new)
    with pytest.raises(ReproError, match=says):
        specs.runs("lb", "smoke", root=root)


def test_a_measurement_has_a_fingerprint_of_its_own_parts(tmp_path: Path) -> None:
    from repro.experiments import numerics

    root = tree.plant(tmp_path)
    measured = [task for task in specs.runs("lb", "smoke", root=root) if task[0].kind == "measure"]
    assert len(measured) == 9
    for spec, seed in measured:
        used = numerics.used_by(spec.as_dict())
        assert {"measure", "batches", "engines", "models"} <= used.keys()
        assert "evaluation" not in used
        assert store.fingerprint(spec, seed, root)
