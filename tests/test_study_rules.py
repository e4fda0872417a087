"""Rules of the study on records made by hand: arms that do not train, readings, and the metrics beyond accuracy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import test_claims
import test_claims_e2
from test_claims import SEEDS, diverged, ending, judge, statement, train

from repro.errors import ReproError
from repro.experiments import post2
from repro.registry.published import Statement, load_published, runs_of
from repro.results import metrics, traffic
from repro.results.records import Record
from repro.verdicts.rules import DEPENDS_ON, FAILS, HOLDS, NO_DIFFERENCE, NOT_COMPARABLE, OPEN


def part_of(statements: Statement, records: list[Record], **kwargs: Any) -> dict[str, Any]:
    return judge([statements], records, **kwargs)[0]["parts"][0]


def runs(**finals: float | list[float]) -> list[Record]:
    """Five seeds of each run, at rest at its accuracy, or with its curve."""
    return [
        train(run, seed, final if isinstance(final, list) else ending(final))
        for run, final in finals.items()
        for seed in SEEDS
    ]


# An arm that does not train ----------------------------------------------------------------------------------

SKEWED = {"metric": "end_top1", "contrast": {"a": 1, "b": -1}}


def test_the_better_arm_at_chance_fails_where_its_sibling_trains():
    like = statement("order", **SKEWED, trains_like={"a": "iid"})
    found = part_of(like, runs(a=0.10, b=0.12, iid=0.6))
    assert found["outcome"] == FAILS
    assert found["reason"] == "does not train: a ends at 10.0 %, its IID sibling iid ends at 60.0 %"
    assert found["p"] < 0.05
    assert part_of(statement("order", **SKEWED), runs(a=0.10, b=0.12))["outcome"] == OPEN, "else it is near chance"


def test_the_worse_arm_at_chance_leaves_the_order_as_it_is():
    guarded = SKEWED | {"above_floor": ["a", "b"]}
    records = runs(a=0.4, b=0.10, iid=0.6)
    assert part_of(statement("order", **guarded), records)["outcome"] == OPEN
    found = part_of(statement("order", **guarded, trains_like={"b": "iid"}), records)
    assert found["outcome"] == HOLDS
    assert found["reason"].endswith("; does not train: b ends at 10.0 %, its IID sibling iid ends at 60.0 %")


def test_two_arms_that_do_not_train_fail_an_order():
    both = statement("order", **SKEWED, trains_like={"a": "iid", "b": "iid"})
    assert part_of(both, runs(a=0.11, b=0.10, iid=0.6))["outcome"] == FAILS


@pytest.mark.parametrize(
    ("a", "iid"),
    [
        (0.14, 0.6),  # more than three points above chance
        (0.10, 0.15),  # the sibling is below the floor
        (0.10, [0.1, *[0.5] * 14, *[0.6] * 5]),  # the sibling is not at rest
    ],
)
def test_what_is_not_said_to_fail_to_train(a, iid):
    like = statement("order", **SKEWED, trains_like={"a": "iid"})
    found = part_of(like, runs(a=a, b=0.10, iid=iid))
    assert (found["outcome"], "too close to chance" in found["reason"]) == (OPEN, True)


def test_the_sibling_must_be_there():
    like = statement("order", **SKEWED, trains_like={"a": "iid"})
    assert runs_of(like.judge["parts"][0]) == ["a", "b", "iid"]
    assert judge([like], runs(a=0.10, b=0.12))[0]["reason"] == "missing: iid"


# Guards ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("beside", "outcome"), [(0.19, OPEN), (0.21, HOLDS)])
def test_an_arm_that_is_not_compared_can_be_asked_to_have_learnt(beside, outcome):
    """As the IID siblings of e3.c7: what devices do not know says nothing where the same training teaches nothing."""
    bound = statement("bound", metric="end_top1", contrast={"a": 1}, at_most=0.5, above_floor=["iid"])
    found = part_of(bound, runs(a=0.4, iid=beside))
    assert (found["outcome"], "too close to chance" in found["reason"]) == (outcome, outcome == OPEN)
    assert found["arms"] == {"a": 40.0}
    assert judge([bound], runs(a=0.4))[0]["reason"] == "missing: iid"


@pytest.mark.parametrize(
    ("rule", "more"), [("order", {}), ("bound", {"at_most": 0.3}), ("equivalence", {"margin": 0.3})]
)
def test_a_contrast_that_moves_towards_the_end_is_open_where_it_must_be_at_rest(rule, more):
    """Of an equivalence by its own margin, of others by ``settled_within``; arms that move together are at rest."""
    limit = more.get("margin", 0.02)
    settled = {} if rule == "equivalence" else {"settled_within": limit}
    asked = statement(rule, metric="end_top1", contrast={"a": 1, "b": -1}, **more, **settled)

    def late(by: float) -> list[float]:
        return [0.2] * 5 + [0.7 - by] * 10 + [0.7] * 5

    inside, outside = limit - 0.001, limit + 0.001
    assert part_of(asked, runs(a=late(inside), b=0.5))["outcome"] == HOLDS
    found = part_of(asked, runs(a=late(outside), b=0.5))
    assert found["outcome"] == OPEN
    assert found["reason"].startswith(f"not at rest: what is compared moved by +{100 * outside:.1f} points")
    assert part_of(asked, runs(a=late(outside), b=[each - 0.2 for each in late(outside)]))["outcome"] == HOLDS
    if rule != "equivalence":
        free = statement(rule, metric="end_top1", contrast={"a": 1, "b": -1}, **more)
        assert part_of(free, runs(a=late(outside), b=0.5))["outcome"] == HOLDS, "nothing asks it to be at rest"


# Totals under every reading ----------------------------------------------------------------------------------

READINGS = {
    "payloads": [test_claims_e2.THOUSAND, test_claims_e2.TEN], "published": {"at_1000": 3, "at_10": 5},
    "tolerance": 0.25, "post_hoc": True,
}  # fmt: skip


def totals(change: Any = None) -> list[Record]:
    return [record for record in test_claims_e2.world().values() if record.kind == "payloads"]


def of_readings(records: list[Record], **changed: Any) -> dict[str, Any]:
    judged = replace(statement("readings", **READINGS | changed), id="e2.c0", source="e2")
    return judge([judged], records)[0]


def test_a_statement_depends_on_readings_that_do_not_all_meet_both_factors():
    verdict = of_readings(totals())
    (part,) = verdict["parts"]
    assert verdict["verdict"] == part["outcome"] == DEPENDS_ON
    assert part["post_hoc"] is True
    assert "of 48 readings meet both factors: 32 images a worker, up, warm-up counted, zipped both: 3" in part["ours"]


def test_no_reading_meets_factors_that_are_far_off_and_all_meet_a_wide_tolerance():
    assert of_readings(totals(), published={"at_1000": 3000, "at_10": 5})["verdict"] == "fails at study scale"
    assert of_readings(totals(), published={"at_1000": 3, "at_10": 5000})["verdict"] == "fails at study scale"
    assert of_readings(totals(), tolerance=1000.0)["verdict"] == "holds at study scale"


def test_messages_of_a_smaller_network_or_two_seeds_say_nothing():
    small = [replace(record, spec=record.spec | {"width": 16}) for record in totals()]
    assert of_readings(small)["verdict"] == NOT_COMPARABLE
    assert of_readings([record for record in totals() if record.seed < 3])["verdict"] == OPEN


def test_readings_are_zip_warm_up_direction_and_the_batch_of_a_worker():
    every = traffic.readings()
    assert len(every) == len(set(every)) == 4 * 2 * 2 * 3
    assert {reading.local_batch for reading in every} == set(post2.LOCAL_BATCHES) == {32, 64, 128}
    assert every[0] == traffic.DEFAULT


# Best learning rates -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", [0.3, 0.4, 0.55, 0.9])
def test_the_best_rate_of_a_parabola_is_its_vertex(best):
    grid = [0.05 * 2**i for i in range(8)]
    found = metrics.best_rate({rate: 0.6 - 0.01 * math.log2(rate / best) ** 2 for rate in grid})
    assert found == (pytest.approx(math.log2(best)), None)


@pytest.mark.parametrize(("best", "edge"), [(0.01, 0.05), (0.05, 0.05), (6.4, 6.4), (60, 6.4)])
def test_a_curve_that_is_highest_at_an_end_names_the_edge(best, edge):
    grid = [0.05 * 2**i for i in range(8)]
    found = metrics.best_rate({rate: 0.6 - 0.01 * math.log2(rate / best) ** 2 for rate in grid})
    assert found.edge == pytest.approx(edge)
    span = sorted(grid)[:5] if edge < 1 else sorted(grid)[-5:]
    assert math.log2(span[0]) <= found.log2 <= math.log2(span[-1]), "clipped to the five rates"


def test_one_noisy_rate_far_off_does_not_move_the_best_one():
    grid = [0.05 * 2**i for i in range(8)]
    scores = {rate: 0.6 - 0.01 * math.log2(rate / 0.2) ** 2 for rate in grid}
    assert metrics.best_rate(scores | {grid[6]: 0.605}).log2 == pytest.approx(math.log2(0.2))


def test_two_rates_are_no_grid():
    with pytest.raises(ReproError, match="at least three"):
        metrics.best_rate({0.1: 0.5, 0.2: 0.6})


# Norms, bytes, gaps ------------------------------------------------------------------------------------------


def with_norms(run: str, norms: list[float], **kwargs: Any) -> list[Record]:
    return [replace(train(run, s, ending(0.5)), series={"gradient_norm": norms}, **kwargs) for s in SEEDS]


def test_first_and_largest_early_norms_are_compared_as_ratios():
    records = with_norms("a", [6.0, *[1.0] * 99, 100.0]) + with_norms("b", [2.0, 12.0, *[1.0] * 99])
    first = part_of(statement("ratio", metric="first_gradient_norm", contrast={"a": 1, "b": -1}), records)
    assert (first["outcome"], first["estimate"]) == (HOLDS, 3.0)
    assert "norm of the gradient of a 6" in first["ours"]
    most = part_of(statement("ratio", metric="largest_early_gradient_norm", contrast={"b": 1, "a": -1}), records)
    assert (most["outcome"], most["estimate"]) == (HOLDS, 2.0), "what comes after 100 iterations does not count"


def test_norms_in_an_order_are_ratios_too():
    records = with_norms("a", [6.0]) + with_norms("b", [2.0])
    found = part_of(statement("order", metric="first_gradient_norm", contrast={"a": 1, "b": -1}), records)
    assert (found["outcome"], found["estimate"], found["unit"]) == (HOLDS, 3.0, "times")


def test_a_run_that_diverged_counts_the_norms_that_it_recorded_and_near_chance_does_not_matter():
    lost = with_norms("a", [1.0, 50.0], status="diverged", reason="loss is not finite")
    fine = [replace(train("b", s, ending(0.1)), series={"gradient_norm": [1.0] * 200}) for s in SEEDS]
    found = part_of(statement("ratio", metric="largest_early_gradient_norm", contrast={"a": 1, "b": -1}), lost + fine)
    assert (found["outcome"], found["estimate"]) == (HOLDS, 50.0)
    assert "(diverged, counted until then: a" in found["ours"]


def sending(run: str, sent: float) -> list[Record]:
    made = [train(run, seed, ending(0.1)) for seed in SEEDS]
    for record in made:
        for row in record.rows:
            row["bytes_up"] = sent * row["epoch"] / record.rows[-1]["epoch"]
    return made


def test_bytes_of_whole_runs_are_compared_as_a_ratio():
    records = sending("a", 3e9) + sending("b", 1e9)
    found = part_of(statement("ratio", metric="sent_total", contrast={"a": 1, "b": -1}, at_least=2), records)
    assert (found["outcome"], found["estimate"], found["unit"]) == (HOLDS, 3.0, "times")
    assert found["ours"].startswith("a sends 3.00 GB, b sends 1.00 GB: 3.00 times")
    same = part_of(statement("ratio", metric="sent_total", contrast={"a": 1, "b": -1}), records[:5] + sending("b", 3e9))
    assert same["outcome"] == NO_DIFFERENCE


def sampled(run: str, losses: list[float], gaps: list[float]) -> list[Record]:
    made = [train(run, seed, [0.5] * len(losses)) for seed in SEEDS]
    for record in made:
        for row, loss, gap in zip(record.rows, losses, gaps, strict=True):
            row |= {"train_sample_loss": loss, "train_sample_top1": row["test_top1"] + gap}
    return made


def test_gaps_are_read_where_all_arms_have_the_same_training_loss():
    fast = sampled("fast", [2.0, 1.0, 0.2], [0.0, 0.1, 0.4])
    slow = sampled("slow", [2.0, 1.5, 0.8], [0.0, 0.05, 0.06])
    assert metrics.matched_loss([fast[0], slow[0]]) == 0.8
    assert metrics.gap_at_loss(fast[0], 0.8) == pytest.approx(0.1 + 0.3 * 0.25)
    assert metrics.gap_at_loss(slow[0], 0.8) == pytest.approx(0.06)
    assert metrics.gap_at_loss(fast[0], 3.0) == 0.0, "it starts below"
    found = part_of(statement("order", metric="gap_at_matched_loss", contrast={"fast": 1, "slow": -1}), fast + slow)
    assert (found["outcome"], found["estimate"]) == (HOLDS, pytest.approx(17.5 - 6))
    assert found["ours"].startswith("gap of fast 17.5 points at equal training loss, gap of slow 6.0 points")


def test_a_gap_needs_samples_and_runs_that_did_not_diverge():
    fast = sampled("fast", [2.0, 1.0], [0.0, 0.1])
    part = statement("order", metric="gap_at_matched_loss", contrast={"fast": 1, "slow": -1})
    with pytest.raises(ReproError, match="train_sample_loss is missing; a run that tracks a sample"):
        judge([part], fast + [train("slow", seed, [0.5]) for seed in SEEDS])
    lost = [diverged(record) for record in sampled("slow", [2.0, 1.0], [0.0, 0.1])]
    assert "so there is no equal training loss" in part_of(part, fast + lost)["reason"]
    with pytest.raises(ReproError, match=r"never fell to 0\.5"):
        metrics.gap_at_loss(fast[0], 0.5)


@pytest.mark.parametrize(
    ("against", "spec"),
    [
        ("log2_workers", lambda n: {"workers": n}),
        ("log2_alpha", lambda n: {"dirichlet_alpha": n / 10}),
        ("log2_base_rate", lambda n: {"schedule": {"kind": "constant", "lr": n / 100}}),
    ],
)
def test_trends_run_over_workers_skew_and_base_rate(against, spec):
    sizes = {"a": 1, "b": 4, "c": 16}
    records = [
        train(run, seed, ending(0.3 + 0.1 * math.log2(n)), **spec(n)) for run, n in sizes.items() for seed in SEEDS
    ]
    part = {"metric": "end_top1", "runs": list(sizes), "against": against, "direction": "rising"}
    found = part_of(statement("trend", **part), records)
    assert (found["outcome"], found["estimate"]) == (HOLDS, pytest.approx(10))
    flat = [train(run, seed, ending(0.5), **spec(n)) for run, n in sizes.items() for seed in SEEDS]
    assert part_of(statement("trend", **part), flat)["outcome"] == NO_DIFFERENCE


@pytest.mark.parametrize(("gain", "outcome"), [(0.004, NO_DIFFERENCE), (0.006, OPEN)])
def test_a_trend_is_small_if_all_of_it_is_within_two_points_over_its_span(gain, outcome):
    """Seeds whose slopes lie at both sides of zero; over four doublings 0.4 points each are 1.6."""
    slopes = [gain, -gain, gain / 2, -gain / 2, 0.0]
    reach = 3.411 * math.sqrt(2.5 / 4 / 5) * gain * 4  # half-width over the span, in units of 1
    assert (reach <= 0.02) == (outcome == NO_DIFFERENCE)
    records = [
        train(run, seed, ending(0.5 + slope * math.log2(n)), workers=n)
        for run, n in (("a", 1), ("b", 16))
        for seed, slope in zip(SEEDS, slopes, strict=True)
    ]
    part = {"metric": "end_top1", "runs": ["a", "b"], "against": "log2_workers", "direction": "rising"}
    assert part_of(statement("trend", **part), records)["outcome"] == outcome


# The vocabulary ----------------------------------------------------------------------------------------------


def load(tmp_path: Any, part: str) -> dict[str, Any]:
    test_claims.write(tmp_path, statement=f"judge: {{why: because, parts: [{{{part}}}]}}")
    return load_published(tmp_path).statements[0].judge["parts"][0]


@pytest.mark.parametrize(
    "part",
    [
        "rule: order, metric: end_top1, contrast: {a: 1, b: -1}, name: A above B, trains_like: {a: iid}",
        "rule: order, metric: end_top1, contrast: {a: 1}, under: {setting: the rate, is: '0.1'}, post_hoc: true",
        "rule: trend, metric: best_lr, runs: [a, b], against: log2_global_batch, direction: rising",
        "rule: ratio, metric: sent_total, contrast: {a: 1, b: -1}, at_least: 2",
        "rule: bound, metric: gap_at_matched_loss, contrast: {a: 1, b: -1}, at_most: 0.02",
        "rule: readings, payloads: [a, b], published: {at_1000: 3, at_10: 5}, tolerance: 0.25",
        "rule: measured, measures: movement_share, runs: [a], at_small: 32, at_large: 1024",
        "rule: measured, measures: positive_predictions, runs: [a], quantity: compute",
    ],
)
def test_the_words_of_the_study_are_known(tmp_path, part):
    assert load(tmp_path, part)["rule"] == part.split()[1].rstrip(",")


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("rule: order, metric: final_top1, contrast: {a: 1}", "one of end_top1"),
        ("rule: order, metric: end_top1, contrast: {a: 1}, trains_like: [iid]", "IID siblings"),
        (
            "rule: order, metric: end_top1, contrast: {a: 1}, trains_like: {c: iid}",
            "arms of the contrast were expected",
        ),
        ("rule: order, metric: end_top1, contrast: {a: 1}, under: {setting: rate}", "a mapping with setting"),
        ("rule: order, metric: end_top1, contrast: {a: 1}, name: 3", "a non-empty text"),
        ("rule: readings, payloads: [a], published: {at_1000: 3, at_10: 5}, tolerance: 1", "a list of two run ids"),
        ("rule: readings, payloads: [a, b], published: {at_1000: 3}, tolerance: 1", "from at_1000 and at_10"),
        ("rule: measured, measures: movement_share, runs: [a], at_small: 32", "at_large: missing"),
    ],
)
def test_what_is_not_in_the_vocabulary_is_named(tmp_path, part, expected):
    with pytest.raises(ReproError) as caught:
        load(tmp_path, part)
    assert expected in str(caught.value)


def test_parts_of_a_statement_stand_under_one_setting(tmp_path):
    part = "{{rule: order, metric: end_top1, contrast: {{a: 1}}, under: {{setting: {}, is: x}}}}"
    two = ", ".join(part.format(name) for name in ("rate", "batch"))
    test_claims.write(tmp_path, statement=f"judge: {{why: because, parts: [{two}]}}")
    with pytest.raises(ReproError, match="parts stand under batch and rate; one setting"):
        load_published(tmp_path)
