"""How often the verdict rules are wrong in worlds in which no arm differs from another, over the whole registry.

    python benchmarks/worlds.py --worlds 2000

A world gives every run of every statement the same accuracy, but for the seed: normal, with the spread of the pilots,
over the twelve seeds of the last look. Judged are the parts that compare accuracies (contrasts whose weights cancel,
and trends). There an order, or a trend, is wrong whenever it is decided other than as "no difference"; an equivalence,
or a bound, is wrong where it fails. Orders by more than a least difference are left out: to fail is right for them.
Each part may err in 5 % of worlds; a statement fails after Holm, so in at most 5 %, too.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from repro import files
from repro.registry import specs
from repro.registry.published import ACCURACIES, OTHER_ACCURACIES, Statement, runs_of
from repro.results.looks import FIRST_SEED, LOOKS
from repro.results.records import Record
from repro.verdicts import judge
from repro.verdicts.rules import FAILS, HOLDS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/worlds.json"
PROFILE, ACCURACY, EVALUATIONS = "study", 0.5, 10
SPREAD = 0.015
"""Standard deviation over seeds of the accuracy at the end, a fraction."""


def null_parts(statement: Statement) -> list[dict[str, Any]]:
    """The parts of a statement that compare accuracies of arms, and so have a truth where all arms are equal."""
    return [
        part
        for part in (statement.judge or {}).get("parts", [])
        if part.get("metric") in (*ACCURACIES, *OTHER_ACCURACIES)
        and part["rule"] in ("order", "equivalence", "bound", "trend")
        and abs(sum(part.get("contrast", {}).values())) < 1e-9
        and not {"beside", "reserved", "needs", "by_more_than"} & set(part)
    ]


def judged(root: Path = ROOT) -> tuple[list[Statement], list[str]]:
    """Statements reduced to those parts, and the ids of those whose runs this profile does not plan."""
    planned = {spec.run for spec in planned_specs(root)}
    found, left = [], []
    for statement in judge.load_published(root).statements:
        if not (parts := null_parts(statement)):
            continue
        if {run for part in parts for run in runs_of(part)} <= planned:
            found.append(replace(statement, judge=statement.judge | {"parts": parts}))
        else:
            left.append(statement.id)
    return found, left


def planned_specs(root: Path = ROOT) -> list[specs.Spec]:
    """One spec for every trained run of the profile."""
    every = [task for source in specs.SOURCES for group in ("artefact", "control")
             for task in specs.runs_and_waiting(source, PROFILE, group, root)[0]]  # fmt: skip
    return list({spec.run: spec for spec, _ in every if spec.kind == "train"}.values())


def world(chosen: list[specs.Spec], generator: np.random.Generator) -> Iterator[Record]:
    """Records of every run over all seeds, at rest at one accuracy but for their seed."""
    ends = ACCURACY + SPREAD * generator.standard_normal((len(chosen), LOOKS[-1]))
    for spec, of_run in zip(chosen, ends, strict=True):
        settings = asdict(spec)
        for seed, end in enumerate(of_run, start=FIRST_SEED):
            rows = [
                {"epoch": float(e), "round": e, "test_top1": end, "test_top5": end} for e in range(1, EVALUATIONS + 1)
            ]
            yield Record(
                run=spec.run, source=spec.source, group=spec.group, kind="train", profile=PROFILE, seed=seed,
                spec=settings, data={"name": "cifar10", "sha256": "0", "reduced": None, "classes": 10},
                fingerprint="0", status="completed", rows=rows,
            )  # fmt: skip


def count(worlds: int, seed: int, root: Path = ROOT) -> dict[str, Any]:
    """Shares of worlds in which each part, and each statement, is decided wrongly."""
    statements, left = judged(root)
    needed = {run for statement in statements for run in judge.runs_named(statement)}
    chosen = [spec for spec in planned_specs(root) if spec.run in needed]
    generator = np.random.default_rng(seed)
    parts: Counter[tuple[str, int]] = Counter()
    failing: Counter[str] = Counter()
    for _ in range(worlds):
        for verdict in judge.judge_all(statements, world(chosen, generator), profile=PROFILE):
            failing[verdict["id"]] += verdict["verdict"].startswith(FAILS)
            for i, part in enumerate(verdict["parts"]):
                wrong = (HOLDS, FAILS) if part["rule"] in ("order", "trend") else (FAILS,)
                parts[verdict["id"], i] += part["outcome"] in wrong
    shares = {statement.id: [round(parts[statement.id, i] / worlds, 4) for i in range(len(statement.judge["parts"]))]
              for statement in statements}  # fmt: skip
    return {
        "worlds": worlds, "seed": seed, "parts": shares, "not_planned": left,
        "statements_that_fail": {name: round(failing[name] / worlds, 4) for name in shares},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--worlds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help=f"write {RESULTS.relative_to(ROOT)}")
    arguments = parser.parse_args()
    found = count(arguments.worlds, arguments.seed)
    every = [share for shares in found["parts"].values() for share in shares]
    print(f"{len(every)} parts of {len(found['parts'])} statements, {arguments.worlds} worlds without any difference")
    print(f"decided wrongly: {100 * np.mean(every):.1f} % of parts, {100 * max(every):.1f} % of the worst one")
    fails = found["statements_that_fail"]
    worst = max(fails, key=lambda name: fails[name])
    print(
        f"statements that fail: {100 * np.mean(list(fails.values())):.1f} %, at most {worst} {100 * fails[worst]:.1f} %"
    )
    if found["not_planned"]:
        print(f"left out, their runs are not planned at profile {PROFILE}: {', '.join(found['not_planned'])}")
    if arguments.write:
        files.write_atomic(RESULTS, files.canonical_json(found))


if __name__ == "__main__":
    main()
