"""A round of federated averaging whose clients train together as one network, against one after the other, on the CPU.

    python benchmarks/stacked_clients.py

100 clients of 50 CIFAR-10 images, local batch 10, one local epoch, ResNet18 of width 8 with GroupNorm at 16 x 16 px:
the usual size of simulations of federated learning. Then wider networks, larger batches and BatchNorm, with fewer
clients, to show where it pays. Both arms are this package's, in one process with one thread, as runs use them (bfloat16
convolutions); they start from the same weights and see the same batches, and rounds alternate. Times are processor
seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import federated_round
import readme
from federated_round import ROOT

from repro import codecs, machine
from repro.errors import ReproError
from repro.experiments import schedules
from repro.registry import specs
from repro.running import prepare, provenance, runner
from repro.training import fast
from repro.training.clients import SerialClients
from repro.training.exchange import Exchange
from repro.training.local import LocalTraining
from repro.training.stacked import StackedClients
from repro.training.steps import Optimisation

RESULTS = ROOT / "benchmarks/results/stacked_clients.json"
SETTINGS = ("model", "width", "norm", "workers", "train_images", "local_batch")
WORKLOADS: tuple[tuple[Any, ...], ...] = (  # SETTINGS, networks in a stack, rounds
    ("resnet18", 8, "group", 100, 5000, 10, 20, 4),
    ("resnet18", 8, "batch", 20, 1000, 10, 20, 3),
    ("resnet18", 8, "group", 20, 1280, 32, 20, 3),
    ("resnet18", 16, "group", 20, 1280, 32, 20, 3),
    ("resnet18", 8, "group", 5, 1280, 256, 5, 3),
    ("resnet50", 8, "batch", 10, 640, 32, 10, 3),
)
LIMIT = 0.65  # of the separate clients' processor seconds, in the first workload
LR = 0.1


def workload(values: Sequence[Any], rounds: int) -> specs.Spec:
    """A run of this package."""
    settings = dict(zip(SETTINGS, values, strict=False))
    return replace(
        federated_round.workload(settings["train_images"], rounds), run="benchmark-stacked", image_size=16,
        augment=False, test_images=2000, **settings,
    )  # fmt: skip


class Rounds:
    """Rounds of one arm; ``together``: clients in a stack, None for one after the other."""

    def __init__(self, spec: specs.Spec, together: int | None) -> None:
        self.setting = prepare.prepare(spec, 1, ROOT)
        optimisation = Optimisation(schedules.build(spec.schedule).lr, precision=spec.precision)
        model, parts = self.setting.model, self.setting.evaluation_parts()
        serial = SerialClients(
            model, self.setting.batches, Exchange(codecs.build(spec.codec)), optimisation, LocalTraining(), parts
        )
        self._clients = serial if together is None else StackedClients(serial, together)
        self._rounds = fast.federated_averaging(model, self._clients, range(spec.epochs))
        self.seconds: list[float] = []

    def train(self) -> None:
        """One round."""
        began = time.process_time()
        next(self._rounds)
        self.seconds.append(round(time.process_time() - began, 4))

    def top1(self) -> float:
        """Accuracy of the shared model, a fraction."""
        return float(self._clients.evaluate(self.setting.model)["top1"])


def measure(values: Sequence[Any]) -> dict[str, Any]:
    """Both arms of a workload; the first round of each warms up and is not counted."""
    *settings, together, rounds = values
    spec = workload(settings, rounds)
    separate, stacked = arms = Rounds(spec, None), Rounds(spec, together)
    for number in range(rounds):
        for arm in arms if number % 2 else reversed(arms):
            arm.train()
    ratios = [b / a for a, b in zip(separate.seconds[1:], stacked.seconds[1:], strict=True)]
    return dict(zip(SETTINGS, settings, strict=True)) | {
        "together": together, "separate_s": separate.seconds[1:], "stacked_s": stacked.seconds[1:],
        "ratios": [round(ratio, 4) for ratio in ratios], "separate_top1": separate.top1(),
        "stacked_top1": stacked.top1(),
    }  # fmt: skip


def table(results: dict[str, Any]) -> str:
    """Results as a Markdown table with a line on where they come from."""
    lines = [
        "| network, width, norm | clients | batch | together | separate, CPU s | stacked, CPU s | "
        "stacked against separate | top-1, % | limit | |",
        "|---" * 10 + "|",
    ]  # fmt: skip
    for number, row in enumerate(results["rows"]):
        ratio, verdict = statistics.median(row["ratios"]), " | "
        if number == 0:
            verdict = f"at most {LIMIT} | {'holds' if ratio <= LIMIT else 'missed'}"
        separate, stacked = (statistics.median(row[f"{arm}_s"]) for arm in ("separate", "stacked"))
        accuracies = ", ".join(f"{100 * row[f'{arm}_top1']:.1f}" for arm in ("separate", "stacked"))
        lines.append(
            f"| {row['model']}, {row['width']}, {row['norm']} | {row['workers']} | {row['local_batch']} | "
            f"{row['together']} | {separate:.2f} | {stacked:.2f} | {ratio:.2f} ({min(row['ratios']):.2f} to "
            f"{max(row['ratios']):.2f}) | {accuracies} | {verdict} |"
        )
    of = results["machine"]
    rounds = ", ".join(str(len(row["ratios"])) for row in results["rows"])
    lines += [
        "",
        f"{results['date']}, {of['device']} ({of['instructions']}), one core, torch {of['torch']}, Python "
        f"{of['python']}; load of the minute before {results['load_before']}; median (least to greatest) of {rounds} "
        "rounds; accuracies of separate and of stacked clients after them.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", action="store_true", help="the first workload alone; nothing is written")
    options = parser.parse_args(arguments)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    runner.make_reproducible()
    results: dict[str, Any] = {
        "machine": machine.describe(), "load_before": round(os.getloadavg()[0], 2), "code": provenance.CODE,
        "limit": LIMIT, "date": time.strftime("%Y-%m-%d"), "rows": [],
    }  # fmt: skip
    for values in WORKLOADS[:1] if options.first else WORKLOADS:
        results["rows"].append(measure(values))
        print(f"{values}: {statistics.median(results['rows'][-1]['ratios']):.2f} of separate clients", flush=True)
        if not options.first:  # after each, so that it can be stopped
            readme.publish("stacked_clients", RESULTS, results, table(results))
    print("\n" + table(results))


if __name__ == "__main__":
    try:
        main()
    except ReproError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
