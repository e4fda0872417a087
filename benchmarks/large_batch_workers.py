"""A step of large-batch training with 1, 10, 96 and 384 workers, whose batches are 3 072 images together.

    python benchmarks/large_batch_workers.py

``repro.training.fast.large_batch`` on ResNet18 of width 8 at 16 x 16 px with BatchNorm, whose statistics are those of
each worker's own batch; bfloat16 convolutions, channels last in memory, one thread. Numbers of workers take turns, an
epoch of four steps each, so that a machine that slows down slows all. Processor seconds are of whole steps: the order
of an epoch, loading, both passes, and the optimiser; the first epoch of each is not counted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import federated_round
import readme
import torch
from federated_round import ROOT

from repro import codecs, machine
from repro.errors import ReproError
from repro.running import prepare, provenance
from repro.training import Round, fast
from repro.training.exchange import Exchange
from repro.training.steps import Optimisation

RESULTS = ROOT / "benchmarks/results/large_batch_workers.json"
GLOBAL_BATCH, WIDTH, SIZE = 3072, 8, 16
WORKERS = (1, 10, 96, 384)
STEPS = 4  # in an epoch
EPOCHS = 6
LIMIT = 1.15  # of the step with one worker


def steps(workers: int, count: int) -> Iterator[Round]:
    """``count`` steps of large-batch training."""
    spec = replace(
        federated_round.workload(STEPS * GLOBAL_BATCH, count),
        run="benchmark-large-batch-workers", method="large_batch", workers=workers, local_batch=GLOBAL_BATCH // workers,
        image_size=SIZE, width=WIDTH, test_images=1,
    )  # fmt: skip
    setting = prepare.prepare(spec, 1, ROOT)
    optimisation, exchange = Optimisation(lambda _: 0.01, 0.9, 5e-4, "bf16"), Exchange(codecs.build("dense"))
    optimiser = optimisation.of_server(setting.model, exchange.codec)
    return fast.large_batch(setting.model, optimiser, setting.batches, exchange, optimisation, range(count))


def measure(workers: Sequence[int], epochs: int) -> dict[int, list[float]]:
    """Processor seconds of a step of each number of workers, the mean of each epoch but the first."""
    running = {number: steps(number, STEPS * (epochs + 1)) for number in workers}
    seconds: dict[int, list[float]] = {number: [] for number in workers}
    for epoch in range(epochs + 1):
        for number, each in running.items():
            started = time.process_time()
            for _ in range(STEPS):
                next(each)
            seconds[number].append(round((time.process_time() - started) / STEPS, 5))
        print(f"epoch {epoch} of {epochs}: " + ", ".join(f"{s[-1]:.2f} s" for s in seconds.values()), flush=True)
    return {number: values[1:] for number, values in seconds.items()}


def table(results: dict[str, Any]) -> str:
    """Results as a Markdown table with a line on where they come from."""
    seconds = {int(number): values for number, values in results["seconds"].items()}
    lines = ["| workers | images each | step, CPU s | against one worker | limit | |", "|---" * 6 + "|"]
    for number, values in seconds.items():
        ratios = [value / one for value, one in zip(values, seconds[1], strict=True)]
        ratio, limit = statistics.median(ratios), ""
        if number == max(WORKERS):
            limit = f"at most {LIMIT:g} | {'holds' if ratio <= LIMIT else 'missed'}"
        lines.append(
            f"| {number} | {results['batch'] // number} | {statistics.median(values):.3f} ({min(values):.3f} to "
            f"{max(values):.3f}) | {ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {limit or ' | '} |"
        )
    machine = results["machine"]
    lines += [
        "",
        f"{results['date']}, {machine['device']} ({machine['instructions']}), one core, torch {machine['torch']}, "
        f"Python {machine['python']}; load of the minute before {results['load_before']}; {len(seconds[1])} epochs of "
        f"{STEPS} steps each; seconds and ratios, epoch by epoch: median (least to greatest).",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs (default: %(default)s); results are written "
                        "for the default only")  # fmt: skip
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        raise ReproError("--epochs: a number of at least 1 was expected")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "machine": machine.describe(), "cores": 1, "load_before": round(os.getloadavg()[0], 2), "code": provenance.CODE,
        "date": time.strftime("%Y-%m-%d"), "batch": GLOBAL_BATCH,
    }  # fmt: skip
    seconds = measure(WORKERS, options.epochs)
    results["seconds"] = {str(number): values for number, values in seconds.items()}
    print("\n" + table(results))
    if options.epochs != EPOCHS:
        print("not the default number of epochs: nothing was written")
        return
    readme.publish("large_batch_workers", RESULTS, results, table(results))


if __name__ == "__main__":
    try:
        main()
    except ReproError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
