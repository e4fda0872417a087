"""The rules of paper lb's trained statements: equal iterations, early gradients, shares of steps, sharpness."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_lb
from synthetic_lb import stopped

from repro.errors import ReproError
from repro.registry.labels import label
from repro.registry.published import Statement, load_ledger, load_published
from repro.results import metrics, records
from repro.results.records import Record
from repro.verdicts import judge as claims
from repro.verdicts import rules
from repro.verdicts.rules import DEPENDS_ON, FAILS, HOLDS, NO_DIFFERENCE, NOT_COMPARABLE, NOT_RUN, OPEN

ROOT = Path(__file__).parents[1]
NUMBERS = (1, 2, 3, 6, 10, 11, 12, 13, 14, 15, 16, 18, 19, 20, 21, 22, 27, 30, 31, 33)
WITH_VALUES = ("lb.c12", "lb.c13", "lb.c14", "lb.c18")
SEEDS = tuple(range(1, 9))
"""Two looks; the first decides in these worlds."""
Records = dict[str, Record]


@cache
def _made(profile: str, seeds: tuple[int, ...]) -> list[Record]:
    return synthetic_lb.trained_records(seeds, profile)


def world(profile: str = "study", seeds: tuple[int, ...] = SEEDS) -> Records:
    """Records of the paper's trained runs, by file name, in which its statements hold."""
    return {f"{r.run}.s{r.seed}": r for r in _made(profile, seeds)}


def change(records: Records, run: str, **changed: Any) -> None:
    """Replace fields of every seed of ``run``; a callable is given the record."""
    for name, record in records.items():
        if record.run == run:
            found = {key: value(record) if callable(value) else value for key, value in changed.items()}
            records[name] = replace(record, **found)


def shift(records: Records, run: str, by: float, late: float = 0.0) -> None:
    """Raise accuracies of ``run`` by ``by``, the last three by ``late`` more."""

    def moved(record: Record) -> list[dict[str, Any]]:
        rows = [row | {key: row[key] + by for key in ("test_top1", "test_top5")} for row in record.rows]
        for row in rows[-3:]:
            row["test_top1"] += late
        return rows

    change(records, run, rows=moved)


def at_chance(records: Records, run: str) -> None:
    """Let ``run`` never learn."""
    change(records, run, rows=lambda r: [row | {"test_top1": r.chance} for row in r.rows])


def last(records: Records, run: str, **fields: Any) -> None:
    """Change the last row of every seed of ``run``."""
    change(records, run, rows=lambda record: [*record.rows[:-1], record.rows[-1] | fields])


def diverge(records: Records, run: str, rounds: int = 0, seeds: tuple[int, ...] = SEEDS) -> None:
    for seed in seeds:
        records[f"{run}.s{seed}"] = stopped(records[f"{run}.s{seed}"], rounds)


@pytest.fixture(scope="module")
def statements() -> dict[str, Statement]:
    by_id = {s.id: s for s in load_published(ROOT).statements}
    return {f"lb.c{n}": by_id[f"lb.c{n}"] for n in NUMBERS}


def judge(statements: dict[str, Statement], records: Records, name: str = "", **kwargs: Any) -> Any:
    """The verdict on one statement, or all by id."""
    chosen = [statements[name]] if name else statements.values()
    by_id = {v["id"]: v for v in claims.judge_all(chosen, records.values(), **({"profile": "study"} | kwargs))}
    return by_id[name] if name else by_id


def outcomes(verdict: dict[str, Any], beside: bool = False) -> list[str]:
    """Of the parts that decide, or of those beside."""
    return [part["outcome"] for part in verdict["parts"] if part.get("beside", False) is beside]


# All of them ------------------------------------------------------------


def test_every_statement_holds_in_a_world_where_all_of_them_do(statements):
    found = judge(statements, world())
    assert {name: v["verdict"] for name, v in found.items()} == {f"lb.c{n}": "holds at study scale" for n in NUMBERS}
    assert {v["n"] for v in found.values()} == {5}


def test_at_full_scale_the_published_values_are_compared_in_addition(statements):
    records = world("paper")
    found = judge(statements, records, profile="paper")
    assert {v["verdict"] for v in found.values()} == {"reproduced"}
    moved = {"resnet50-t05-x16": 0.03, "vgg11-t05-x16": 0.03, "vgg11-t08-x16": 0.06, "vgg11-t08-x8": -0.03}
    for run, by in moved.items():
        shift(records, f"lb-step-{run}", by)
    found = judge(statements, records, profile="paper")
    assert outcomes(found["lb.c12"]) == [HOLDS] * 4 + [FAILS, FAILS]
    assert outcomes(found["lb.c13"])[-1] == outcomes(found["lb.c14"])[-1] == FAILS
    assert FAILS in outcomes(found["lb.c18"])[4:]


@pytest.mark.parametrize("name", WITH_VALUES)
def test_a_published_value_is_shown_and_not_counted_at_a_reduced_profile(statements, name):
    verdict = judge(statements, world(), name)
    assert outcomes(verdict)[-1] == NOT_COMPARABLE
    assert verdict["verdict"] == "holds at study scale"
    assert verdict["parts"][outcomes(verdict).index(NOT_COMPARABLE)]["interval"] is not None


def test_points_are_said_as_points_and_levels_as_percent(statements):
    records = world("paper")
    gain, level = (judge(statements, records, name, profile="paper")["parts"] for name in ("lb.c12", "lb.c13"))
    assert (gain[4]["unit"], level[-1]["unit"]) == ("points", "%")
    assert gain[4]["reason"].endswith("4.89 ± 2 points")
    assert level[-1]["reason"].endswith("10 ± 2 %")


def test_without_records_nothing_is_judged(statements):
    assert {v["verdict"] for v in judge(statements, {}).values()} == {NOT_RUN}


def test_two_seeds_decide_nothing(statements):
    assert {v["verdict"] for v in judge(statements, world(seeds=(1, 2))).values()} == {OPEN}


def test_only_some_statements_and_what_stands_beside_need_control_runs(statements):
    """The default pipeline makes no controls: without them all others are judged."""
    artefacts = {name: record for name, record in world().items() if record.group == "artefact"}
    found = judge(statements, artefacts)
    assert {name for name, v in found.items() if v["verdict"] == NOT_RUN} == {
        "lb.c16", "lb.c20", "lb.c21", "lb.c30", "lb.c33",
    }  # fmt: skip


def test_every_run_that_a_rule_names_is_one_of_the_world(statements):
    named = {run for s in statements.values() for run in claims.runs_named(s)}
    assert named <= {record.run for record in world().values()}


def test_the_world_is_made_of_the_planned_runs():
    assert {spec.run for spec in synthetic_lb.planned()} == set(synthetic_lb.finals())


def test_all_arms_at_chance_decide_nothing_in_favour_of_anything(statements):
    records = world()
    for name, record in records.items():
        if record.kind == "train":
            rows = [row | {"test_top1": record.chance, "test_top5": 5 * record.chance} for row in record.rows]
            records[name] = replace(record, rows=rows)
    found = judge(statements, records)
    held = {name for name, v in found.items() if v["verdict"].startswith("holds")}
    assert held == {"lb.c27"}, "bytes have nothing to do with accuracy"
    assert outcomes(found["lb.c13"]) == [*[OPEN] * 10, NOT_COMPARABLE], (
        "X = 16 is said to end near chance, but where X = 1 does, too, that is no effect of X"
    )
    assert found["lb.c15"]["verdict"] == OPEN


# Tables 1 and 2: c1, c2, c3 ---------------------------------------------


@pytest.mark.parametrize("name", ["lb.c1", "lb.c3"])
@pytest.mark.parametrize("part", range(6))
def test_every_row_of_a_table_counts(statements, name, part):
    records = world()
    worse = statements[name].judge["parts"][part]["contrast"]
    shift(records, next(run for run, weight in worse.items() if weight < 0), 0.3)
    found = outcomes(judge(statements, records, name))
    assert [i for i, outcome in enumerate(found) if outcome == FAILS] == [part]


@pytest.mark.parametrize("name", ["lb.c1", "lb.c3"])
@pytest.mark.parametrize("part", [1, 3, 5])
def test_a_non_iid_arm_that_does_not_train_beside_its_iid_sibling_is_no_better_one(statements, name, part):
    """The better arm at chance fails its row, whatever the other one does; the worse one at chance has lost."""
    rule = statements[name].judge["parts"][part]
    better, worse = sorted(rule["contrast"], key=lambda run: -rule["contrast"][run])
    records = world()
    at_chance(records, worse)
    found = judge(statements, records, name)["parts"][part]
    assert found["outcome"] == HOLDS
    assert f"does not train: {label(worse)} ends at " in found["reason"]
    at_chance(records, better)
    found = judge(statements, records, name)["parts"][part]
    assert found["outcome"] == FAILS
    assert found["reason"].startswith(f"does not train: {label(better)} ends at ")
    assert f"its IID sibling {label(rule['trains_like'][better])} ends at " in found["reason"]
    for sibling in rule["trains_like"].values():
        at_chance(records, sibling)
    found = judge(statements, records, name)["parts"][part]
    assert (found["outcome"], "too close to chance" in found["reason"]) == (OPEN, True)


def test_c1_top_5_stands_beside_and_decides_nothing(statements):
    records = world()
    change(records, "lb-fa-vgg11-iid", rows=lambda r: [row | {"test_top5": 0.99} for row in r.rows])
    verdict = judge(statements, records, "lb.c1")
    assert verdict["verdict"] == "holds at study scale"
    assert outcomes(verdict, beside=True) == [FAILS, HOLDS, HOLDS, HOLDS]
    assert "beside it: lb-bsp-vgg11-iid" in verdict["ours"] or "% top-5" in verdict["ours"]


def test_c2_is_six_losses_and_three_differences_of_losses(statements):
    records = world()
    shift(records, "lb-fa-alexnet-noniid", 0.195)  # loses 0.5 points, less than BSP's 2
    assert outcomes(judge(statements, records, "lb.c2")) == [HOLDS] * 8 + [FAILS]
    shift(records, "lb-fa-alexnet-noniid", 0.03)
    assert outcomes(judge(statements, records, "lb.c2")) == [HOLDS] * 5 + [FAILS] + [HOLDS] * 2 + [FAILS]


def test_c2_bsp_that_loses_nothing_without_batchnorm_is_no_loss(statements):
    """What the law asks for: the same accuracy, but for seeds."""
    records = world()
    for seed in SEEDS:
        rows = records[f"lb-bsp-vgg11-iid.s{1 + seed % 3}"].rows
        records[f"lb-bsp-vgg11-noniid.s{seed}"] = replace(records[f"lb-bsp-vgg11-noniid.s{seed}"], rows=rows)
    verdict = judge(statements, records, "lb.c2")
    assert outcomes(verdict)[2] == NO_DIFFERENCE
    assert outcomes(verdict, beside=True) == [HOLDS]


@pytest.mark.parametrize(("model", "part"), [("resnet50", 6), ("vgg11", 7), ("alexnet", 8)])
def test_c2_federated_averaging_at_chance_has_nothing_more_to_lose(statements, model, part):
    records = world()
    at_chance(records, f"lb-fa-{model}-noniid")
    verdict = judge(statements, records, "lb.c2")
    assert outcomes(verdict) == [OPEN if i == part else HOLDS for i in range(9)]
    assert "cannot be told" in verdict["reason"]


@pytest.mark.parametrize(("model", "part"), [("resnet50", 6), ("vgg11", 7), ("alexnet", 8)])
def test_c2_no_loss_exceeds_that_of_bsp_that_does_not_train(statements, model, part):
    records = world()
    at_chance(records, f"lb-bsp-{model}-noniid")
    verdict = judge(statements, records, "lb.c2")
    assert outcomes(verdict) == [FAILS if i == part else HOLDS for i in range(9)], "that BSP loses is as stated"
    found = verdict["parts"][part]
    assert found["interval"][1] < 0, "its loss counts as its interval says"
    assert f"; does not train: {label(f'lb-bsp-{model}-noniid')} ends at " in found["reason"]
    at_chance(records, f"lb-bsp-{model}-iid")
    verdict = judge(statements, records, "lb.c2")
    assert outcomes(verdict)[2 * (part - 6)] == OPEN, "BSP never trained, so that it lost nothing"
    assert verdict["verdict"] == "holds in part at study scale"


@pytest.mark.parametrize(
    "numbers",
    [{"vgg11_max_abs_difference": 1e-6}, {"resnet50_max_abs_difference": 1e-13}, {"vgg11_update_max_abs": 0.0}],
)
def test_c2_the_law_beside_it_can_be_missed(statements, numbers):
    records = world()
    records["lb-law-label-split.s1"] = synthetic_lb.law(**numbers)
    verdict = judge(statements, records, "lb.c2")
    assert outcomes(verdict, beside=True) == [FAILS]
    assert verdict["verdict"] == "holds at study scale"


# Batch sizes: c6, c10, c19 ----------------------------------------------


@pytest.mark.parametrize(("batch", "still"), [(32, [4, 5]), (512, [4]), (1024, [5])])
def test_c6_fewer_steps_are_not_an_effect_of_the_batch(statements, batch, still):
    """The contrast must be at rest: what moves by more than two points towards the end leaves its parts open."""
    records = world()
    shift(records, f"lb-batch-alexnet-{batch}", -0.05, late=0.04)
    verdict = judge(statements, records, "lb.c6")
    assert outcomes(verdict) == [OPEN if i in still else HOLDS for i in range(6)]
    assert "not at rest: what is compared moved by" in verdict["reason"]


def test_c6_arms_that_still_move_alike_are_compared(statements):
    records = world()
    for batch in synthetic_lb.BATCH_FINALS["alexnet"]:
        shift(records, f"lb-batch-alexnet-{batch}", -0.05, late=0.04)
    assert judge(statements, records, "lb.c6")["verdict"] == "holds at study scale"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("lb.c6", [HOLDS, HOLDS, HOLDS, OPEN, HOLDS, HOLDS]),
        ("lb.c19", [HOLDS, OPEN, HOLDS]),
        ("lb.c22", [HOLDS, OPEN, HOLDS]),
    ],
)
def test_a_batch_that_never_left_chance_decides_nothing(statements, name, found):
    records = world()
    shift(records, "lb-batch-vgg11-1024", -0.39)
    verdict = judge(statements, records, name)
    assert outcomes(verdict) == found
    assert "too close to chance" in verdict["reason"]


@pytest.mark.parametrize(
    ("run", "part"),
    [(f"lb-batch-{model}-{batch}", 2 * i + j) for i, model in enumerate(("resnet50", "vgg11", "alexnet"))
     for j, batch in enumerate((512, 1024))],
)  # fmt: skip
def test_c6_a_large_batch_that_ends_above_fails(statements, run, part):
    records = world()
    shift(records, run, 0.25)
    found = outcomes(judge(statements, records, "lb.c6"))
    assert [i for i, outcome in enumerate(found) if outcome == FAILS] == [part]


def test_c10_is_the_exponent_of_the_norm(statements):
    part = judge(statements, world(), "lb.c10")["parts"][0]
    assert part["estimate"] == pytest.approx(2**-0.3, rel=0.02)  # norms go with the batch to the power -0.3
    assert part["unit"] == "times per doubling"
    assert part["reason"] == "the 95 % interval excludes 1 (no difference) on the side stated"


def test_c10_reads_the_same_early_iterations_of_every_batch(statements):
    """A quarter of the 96 iterations of batch 1024; what the longer runs do after them does not matter."""
    records = world()
    runs = [record for record in records.values() if record.run.startswith("lb-batch-resnet50-")]
    assert metrics.early_iterations(runs) == 24
    before = judge(statements, records, "lb.c10")["parts"][0]
    for late, moved in ((24, False), (23, True)):
        for name, record in records.items():
            if record.run == "lb-batch-resnet50-32":
                norms = [*record.series["gradient_norm"][:late], *[1e6] * 100]
                records[name] = replace(record, series=record.series | {"gradient_norm": norms})
        assert (judge(statements, records, "lb.c10")["parts"][0] != before) is moved


def test_c10_norms_that_do_not_depend_on_the_batch_do_not_fall(statements):
    records = world()
    for model in ("resnet50", "vgg11"):
        for batch in synthetic_lb.BATCH_FINALS[model]:
            change(
                records, f"lb-batch-{model}-{batch}",
                series=lambda r: r.series | {"gradient_norm": [1.0 + 0.01 * r.seed * r.spec["local_batch"]] * 5000},
            )  # fmt: skip
    assert outcomes(judge(statements, records, "lb.c10")) == [FAILS, FAILS]


def test_c10_a_run_that_diverges_early_has_no_mean(statements):
    records = world()
    diverge(records, "lb-batch-vgg11-1024", rounds=23, seeds=(2,))
    verdict = judge(statements, records, "lb.c10")
    assert outcomes(verdict) == [HOLDS, OPEN]
    assert "(seed 2) diverged, so the norm of its gradient is unknown" in verdict["reason"]
    records = world()
    diverge(records, "lb-batch-vgg11-1024", rounds=24, seeds=(2,))  # its plan counts, not when it ended
    assert outcomes(judge(statements, records, "lb.c10")) == [HOLDS, HOLDS]


def test_c19_is_a_ratio_of_eigenvalues(statements):
    part = judge(statements, world(), "lb.c19")["parts"][0]
    assert part["estimate"] == pytest.approx(math.sqrt(32), rel=0.05)
    assert part["unit"] == "times"
    records = world()
    last(records, "lb-batch-resnet50-1024", hessian_top_eigenvalue=1.0)
    assert outcomes(judge(statements, records, "lb.c19")) == [FAILS, HOLDS, HOLDS]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"hessian_top_eigenvalue": -0.5}, "the top eigenvalue of its Hessian is -0.5, and has no logarithm"),
        ({"hessian_converged": False}, "has no top eigenvalue that settled (seed 1, 2, 3, 4, 5, 6, 7, 8)"),
    ],
)
def test_c19_is_open_where_no_eigenvalue_can_be_compared(statements, fields, says):
    records = world()
    last(records, "lb-batch-vgg11-64", **fields)
    verdict = judge(statements, records, "lb.c19")
    assert outcomes(verdict) == [HOLDS, OPEN, HOLDS]
    assert says in verdict["reason"]


def test_c19_a_diverged_run_has_no_eigenvalue(statements):
    records = world()
    diverge(records, "lb-batch-vgg11-1024", seeds=(3,))
    assert outcomes(judge(statements, records, "lb.c19")) == [HOLDS, OPEN, HOLDS]


def test_c19_is_read_at_the_last_weights_at_rest_or_not(statements):
    records = world()
    shift(records, "lb-batch-alexnet-1024", -0.05, late=0.04)
    assert judge(statements, records, "lb.c19")["verdict"] == "holds at study scale"


# Training accuracy at equal loss, and bytes: c22, c27 ---------------------


@pytest.mark.parametrize(("model", "part"), [("resnet50", 0), ("vgg11", 1), ("alexnet", 2)])
def test_c22_a_narrower_gap_at_the_large_batch_fails(statements, model, part):
    records = world()
    change(
        records, f"lb-batch-{model}-1024",
        rows=lambda r: [row | {"train_sample_top1": row["test_top1"]} for row in r.rows],
    )  # fmt: skip
    assert outcomes(judge(statements, records, "lb.c22")) == [FAILS if i == part else HOLDS for i in range(3)]


def test_c22_a_small_batch_that_has_merely_trained_further_has_no_wider_gap(statements):
    """It comes to the last training loss of batch 1024 after half of its epochs; what it gains later does not count."""

    def further(record: Record) -> list[dict[str, Any]]:
        return [
            row | {
                "train_sample_loss": 2.3 * math.exp(-2 * row["epoch"] / 9),
                "train_sample_top1": row["test_top1"] + (0.05 if row["epoch"] <= 12 else 0.5),
            }
            for row in record.rows
        ]  # fmt: skip

    records = world()
    change(records, "lb-batch-alexnet-32", rows=further)
    part = judge(statements, records, "lb.c22")["parts"][2]
    assert part["outcome"] == HOLDS
    assert part["arms"] == pytest.approx({"lb-batch-alexnet-1024": 10.0, "lb-batch-alexnet-32": 5.0}, abs=0.1)


def test_c22_without_an_equal_training_loss_nothing_can_be_compared(statements):
    records = world()
    diverge(records, "lb-batch-resnet50-1024", rounds=40, seeds=(2,))
    verdict = judge(statements, records, "lb.c22")
    assert outcomes(verdict) == [OPEN, HOLDS, HOLDS]
    assert "so there is no equal training loss" in verdict["reason"]


@pytest.mark.parametrize("part", range(6))
def test_c27_counts_the_bytes_of_whole_runs_and_no_accuracy(statements, part):
    records = world()
    rule = statements["lb.c27"].judge["parts"][part]
    more, less = sorted(rule["contrast"], key=lambda run: -rule["contrast"][run])
    at_chance(records, more)
    assert judge(statements, records, "lb.c27")["verdict"] == "holds at study scale"
    sent = {run: records[f"{run}.s1"].rows[-1]["bytes_up"] for run in (more, less)}
    found = judge(statements, records, "lb.c27")["parts"][part]
    assert found["interval"] == pytest.approx([sent[more] / sent[less]] * 2, rel=1e-4), "bytes depend on no seed"
    last(records, more, bytes_up=sent[less])
    assert outcomes(judge(statements, records, "lb.c27"))[part] == NO_DIFFERENCE
    last(records, more, bytes_up=sent[less] / 2)
    assert outcomes(judge(statements, records, "lb.c27"))[part] == FAILS


# Step-up factors: c11 to c15, c18, c20, c31 -----------------------------


SETTING = "depends on base learning rate: "


@pytest.mark.parametrize(
    ("name", "run", "by"),
    [
        ("lb.c11", "lb-batch-resnet50-1024", 0.3), ("lb.c12", "lb-batch-resnet50-1024", 0.3),
        ("lb.c13", "lb-step-vgg11-t05-x2", -0.3), ("lb.c14", "lb-step-vgg11-t08-x8", 0.3),
        ("lb.c18", "lb-step-vgg11-t08-x8", 0.3), ("lb.c20", "lb-always-resnet50-x4", 0.4),
    ],
)  # fmt: skip
def test_what_one_base_rate_shows_and_the_other_refutes_depends_on_the_rate(statements, name, run, by):
    rates = list(dict.fromkeys(p["under"]["is"] for p in statements[name].judge["parts"] if "under" in p))
    for rate, end in zip(rates, ("", synthetic_lb.LOW), strict=True):
        records = world()
        shift(records, run + end, by)
        verdict = judge(statements, records, name)
        assert verdict["verdict"] == DEPENDS_ON
        other = next(each for each in rates if each != rate)
        said = verdict["reason"].partition(". ")[0]
        assert said.startswith(SETTING)
        assert f"{rate} {FAILS}" in said
        assert f"{other} {HOLDS}" in said
    records = world()
    for end in ("", synthetic_lb.LOW):
        shift(records, run + end, by)
    assert judge(statements, records, name)["verdict"] == "fails at study scale"


@pytest.mark.parametrize("name", ["lb.c11", "lb.c12", "lb.c13", "lb.c14", "lb.c18", "lb.c20"])
def test_one_base_rate_alone_holds_in_part(statements, name):
    records = {key: record for key, record in world().items() if not record.run.endswith(synthetic_lb.LOW)}
    gone = [(f"{run}{synthetic_lb.LOW}", seed) for run in synthetic_lb.at_low_rate() for seed in SEEDS]
    assert judge(statements, records, name, missing=gone)["verdict"] == "holds in part at study scale"


@pytest.mark.parametrize(
    ("run", "by", "found"),
    [
        ("lb-step-vgg11-t08-x8", -0.24, [FAILS, HOLDS, FAILS]),
        ("lb-step-vgg11-t08-x8", -0.3, [FAILS, HOLDS, OPEN]),  # near chance: how much it lost cannot be told
        ("lb-step-resnet50-t08-x8", 0.1, [HOLDS, FAILS, HOLDS]),
        ("lb-step-resnet50-t08-x8", 0.3, [HOLDS, FAILS, FAILS]),  # it gains more than VGG11 does
    ],
)
def test_c31_each_model_has_its_own_threshold(statements, run, by, found):
    records = world()
    shift(records, run, by)
    assert outcomes(judge(statements, records, "lb.c31")) == found


def test_c11_is_a_slope_over_log2_of_the_factor(statements):
    verdict = judge(statements, world(), "lb.c11")
    finals = [60, *(100 * final for final in synthetic_lb.STEP_FINALS["step-resnet50-t05"])]
    assert verdict["parts"][0]["estimate"] == pytest.approx(np.polyfit(range(5), finals, 1)[0], abs=0.1)
    assert outcomes(verdict, beside=True) == [FAILS]  # the equation's reading, which falls in this world


@pytest.mark.parametrize(("run", "part"), [("lb-batch-resnet50-1024", 1), ("lb-step-resnet50-t05-x8", 4)])
def test_c11_best_is_better_than_each(statements, run, part):
    records = world()
    shift(records, run, 0.1)
    assert outcomes(judge(statements, records, "lb.c11"))[part] == FAILS


def test_c12_reads_the_small_batch_where_the_large_one_ends(statements):
    records = world()
    part = judge(statements, records, "lb.c12")["parts"][1]
    read = np.mean([metrics.top1_at(records[f"lb-batch-resnet50-32.s{seed}"], 96) for seed in SEEDS[:5]])
    assert part["arms"]["lb-batch-resnet50-32"] == pytest.approx(100 * read, abs=1e-3)
    assert 0.3 < read < 0.35
    assert outcomes(judge(statements, records, "lb.c12"), beside=True) == [FAILS]  # equal samples


def test_equal_iterations_are_those_of_the_shortest_plan(statements):
    """A large-batch run that diverged has fewer rows, and all its iterations planned."""
    records = world()
    diverge(records, "lb-step-resnet50-t05-x16", rounds=40)
    part = judge(statements, records, "lb.c12")["parts"][1]
    assert part["arms"] == pytest.approx({"lb-step-resnet50-t05-x16": 10.0, "lb-batch-resnet50-32": 32.8}, abs=0.2)
    assert part["outcome"] == FAILS


def test_runs_that_were_not_evaluated_at_equal_iterations_are_named(statements):
    records = world()
    change(records, "lb-batch-vgg11-64", rows=lambda r: [row for row in r.rows if row["round"] != 96])
    verdict = judge(statements, records, "lb.c18")
    assert outcomes(verdict)[:2] == [HOLDS, OPEN]
    assert (
        f"not evaluated at iteration 96, the last common one: {label('lb-batch-vgg11-64')} (seed 1)"
        in verdict["reason"]
    )


def test_chance_after_equal_iterations_is_chance_whatever_the_longer_run_reaches_later(statements):
    records = world()
    at_chance = {"test_top1": 0.11}
    for run in ("lb-step-resnet50-t05-x16", "lb-batch-resnet50-32"):
        change(records, run, rows=lambda r: [row | at_chance if row["epoch"] < 1 else row for row in r.rows])
    last(records, "lb-step-resnet50-t05-x16", test_top1=0.12)
    part = judge(statements, records, "lb.c12")["parts"][1]
    assert part["outcome"] == OPEN
    assert "too close to chance" in part["reason"]


@pytest.mark.parametrize(
    ("run", "by", "part"),
    [
        ("lb-step-vgg11-t05-x2", -0.1, 0), ("lb-step-vgg11-t05-x4", -0.1, 1), ("lb-step-vgg11-t05-x8", 0.19, 2),
        ("lb-step-vgg11-t05-x16", 0.1, 3),
    ],
)  # fmt: skip
def test_c13_asks_each_factor(statements, run, by, part):
    records = world()
    shift(records, run, by)
    assert [i for i, outcome in enumerate(outcomes(judge(statements, records, "lb.c13"))) if outcome == FAILS] == [part]


def test_c13_a_network_that_never_learns_does_not_pass_as_collapsed(statements):
    records = world()
    shift(records, "lb-batch-vgg11-1024", -0.39)
    verdict = judge(statements, records, "lb.c13")
    assert outcomes(verdict)[:10] == [OPEN] * 5 + [HOLDS] * 5, "at this base rate"
    assert "too close to chance" in verdict["reason"]


@pytest.mark.parametrize("name", ["lb.c13", "lb.c14", "lb.c18"])
@pytest.mark.parametrize("end", ["", synthetic_lb.LOW])
def test_parts_about_a_factor_of_1_are_open_where_it_stays_at_chance(statements, name, end):
    one = f"lb-batch-vgg11-1024{end}"
    rules = [part for part in statements[name].judge["parts"] if not part.get("beside")]
    records = world()
    before = outcomes(judge(statements, records, name))
    about = [
        i for i, part in enumerate(rules)
        if (one in part.get("contrast", {}) or one in part.get("above_floor", [])) and before[i] != NOT_COMPARABLE
    ]  # fmt: skip
    at_chance(records, one)
    after = outcomes(judge(statements, records, name))
    assert about
    assert after == [OPEN if i in about else outcome for i, outcome in enumerate(before)]


def test_c13_a_run_that_diverged_counts_at_chance(statements):
    records = world()
    diverge(records, "lb-step-vgg11-t05-x16", rounds=4)
    assert judge(statements, records, "lb.c13")["verdict"] == "holds at study scale"


@pytest.mark.parametrize(
    ("run", "by", "failing"),
    [
        ("lb-step-vgg11-t08-x8", -0.2, [0, 7]), ("lb-step-vgg11-t08-x8", 0.1, [1, 2, 3]),
        ("lb-step-vgg11-t05-x16", 0.3, [4]), ("lb-step-vgg11-t08-x2", -0.2, [2, 5]),
    ],
)  # fmt: skip
def test_c14_asks_each_factor(statements, run, by, failing):
    records = world()
    shift(records, run, by)
    found = outcomes(judge(statements, records, "lb.c14"))
    assert [i for i, outcome in enumerate(found) if outcome == FAILS] == failing


def stepped(records: Records, run: str, share: float) -> None:
    """Scale that share of the iterations of ``run``, the seeds a little apart."""

    def series(record: Record) -> dict[str, list[float]]:
        factor = record.spec["step_up"]["factor"]
        up = round(1000 * (share + 0.01 * (record.seed - 2)))
        return record.series | {"step_up_factor": [factor] * up + [1.0] * (1000 - up)}

    change(records, run, series=series)


@pytest.mark.parametrize(("share", "found"), [(0.6, HOLDS), (0.4, FAILS), (0.5, OPEN)])
def test_c15_most_is_more_than_half_of_the_iterations(statements, share, found):
    records = world()
    for x in synthetic_lb.FACTORS:
        stepped(records, f"lb-step-resnet50-t05-x{x}", share)
    assert outcomes(judge(statements, records, "lb.c15")) == [found, HOLDS, HOLDS]


@pytest.mark.parametrize(("share", "found"), [(0.6, FAILS), (0.4, HOLDS), (0.5, OPEN)])
def test_c15_at_the_higher_threshold_most_run_unscaled(statements, share, found):
    records = world()
    for x in synthetic_lb.FACTORS:
        stepped(records, f"lb-step-vgg11-t08-x{x}", share)
    assert outcomes(judge(statements, records, "lb.c15")) == [HOLDS, HOLDS, found]


@pytest.mark.parametrize(
    ("part", "runs"), [(0, "lb-step-resnet50-t05"), (1, "lb-step-vgg11-t05"), (2, "lb-step-vgg11-t08")]
)
def test_c15_what_never_left_chance_steps_up_or_not_for_nothing(statements, part, runs):
    """The bound on the share is no comparison of arms, and yet as empty as the others where nothing was learned."""
    records = world()
    for x in synthetic_lb.FACTORS:
        change(records, f"{runs}-x{x}", rows=lambda r: [row | {"test_top1": r.chance} for row in r.rows])
    verdict = judge(statements, records, "lb.c15")
    assert outcomes(verdict) == [OPEN if k == part else HOLDS for k in range(3)]
    assert "too close to chance" in verdict["parts"][part]["reason"]


def test_c15_is_the_mean_over_the_factors(statements):
    records = world()
    for x, share in zip(synthetic_lb.FACTORS, (0.9, 0.9, 0.3, 0.1), strict=True):
        stepped(records, f"lb-step-resnet50-t05-x{x}", share)
    part = judge(statements, records, "lb.c15")["parts"][0]
    assert part["estimate"] == pytest.approx(55, abs=1)
    assert part["unit"] == "%"


def test_c18_the_other_threshold_stands_beside(statements):
    records = world()
    shift(records, "lb-step-vgg11-t05-x8", 0.4)
    verdict = judge(statements, records, "lb.c18")
    assert verdict["verdict"] == "holds at study scale"
    assert outcomes(verdict, beside=True) == [FAILS, FAILS, HOLDS]


@pytest.mark.parametrize(
    "run",
    ["lb-always-resnet50-x4", "lb-always-resnet50-x16", "lb-random-resnet50-t05-x16", "lb-random-vgg11-t05-x4",
     "lb-random-vgg11-t08-x4", "lb-random-vgg11-t08-x16"],
)  # fmt: skip
def test_c20_a_control_that_is_better_refutes_it(statements, run):
    records = world()
    shift(records, run, 0.4)
    assert outcomes(judge(statements, records, "lb.c20")).count(FAILS) == 1


def test_c20_what_the_paper_says_does_not_train_decides_nothing(statements):
    records = world()
    shift(records, "lb-random-vgg11-t05-x16", 0.3)
    verdict = judge(statements, records, "lb.c20")
    assert verdict["verdict"] == "holds at study scale"
    assert FAILS in outcomes(verdict, beside=True)


# Metrics ----------------------------------------------------------------


def test_shares_count_the_first_iteration_and_those_before_a_divergence():
    record = world()["lb-step-vgg11-t05-x4.s1"]
    series = {"gradient_norm": [1.0] * 4, "step_up_factor": [1.0, 4.0, 4.0, 1.0]}
    assert metrics.step_up_share(replace(record, series=series)) == 0.5
    early = stopped(replace(record, series=series), 2)
    assert metrics.step_up_share(early) == 0.5
    assert metrics.step_up_share(stopped(record, 0)) is None


def test_a_run_that_diverged_at_once_leaves_its_share_open(statements):
    records = world()
    diverge(records, "lb-step-vgg11-t05-x16", seeds=(1,))
    verdict = judge(statements, records, "lb.c15")
    assert outcomes(verdict) == [HOLDS, OPEN, HOLDS]
    assert "diverged, so its share of steps is unknown" in verdict["reason"]


def test_a_diverged_run_guesses_one_of_five():
    record = world()["lb-fa-vgg11-iid.s1"]
    assert metrics.end_top5(record) == pytest.approx(np.mean([row["test_top5"] for row in record.rows[-3:]]))
    assert metrics.end_top5(stopped(record, 3)) == pytest.approx(0.05)
    few = replace(stopped(record, 3), data=record.data | {"classes": 4})
    assert metrics.end_top5(few) == 1.0


def test_the_plan_of_a_diverged_run_is_that_of_its_completed_seeds():
    for record in world(seeds=(1,)).values():
        if record.kind == "train" and record.spec["method"] == "central":
            assert metrics.planned_rounds(stopped(record, 5)) == metrics.planned_rounds(record)


@pytest.mark.parametrize(
    ("metric", "changed", "says"),
    [
        (metrics.step_up_share, {"spec": {"step_up": None}}, "no step function; a run with `step_up` was expected"),
        (metrics.step_up_share, {"series": {}}, "no series step_up_factor"),
        (metrics.top_eigenvalue, {}, "no eigenvalue of the Hessian; a run that tracks it was expected"),
        (lambda r: metrics.mean_gradient_norm(r, 24), {"series": {}}, "no series gradient_norm"),
        (lambda r: metrics.mean_gradient_norm(r, 97), {}, "96 gradient norms; one for each of the first 97"),
    ],
)
def test_what_was_not_recorded_is_one_line(metric, changed, says):
    with pytest.raises(ReproError, match=says) as caught:
        metric(replace(world()["lb-step-vgg11-t05-x4.s1"], **changed))
    assert "\n" not in str(caught.value)


# Files ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("rule: trend, metric: top_eigenvalue, runs: [a, b], against: log2_step_up, direction: rising", "metric"),
        ("rule: equivalence, metric: end_top5, contrast: {a: 1, b: -1}, margin: 0.02", "metric"),
        ("rule: ratio, metric: early_gradient_norm, contrast: {a: 1, b: -1}", "metric"),
        ("rule: value, metric: step_up_share, contrast: {a: 1}, published: 1, tolerance: 1", "metric"),
        ("rule: order, metric: end_top1, contrast: {a: 1}, needs: {sharp: [a]}", "needs"),
    ],
)
def test_a_metric_has_the_rules_that_are_defined_for_it(tmp_path, part, key):
    (tmp_path / "data").mkdir()
    entry = "{id: lb.c1, source: lb, kind: order, place: here, says: so, published: null, artefact: lb.fig3, judge: "
    (tmp_path / "data/published.yaml").write_text(
        "artefacts:\n  - {id: lb.fig3, source: lb, kind: figure, place: here, says: so, published: null}\n"
        f"statements:\n  - {entry}{{why: because, parts: [{{{part}}}]}}}}\n"
    )
    with pytest.raises(ReproError, match=rf"statements\[lb\.c1\]\.judge\.parts\[1\]\.{key}"):
        load_published(tmp_path)


def test_every_choice_that_the_papers_training_leaves_open_is_in_the_ledger():
    ids = {choice.id for choice in load_ledger(ROOT) if choice.source == "lb"}
    assert ids >= {
        "lb-phases-of-the-step-function", "lb-first-iteration", "lb-norm-of-the-change", "lb-constant-factor",
        "lb-equal-iterations", "lb-early-training", "lb-data-of-the-figures", "lb-optimiser", "lb-schedule",
        "lb-local-batch", "lb-epochs", "lb-local-steps-at-reduced-scale", "lb-top-five",
        "lb-label-split-without-batchnorm", "lb-one-label-per-client", "lb-hundred-of-101-labels",
        "lb-frequency-against-table-1", "lb-factor-of-the-abstract", "lb-density", "lb-large-batches", "lb-sharpness",
    }  # fmt: skip


def test_a_run_that_diverges_after_the_common_iteration_counts_as_it_was_then() -> None:
    record = next(r for r in _made("study", SEEDS) if r.run == "lb-batch-vgg11-64")
    at = record.rows[0]["round"]
    late = replace(record, status="diverged", rows=record.rows[:1], series={"train_loss": [1.0] * (at + 5)})
    early = replace(record, status="diverged", rows=[], series={"train_loss": [1.0] * (at - 1)})
    assert metrics.top1_at(late, at) == record.rows[0]["test_top1"] != record.chance
    assert metrics.top1_at(early, at) == record.chance
    assert metrics.top1_at(late, at + 1) is None, "it was trained that far and not evaluated there"


def test_chance_is_the_share_of_the_largest_class_where_one_stands_out() -> None:
    by_run = {r.run: r for r in _made("study", SEEDS)}
    assert by_run["lb-bsp-alexnet-iid"].chance == pytest.approx(160 / 1695)
    assert by_run["lb-bsp-vgg11-iid"].chance == 1 / 100
    assert rules.accuracy_floor(160 / 1695) == pytest.approx(160 / 1695 + 0.10)


@pytest.mark.data
def test_the_largest_classes_are_those_of_the_prepared_data() -> None:
    path = Path(__file__).resolve().parents[1] / "data/prepared/caltech101/test_labels.npy"
    if not path.exists():
        pytest.skip("CalTech-101 is not prepared here")
    counts = np.bincount(np.load(path))
    assert records.LARGEST_CLASS["caltech101"] == counts.max() / counts.sum()


# Training with a teacher: c21 ------------------------------------------


@pytest.mark.parametrize(
    ("run", "final", "outcome"),
    [
        ("lb-taught-small", 0.45, [FAILS, HOLDS, HOLDS, HOLDS]),  # nothing to close
        ("lb-taught-plain", 0.595, [OPEN, OPEN, HOLDS, HOLDS]),
        ("lb-taught-matching", 0.62, [HOLDS, HOLDS, FAILS, HOLDS]),  # a learning rate does it
        ("lb-taught-isotropic", 0.62, [HOLDS, HOLDS, HOLDS, FAILS]),
    ],
)
def test_a_teacher_needs_a_gap_and_must_beat_what_knows_no_direction(statements, run, final, outcome):
    records = world()
    for name, record in records.items():
        if record.run == run:
            shift = final - metrics.end_top1(record) + (0.02 * (-1) ** record.seed if outcome[0] == OPEN else 0)
            rows = [row | {"test_top1": row["test_top1"] + shift} for row in record.rows]
            records[name] = replace(record, rows=rows)
    verdict = judge(statements, records, "lb.c21")
    assert outcomes(verdict) == outcome
    assert len(outcomes(verdict, beside=True)) == 5
