"""Measurement records with known laws: time max(floor, a + c B), memory linear in B, without any measuring."""

from __future__ import annotations

from typing import Any

import numpy as np

from repro.records import Record

BATCHES = [1, 32, 64, 128, 256, 512, 1024]
MACHINE = {"device": "a processor", "instructions": "AVX512", "torch": "2.0", "threads": 1, "kind": "cpu"}


def rows_and_series(
    spec: dict[str, Any], *, seconds: float = 0.001, fixed: float = 0.01, floor: float = 0.0, wobble: float = 0.01,
    loader: float = 20_000.0, activation: int = 100_000,
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:  # fmt: skip
    """What ``measure.measure`` returns for costs that follow these laws.

    Args:
        spec: with batch_sizes, peak_sizes, blocks and repetitions.
        seconds, fixed, floor: compute time is max(floor, fixed + seconds B).
        wobble: relative difference between repetitions.
        loader, activation: bytes an image.
    """
    blocks, repetitions = spec.get("blocks", 0), spec.get("repetitions", 0)
    rows: list[dict[str, Any]] = []
    series: dict[str, list[float]] = {}
    random = np.random.default_rng(0)
    for batch in spec["batch_sizes"]:
        row: dict[str, Any] = {
            "batch": batch, "parameters": 1000, "buffers": 80, "model": 4080, "gradients": 4000, "optimiser": 4000,
            "activations": 500 + activation * batch, "batch_held": 3080 * batch,
            "loader": round(4096 + loader * batch), "peak": None, "base": None,
            "n": blocks * repetitions, "cpu_share": None, "compute": None, "movement": None, "update": None,
            "step": None,
        }  # fmt: skip
        if batch in (spec.get("peak_sizes") or []):
            row |= {"peak": 300_000_000 + 2 * activation * batch, "base": 230_000_000}
        if repetitions:
            compute = max(floor, fixed + seconds * batch)
            row["cpu_share"] = 0.99
            parts = {"compute": compute, "movement": 1e-5 * batch, "update": 1e-5}
            for part, cost in (*parts.items(), ("step", sum(parts.values()))):
                found = cost * (1 + wobble * random.random(blocks * repetitions))
                series[f"{part} {batch}"] = found.tolist()
                row[part] = np.quantile(found, (0.25, 0.5, 0.75)).tolist()
        series[f"loader {batch}"] = [float(row["loader"] + 8 * block) for block in range(-2, 3)]
        rows.append(row)
    if repetitions:
        series["probe"] = (0.02 * (1 + wobble * random.random(blocks * len(rows)))).tolist()
    return rows, series


def spec(run: str, model: str, dataset: str, **changes: Any) -> dict[str, Any]:
    """The fields of a measurement's spec that readers use."""
    return {
        "run": run, "model": model, "dataset": dataset, "kind": "measure", "blocks": 5, "repetitions": 3,
        "batch_sizes": BATCHES, "peak_sizes": [1, 32, 256, 1024], "image_size": 32, "width": 16, "norm": "batch",
        "precision": "fp32", "momentum": 0.9, "augment": True, "train_images": 2048,
    } | changes  # fmt: skip


RUNS = {
    "lb-perf-resnet50": ("resnet50", "cifar10"), "lb-perf-vgg11": ("vgg11", "cifar100"),
    "lb-perf-alexnet": ("alexnet", "caltech101"), "lb-perf-vit": ("vit", "caltech256"),
    "lb-memory-resnet18": ("resnet18", "food101"),
}  # fmt: skip


def record(run: str = "lb-perf-resnet50", profile: str = "laptop", **laws: Any) -> Record:
    """One record; ``laws`` as in ``rows_and_series``."""
    memory_only = {"blocks": 0, "repetitions": 0, "peak_sizes": []} if run.startswith("lb-memory") else {}
    settings = spec(run, *RUNS[run], **memory_only)
    rows, series = rows_and_series(settings, **laws)
    return Record(
        run=run, source="lb", group="artefact", kind="measure", profile=profile, seed=1, spec=settings,
        data={"name": settings["dataset"], "sha256": "0" * 64, "reduced": None, "classes": 10}, fingerprint="f" * 64,
        status="completed", rows=rows, series=series, machine=MACHINE,
    )  # fmt: skip


def all_records(profile: str = "laptop", **laws: Any) -> list[Record]:
    """One record for each run of the paper's performance models."""
    return [record(run, profile, **laws) for run in RUNS]
