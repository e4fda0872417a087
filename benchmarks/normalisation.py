"""Speed of training ResNet18 with each normalisation on one core, in the layout and precision of runs and in PyTorch's.

    python benchmarks/normalisation.py

A step is a forward and a backward pass of ResNet18 at 16 x 16 px. Runs make it in bfloat16 convolutions on float32
weights, channels last in memory; the alternative is float32 in PyTorch's default memory format. Group norm also with
``F.group_norm`` as it is, in the layout of runs. Every repetition measures each network once, right after an unmeasured
step of the same one; ratios are of the same repetition. Seconds are the processor's, of the one thread that works: on
an idle machine they are the wall clock's, and on a busy one they leave out the waiting.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import readme
import torch
import torch.nn.functional as F

from repro import machine, models
from repro.errors import ReproError
from repro.models import norms
from repro.running import provenance
from repro.training.steps import backward

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/normalisation.json"

SIZE, CLASSES = 16, 10
REPEATS = {  # (width, batch): repetitions; 64 is the published width
    **{(width, batch): repeats for width in (8, 16) for batch, repeats in ((32, 40), (128, 12), (1024, 4))},
    (64, 32): 5,
}
OURS, BATCH, TORCHS, ALTERNATIVE = "group", "batch", "`F.group_norm`", "float32, default format"
#: name: norm, group norm as PyTorch has it, precision (its memory format goes with it)
MEASURED = (
    {norm: (norm, False, "bf16") for norm in norms.KINDS}
    | {f"{norm}, {ALTERNATIVE}": (norm, False, "fp32") for norm in norms.KINDS}
    | {TORCHS: ("group", True, "bf16")}
)


@contextmanager
def kernel(torchs: bool) -> Iterator[None]:
    """Within the context group norm is PyTorch's, where ``torchs``."""
    if not torchs:
        yield
        return
    plain = lambda x, groups, weight, bias: F.group_norm(x, groups, weight, bias, norms.EPSILON)  # noqa: E731
    with mock.patch.object(norms, "group_norm", plain):
        yield


def steps(width: int, batch: int) -> dict[str, Callable[[], Any]]:
    """A step of every network by name, all on the same images."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, SIZE, SIZE, generator=random).to(memory_format=torch.channels_last)
    y = torch.randint(CLASSES, (batch,), generator=random)

    def step(norm: str, torchs: bool, precision: str) -> Callable[[], Any]:
        net, images = models.build("resnet18", classes=CLASSES, width=width, norm=norm), x
        if precision == "fp32":
            net.to(memory_format=torch.contiguous_format)
            images = x.contiguous()

        def run() -> None:
            with kernel(torchs):
                backward(net, images, y, precision)

        return run

    return {name: step(*how) for name, how in MEASURED.items()}


def measure(width: int, batch: int, repeats: int) -> dict[str, list[float]]:
    """Processor seconds of a step of every network in every repetition."""
    actions = steps(width, batch)
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            action()
            started = time.process_time()
            action()
            seconds[name].append(round(time.process_time() - started, 6))
    return seconds


def ratio(row: dict[str, Any], above: str, below: str) -> str:
    """Time of ``above`` against ``below``, repetition by repetition: how many times as fast ``below`` is."""
    values = [a / b for a, b in zip(row["seconds"][above], row["seconds"][below], strict=True)]
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def table(results: dict[str, Any]) -> str:
    """Results as Markdown tables with a line on where they come from."""

    def part(head: str, columns: Sequence[str], cell: Callable[[dict[str, Any], str], str]) -> list[str]:
        lines = [f"| {head} | " + " | ".join(columns) + " |", "|---" * (1 + len(columns)) + "|"]
        for row in results["rows"]:
            cells = (cell(row, name) for name in columns)
            lines.append(f"| width {row['width']}, batch {row['batch']} | " + " | ".join(cells) + " |")
        return [*lines, ""]

    def speed(row: dict[str, Any], name: str) -> str:
        return f"{row['batch'] / statistics.median(row['seconds'][name]):.0f}"

    lines = part("images/s, as runs", [*norms.KINDS, TORCHS], speed)
    lines += part(f"images/s, {ALTERNATIVE}", norms.KINDS, lambda row, name: speed(row, f"{name}, {ALTERNATIVE}"))
    lines += part(
        f"runs' own is so many times as fast as {ALTERNATIVE}", norms.KINDS,
        lambda row, name: ratio(row, f"{name}, {ALTERNATIVE}", name),
    )  # fmt: skip
    lines += part("group norm is so many times as fast as", [TORCHS, BATCH], lambda row, name: ratio(row, name, OURS))
    machine = results["machine"]
    repeats = ", ".join(f"{len(row['seconds'][OURS])} at {row['width']} and {row['batch']}" for row in results["rows"])
    lines.append(
        f"{results['date']}, {machine['device']} ({machine['instructions']}), one core, torch {machine['torch']}, "
        f"Python {machine['python']}; load of the minute before {results['load_before']}; repetitions at width and "
        f"batch: {repeats}; images/s: median; ratios: median (least to greatest)."
    )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, help="repetitions of every measurement (default: by width and batch); "
                        "results are written for the default only")  # fmt: skip
    args = parser.parse_args(arguments)
    if args.repeats is not None and args.repeats < 1:
        raise ReproError("--repeats: a number of at least 1 was expected")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "machine": machine.describe(),
        "cores": 1,
        "load_before": round(os.getloadavg()[0], 2),
        "code": provenance.CODE,
        "date": time.strftime("%Y-%m-%d"),
        "rows": [],
    }
    print(f"load of the last minute {results['load_before']} (0 is expected)", flush=True)
    for (width, batch), repeats in REPEATS.items():
        seconds = measure(width, batch, args.repeats or repeats)
        results["rows"].append({"width": width, "batch": batch, "seconds": seconds})
        print(f"width {width}, batch {batch}: done", flush=True)
    print("\n" + table(results))
    if args.repeats is not None:
        print("not the default number of repetitions: nothing was written")
        return
    readme.publish("normalisation", RESULTS, results, table(results))


if __name__ == "__main__":
    try:
        main()
    except ReproError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
