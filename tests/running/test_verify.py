"""A repetition is identical, agrees or differs, and says which; it never touches what it is compared with."""

import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tree
from scipy import stats

from repro import files
from repro.errors import ReproError
from repro.registry import specs, store
from repro.results import records
from repro.results.records import Record
from repro.running import rerun, runner

HERE, ELSEWHERE = {"device": "abacus", "torch": "2"}, {"device": "abacus", "torch": "3"}
TOP1 = {1: 0.50, 2: 0.52, 3: 0.57}
LAW = {
    "workers": 4, "groupnorm_max_abs_difference": 1e-17, "batchnorm_max_abs_difference": 1e-3, "tolerance": 1e-12,
    **dict.fromkeys(
        (f"{norm}norm_{name}update_max_abs" for norm in ("group", "batch") for name in ("", "least_")), 0.1
    ),
    "groupnorm_logit_spread": 0.5, "dtype": "float64",
}  # fmt: skip


class Bench:
    """Three seeds of one run on record, and a runner that answers with what a test puts into it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.patch, self.calls = root, monkeypatch, []
        self.spec = specs.find("e1-federated", "paper", root)
        self.kept = {seed: tree.record(self.spec, seed, root, top1) for seed, top1 in TOP1.items()}
        self.machine_of_record(HERE)

    def machine_of_record(self, machine: dict | None) -> None:
        path = records.provenance_path(store.record_path(self.spec, 1, self.root))
        if machine is None:
            path.unlink()
        else:
            files.write_atomic(path, files.canonical_json({"machine": machine}))

    def again(self, record: Record, machine: dict = HERE, seed: int = 1) -> rerun.Comparison:
        def run(spec, seed, root, **options):
            self.calls.append((spec, seed, options))
            return record, {"machine": machine}

        self.patch.setattr(runner, "run", run)
        before = {path: path.read_bytes() for path in self.root.rglob("*") if path.is_file()}
        found = rerun.rerun(self.spec, seed, self.root, processes=2)
        assert {path: path.read_bytes() for path in self.root.rglob("*") if path.is_file()} == before
        return found

    def with_top1(self, top1: float, seed: int = 1) -> Record:
        kept = self.kept[seed]
        return replace(kept, rows=[kept.rows[0] | {"test_top1": top1}])


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tree.plant(tmp_path), monkeypatch)


@pytest.mark.parametrize(("value", "says"), [(0.5, "top-1 50.00 % at epoch"), (0.25, "top-1 25.00 % at epoch")])
def test_the_recorded_and_the_new_number_are_said(value: float, says: str, bench: Bench) -> None:
    found = bench.again(bench.with_top1(value))
    assert found.recorded.startswith("top-1 50.00 % at epoch")
    assert found.again.startswith(says)


# On the same machine type -------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", [HERE, ELSEWHERE])
def test_equal_bodies_are_identical_wherever_they_were_made(machine: dict, bench: Bench) -> None:
    found = bench.again(bench.kept[1], machine)
    assert (found.run, found.seed, found.verdict) == ("e1-federated", 1, "identical")


def test_a_repetition_starts_from_the_beginning_and_leaves_no_checkpoints(bench: Bench) -> None:
    bench.again(bench.kept[1])
    ((spec, seed, options),) = bench.calls
    assert (spec, seed, options["processes"]) == (bench.spec, 1, 2)
    assert math.isinf(options["checkpoint_seconds"])


def test_on_the_same_machine_type_the_last_bit_counts(bench: Bench) -> None:
    found = bench.again(bench.with_top1(math.nextafter(TOP1[1], 1)))
    above = math.nextafter(TOP1[1], 1)
    assert (found.verdict, found.detail) == (
        "differs",
        "same machine type and versions, but rows differ; what differs: rows[0].test_top1: "
        f"recorded {TOP1[1]!r}, here {above!r}",
    )
    found = bench.again(replace(bench.kept[1], series={"train_loss": [2.25, math.nextafter(1.5, 2)]}))
    assert found.verdict == "differs"
    assert found.detail.startswith("same machine type and versions, but series differ; ")
    assert "series.train_loss" in found.detail


# Elsewhere ----------------------------------------------------------------------------------------------------


def interval() -> tuple[float, float]:
    """Where one more seed is expected, by the textbook: mean +- t s sqrt(1 + 1/n), 95 %."""
    mean = sum(TOP1.values()) / 3
    deviation = math.sqrt(sum((x - mean) ** 2 for x in TOP1.values()) / 2)
    half = stats.t.ppf(0.975, 2) * deviation * math.sqrt(1 + 1 / 3)
    return mean - half, mean + half


def test_elsewhere_an_accuracy_agrees_exactly_where_one_more_seed_is_expected(bench: Bench) -> None:
    bench.machine_of_record(ELSEWHERE)
    low, high = interval()
    for top1, verdict in (
        (low + 1e-6, rerun.AGREES),
        (high - 1e-6, rerun.AGREES),
        (low - 1e-6, rerun.DIFFERS),
        (high + 1e-6, rerun.DIFFERS),
    ):
        found = bench.again(bench.with_top1(top1))
        assert found.verdict == verdict, top1
        assert f"last top-1 {100 * top1:.1f} %, expected {100 * low:.1f} to {100 * high:.1f} %" in found.detail


def test_without_provenance_nothing_excuses_a_difference(bench: Bench) -> None:
    bench.machine_of_record(None)
    found = bench.again(bench.with_top1(TOP1[1] + 0.001))
    assert (found.verdict, found.detail) == (rerun.DIFFERS, "rows differ, and no provenance names a machine")
    assert bench.again(bench.kept[1]).verdict == rerun.IDENTICAL


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"status": "diverged", "reason": "the loss is nan"}, "status"),
        ({"spec": {}}, "spec"),
        ({"data": {"sha256": "1" * 64, "classes": 10}}, "data"),
        ({"rows": []}, "rows"),
    ],
)
def test_elsewhere_what_is_not_measured_must_be_equal(change: dict, field: str, bench: Bench) -> None:
    found = bench.again(replace(bench.kept[1], **change), ELSEWHERE)
    assert found.verdict == rerun.DIFFERS
    assert field in found.detail


@pytest.mark.parametrize("key", ["epoch", "round", "lr", "bytes_up", "bytes_down"])
def test_elsewhere_counts_must_be_equal(key: str, bench: Bench) -> None:
    kept = bench.kept[1]
    found = bench.again(replace(kept, rows=[kept.rows[0] | {key: kept.rows[0][key] + 1}]), ELSEWHERE)
    assert found.verdict == rerun.DIFFERS
    assert found.detail.startswith("another machine type, and rows differ; ")


@pytest.mark.parametrize("key", ["train_loss", "train_top1", "test_loss", "test_top5"])
def test_elsewhere_other_measured_numbers_may_differ(key: str, bench: Bench) -> None:
    kept = bench.kept[1]
    found = bench.again(replace(kept, rows=[kept.rows[0] | {key: kept.rows[0][key] * 1.01}]), ELSEWHERE)
    assert found.verdict == rerun.AGREES


def test_one_seed_gives_no_interval_and_so_no_agreement(bench: Bench) -> None:
    for seed in (2, 3):
        store.record_path(bench.spec, seed, bench.root).unlink()
    found = bench.again(bench.with_top1(0.5001), ELSEWHERE)
    assert found.verdict == rerun.DIFFERS
    assert found.detail.startswith("another machine type, and one seed gives no interval; ")


def test_other_runs_do_not_widen_the_interval(bench: Bench) -> None:
    other = specs.find("e1-central", "paper", bench.root)
    for seed, top1 in TOP1.items():
        tree.record(other, seed, bench.root, 0.1 if seed == 1 else top1)
    found = bench.again(bench.with_top1(interval()[0] - 1e-6), ELSEWHERE)
    assert found.verdict == rerun.DIFFERS


def law(bench: Bench, **changes) -> rerun.Comparison:
    bench.spec = specs.find("e1-union-law", "paper", bench.root)
    bench.machine_of_record(HERE)
    kept = tree.record(bench.spec, 1, bench.root, law=LAW, rows=[], series={})
    return bench.again(replace(kept, law=LAW | changes), ELSEWHERE)


@pytest.mark.parametrize(
    "changes",
    [
        {"groupnorm_max_abs_difference": 0.0},
        {"groupnorm_max_abs_difference": 1e-12},  # as large as the law calls equal
        {"batchnorm_max_abs_difference": 2e-3},
        {"groupnorm_logit_spread": 0.4},
    ],
)
def test_elsewhere_a_law_agrees_if_it_states_the_same_whatever_its_digits(changes: dict, bench: Bench) -> None:
    found = law(bench, **changes)
    assert found.verdict == rerun.AGREES
    assert re.search(r"another machine type; (\d+) of \1 checks of the law are met here and on record", found.detail)
    ((name, value),) = changes.items()
    assert found.detail.endswith(f"; what differs: law.{name}: recorded {LAW[name]!r}, here {value!r}")


@pytest.mark.parametrize(
    "changes",
    [
        {"workers": 5},
        {"dtype": "float32"},
        {"tolerance": 1.0},
        {"extra": 1.0},
    ],
)
def test_elsewhere_a_law_differs_if_it_was_executed_on_other_sizes(changes: dict, bench: Bench) -> None:
    found = law(bench, **changes)
    assert found.verdict == rerun.DIFFERS
    assert found.detail.startswith("another machine type, and law's sizes differ; ")


@pytest.mark.parametrize(
    ("changes", "called"),
    [
        ({"groupnorm_max_abs_difference": 1.1e-12}, "GroupNorm: largest difference"),
        ({"batchnorm_max_abs_difference": 0.9e-9}, "BatchNorm: largest difference"),
        ({"groupnorm_logit_spread": 0.0}, "GroupNorm: spread of logits over images"),
    ],
)
def test_elsewhere_a_law_differs_if_a_check_comes_out_otherwise(changes: dict, called: str, bench: Bench) -> None:
    found = law(bench, **changes)
    assert found.verdict == rerun.DIFFERS
    ((name, value),) = changes.items()
    told = f"; what differs: law.{name}: recorded {LAW[name]!r}, here {value!r}"
    assert re.fullmatch(f"another machine type, and {called} differ{re.escape(told)}", found.detail)


def test_a_law_that_no_statement_reads_cannot_be_compared_between_machines(bench: Bench) -> None:
    tree.edit(bench.root / "data/published.yaml", "run: e1-union-law", "run: another-law")
    with pytest.raises(ReproError, match=r"no law of data/published\.yaml has this run"):
        law(bench, groupnorm_max_abs_difference=0.0)


def payloads(bench: Bench, *changed: dict) -> rerun.Comparison:
    """Elsewhere, a run of payloads gives rows like those on record, the first ones with what ``changed`` says."""
    bench.spec = specs.find("e2-payloads-resnet50-10", "paper", bench.root)
    bench.machine_of_record(HERE)
    kept = tree.record(bench.spec, 1, bench.root)
    rows = [row | change for row, change in zip(kept.rows, changed, strict=False)] + kept.rows[len(changed) :]
    return bench.again(replace(kept, rows=rows), ELSEWHERE)


def test_elsewhere_payloads_agree_if_their_lengths_are_close(bench: Bench) -> None:
    assert payloads(bench).verdict == rerun.IDENTICAL
    length = tree.record(bench.spec, 1, bench.root).rows[0]["bytes"]
    for share, verdict in ((0.9, rerun.AGREES), (-0.9, rerun.AGREES), (1.1, rerun.DIFFERS), (-1.1, rerun.DIFFERS)):
        assert payloads(bench, {"bytes": length * (1 + share * rerun.SIZE_TOLERANCE)}).verdict == verdict, share


@pytest.mark.parametrize("change", [{"step": 2}, {"what": "change"}, {"codec": "dgc"}, {"dense_bytes": 101}])
def test_elsewhere_what_payloads_are_lengths_of_must_be_equal(change: dict, bench: Bench) -> None:
    found = payloads(bench, change)
    assert found.verdict == rerun.DIFFERS
    assert found.detail.startswith("another machine type, and rows differ; ")


@pytest.mark.parametrize(
    ("run", "value", "identity"),
    [("lb-gradients-vgg11", "cosine", "batch"), ("lb-teacher-resnet18", "r2", "teacher")],
)
def test_elsewhere_gradients_and_teachers_agree_if_their_mean_is_where_one_more_seed_is_expected(
    run: str, value: str, identity: str, bench: Bench
) -> None:
    bench.spec = specs.find(run, "study", bench.root)
    kept = [tree.record(bench.spec, seed, bench.root) for seed in (11, 12, 13)]
    provenance = records.provenance_path(store.record_path(bench.spec, 11, bench.root))
    files.write_atomic(provenance, files.canonical_json({"machine": HERE}))
    means = [sum(row[value] for row in record.rows) / len(record.rows) for record in kept]
    centre, spread = np.mean(means), np.std(means, ddof=1)
    half = stats.t.ppf(0.975, 2) * spread * math.sqrt(1 + 1 / 3)
    for goal, verdict in ((centre + 0.99 * half, rerun.AGREES), (centre - 1.01 * half, rerun.DIFFERS)):
        rows = [row | {value: row[value] + goal - means[0]} for row in kept[0].rows]
        found = bench.again(replace(kept[0], rows=rows), ELSEWHERE, seed=11)
        assert found.verdict == verdict, found.detail
    other = [kept[0].rows[0] | {identity: "another"}, *kept[0].rows[1:]]
    assert "rows differ" in bench.again(replace(kept[0], rows=other), ELSEWHERE, seed=11).detail


def test_a_provenance_that_names_less_of_a_machine_is_compared_by_what_it_names(bench: Bench) -> None:
    """Versions that were added to what a machine is, such as zlib's, do not make the same machine another one."""
    kept = bench.kept[1]
    changed = replace(kept, rows=[row | {"train_loss": 9.0} for row in kept.rows])
    found = bench.again(changed, HERE | {"zlib": "1.3"})
    assert (found.verdict, "same machine type" in found.detail) == (rerun.DIFFERS, True)
    bench.machine_of_record(HERE | {"zlib": "1.2"})
    assert "another machine type" in bench.again(changed, HERE | {"zlib": "1.3"}).detail


# What cannot be compared --------------------------------------------------------------------------------------


def test_a_stale_record_is_refused_before_anything_runs(bench: Bench) -> None:
    tree.record(bench.spec, 1, bench.root, fingerprint="0" * 64)
    with pytest.raises(ReproError, match=r"e1-federated\.s1\.json: stale, its fingerprint is not that of the current"):
        bench.again(bench.kept[1])
    assert not bench.calls


def test_damaged_provenance_is_said_in_one_line(bench: Bench) -> None:
    records.provenance_path(store.record_path(bench.spec, 1, bench.root)).write_text("<<<<<<< HEAD\n")
    with pytest.raises(ReproError, match="truncated or not JSON"):
        bench.again(bench.with_top1(0.51))


def test_a_missing_or_edited_record_is_refused_before_anything_runs(bench: Bench) -> None:
    path = store.record_path(bench.spec, 1, bench.root)
    path.write_text(path.read_text().replace('"test_top1": 0.5', '"test_top1": 0.6'))
    with pytest.raises(ReproError, match="edited or damaged"):
        bench.again(bench.kept[1])
    path.unlink()
    with pytest.raises(ReproError, match="no such record"):
        bench.again(bench.kept[1])
    assert not bench.calls


# Draws --------------------------------------------------------------------------------------------------------


def names(drawn: list[tuple[specs.Spec, int]]) -> list[tuple[str, str, int]]:
    return [(spec.profile, spec.run, seed) for spec, seed in drawn]


def test_the_same_seed_draws_the_same_records_and_another_seed_others(bench: Bench) -> None:
    for source in specs.SOURCES:
        for spec, seed in specs.runs(source, "smoke", root=bench.root):
            tree.record(spec, seed, bench.root)
    drawn = [names(rerun.sample(5, seed, bench.root)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(set(draw)) == 5 for draw in drawn)


def test_every_valid_record_of_all_profiles_and_groups_can_be_drawn_and_no_other(bench: Bench) -> None:
    tree.edit(bench.root / "pipelines/paper/params.yaml", "seeds: [11, 12, 13, 14, 15]", "seeds: [1, 2, 3]")
    planned = [specs.runs(source, "smoke", group, bench.root) for source in specs.SOURCES for group in specs.GROUPS]
    some = [tasks[min(3, len(tasks) - 1)] for tasks in planned if tasks]  # a source may have no grid
    for spec, seed in some:
        tree.record(spec, seed, bench.root)
    stale = specs.find("e1-central", "paper", bench.root)
    tree.record(stale, 1, bench.root, fingerprint="0" * 64)
    tree.record(bench.spec, 77, bench.root)  # a seed that is not planned
    expected = {("paper", "e1-federated", seed) for seed in TOP1}
    expected |= {("smoke", spec.run, seed) for spec, seed in some}
    assert len(expected) == len(TOP1) + len(some)
    assert set(names(rerun.sample(100, 0, bench.root))) == expected
    seen = Counter(name for draw in range(60) for name in names(rerun.sample(1, draw, bench.root)))
    assert set(seen) == expected


def test_runs_that_wait_for_their_learning_rate_are_not_drawn_and_stop_no_audit(bench: Bench) -> None:
    tree.edit(bench.root / "pipelines/paper/params.yaml", "seeds: [11, 12, 13, 14, 15]", "seeds: [1, 2, 3]")
    spec, seed = next(task for task in specs.runs("lb", "study", root=bench.root) if task[0].lr_grid is None)
    tree.record(spec, seed, bench.root)
    specs.learning_rates_path("study", bench.root).write_text("{}")
    expected = {("paper", "e1-federated", seed) for seed in TOP1} | {("study", spec.run, seed)}
    assert set(names(rerun.sample(100, 0, bench.root))) == expected


def test_without_records_there_is_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ReproError, match="no valid records to audit; run `python -m repro sweep` first"):
        rerun.sample(3, 0, tree.plant(tmp_path / "empty"))
