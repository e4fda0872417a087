"""How often the verdict rules are right in worlds whose truth is planted, over the whole registry.

    python benchmarks/worlds.py        # 25 CPU-minutes

A world gives every run of a statement an accuracy: a planted one, plus a normal deviation for each of the twelve
seeds of the last look. Judged are the parts that compare accuracies of arms (contrasts whose weights cancel, trends).

- **equal**: all arms are planted at one accuracy. An order, or a trend, is wrong whenever it is decided other than as
  "no difference"; an equivalence, or a bound, is wrong where it fails. Orders by more than a least difference are left
  out: to fail is right for them. Each part may err in 5 % of worlds; a statement fails after Holm, so in at most 5 %.
- **as said**, **reversed**: all parts of a statement are true, or all are false, each by at least twice its margin (4
  points for orders and trends). Planted accuracies are those of a linear program with the least largest deviation from
  the middle; a statement whose parts cannot all be so at once is named and left out. The right words are "holds" and
  "fails".
- **chance**: every run ends at chance. Whole statements are judged; no part that speaks of accuracies may hold.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import readme
from scipy.optimize import linprog

from repro import files
from repro.registry import specs
from repro.registry.published import ACCURACIES, OTHER_ACCURACIES, Statement, runs_of
from repro.results.looks import FIRST_SEED, LOOKS
from repro.results.records import Record
from repro.verdicts import judge
from repro.verdicts.contrasts import sizes_of
from repro.verdicts.evidence import Evidence
from repro.verdicts.rules import FAILS, HOLDS, SMALL_POINTS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/worlds.json"
PROFILE, ACCURACY, EVALUATIONS, CLASSES = "study", 0.5, 10, 10
SPREAD = {"equal": 0.015, "as said": 0.015 / math.sqrt(2), "reversed": 0.015 / math.sqrt(2), "chance": 0.004}
"""Truth -> standard deviation over seeds of the accuracy at the end, a fraction. Differences vary by 1.5 points in the
pilots; equal arms get more than that, and at chance 4 000 test images leave 0.4 points."""
WORLDS = {"equal": 2000, "as said": 500, "reversed": 500, "chance": 500}
RIGHT = {"as said": HOLDS, "reversed": FAILS}
_COMPARED = ("order", "equivalence", "bound", "trend")


@dataclass(frozen=True)
class Judged:
    """One statement, with the parts that this truth judges, and the planted accuracy of every run that they read."""

    statement: Statement
    planted: Mapping[str, float]


def compares_accuracies(part: Mapping[str, Any]) -> bool:
    """Whether a part compares accuracies of arms, so that equal arms have a truth."""
    return (
        part.get("metric") in (*ACCURACIES, *OTHER_ACCURACIES)
        and part["rule"] in _COMPARED
        and abs(sum(part.get("contrast", {}).values())) < 1e-9
        and not {"beside", "reserved"} & set(part)
    )


def speaks_of_accuracy(part: Mapping[str, Any]) -> bool:
    """Whether a part that decides rests on how well its arms predict, so that nothing can hold where none does."""
    return (
        part.get("metric") in (*ACCURACIES, *OTHER_ACCURACIES)
        and part["rule"] in (*_COMPARED, "value")
        and "at_most" not in part  # an accuracy said to be low is low at chance, too
        and not {"beside", "reserved"} & set(part)
    )


def planned_specs() -> list[specs.Spec]:
    """One spec for every trained run of the profile; a learning rate that a grid has still to choose is its first."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for part in ("pipelines", "data/manifests"):
            shutil.copytree(ROOT / part, root / part)
        for name in ("study.yaml", "sources.yaml", "published.yaml"):
            shutil.copy(ROOT / "data" / name, root / "data" / name)
        grids = {source: specs.grids(source, PROFILE, root) for source in specs.SOURCES}
        chosen = {source: {grid: {"lr": made[0].schedule["lr"]} for grid, made in of_source.items()}
                  for source, of_source in grids.items()}  # fmt: skip
        path = specs.learning_rates_path(PROFILE, root)
        path.parent.mkdir()
        path.write_text(files.canonical_json(chosen))
        every = [task for source in specs.SOURCES for group in ("artefact", "control")
                 for task in specs.runs(source, PROFILE, group, root)]  # fmt: skip
    return list({spec.run: spec for spec, _ in every if spec.kind == "train"}.values())


def world(
    chosen: list[specs.Spec], planted: Mapping[str, float], spread: float, generator: np.random.Generator
) -> Iterator[Record]:
    """Records of every run over all seeds, at rest at its planted accuracy but for its seed."""
    for spec in chosen:
        settings = asdict(spec)
        ends = planted.get(spec.run, ACCURACY) + spread * generator.standard_normal(LOOKS[-1])
        for seed, end in enumerate(ends, start=FIRST_SEED):
            rows = [
                {"epoch": float(e), "round": e, "lr": spec.schedule["lr"] / e, "test_top1": end, "test_top5": end}
                for e in range(1, EVALUATIONS + 1)
            ]
            yield Record(
                run=spec.run, source=spec.source, group=spec.group, kind="train", profile=PROFILE, seed=seed,
                spec=settings, data={"name": "cifar10", "sha256": "0", "reduced": None, "classes": CLASSES},
                fingerprint="0", status="completed", rows=rows,
            )  # fmt: skip


def weights_of(part: Mapping[str, Any], evidence: Evidence) -> dict[str, float]:
    """Run -> its weight in the number that a part's rule looks at; a trend's is the slope over its sizes."""
    if part["rule"] != "trend":
        return dict(part["contrast"])
    from_mean = np.asarray(sizes_of(part, evidence, FIRST_SEED)) - np.mean(sizes_of(part, evidence, FIRST_SEED))
    sign = -1 if part["direction"] == "falling" else 1
    slopes = sign * from_mean / np.sum(from_mean**2) * (from_mean.max() - from_mean.min())  # over all sizes
    return dict(zip(part["runs"], map(float, slopes), strict=True))


def limits_of(part: Mapping[str, Any], truth: str) -> list[tuple[float, float]]:
    """The intervals in one of which a part's number lies under a truth, by at least twice its margin."""
    least, by = part.get("by_more_than", 0.0), 2 * SMALL_POINTS
    said = truth == "as said"
    if part["rule"] in ("order", "trend"):
        return [(least + by, math.inf)] if said else [(-math.inf, least - by)]
    margin = part["margin"] if part["rule"] == "equivalence" else part["at_most"]
    if part["rule"] == "bound":
        return [(-math.inf, margin - by)] if said else [(margin + by, math.inf)]
    return [(0.0, 0.0)] if said else [(2 * margin, math.inf), (-math.inf, -2 * margin)]


def plant(parts: list[Mapping[str, Any]], truth: str, evidence: Evidence) -> dict[str, float] | None:
    """Accuracies under which all parts have the truth, as near to ``ACCURACY`` as can be; None where there are none."""
    weights = [weights_of(part, evidence) for part in parts]
    runs = sorted({run for found in weights for run in found})
    sides = [limits_of(part, truth) for part in parts]
    for first in range(
        max(len(side) for side in sides)
    ):  # an equivalence fails on either side: all on one, then the other
        rows, at_most = [], []
        for found, side in zip(weights, sides, strict=True):
            low, high = side[min(first, len(side) - 1)]
            row = [found.get(run, 0.0) for run in runs]
            rows += [[*row, 0.0]] * (high < math.inf) + [[*(-value for value in row), 0.0]] * (low > -math.inf)
            at_most += [high] * (high < math.inf) + [-low] * (low > -math.inf)
        for i in range(len(runs)):  # the last variable is the largest deviation, which is to be least
            for sign in (1.0, -1.0):
                rows.append([sign * (j == i) for j in range(len(runs))] + [-1.0])
                at_most.append(0.0)
        bounds = [(-0.35, 0.35)] * len(runs) + [(0, None)]
        found = linprog([0.0] * len(runs) + [1.0], A_ub=rows, b_ub=at_most, bounds=bounds)
        if found.status == 0:
            return {run: ACCURACY + float(found.x[i]) for i, run in enumerate(runs)}
    return None


def judged(truth: str, chosen: list[specs.Spec]) -> tuple[list[Judged], list[str]]:
    """Statements reduced to the parts that a truth judges, and the ids of those where no accuracies have that truth."""
    chosen_runs = {spec.run for spec in chosen}
    wanted = speaks_of_accuracy if truth == "chance" else compares_accuracies
    once = list(world(chosen, {}, 0.0, np.random.default_rng(0)))
    evidence = {
        source: Evidence(source, PROFILE, [r for r in once if r.source == source], {}) for source in specs.SOURCES
    }
    found, left = [], []
    for statement in judge.load_published(ROOT).statements:
        parts = [part for part in (statement.judge or {}).get("parts", []) if wanted(part)]
        if truth == "equal":
            parts = [part for part in parts if "by_more_than" not in part]
        parts = [part for part in parts if set(runs_of(part)) <= chosen_runs]
        if not parts:
            continue
        planted: dict[str, float] | None = {}
        if truth in RIGHT:
            planted = plant(parts, truth, evidence[statement.source])
        elif truth == "chance":
            planted = dict.fromkeys(chosen_runs, 1 / CLASSES)
        if planted is None:
            left.append(statement.id)
        else:
            found.append(Judged(replace(statement, judge=statement.judge | {"parts": parts}), planted))
    return found, left


def count(truth: str, worlds: int, seed: int, chosen: list[specs.Spec]) -> dict[str, Any]:
    """Shares of worlds in which each part, and each statement, has each outcome."""
    statements, left = judged(truth, chosen)
    generator = np.random.default_rng([seed, list(SPREAD).index(truth)])
    words: dict[str, Counter[str]] = {one.statement.id: Counter() for one in statements}
    parts: dict[str, list[Counter[str]]] = {
        one.statement.id: [Counter() for _ in one.statement.judge["parts"]] for one in statements
    }
    # Every statement in a world of its own: what makes one true may contradict another
    needed = [[spec for spec in chosen if spec.run in judge.runs_named(one.statement)] for one in statements]
    for one, its in zip(statements, needed, strict=True):
        of_statement, of_parts = words[one.statement.id], parts[one.statement.id]
        for _ in range(worlds):
            records = world(its, one.planted, SPREAD[truth], generator)
            verdict = judge.judge_all([one.statement], records, profile=PROFILE)[0]
            of_statement[verdict["verdict"].removesuffix(f" at {PROFILE} scale")] += 1
            for found, part in zip(of_parts, verdict["parts"], strict=True):
                found[part["outcome"]] += 1

    def share(counts: Counter[str]) -> dict[str, float]:
        return {word: round(n / worlds, 4) for word, n in sorted(counts.items())}

    return {
        "statements": {name: share(found) for name, found in words.items()},
        "parts": {name: [share(part) for part in found] for name, found in parts.items()},
        "rules": {one.statement.id: [part["rule"] for part in one.statement.judge["parts"]] for one in statements},
        "cannot_be": left,
    }


def wrong(truth: str, rule: str, outcomes: Mapping[str, float]) -> float:
    """The share of worlds in which a part is decided wrongly."""
    words = {"as said": (FAILS,), "reversed": (HOLDS,), "chance": (HOLDS,)}.get(
        truth, (HOLDS, FAILS) if rule in ("order", "trend") else (FAILS,)
    )
    return sum(outcomes.get(word, 0.0) for word in words)


def summary(truth: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The shares that a truth is judged by: wrong decisions of parts and statements, and right words of statements."""
    errors = [wrong(truth, rule, outcomes) for name, rules in found["rules"].items()
              for rule, outcomes in zip(rules, found["parts"][name], strict=True)]  # fmt: skip
    wrong_word = FAILS if truth in ("equal", "as said") else HOLDS
    of_statements = [shares.get(wrong_word, 0.0) for shares in found["statements"].values()]
    numbers = {
        "parts": len(errors), "statements": len(of_statements),
        "parts_wrong_mean": float(np.mean(errors)), "parts_wrong_worst": max(errors),
        "statements_wrong_mean": float(np.mean(of_statements)), "statements_wrong_worst": max(of_statements),
    }  # fmt: skip
    if truth in RIGHT:
        right = {name: shares.get(RIGHT[truth], 0.0) for name, shares in found["statements"].items()}
        numbers["statements_right_mean"] = float(np.mean(list(right.values())))
        numbers["statements_right_least"] = min(right.values())
        numbers["below_80_percent"] = sorted(name for name, share in right.items() if share < 0.8)
    return numbers


def table(results: Mapping[str, Any]) -> str:
    """The generated part of the README: one line a truth."""
    lines = [
        "| truth | worlds | statements, parts | parts decided wrongly: mean, worst | statements: mean, worst "
        "| right word: mean, least |",
        "|---|---|---|---|---|---|",
    ]
    for truth, found in results["truths"].items():
        numbers = {name: f"{100 * value:.1f} %" for name, value in found["summary"].items() if isinstance(value, float)}
        pairs = [", ".join(numbers[f"{what}_wrong_{which}"] for which in ("mean", "worst"))
                 for what in ("parts", "statements")]  # fmt: skip
        right = (
            ", ".join(numbers[f"statements_right_{which}"] for which in ("mean", "least")) if truth in RIGHT else "–"
        )
        counts = f"{found['summary']['statements']}, {found['summary']['parts']}"
        lines.append(f"| {truth} | {found['worlds']} | {counts} | {pairs[0]} | {pairs[1]} | {right} |")
    for truth in RIGHT:
        below = results["truths"][truth]["summary"]["below_80_percent"]
        lines += ["", f"Right in less than 80 % of worlds, {truth}: {', '.join(below) or 'none'}."]
    left = sorted({name for found in results["truths"].values() for name in found["cannot_be"]})
    lines += ["", f"Left out: parts that cannot all be true, or all false, at once ({', '.join(left) or 'none'})."]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worlds", type=int, help="try that many of every truth, and write nothing")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    chosen, truths = planned_specs(), {}
    for truth, planned in WORLDS.items():
        worlds = arguments.worlds or planned
        found = count(truth, worlds, arguments.seed, chosen)
        truths[truth] = found | {"worlds": worlds, "summary": summary(truth, found)}
        print(truth, truths[truth]["summary"], flush=True)
    results = {"seed": arguments.seed, "profile": PROFILE, "seeds": LOOKS[-1], "spread": SPREAD, "truths": truths}
    if arguments.worlds is None:
        readme.publish("worlds", RESULTS, results, table(results))


if __name__ == "__main__":
    main()
