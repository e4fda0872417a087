"""Speed of the codecs on ResNet18's 11.2 million gradients, on one core, beside a copy and beside ``torch.topk``.

    python benchmarks/codecs.py

Input: the gradients of ResNet18 (width 64, 62 tensors, channels last in memory) on a CIFAR-10 batch of 32 images at
32 x 32 px, after ten steps of SGD. Every repetition measures each part once, right after an unmeasured time of the same
part, so that each finds caches and memory as it left them, and a machine that slows down slows all of them; ratios are
of the same repetition.

* F2I: ``Int8().encode`` from gradients to payload, its checksum replaced by a constant and measured apart, against a
  copy of the same gradients into memory that is already there.
* DGC: ``dgc.select`` on every convolution at sparsity 0.999, sampling, threshold and refinement, against
  ``torch.topk`` of as many values. Both start from the values, not from their magnitudes.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import readme
import torch
from torch import Tensor

from repro import codecs, machine
from repro.codecs import DGC, Int8, Zipped, dgc, sparse
from repro.codecs.message import flatten
from repro.errors import ReproError
from repro.randomness import generator
from repro.registry import specs
from repro.running import prepare, provenance
from repro.training.steps import backward

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/codecs.json"

REPEATS, SLOW_REPEATS, STEPS = 30, 3, 10
COPY_LIMIT = 4.0  # of the time of a copy, for F2I
TOPK_LIMIT = 3.0  # times as fast as torch.topk, for DGC
LEVEL = 6  # of zip
ENCODED = {  # whole messages, checksum included
    "dense": codecs.Dense(),
    "int8": Int8(),
    "int8-affine": Int8(affine=True),
    "int8+zip": Zipped(Int8(), LEVEL),
    "top-k": codecs.TopK(),
    "dgc": DGC(),
    "dgc+zip": Zipped(DGC(), LEVEL),
    "qsgd": codecs.QSGD(),
    "terngrad": codecs.TernGrad(),
    "1-bit": codecs.OneBit(),
}


def gradients() -> dict[str, Tensor]:
    """Gradients of ResNet18 by name, after ``STEPS`` steps."""
    spec = dataclasses.replace(
        specs.find("e1-central", "study", ROOT), run="benchmark-codecs", train_images=1000, test_images=100,
        image_size=32, width=64, local_batch=32, augment=True, precision="fp32",
    )  # fmt: skip
    setting = prepare.prepare(spec, 1, ROOT)
    optimiser = torch.optim.SGD(setting.model.parameters(), lr=0.05)
    setting.model.train()
    for step in range(STEPS):
        backward(setting.model, *setting.batches.get(0, step), spec.precision)
        optimiser.step()
    backward(setting.model, *setting.batches.get(0, STEPS), spec.precision)
    return {f"gradient of {name}": p.grad for name, p in setting.model.named_parameters() if p.grad is not None}


def sparsest() -> dict[str, Any]:
    """A client of DGC after the warm-up."""
    state = DGC().new_state(seed=1)
    state["progress"] = float(len(dgc.WARM_UP))
    return state


def index_sizes(values: Sequence[Tensor]) -> list[dict[str, float]]:
    """Bytes a value sent that places cost, a row a sparsity, for each coding."""
    rows = []
    for sparsity in dgc.WARM_UP:
        share, random = sparse.density(sparsity), generator(1, "benchmark")
        places = [dgc.select(value, share, random).numpy() for value in values]
        sent = sum(map(len, places))
        bitmap = sum((len(value) + 7) // 8 for value in values)
        gaps = sum(len(sparse.pack_gaps(index)) for index in places)
        rows.append(
            {"sparsity": sparsity, "sent": sent, "bitmap": bitmap / sent, "gaps": gaps / sent, "uint32": 4.0}
        )  # fmt: skip
    return rows


def parts(given: Mapping[str, Tensor]) -> dict[str, Callable[[], Any]]:
    """What is timed, by name; each takes a few milliseconds to a tenth of a second."""
    warm = [torch.empty_like(tensor) for tensor in given.values()]
    values = [flatten(tensor)[0] for tensor in given.values() if tensor.dim() == 4]
    share, random = sparse.density(dgc.WARM_UP[-1]), generator(1, "benchmark")
    kept = [sparse.kept(len(value), share) for value in values]
    places = [dgc.select(value, share, random) for value in values]
    state, state_of_dgc = Int8().new_state(), sparsest()
    ours, affine, compression = Int8(), Int8(affine=True), DGC()
    int8, sent = ours.encode(state, given), compression.encode(state_of_dgc, given)

    def copy() -> None:
        for target, tensor in zip(warm, given.values(), strict=True):
            target.copy_(tensor)

    return {
        "copy": copy,
        "f2i": lambda: ours.encode(state, given),
        "f2i affine": lambda: affine.encode(state, given),
        "topk": lambda: [v.abs().topk(k, sorted=False) for v, k in zip(values, kept, strict=True)],
        "selection": lambda: [dgc.select(value, share, random) for value in values],
        "accumulation": lambda: compression.prepare(state_of_dgc, given),
        "index": lambda: [sparse.pack_gaps(index.numpy()) for index in places],
        "checksum f2i": lambda: zlib.crc32(int8),
        "checksum dgc": lambda: zlib.crc32(sent),
    }


def slow_parts(given: Mapping[str, Tensor]) -> dict[str, Callable[[], Any]]:
    """What is timed less often."""
    int8, sent = Int8().encode(Int8().new_state(), given), DGC().encode(sparsest(), given)
    return {
        "zip f2i": lambda: zlib.compress(int8, LEVEL),
        "zip dgc": lambda: zlib.compress(sent, LEVEL),
        **{f"encode {name}": lambda codec=codec: codec.encode(sparsest(), given) for name, codec in ENCODED.items()},
    }


def measure(actions: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every action in every repetition, each measured right after an unmeasured time of itself."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(repeats):
        for name, action in actions.items():
            checksum = (lambda *_: 0) if name.startswith("f2i") else zlib.crc32
            with mock.patch("zlib.crc32", checksum):
                action()
                started = time.perf_counter()
                action()
                elapsed = time.perf_counter() - started
            seconds[name].append(round(elapsed, 6))
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def table(results: dict[str, Any]) -> str:
    """Results as Markdown tables with a line on where they come from."""
    seconds, sizes = results["seconds"], results["bytes"]

    def milliseconds(name: str) -> str:
        s = spread(seconds[name])
        return f"{1e3 * s['median']:.2f} ({1e3 * s['min']:.2f} to {1e3 * s['max']:.2f})"

    def ratio(above: str, below: str) -> str:
        s = results["ratios"][f"{above} / {below}"]
        return f"{s['median']:.2f} ({s['min']:.2f} to {s['max']:.2f})"

    def verdict(holds: bool) -> str:
        return "holds" if holds else "missed"

    f2i, faster = results["ratios"]["f2i / copy"]["median"], results["ratios"]["topk / selection"]["median"]
    machine = results["machine"]
    lines = [
        f"| {results['values'] / 1e6:.1f} million gradients | ms | against | limit | |",
        "|---|---|---|---|---|",
        f"| warm copy | {milliseconds('copy')} | | | |",
        f"| F2I encode, checksum excluded | {milliseconds('f2i')} | {ratio('f2i', 'copy')} times the copy "
        f"| at most {COPY_LIMIT:g} | {verdict(f2i <= COPY_LIMIT)} |",
        f"| F2I encode, affine, checksum excluded | {milliseconds('f2i affine')} "
        f"| {ratio('f2i affine', 'copy')} times the copy | | |",
        f"| exact `torch.topk`, convolutions | {milliseconds('topk')} | | | |",
        f"| DGC threshold and selection, convolutions | {milliseconds('selection')} "
        f"| {ratio('topk', 'selection')} times as fast as `topk` "
        f"| at least {TOPK_LIMIT:g} | {verdict(faster >= TOPK_LIMIT)} |",
        f"| DGC momentum and accumulation | {milliseconds('accumulation')} | | | |",
        f"| index coding (gaps) | {milliseconds('index')} | | | |",
        f"| checksum of the F2I payload | {milliseconds('checksum f2i')} | | | |",
        f"| checksum of the DGC payload | {milliseconds('checksum dgc')} | | | |",
        f"| zip (level {LEVEL}) of the F2I payload | {milliseconds('zip f2i')} | | | |",
        f"| zip (level {LEVEL}) of the DGC payload | {milliseconds('zip dgc')} | | | |",
        "",
        "| whole message | ms | bytes | float32 against it |",
        "|---|---|---|---|",
        *(
            f"| {name} | {milliseconds(f'encode {name}')} | {size} | {4 * results['values'] / size:.2f} |"
            for name, size in sizes.items()
        ),
        "",
        "| places of the values sent, bytes a value | bitmap | gaps | uint32 |",
        "|---|---|---|---|",
        *(
            f"| sparsity {row['sparsity']:g}, {row['sent']} values | {row['bitmap']:.2f} | {row['gaps']:.2f} "
            f"| {row['uint32']:.2f} |"
            for row in results["index"]
        ),
        "",
        f"{results['date']}, {machine['device']} ({machine['instructions']}), one core, torch {machine['torch']}, "
        f"numpy {machine['numpy']}, Python {machine['python']}; {results['repeats']} repetitions, zip and whole "
        f"messages {results['slow_repeats']}; times and ratios: median (least to greatest).",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=REPEATS, help="repetitions (default: %(default)s); results are "
                        "written for the default only")  # fmt: skip
    args = parser.parse_args(arguments)
    if args.repeats < 1:
        raise ReproError("--repeats: a number of at least 1 was expected")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    load = round(os.getloadavg()[0], 2)
    print(f"load of the last minute {load} (0 is expected); {STEPS + 1} training steps first", flush=True)
    given = gradients()
    values = [flatten(tensor)[0] for tensor in given.values() if tensor.dim() == 4]
    seconds = measure(parts(given), args.repeats)
    slow = min(SLOW_REPEATS, args.repeats)
    seconds |= measure(slow_parts(given), slow)
    pairs = [("f2i", "copy"), ("f2i affine", "copy"), ("topk", "selection")]
    results = {
        "machine": machine.describe(),
        "cores": 1,
        "load_before": load,
        "code": provenance.CODE,
        "date": time.strftime("%Y-%m-%d"),
        "values": sum(tensor.numel() for tensor in given.values()),
        "tensors": len(given),
        "repeats": args.repeats,
        "slow_repeats": slow,
        "seconds": seconds,
        "ratios": {
            f"{above} / {below}": spread(np.divide(seconds[above], seconds[below]).tolist()) for above, below in pairs
        },
        "bytes": {name: len(codec.encode(sparsest(), given)) for name, codec in ENCODED.items()},
        "index": index_sizes(values),
    }
    print("\n" + table(results))
    if args.repeats != REPEATS:
        print("not the default number of repetitions: nothing was written")
        return
    readme.publish("codecs", RESULTS, results, table(results))


if __name__ == "__main__":
    try:
        main()
    except ReproError as problem:
        print(problem, file=sys.stderr)
        sys.exit(2)
