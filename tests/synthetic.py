"""Synthetic records of post e1 for tests of what reads records: smooth curves, no training."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Collection
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from repro.results.records import Record

REPOSITORY = Path(__file__).resolve().parent.parent

#: run -> (method, workers, local epochs, labels per client, final accuracy, epochs to 63 % of it)
ARMS: dict[str, tuple[str, int, int, int | None, float, float]] = {
    "e1-central": ("central", 1, 1, None, 0.66, 2.5),
    "e1-large-batch": ("large_batch", 8, 1, None, 0.63, 4.0),
    "e1-federated": ("federated", 8, 1, None, 0.61, 7.0),
    "e1-large-batch-2labels": ("large_batch", 8, 1, 2, 0.58, 5.0),
    "e1-federated-2labels": ("federated", 8, 1, 2, 0.33, 9.0),
    "e1-large-batch-x2": ("large_batch", 16, 1, None, 0.57, 7.0),
    "e1-federated-2epochs": ("federated", 8, 2, None, 0.58, 9.0),
    "e1-federated-4epochs": ("federated", 8, 4, None, 0.52, 12.0),
    "e1-federated-32workers": ("federated", 3, 1, None, 0.64, 5.0),
    "e1-federated-384workers": ("federated", 32, 1, None, 0.50, 9.0),
    "e1-central-momentum": ("central", 1, 1, None, 0.67, 2.5),
    "e1-federated-momentum": ("federated", 8, 1, None, 0.54, 7.0),
    "e1-federated-alpha10": ("federated", 8, 1, None, 0.60, 7.0),
    "e1-federated-alpha1": ("federated", 8, 1, None, 0.52, 8.0),
    "e1-federated-alpha0_1": ("federated", 8, 1, None, 0.36, 9.0),
}
#: Unevenness of the labels of the runs whose shards are drawn by a Dirichlet distribution.
ALPHAS = {"e1-federated-alpha10": 10.0, "e1-federated-alpha1": 1.0, "e1-federated-alpha0_1": 0.1}
#: The same for the runs with GroupNorm.
CONTROL_ARMS: dict[str, tuple[str, int, int, int | None, float, float]] = {
    "e1-large-batch-gn": ("large_batch", 8, 1, None, 0.60, 4.0),
    "e1-large-batch-2labels-gn": ("large_batch", 8, 1, 2, 0.57, 5.0),
    "e1-federated-gn": ("federated", 8, 1, None, 0.58, 7.0),
    "e1-federated-2labels-gn": ("federated", 8, 1, 2, 0.40, 9.0),
}
GRID = (0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
BEST = {
    "central": 0.1, "large-batch": 0.4, "large-batch-x2": 0.8, "federated": 0.2, "central-momentum": 0.05,
    "federated-momentum": 0.1,
}  # fmt: skip
PAYLOAD = 702_000 * 4


def grid_arms(root: Path = REPOSITORY) -> dict[str, tuple[str, ...]]:
    """Source -> arms of its grid of learning rates, of the sources that have one."""
    defined = [yaml.safe_load(path.read_text()) for path in sorted((root / "pipelines").glob("*.yaml"))]
    return {content["source"]: tuple(content["grid"]["arms"]) for content in defined if "grid" in content}


def choose_rates(root: Path) -> None:
    """Write the rate 0.1 for every arm of every grid of ``root``, at every profile."""
    chosen = {source: {arm: {"lr": 0.1} for arm in arms} for source, arms in grid_arms(root).items()}
    (root / "data/learning_rates").mkdir(parents=True, exist_ok=True)
    for profile in ("smoke", "study", "paper"):
        (root / f"data/learning_rates/{profile}.json").write_text(json.dumps(chosen))


@cache
def _specs_copy() -> tempfile.TemporaryDirectory[str]:
    folder = tempfile.TemporaryDirectory(prefix="specs-")
    root = Path(folder.name)
    shutil.copytree(REPOSITORY / "pipelines", root / "pipelines")
    (root / "data").mkdir()
    for name in ("params.yaml", "data/published.yaml", "data/sources.yaml", "data/study.yaml"):
        shutil.copy(REPOSITORY / name, root / name)
    choose_rates(root)
    return folder


def specs_root() -> Path:
    """Root of a copy of the specs in which every grid has chosen, so that no run waits for a real rate."""
    return Path(_specs_copy().name)


def _spec(base: str, profile: str, **changes: Any) -> dict[str, Any]:
    method, workers, local_epochs, labels, _, _ = (ARMS | CONTROL_ARMS)[base]
    spec = {
        "run": base,
        "source": "e1",
        "group": "control" if base in CONTROL_ARMS else "artefact",
        "kind": "train",
        "profile": profile,
        "method": method,
        "dataset": "cifar10",
        "train_images": 4000,
        "test_images": 2000,
        "image_size": 16,
        "evaluate_on": "test",
        "evaluate_every": 1,
        "model": "resnet18",
        "width": 16,
        "norm": "group" if base in CONTROL_ARMS else "batch",
        "workers": workers,
        "partition": "labels" if labels else "dirichlet" if base in ALPHAS else "iid",
        "labels_per_client": labels,
        "dirichlet_alpha": ALPHAS.get(base),
        "local_batch": 32,
        "local_epochs": local_epochs,
        "epochs": 20,
        "schedule": {"kind": "constant", "lr": 0.1},
        "lr": 0.1,
        "lr_grid": None,
        "momentum": 0.9 if base.endswith("-momentum") else 0.0,
        "weight_decay": 0.0,
        "augment": True,
        "precision": "bf16",
        "buffers": "average",
        "codec": "dense",
        "expects_divergence": False,
    }
    return spec | changes


def _record(run: str, seed: int, spec: dict[str, Any], final: float, pace: float) -> Record:
    rng = np.random.default_rng([seed, *run.encode()])
    final += 0.006 * rng.standard_normal()
    rows = []
    for epoch in range(spec["local_epochs"], spec["epochs"] + 1, spec["local_epochs"]):
        accuracy = 0.1 + (final - 0.1) * (1 - math.exp(-epoch / pace)) + 0.004 * rng.standard_normal()
        steps = round(spec["train_images"] / spec["workers"] / spec["local_batch"])
        per_epoch = 1 / spec["local_epochs"] if spec["method"] == "federated" else steps
        rounds = round(epoch * per_epoch)
        sent = 0 if spec["method"] == "central" else rounds * spec["workers"] * PAYLOAD
        rows.append(
            {
                "epoch": float(epoch),
                "round": rounds,
                "lr": spec["lr"],
                "train_loss": 2.3 * math.exp(-epoch / 9),
                "train_top1": accuracy,
                "test_loss": 2.3 * math.exp(-epoch / 11),
                "test_top1": accuracy,
                "test_top5": min(1.0, accuracy + 0.3),
                "bytes_up": sent,
                "bytes_down": sent,
            }
        )
    return Record(
        run=run,
        source="e1",
        group=spec["group"],
        kind="train",
        profile=spec["profile"],
        seed=seed,
        spec=spec,
        data={"name": "cifar10", "sha256": "0" * 64, "classes": 10, "reduced": None},
        fingerprint=f"{abs(hash_name(run)) + seed:016x}",
        status="completed",
        rows=rows,
    )


def hash_name(name: str) -> int:
    """A number from a name that does not depend on PYTHONHASHSEED."""
    return int.from_bytes(name.encode()[-7:], "big")


def e1_records(
    seeds: Collection[int] = (1, 2, 3),
    profile: str = "study",
    diverged: Collection[tuple[str, int]] = (),
    missing: Collection[tuple[str, int]] = (),
) -> list[Record]:
    """One record per arm and seed; ``diverged`` ones stop after 3 evaluations."""
    return _records(ARMS, seeds, profile, diverged, missing)


def e1_control_records(seeds: Collection[int] = (1, 2, 3), profile: str = "study") -> list[Record]:
    """One record per arm with GroupNorm and seed."""
    return _records(CONTROL_ARMS, seeds, profile, (), ())


def _records(
    arms: Collection[str],
    seeds: Collection[int],
    profile: str,
    diverged: Collection[tuple[str, int]],
    missing: Collection[tuple[str, int]],
) -> list[Record]:
    records = []
    for run in arms:
        *_, final, pace = (ARMS | CONTROL_ARMS)[run]
        for seed in seeds:
            if (run, seed) in missing:
                continue
            record = _record(run, seed, _spec(run, profile), final, pace)
            if (run, seed) in diverged:
                record = replace(record, status="diverged", reason="loss is not finite", rows=record.rows[:3])
            records.append(record)
    return records


def e1_grid_records(seeds: Collection[int] = (101, 102, 103)) -> list[Record]:
    """Learning-rate grids: one evaluation, the peak at ``BEST``; the central arm diverges at 1.6."""
    records = []
    for arm, best in BEST.items():
        for lr in GRID:
            run = f"e1-grid-{arm}-lr{lr:g}".replace(".", "_")
            spec = _spec(
                f"e1-{arm}",
                "study",
                run=run,
                group="control",
                evaluate_on="held_out",
                epochs=8,
                lr=lr,
                schedule={"kind": "constant", "lr": lr},
                expects_divergence=True,
            )
            for seed in seeds:
                final = ARMS[f"e1-{arm}"][4] * math.exp(-(math.log2(lr / best) ** 2) / 18)
                record = _record(run, seed, spec, final, 4.0)
                record = replace(record, rows=record.rows[-1:])
                if arm == "central" and lr > 1:
                    record = replace(record, status="diverged", reason="loss is not finite", rows=[])
                records.append(record)
    return records
