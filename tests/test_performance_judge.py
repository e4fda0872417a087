"""Verdicts on measurements: each measure holds on records that follow its law and fails on records that break it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import synthetic_lb
import tree

from repro import claims
from repro.errors import ReproError
from repro.performance import judge, readings
from repro.records import Record

TIMED = ["lb-perf-resnet50", "lb-perf-vgg11", "lb-perf-alexnet", "lb-perf-vit"]


def found(part: dict[str, Any], records: Sequence[Record]) -> judge.Finding:
    return judge.judge(part, {record.run: record for record in records})


def timed(**laws: Any) -> list[Record]:
    return [synthetic_lb.record(run, **laws) for run in TIMED]


def test_time_that_grows_with_the_batch_rises_and_constant_time_does_not() -> None:
    part = {"measures": "rises", "runs": TIMED}
    assert found(part, timed()).outcome == claims.HOLDS
    assert found(part, timed(seconds=-1e-4, fixed=0.5)).outcome == claims.FAILS
    mixed = [*timed()[:3], synthetic_lb.record(TIMED[3], seconds=-1e-4, fixed=0.5)]
    assert found(part, mixed).outcome == claims.FAILS
    assert "ViT" in found(part, mixed).reason


def test_sharp_ones_grow_by_a_larger_factor_than_all_others() -> None:
    part = {"measures": "sharper", "runs": TIMED, "sharp": TIMED[:2]}
    sharp = [synthetic_lb.record(run, fixed=0.0) for run in TIMED[:2]]
    gradual = [synthetic_lb.record(run, fixed=1.0) for run in TIMED[2:]]
    assert found(part, sharp + gradual).outcome == claims.HOLDS
    assert found(part | {"sharp": TIMED[2:]}, sharp + gradual).outcome == claims.FAILS
    assert found(part, timed()).outcome == claims.INCONCLUSIVE


def test_an_epoch_that_still_shrinks_has_not_stopped() -> None:
    part = {"measures": "falls_then_stops", "runs": TIMED}
    assert found(part, timed(fixed=0.01)).outcome == claims.HOLDS
    assert found(part, timed(fixed=5.0)).outcome == claims.FAILS
    assert found(part, timed(fixed=-0.0005)).outcome != claims.HOLDS, "it never shrinks at first"


def test_activations_on_a_line_hold_and_bent_ones_fail() -> None:
    part = {"measures": "linear", "runs": TIMED, "at_most": 0.01}
    records = timed()
    assert found(part, records).outcome == claims.HOLDS
    for row in records[0].rows:
        row["activations"] = row["batch"] ** 2
    assert found(part, records).outcome == claims.FAILS


@pytest.mark.parametrize(("floor", "outcome"), [(0.0, claims.HOLDS), (0.2, claims.FAILS)])
def test_the_largest_error_of_a_line_decides(floor: float, outcome: str) -> None:
    part = {"measures": "line_error", "quantity": "compute", "runs": TIMED[:1], "smallest": 0.006, "largest": 0.09}
    result = found(part, [synthetic_lb.record(floor=floor)])
    assert result.outcome == outcome
    assert result.n == 5


def test_counted_memory_needs_no_interval_and_absent_memory_is_not_comparable() -> None:
    part = {"measures": "line_error", "quantity": "loader", "runs": TIMED[:1], "smallest": 0.01, "largest": 0.03}
    record = synthetic_lb.record()
    assert found(part, [record]).outcome == claims.HOLDS
    assert found(part, [record]).interval is None
    for row in record.rows:
        row["loader"] = None
    assert found(part, [record]).outcome == claims.NOT_COMPARABLE


def test_proportional_shares_shorten_a_round_unless_larger_batches_are_faster() -> None:
    part = {"measures": "shorter_round", "runs": TIMED}
    assert found(part, timed()).outcome == claims.HOLDS
    assert found(part, timed(seconds=-0.01, fixed=100.0, wobble=0.0)).outcome == claims.FAILS


def test_every_statement_of_the_performance_models_gets_a_verdict() -> None:
    published = [s for s in claims.load_published(tree.REPOSITORY).statements if s.source == "lb"]
    verdicts = {v["id"]: v for v in claims.judge_all(published, synthetic_lb.all_records(), profile="laptop")}
    judged = {name for name, verdict in verdicts.items() if verdict["verdict"] != claims.NOT_RUN}
    assert judged == {"lb.c4", "lb.c5", "lb.c7", "lb.c8", "lb.c9", "lb.c17"}
    assert verdicts["lb.c7"]["verdict"] == "holds at laptop scale"
    assert verdicts["lb.c9"]["n"] == 5
    without = [record for record in synthetic_lb.all_records() if record.run != "lb-perf-vit"]
    missing = [("lb-perf-vit", 1)]
    verdicts = {v["id"]: v for v in claims.judge_all(published, without, profile="laptop", missing=missing)}
    assert verdicts["lb.c4"]["reason"] == "missing: lb-perf-vit"
    assert verdicts["lb.c8"]["verdict"] != claims.NOT_RUN


def test_a_trained_record_is_no_measurement() -> None:
    with pytest.raises(ReproError, match="a record of kind measure was expected"):
        readings.rows(replace(synthetic_lb.record(), kind="train"))
    with pytest.raises(ReproError, match="a timed run was expected"):
        readings.samples(synthetic_lb.record("lb-memory-resnet18"), "step", 32)


def test_predicted_terms_are_the_counted_ones_where_memory_is_linear() -> None:
    record = synthetic_lb.record()
    for row in readings.rows(record):
        said = readings.predicted_terms(record, row["batch"])
        assert said == pytest.approx({name: row[name] for name in readings.TERMS}, rel=1e-9)


def test_the_largest_batch_of_a_budget_is_where_the_processes_line_reaches_it() -> None:
    record = synthetic_lb.record(activation=100_000)
    assert readings.largest_batch(record, 300_000_000 + 200_000 * 5000) == 5000
