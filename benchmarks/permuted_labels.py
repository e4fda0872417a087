"""What the rules say of real trainings that cannot learn: the runs of a statement, with their training labels permuted.

    python benchmarks/permuted_labels.py        # 6 CPU-minutes; needs CIFAR-10

Every run of the statement is trained at the study's settings and first five seeds, for a 32nd of its epochs (at least
one), on images whose labels were permuted with a seed of their own. No part that speaks of accuracies may hold.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import readme
from tqdm import tqdm

from repro import machine
from repro.checkpoint import Checkpoint
from repro.data import sets
from repro.errors import ReproError
from repro.randomness import generator
from repro.registry import specs
from repro.results.looks import FIRST_SEED, LOOKS
from repro.results.metrics import end_top1
from repro.results.records import Record
from repro.running import provenance, runner, train
from repro.running.job import Job
from repro.running.prepare import prepare
from repro.verdicts import judge
from repro.verdicts.rules import HOLDS

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/permuted_labels.json"
STATEMENT, PROFILE, SHORTER = "lb.c16", "study", 32


def permuted(loaded: sets.Images) -> sets.Images:
    """The same images, with the labels of the training images in another order; test images keep theirs."""
    labels = np.asarray(loaded.train_labels)
    return dataclasses.replace(loaded, train_labels=labels[generator(0, "permuted labels").permutation(len(labels))])


def trained(spec: specs.Spec, seed: int) -> Record:
    """The record of one training on permuted labels."""
    identity = {
        "run": spec.run, "source": spec.source, "group": spec.group, "kind": spec.kind, "profile": PROFILE,
        "seed": seed, "spec": dataclasses.asdict(spec), "fingerprint": "permuted labels",
    }  # fmt: skip
    job = Job(
        spec, seed, ROOT, identity, Checkpoint(Path("unused"), "permuted labels", math.inf), 1, lambda share: None
    )
    return train.finished(train.Training(job, prepare(spec, seed, ROOT)))


def main() -> None:
    argparse.ArgumentParser(description=__doc__.split("\n")[0]).parse_args()
    runner.make_reproducible()
    original = sets.load
    sets.load = lambda *where: permuted(original(*where))
    statement = next(one for one in judge.load_published(ROOT).statements if one.id == STATEMENT)
    runs = sorted(set(judge.runs_named(statement)))
    work = [(specs.find(run, PROFILE, ROOT), seed) for run in runs for seed in range(FIRST_SEED, FIRST_SEED + LOOKS[0])]
    started = time.process_time()
    records = [
        trained(dataclasses.replace(spec, epochs=max(1, spec.epochs // SHORTER)), seed)
        for spec, seed in tqdm(work, desc="trainings", unit="run")
    ]
    verdict = judge.judge_all([statement], records, profile=PROFILE)[0]
    ends: dict[str, list[float]] = {run: [end_top1(r) for r in records if r.run == run] for run in runs}
    results: dict[str, Any] = {
        "machine": machine.describe(), "code": provenance.CODE, "date": time.strftime("%Y-%m-%d"),
        "cpu_seconds": round(time.process_time() - started), "statement": STATEMENT, "verdict": verdict["verdict"],
        "reason": verdict["reason"], "end_top1": {run: [round(end, 4) for end in found] for run, found in ends.items()},
        "parts": {part["name"]: part["outcome"] for part in verdict["parts"]},
    }  # fmt: skip
    readme.publish("permuted_labels", RESULTS, results, table(results))
    if held := [name for name, outcome in results["parts"].items() if outcome == HOLDS]:
        raise ReproError(f"on permuted labels these parts hold: {', '.join(held)}; none was expected to")


def table(results: dict[str, Any]) -> str:
    """The generated part of the README: what was trained, and every part's outcome."""
    every = [100 * end for found in results["end_top1"].values() for end in found]
    lines = [
        f"{len(every)} trainings of {results['statement']} end at {np.mean(every):.1f} % on average "
        f"({min(every):.1f} to {max(every):.1f}; chance is 10 %). Verdict: {results['verdict']}.",
        "", "| part | outcome |", "|---|---|",
        *(f"| {name} | {outcome} |" for name, outcome in results["parts"].items()),
        "", f"{results['date']}, {results['machine']['device']}, {results['cpu_seconds']} CPU-seconds.", "",
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        main()
    except ReproError as problem:
        raise SystemExit(str(problem)) from None
