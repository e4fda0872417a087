"""Is the largest batch that `repro advise` predicts the largest that fits? Four networks, at study size.

    python benchmarks/largest_batch.py

The prediction comes from child processes with growing batches, each twice the one before, until one fills most of the
limit (`repro.commands.advise.probe_memory`); `advise --probe` then tries it out, lowers it until it fits and raises
it while there is room, which is reported beside and not what is judged. The truth is found by bisection from there: a
child trains a few steps at a batch size, its peak resident memory is watched from outside, and it fits if the peak
stays below the limit. Peaks of one batch size differ by some megabytes, so that the truth is a range: from the largest
size that was seen to fit to the smallest that was not, each tried once.

At first probing ended at half of the limit, and trying out after one batch that fitted: VGG11's prediction was then
12.6 % low, and the batch advised after trying, 5137, more than the 5094 that did not fit.

Results are written after every network. Those of networks that are not measured now stay, unless they were made under
another limit or on another machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import readme

from repro import files, machine
from repro.commands import advise
from repro.errors import ReproError
from repro.performance import peak
from repro.performance.workload import Workload
from repro.registry import specs
from repro.results import batch_costs
from repro.results.measurements import TITLES
from repro.running import provenance

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/largest_batch.json"

MODELS = ("resnet50", "vgg11", "alexnet", "vit")
LIMIT = "2GiB"
RESOLUTION = 0.01  # of the batch size, at which bisection ends
ALLOWED = 0.10
IMAGES = 2  # times the predicted batch: the set must be larger than any batch that is tried


def workload(model: str, images: int) -> Workload:
    """A network as it is measured at study size, on ``images`` images."""
    spec = specs.find(f"lb-perf-{model}", "study", ROOT)
    manifest = files.read_json(ROOT / "data/manifests" / f"{spec.dataset}.json")
    return Workload.of(spec.as_dict(), classes=len(manifest["classes"]), images=images)


def truth(work: Workload, fits: int, over: int | None, limit: int) -> tuple[int, int, int]:
    """The largest batch that was seen to fit, the smallest that was not, and the number of children.

    ``fits`` and ``over``, where it is known, are such batches to begin with.
    """
    tried, step = 0, 1.08
    while over is None or over - fits > max(1, RESOLUTION * fits):
        if over is None and fits == work.images:
            raise ReproError(f"{work.model}: all {fits} images fit; more images were expected; raise IMAGES")
        batch = (fits + over) // 2 if over is not None else min(work.images, round(fits * step) + 1)
        step *= 1.05
        tried += 1
        if peak.train(work, batch, limit=limit).finished:
            fits = batch
        else:
            over = batch
    return fits, over, tried


def compare(model: str, limit: int) -> dict[str, Any]:
    """Predicted and true largest batch of one network."""
    started = time.monotonic()
    images = 8192
    while True:  # images lie in memory, too: their number is part of what is predicted
        work = workload(model, images)
        probes = advise.probe_memory(work, limit)
        predicted = batch_costs.advised_batch(advise.line_of(probes), limit)
        if predicted * IMAGES <= images:
            break
        images = 2 ** (predicted * IMAGES - 1).bit_length()
    probing = time.monotonic() - started
    tried_out = advise.try_out(work, probes, limit)
    advised = max(tried_out)
    fits, over, tried = truth(work, advised, predicted if advised < predicted else None, limit)
    error = predicted / fits - 1
    return {
        "model": model, "workload": work.as_dict(), "probes": {str(k): v for k, v in probes.items()},
        "predicted": predicted, "advised": advised, "advised_error": round(advised / fits - 1, 4), "fits": fits,
        "does_not_fit": over, "error": round(error, 4),
        "within": abs(error) <= ALLOWED, "probing_seconds": round(probing, 1), "children": tried,
        "seconds": round(time.monotonic() - started, 1), "date": time.strftime("%Y-%m-%d"), "code": provenance.CODE,
    }  # fmt: skip


def kept(path: Path, limit: int, machine: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows by network that ``path`` holds already; none of another limit or machine."""
    if not path.exists():
        return {}
    found = files.read_json(path)
    if (found["limit_bytes"], found["machine"]) == (limit, machine):
        return {row["model"]: row for row in found["rows"]}
    print(f"{path}: made under another limit or on another machine; its rows are replaced", file=sys.stderr)
    return {}


def table(results: dict[str, Any]) -> str:
    """Results as a Markdown table with a line on where they come from."""
    lines = [
        f"| batch in {advise.gibibytes(results['limit_bytes'])} | predicted | advised after trying | fits | does not "
        "fit | predicted against what fits | limit | |",
        "|---" * 8 + "|",
    ]
    for row in results["rows"]:
        size = row["workload"]
        lines.append(
            f"| {TITLES[row['model']]}, {size['image_size']} px, width {size['width']} | {row['predicted']} | "
            f"{row['advised']} | {row['fits']} | {row['does_not_fit']} | {100 * row['error']:+.1f} % | within "
            f"{100 * results['allowed']:g} % | {'holds' if row['within'] else 'fails'} |"
        )
    machine, dates = results["machine"], sorted({row["date"] for row in results["rows"]})
    seconds = sum(row["seconds"] for row in results["rows"])
    lines += [
        "",
        f"{' and '.join(dates)}, {machine['device']} ({machine['instructions']}), children with one thread, torch "
        f"{machine['torch']}, Python {machine['python']}; {seconds:.0f} s in all; each batch size tried once.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", default=LIMIT, help=f"peak resident memory of a process (default {LIMIT})")
    parser.add_argument("--only", nargs="+", default=MODELS, choices=MODELS, help="networks (default: all four)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="another file; the README then stays as it is")
    options = parser.parse_args(arguments)
    limit, here = advise.parse_bytes(options.limit), machine.describe()
    if options.out == RESULTS and limit != advise.parse_bytes(LIMIT):
        raise ReproError(f"--limit {options.limit}: {LIMIT} was expected for the committed results; name another --out")
    rows = kept(options.out, limit, here)
    for model in options.only:
        row = rows[model] = compare(model, limit)
        results = {"limit_bytes": limit, "allowed": ALLOWED, "machine": here,
                   "rows": [rows[name] for name in MODELS if name in rows]}  # fmt: skip
        files.write_atomic(options.out, files.canonical_json(results))
        if options.out == RESULTS:
            readme.update("largest_batch", table(results))
        print(
            f"{model}: predicted {row['predicted']}, advised {row['advised']}, "
            f"true limit {row['fits']} to {row['does_not_fit']}, "
            f"error {100 * row['error']:+.1f} %, {row['children']} children, {row['seconds']} s",
            file=sys.stderr,
        )
    return int(not all(row["within"] for row in rows.values()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ReproError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
