"""Synthetic records of post e3 for tests of what reads records: smooth curves in which its statements hold.

Specs are those of ``pipelines/e3.yaml`` at fixed small sizes, so that a synthetic record has the form of a real one.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
from synthetic import hash_name, specs_root

from repro.registry import specs
from repro.registry.specs import Spec
from repro.results.records import Record

SIZES: dict[str, Any] = {"train_images": 4000, "test_images": 2000, "image_size": 16, "width": 8, "epochs": 20}
LAYERS = ["stem.norm", *(f"stage{i}.norm{j}" for i in (1, 2) for j in (1, 2))]
CLASSES = 10

#: run -> accuracy at the end
FINALS = {
    "e3-iid-bn": 0.80, "e3-iid-gn": 0.79, "e3-iid-fixup": 0.80,
    "e3-noniid-bn": 0.11, "e3-noniid-gn": 0.789, "e3-noniid-fixup": 0.799,
    "e3-gn-128": 0.79, "e3-gn-1024": 0.75, "e3-gn-2048": 0.72,
    "e3-gn-1024-slow": 0.752, "e3-gn-2048-slow": 0.718,
    "e3-ln-128": 0.76, "e3-ln-1024": 0.715, "e3-ln-2048": 0.70,
    "e3-in-128": 0.74, "e3-in-1024": 0.68, "e3-in-2048": 0.66,
    "e3-fixup-128": 0.93, "e3-fixup-1024": 0.925, "e3-fixup-2048": 0.92,
    "e3-fixup-1024-short": 0.91, "e3-fixup-2048-short": 0.90,
    "e3-fedavg-iid-10": 0.78, "e3-fedavg-iid-150": 0.74,
    "e3-fedavg-noniid-10": 0.50, "e3-fedavg-noniid-40": 0.35, "e3-fedavg-noniid-150": 0.18,
    "e3-fedavg-iid-10-averaged": 0.79, "e3-fedavg-iid-150-averaged": 0.76,
    "e3-fedavg-noniid-10-averaged": 0.55, "e3-fedavg-noniid-150-averaged": 0.20,
    "e3-fedavg-noniid-bn": 0.25, "e3-fedavg-noniid-bn-local": 0.28, "e3-fedavg-noniid-bn-drop": 0.33,
    "e3-noniid-bn-local": 0.20, "e3-noniid-bn-drop": 0.45, "e3-gn-128-unit-scale": 0.30,
    "e3-gn-wide": 0.40, "e3-gn-wide-unit-scale": 0.15,
}  # fmt: skip
#: run -> rounds until it diverges
DIVERGE = {"e3-fixup-1024-linear": 9, "e3-fixup-2048-linear": 6, "e3-none-128": 2}
GAPS = {"batch": 0.04, "group": 0.09}
#: What a device's own model knows of its classes and of the others, by local batches between synchronisations.
DEVICES = {10: (0.8, 0.4), 40: (0.9, 0.2), 150: (0.95, 0.01)}


def planned(profile: str = "study", group: str = "artefact") -> list[Spec]:
    """The runs of the post at ``SIZES``; a law and the first steps at full width have sizes of their own."""
    found = {spec.run: spec for spec, _ in specs.runs("e3", profile, group, specs_root())}
    return [
        replace(spec, **SIZES) if spec.kind == "train" and "-wide" not in spec.run else spec for spec in found.values()
    ]


def law() -> dict[str, Any]:
    """Numbers of a law that holds."""
    numbers: dict[str, Any] = {"dtype": "float64", "tolerance": 1e-12}
    for norm in ("batch", "group", "layer", "instance"):
        apart = 0.5 if norm == "batch" else 2e-15
        numbers |= {f"{norm}_mode_difference": apart, f"{norm}_batch_difference": apart, f"{norm}_logit_spread": 0.3}
    return numbers


def _rounds(spec: Spec) -> list[tuple[int, float]]:
    """(round, epoch) of every evaluation."""
    steps = spec.train_images // spec.workers // spec.local_batch
    if spec.method != "federated":
        return [(epoch * steps, float(epoch)) for epoch in range(1, spec.epochs + 1)]
    every = (spec.local_steps or steps) / steps
    return [(k, k * every) for k in range(1, math.ceil(spec.epochs / every) + 1)]


def _shards(spec: Spec) -> list[list[int]]:
    if spec.partition == "iid":
        return [list(range(CLASSES))] * spec.workers
    return [sorted({device, (device + 1) % CLASSES}) for device in range(spec.workers)]


def _last(spec: Spec, final: float, rng: np.random.Generator) -> dict[str, Any]:
    """What is recorded at the last evaluation only."""
    found: dict[str, Any] = {}
    track = spec.track or []
    if "per_class" in track:
        found["classes_of_clients"] = _shards(spec)
    if "per_class" in track and spec.method == "federated":
        own, rest = DEVICES[spec.local_steps or 10] if spec.partition == "labels" else (final, final)
        found["clients_top1_by_class"] = [
            [
                float(np.clip((own if c in shard else rest) + 0.005 * rng.standard_normal(), 0, 1))
                for c in range(CLASSES)
            ]
            for shard in _shards(spec)
        ]
    if "training_images" in track:
        found["train_images_top1"] = final + GAPS.get(spec.norm, 0.02)
    if "batch_statistics" in track:
        far = 0.6 if spec.partition == "labels" else 0.1
        found["batch_statistics"] = {
            "layers": LAYERS,
            "mean_shift": [far + 0.02 * i + 0.005 * float(rng.standard_normal()) for i in range(len(LAYERS))],
            "std_ratio": [0.8 - 0.01 * i for i in range(len(LAYERS))],
            "own_classes": 0.7, "own_classes_running": None if spec.buffers == "drop" else final, "mixed": 0.3,
        }  # fmt: skip
    return found


def _trained(spec: Spec, seed: int) -> Record:
    rng = np.random.default_rng([seed, *spec.run.encode()])
    final = FINALS.get(spec.run, 0.1) + 0.002 * (seed - 2) + 0.0005 * rng.standard_normal()
    rows: list[dict[str, Any]] = []
    for at, epoch in _rounds(spec):
        accuracy = 0.1 + (final - 0.1) * (1 - math.exp(-epoch / 1.5))
        row = {
            "epoch": epoch, "round": at, "lr": spec.schedule["lr"] * (0.1 if epoch > 15 else 1.0),
            "train_loss": 2.3 * math.exp(-epoch / 9), "train_top1": accuracy + GAPS.get(spec.norm, 0.02) / 2,
            "test_loss": 2.3 * math.exp(-epoch / 11), "test_top1": accuracy, "test_top5": min(1.0, accuracy + 0.3),
            "bytes_up": 0 if spec.method == "central" else at * spec.workers * 700_000, "bytes_down": 0,
        }  # fmt: skip
        if "per_class" in (spec.track or []):
            row["test_top1_by_class"] = [accuracy] * CLASSES
        rows.append(row)
    rows[-1] |= _last(spec, final, rng)
    rounds = rows[-1]["round"]
    status, reason = "completed", None
    if spec.run in DIVERGE:
        rounds, rows = DIVERGE[spec.run] + seed, []
        status, reason = "diverged", f"after {rounds} rounds: the training loss is 5e+03"
    series = {"train_loss": [2.3 / (1 + at) for at in range(rounds)]}
    if "gradient_norm" in (spec.track or []):
        first, growth = (6.0 if spec.norm == "none" else 0.5), (3.0 if spec.run in DIVERGE else 1.0)
        series["gradient_norm"] = [first * growth**at for at in range(rounds)]
    return _record(spec, seed, rows=rows, status=status, reason=reason, series=series)


def _record(spec: Spec, seed: int, **content: Any) -> Record:
    return Record(
        run=spec.run, source="e3", group=spec.group, kind=spec.kind, profile=spec.profile, seed=seed,
        spec=spec.as_dict(), data={"name": "cifar10", "sha256": "0" * 64, "classes": CLASSES, "reduced": None},
        fingerprint=f"{hash_name(spec.run) + seed:016x}", **({"status": "completed"} | content),
    )  # fmt: skip


def e3_records(
    seeds: Collection[int] = (1, 2, 3),
    profile: str = "study",
    diverged: Collection[tuple[str, int]] = (),
    missing: Collection[tuple[str, int]] = (),
    group: str = "artefact",
) -> list[Record]:
    """One record per run and seed, of the law with the first seed only; ``diverged`` ones stop after 3 evaluations."""
    made = []
    for spec in planned(profile, group):
        for seed in list(seeds)[:1] if spec.kind == "law" else seeds:
            record = _record(spec, seed, law=law()) if spec.kind == "law" else _trained(spec, seed)
            if (spec.run, seed) in diverged:
                record = stopped(record)
            if (spec.run, seed) not in missing:
                made.append(record)
    return made


def stopped(record: Record, evaluations: int = 3) -> Record:
    """``record`` as it is when the run diverges after a few evaluations."""
    rows = record.rows[:evaluations]
    rounds = rows[-1]["round"] if rows else 1
    series = {name: values[:rounds] for name, values in record.series.items()}
    return replace(record, status="diverged", reason="the training loss is 5e+03", rows=rows, series=series)


def e3_control_records(seeds: Collection[int] = (1, 2, 3), profile: str = "study") -> list[Record]:
    """The same for the control runs."""
    return e3_records(seeds, profile, group="control")
