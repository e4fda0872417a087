"""Verdicts on measurements: each measure holds on records that follow its law and fails on records that break it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import synthetic_lb
import tree

from repro.errors import ReproError
from repro.results import batch_costs, measurements
from repro.results.records import Record
from repro.verdicts import judge as claims
from repro.verdicts import measured, rules

TIMED = ["lb-perf-resnet50", "lb-perf-vgg11", "lb-perf-alexnet", "lb-perf-vit"]


def found(part: dict[str, Any], records: Sequence[Record]) -> measured.Finding:
    return measured.judge(part, {record.run: record for record in records})


def timed(**laws: Any) -> list[Record]:
    return [synthetic_lb.record(run, **laws) for run in TIMED]


def test_time_that_grows_with_the_batch_rises_and_constant_time_does_not() -> None:
    part = {"measures": "rises", "quantity": "compute", "runs": TIMED}
    assert found(part, timed()).outcome == rules.HOLDS
    assert found(part, timed(seconds=-1e-4, fixed=0.5)).outcome == rules.FAILS
    mixed = [*timed()[:3], synthetic_lb.record(TIMED[3], seconds=-1e-4, fixed=0.5)]
    assert found(part, mixed).outcome == rules.FAILS
    assert "ViT" in found(part, mixed).reason


def test_compute_and_data_movement_rise_each_for_itself() -> None:
    """Their sum rises where either does; the statement is about both."""
    compute, movement = ({"measures": "rises", "quantity": each, "runs": TIMED} for each in ("compute", "movement"))
    falling = [with_times(record, "movement", {b: 0.02 / b for b in synthetic_lb.BATCHES}) for record in timed()]
    assert (found(compute, falling).outcome, found(movement, falling).outcome) == (rules.HOLDS, rules.FAILS)
    constant = timed(seconds=0.0)
    assert (found(compute, constant).outcome, found(movement, constant).outcome) == (rules.OPEN, rules.HOLDS)


def test_sharp_ones_grow_by_a_larger_factor_than_all_others() -> None:
    part = {"measures": "sharper", "runs": TIMED, "sharp": TIMED[:2]}
    sharp = [synthetic_lb.record(run, fixed=0.0) for run in TIMED[:2]]
    gradual = [synthetic_lb.record(run, fixed=1.0) for run in TIMED[2:]]
    assert found(part, sharp + gradual).outcome == rules.HOLDS
    assert found(part | {"sharp": TIMED[2:]}, sharp + gradual).outcome == rules.FAILS
    assert found(part, timed()).outcome == rules.OPEN


def test_an_epoch_that_still_shrinks_has_not_stopped() -> None:
    part = {"measures": "falls_then_stops", "runs": TIMED}
    assert found(part, timed(fixed=0.01)).outcome == rules.HOLDS
    assert found(part, timed(fixed=5.0)).outcome == rules.FAILS
    assert found(part, timed(fixed=-0.0005)).outcome != rules.HOLDS, "it never shrinks at first"


def test_activations_on_a_line_hold_and_bent_ones_fail() -> None:
    part = {"measures": "linear", "runs": TIMED, "at_most": 0.01}
    records = timed()
    assert found(part, records).outcome == rules.HOLDS
    for row in records[0].rows:
        row["activations"] = row["batch"] ** 2
    assert found(part, records).outcome == rules.FAILS


@pytest.mark.parametrize(("share", "outcome"), [(0.0, rules.HOLDS), (0.0099, rules.HOLDS), (0.0102, rules.FAILS)])
def test_activations_are_proportional_if_the_constant_part_is_small_at_batch_32(share: float, outcome: str) -> None:
    """A line with any constant part is linear; at batch 32 that part is ``share`` of the activations."""
    records = timed()
    for row in records[0].rows:
        row["activations"] = 1_000_000 * row["batch"] + 32_000_000 * share / (1 - share)
    assert found({"measures": "linear", "runs": TIMED, "at_most": 0.01}, records).outcome == rules.HOLDS
    result = found({"measures": "proportional", "runs": TIMED, "at_most": 0.01}, records)
    assert (result.outcome, result.repetitions) == (outcome, measured.COUNTED)
    assert result.arms["ResNet50"] == pytest.approx(100 * share, abs=1e-9)


@pytest.mark.parametrize(("floor", "outcome"), [(0.0, rules.HOLDS), (0.2, rules.FAILS)])
def test_the_largest_error_of_a_line_decides(floor: float, outcome: str) -> None:
    part = {"measures": "line_error", "quantity": "compute", "runs": TIMED[:1], "largest": 0.09}
    result = found(part, [synthetic_lb.record(floor=floor)])
    assert result.outcome == outcome
    assert result.n == 5
    estimate, low, high = result.interval
    said = f"ResNet50: largest error {estimate:.1f} % [{low:.1f}, {high:.1f}], mean of 5 blocks; of their median"
    assert result.text.startswith(said.replace("-", "−")), "the number that is judged comes first"


LOADER = {"measures": "line_error", "quantity": "loader", "runs": TIMED[:1], "largest": 0.03}


def with_readings(record: Record, batch: int, readings: list[float]) -> Record:
    return replace(record, series=record.series | {f"loader {batch}": readings})


def test_memory_of_the_loader_is_judged_over_blocks_between_the_extremes_without_a_batch_of_one() -> None:
    record = synthetic_lb.record()
    result = found(LOADER, [record])
    assert (result.outcome, result.n, result.repetitions) == (rules.HOLDS, 5, measured.BLOCKS)
    assert result.interval is not None
    off = with_readings(record, 1, [12288.0] * 5)  # three pages: half of what the line says
    assert found(LOADER, [off]).outcome == rules.HOLDS
    assert "beside it, batch 1: +96.1 %" in found(LOADER, [off]).text
    bent = with_readings(record, 256, [2 * each for each in record.series["loader 256"]])
    assert found(LOADER, [bent]).outcome == rules.FAILS
    assert "−50.0 % at batch 256" in found(LOADER, [bent]).text
    apart = with_readings(
        record, 256, [each * f for each, f in zip(record.series["loader 256"], (1, 1, 1, 1, 1.2), strict=True)]
    )
    assert found(LOADER, [apart]).outcome == rules.OPEN


def test_memory_that_is_not_told_or_not_above_zero_ends_no_other_verdict() -> None:
    record = synthetic_lb.record()
    nothing = with_readings(record, 128, [4096.0, 0.0, 4096.0, 4096.0, 4096.0])
    assert found(LOADER, [nothing]).outcome == rules.OPEN
    assert found(LOADER, [with_readings(record, 1, [0.0] * 5)]).outcome == rules.HOLDS
    for row in record.rows:
        row["loader"] = None
    assert found(LOADER, [record]).outcome == rules.NOT_COMPARABLE


def test_the_text_of_a_fit_names_the_worst_batch_its_sign_and_why() -> None:
    part = {"measures": "line_error", "quantity": "compute", "runs": TIMED[:1], "largest": 0.09}
    text = found(part, [synthetic_lb.record(floor=0.2, wobble=0.0)]).text
    assert "% at batch 32; where it was held out up to" in text
    assert "From 32 to 64 nothing is added: small batches lie on a floor" in text
    assert "neither end bends the line" in found(part, [synthetic_lb.record(wobble=0.0)]).text


@pytest.mark.parametrize(("profile", "reduced"), [("study", None), ("paper", "half of it")])
def test_published_errors_are_judged_on_this_machine_at_every_profile(profile: str, reduced: str | None) -> None:
    """What is published at full scale only stays there: how sharply each network's time rises."""
    published = [s for s in claims.load_published(tree.REPOSITORY).statements if s.id in ("lb.c4", "lb.c8", "lb.c9")]
    records = [replace(r, data=r.data | {"reduced": reduced}) for r in synthetic_lb.all_records(profile)]
    c4, c8, c9 = claims.judge_all(published, records, profile=profile)
    for verdict in (c8, c9):
        assert verdict["verdict"] == ("reproduced" if profile == "paper" else "holds at study scale")
        assert verdict["parts"][0]["interval"] is not None
        assert all(0 < part["p"] <= 0.05 for part in verdict["parts"])
    assert [part["outcome"] for part in c4["parts"]] == [rules.HOLDS, rules.HOLDS, rules.NOT_COMPARABLE]
    assert c4["parts"][2]["p"] is None
    assert c9["repetitions"] == "blocks"


def test_a_line_with_a_negative_constant_predicts_negative_times_at_small_batches() -> None:
    part = {"measures": "positive_predictions", "quantity": "compute", "runs": TIMED[:1]}
    fine = found(part, [synthetic_lb.record()])
    assert (fine.outcome, fine.unit) == (rules.HOLDS, "%")
    bent = found(part, [bending(exponent=2.0)])
    assert bent.outcome == rules.FAILS, "through quadratic costs the line falls below zero at batch 1"
    assert "at batch 1," in bent.text
    assert found(part, [bending(exponent=1.0)]).outcome == rules.HOLDS


def bending(exponent: float) -> Record:
    """A measurement whose compute time grows with this power of the batch, the same in every block."""
    record = synthetic_lb.record()
    return with_times(record, "compute", {row["batch"]: 0.001 * row["batch"] ** exponent for row in record.rows})


def moving(shares: dict[int, float]) -> Record:
    """A measurement whose data movement costs these shares of compute; blocks differ by a few percent."""
    record = synthetic_lb.record(wobble=0.0)
    compute = {row["batch"]: row["compute"][1] for row in record.rows}
    return with_times(record, "movement", {size: share * compute[size] for size, share in shares.items()})


def with_times(record: Record, part: str, seconds: dict[int, float]) -> Record:
    n = record.spec["blocks"] * record.spec["repetitions"]
    wobble = [1 + 0.05 * ((i // record.spec["repetitions"]) - 2) for i in range(n)]
    series = {f"{part} {size}": [cost * each for each in wobble] for size, cost in seconds.items()}
    return replace(record, series=record.series | series)


@pytest.mark.parametrize(
    ("movement", "outcome"),
    [
        ({32: 2.0, 1024: 0.5}, rules.HOLDS),
        ({32: 0.5, 1024: 0.5}, rules.FAILS),
        ({32: 2.0, 1024: 2.0}, rules.FAILS),
        ({32: 1.0, 1024: 0.5}, rules.OPEN),
    ],
)
def test_movement_must_cost_more_at_the_small_batch_and_less_at_the_large_one(movement, outcome) -> None:
    part = {"measures": "movement_share", "at_small": 32, "at_large": 1024, "runs": TIMED[:1]}
    assert found(part, [moving(movement)]).outcome == outcome


def test_proportional_shares_shorten_a_round_unless_larger_batches_are_faster() -> None:
    part = {"measures": "shorter_round", "runs": TIMED}
    assert found(part, timed()).outcome == rules.HOLDS
    assert found(part, timed(seconds=-0.01, fixed=100.0, wobble=0.0)).outcome == rules.FAILS


@pytest.mark.parametrize("run", ["lb-shares-resnet50", "lb-shares-vgg11"])
def test_shares_that_lose_accuracy_in_training_fail_and_those_that_gain_do_not(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic_lb, "SEEDS", (1, 2, 3, 4, 5))
    (c17,) = (s for s in claims.load_published(tree.REPOSITORY).statements if s.id == "lb.c17")

    def outcome(by: float) -> str:
        records = [
            replace(record, rows=[row | {"test_top1": row["test_top1"] + by} for row in record.rows])
            if record.run == run else record
            for record in synthetic_lb.all_records()
        ]  # fmt: skip
        (verdict,) = claims.judge_all([c17], records, profile="study")
        assert verdict["verdict"] == "holds at study scale", "accuracy stands beside the statement"
        return str(verdict["parts"][1 if run == "lb-shares-resnet50" else 2]["outcome"])

    assert [outcome(by) for by in (-0.1, -0.01, 0.0, 0.1)] == [rules.FAILS, *[rules.HOLDS] * 3]


MEASURED = {"lb.c24", "lb.c4", "lb.c5", "lb.c7", "lb.c8", "lb.c9", "lb.c17", "lb.c23"}


def verdicts_on(**laws: float) -> dict[str, str]:
    """Verdicts on the statements about time and memory, on records with these laws."""
    published = [s for s in claims.load_published(tree.REPOSITORY).statements if s.id in MEASURED]
    found = claims.judge_all(published, synthetic_lb.all_records(**laws), profile="study")
    return {verdict["id"]: verdict["verdict"] for verdict in found}


def test_every_measured_statement_holds_in_a_world_where_all_of_them_do() -> None:
    """Moving a batch takes 40 ms, whatever its size: more than computing 32 images at 1 ms each, and less than 1024."""
    assert verdicts_on(fixed=0.0, moving=0.04) == dict.fromkeys(MEASURED, "holds at study scale")


@pytest.mark.parametrize(
    ("laws", "failing"),
    [
        ({"fixed": 0.0, "moving": 0.0}, {"lb.c23"}),  # moving costs less than computing at every batch
        ({"fixed": 0.0, "moving": 0.04, "floor": 0.3}, {"lb.c9", "lb.c23"}),  # small batches lie on a floor: no line
        ({"fixed": 5.0, "moving": 0.04}, {"lb.c5", "lb.c23"}),  # an epoch still shrinks from 512 to 1024
        ({"fixed": 2.0, "moving": 0.04, "seconds": -1e-3}, {"lb.c4", "lb.c5", "lb.c17", "lb.c23"}),  # time falls
    ],
)
def test_measured_statements_fail_in_worlds_where_they_are_false(laws: dict[str, float], failing: set[str]) -> None:
    found = verdicts_on(**laws)
    assert {name for name, verdict in found.items() if verdict == "fails at study scale"} == failing


def test_every_statement_of_the_performance_models_gets_a_verdict() -> None:
    published = [s for s in claims.load_published(tree.REPOSITORY).statements if s.source == "lb"]
    verdicts = {v["id"]: v for v in claims.judge_all(published, synthetic_lb.all_records(), profile="study")}
    judged = {name for name, verdict in verdicts.items() if verdict["verdict"] != rules.NOT_RUN}
    assert judged == MEASURED
    assert verdicts["lb.c9"]["n"] == 5
    without = [record for record in synthetic_lb.all_records() if record.run != "lb-perf-vit"]
    missing = [("lb-perf-vit", 1)]
    verdicts = {v["id"]: v for v in claims.judge_all(published, without, profile="study", missing=missing)}
    assert verdicts["lb.c5"]["reason"] == "missing: lb-perf-vit"
    assert verdicts["lb.c8"]["verdict"] != rules.NOT_RUN


def test_a_trained_record_is_no_measurement() -> None:
    with pytest.raises(ReproError, match="a record of kind measure was expected"):
        measurements.rows(replace(synthetic_lb.record(), kind="train"))
    with pytest.raises(ReproError, match="a timed run was expected"):
        measurements.samples(synthetic_lb.record("lb-memory-resnet18"), "step", 32)


def test_predicted_terms_are_the_counted_ones_where_memory_is_linear() -> None:
    record = synthetic_lb.record()
    for row in measurements.rows(record):
        said = measurements.predicted_terms(record, row["batch"])
        assert said == pytest.approx({name: row[name] for name in measurements.TERMS}, rel=1e-9)


def test_the_largest_batch_of_a_budget_is_where_the_processes_line_reaches_it() -> None:
    record = synthetic_lb.record(activation=100_000)
    assert measurements.largest_batch(record, (300_000_000 + 200_000 * 5000.5) / (1 - batch_costs.MARGIN)) == 5000


def test_a_process_that_takes_what_eq_3_says_gives_its_own_batch_back() -> None:
    part = {"measures": "largest_batch", "at_most": 0.1, "runs": ["lb-capacity-vgg11"]}
    record = synthetic_lb.record("lb-capacity-vgg11")
    assert [row["batch"] for row in record.rows if row["peak"] is not None] == [48, 160, 480]
    near = found(part, [record])
    assert near.outcome == rules.HOLDS
    assert near.arms["VGG11, 480"] == pytest.approx(5, abs=0.2)
    rows = [row | ({} if row["peak"] is None else {"peak": row["base"] + 2 * (row["peak"] - row["base"])})
            for row in record.rows]  # fmt: skip
    far = found(part, [replace(record, rows=rows)])
    assert (far.outcome, far.reason) == (rules.FAILS, "measured once, error of the predicted batch: not within 10 %")
    assert far.repetitions == measured.ONCE
    untold = [row | {"peak": None, "base": None} for row in record.rows]
    assert found(part, [replace(record, rows=untold)]).outcome == rules.NOT_COMPARABLE
