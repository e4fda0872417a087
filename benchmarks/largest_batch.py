"""Is the largest batch that `repro advise` predicts the largest that fits? Four networks, at laptop size.

The prediction comes from probes in child processes up to half of the limit (`repro.performance.advise.probe_memory`);
`advise --probe` then tries it out and lowers it until it fits, which is reported beside and not what is judged. The
truth is found by bisection: a child trains a few steps at a batch size, its peak resident memory is watched from
outside, and it fits if the peak stays below the limit. Peaks of one batch size differ by some megabytes, so that the
truth is a range: from the largest size below which everything fitted to the smallest that did not fit, each tried once.

Usage: python benchmarks/largest_batch.py [--limit 2GiB] [--only MODEL ...] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from repro import records, runner, specs
from repro.performance import advise, peak, predict
from repro.performance.workload import Workload

RUNS = ("lb-perf-resnet50", "lb-perf-vgg11", "lb-perf-alexnet", "lb-perf-vit")
RESOLUTION = 0.01  # of the batch size, at which bisection ends
ALLOWED = 0.10
IMAGES = 2  # times the predicted batch: the set must be larger than any batch that is tried


def workload(run: str, images: int) -> Workload:
    """The network of a run at laptop size, on ``images`` images."""
    spec = specs.find(run, "laptop")
    manifest = records.read_json(Path("data/manifests") / f"{spec.dataset}.json")
    return Workload.of(spec.as_dict(), classes=len(manifest["classes"]), images=images)


def truth(work: Workload, start: int, limit: int) -> tuple[int, int, int]:
    """The largest batch that was seen to fit, the smallest that was not, and the number of children."""
    fits, over, tried, step = 0, 0, 0, 1.08
    batch = start
    while not fits or not over or over - fits > max(1, RESOLUTION * fits):
        tried += 1
        if peak.train(work, batch, limit=limit).finished:
            fits = batch
        else:
            over = batch
        if fits and over:
            batch = (fits + over) // 2
        else:  # walk away from the start until the limit lies between two sizes
            batch = min(work.images, round(batch * step) + 1) if fits else max(1, round(batch / step) - 1)
            step *= 1.05
        if batch == work.images and fits == batch:
            raise SystemExit(f"{work.model}: all {batch} images fit; give it more images")
    return fits, over, tried


def compare(run: str, limit: int) -> dict[str, Any]:
    """Predicted and true largest batch of one run."""
    started = time.time()
    images = 8192
    while True:  # images lie in memory, too: their number is part of what is predicted
        work = workload(run, images)
        probes = advise.probe_memory(work, limit)
        predicted = predict.advised_batch(advise.line_of(probes), limit)
        if predicted * IMAGES <= images:
            break
        images = 2 ** (predicted * IMAGES - 1).bit_length()
    probing = time.time() - started
    advised = predict.advised_batch(advise.line_of(advise.try_out(work, probes, limit)), limit)
    fits, over, tried = truth(work, predicted, limit)
    error = predicted / fits - 1
    return {
        "run": run, "workload": work.as_dict(), "probes": {str(k): v for k, v in probes.items()},
        "predicted": predicted, "advised": advised, "advised_error": round(advised / fits - 1, 4), "fits": fits,
        "does_not_fit": over, "error": round(error, 4),
        "within": abs(error) <= ALLOWED, "probing_seconds": round(probing, 1), "children": tried,
        "seconds": round(time.time() - started, 1),
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--limit", default="2GiB", help="peak resident memory of the process, at most 2 GiB")
    parser.add_argument("--only", nargs="*", default=[], metavar="MODEL", help="networks (default: all four)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/largest_batch.json"))
    options = parser.parse_args()
    limit = advise.parse_bytes(options.limit)
    rows = []
    for run in RUNS:
        if options.only and run.removeprefix("lb-perf-") not in options.only:
            continue
        row = compare(run, limit)
        rows.append(row)
        print(
            f"{run}: predicted {row['predicted']}, advised {row['advised']}, "
            f"true limit {row['fits']} to {row['does_not_fit']}, "
            f"error {100 * row['error']:+.1f} %, {row['children']} children, {row['seconds']} s",
            file=sys.stderr,
        )
    result = {"limit_bytes": limit, "allowed": ALLOWED, "machine": runner.machine(), "rows": rows}
    records.write_atomic(options.out, records.canonical_json(result))
    return int(not all(row["within"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
