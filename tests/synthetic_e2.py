"""Synthetic records of post e2 for tests of what reads records: smooth curves and made-up messages, no training."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
from synthetic import hash_name

from repro.results.records import Record

#: run -> (codec, schedule, int8 weights, final accuracy, epochs to 63 % of it, epochs of the learning rate's cuts)
ARMS: dict[str, tuple[str, str, bool, float, float, tuple[int, ...]]] = {
    "e2-large-batch": ("dense", "plateau", False, 0.55, 3.0, (9, 15)),
    "e2-large-batch-gq": ("int8", "plateau", False, 0.548, 3.0, (10, 15)),
    "e2-large-batch-dgc": ("dgc", "plateau", False, 0.51, 4.5, (16,)),
    "e2-large-batch-cosine": ("dense", "cosine", False, 0.56, 3.5, ()),
    "e2-large-batch-dgc-cosine": ("dgc", "cosine", False, 0.55, 4.5, ()),
    "e2-large-batch-weights": ("dense", "plateau", True, 0.3, 5.0, (12,)),
    "e2-decay-large-batch": ("dense", "plateau", False, 0.57, 3.0, (9, 15)),
    "e2-decay-large-batch-dgc": ("dgc", "plateau", False, 0.52, 4.5, (16,)),
    "e2-decay-large-batch-cosine": ("dense", "cosine", False, 0.575, 3.5, ()),
    "e2-decay-large-batch-dgc-cosine": ("dgc", "cosine", False, 0.565, 4.5, ()),
    "e2-federated": ("dense", "plateau", False, 0.5, 8.0, (25,)),
    "e2-federated-gq": ("int8", "plateau", False, 0.499, 8.0, (24,)),
}
#: runs of the second group, likewise
CONTROL_ARMS: dict[str, tuple[str, str, bool, float, float, tuple[int, ...]]] = {
    "e2-large-batch-plain": ("dense", "plateau", False, 0.52, 4.0, (11, 16)),
    "e2-large-batch-plain-top10": ("top-k-residual", "plateau", False, 0.515, 4.0, (11, 16)),
    "e2-large-batch-plain-top1": ("top-k-residual", "plateau", False, 0.49, 4.5, (11, 16)),
    "e2-federated-top10": ("top-k-residual", "plateau", False, 0.45, 8.0, (25,)),
    "e2-federated-top1": ("top-k-residual", "plateau", False, 0.35, 9.0, (25,)),
    "e2-large-batch-dgc-clip": ("dgc", "plateau", False, 0.53, 4.5, (16,)),
    "e2-large-batch-dgc-clip-unaccumulated": ("dgc-without-accumulation", "plateau", False, 0.42, 5.0, (16,)),
    "e2-large-batch-dgc-clip-uncorrected": ("dgc-without-correction", "plateau", False, 0.48, 4.5, (16,)),
}
OPTIONS = {
    run: {"sparsity": 0.9 if run.endswith("top10") else 0.99} if "top1" in run else {"clip": 1.0}
    for run in CONTROL_ARMS
    if "top1" in run or "clip" in run
}
"""Options of their codecs."""
PARAMETERS = 702_000
BYTES = {"dense": 4 * PARAMETERS, "int8": PARAMETERS + 20_000, "dgc": 40_000, "top-k-residual": 80_000}
BYTES |= {f"dgc-without-{part}": BYTES["dgc"] for part in ("accumulation", "correction")}
LR, DECAY_LR = 0.1, 0.2
"""Rates of all runs, and of those with weight decay."""

#: (network, classes) -> parameters of convolutions, and others
NETWORKS = {
    ("resnet18", 10): (11_159_232, 14_730),
    ("resnet18", 1000): (11_159_232, 522_600),
    ("resnet50", 10): (23_447_232, 73_610),
    ("resnet50", 1000): (23_447_232, 2_102_120),
}
STEPS = (1, 49, 98)
WARM_UP = {"@0.75": 0.25, "@0.9375": 0.0625, "@0.984375": 0.015625, "@0.996": 0.004}
"""Names of DGC's warm-up, and the share of convolution weights that it sends."""


def _spec(run: str, profile: str, **changes: Any) -> dict[str, Any]:
    spec = {
        "run": run,
        "source": "e2",
        "group": "artefact",
        "kind": "train",
        "profile": profile,
        "dataset": "cifar10",
        "train_images": 4000,
        "test_images": 2000,
        "image_size": 16,
        "evaluate_on": "test",
        "evaluate_every": 1,
        "model": "resnet18",
        "width": 16,
        "norm": "batch",
        "workers": 3,
        "partition": "iid",
        "labels_per_client": None,
        "dirichlet_alpha": None,
        "local_batch": 32,
        "local_epochs": 1,
        "lr": LR,
        "lr_grid": None,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "augment": True,
        "precision": "bf16",
        "buffers": "average",
        "codec": "dense",
        "expects_divergence": False,
    }
    return spec | changes


def _record(run: str, seed: int, spec: dict[str, Any], rows: list[dict[str, Any]]) -> Record:
    return Record(
        run=run,
        source="e2",
        group=spec["group"],
        kind=spec["kind"],
        profile=spec["profile"],
        seed=seed,
        spec=spec,
        data={"name": "cifar10", "sha256": "0" * 64, "classes": 10, "reduced": None},
        fingerprint=f"{hash_name(run) + seed:016x}",
        status="completed",
        rows=rows,
    )


def _warm_up(profile: str) -> float:
    """Share of DGC's 20 epochs of 42 steps: profile study keeps the steps of the post's 4 epochs, others its share."""
    return 4 * 49 / (20 * 42) if profile == "study" else 0.04


def _trained(run: str, seed: int, profile: str) -> Record:
    codec, kind, quantised, final, pace, cuts = (ARMS | CONTROL_ARMS)[run]
    rng = np.random.default_rng([seed, *run.encode()])
    federated = "federated" in run
    epochs, per_epoch = (30, 1) if federated else (20, 42)
    decay = run.startswith("e2-decay-")
    rate = DECAY_LR if decay else LR
    plateau = {"kind": "plateau", "lr": rate, "factor": 0.1, "patience": 2} | ({"threshold": 0.01} if decay else {})
    spec = _spec(
        run,
        profile,
        method="federated" if federated else "large_batch",
        epochs=epochs,
        momentum=0.0 if federated or "plain" in run else 0.9,
        group="control" if run in CONTROL_ARMS else "artefact",
        codec=codec,
        lr=rate,
        weight_decay=0.0005 if decay else 0.0,
        schedule={"kind": "cosine", "lr": rate, "epochs": epochs} if kind == "cosine" else plateau,
        **({"quantised_weights": True} if quantised else {}),
        **({"codec_options": OPTIONS[run]} if run in OPTIONS else {}),
        **({"sparsity_warmup": _warm_up(profile)} if codec.startswith("dgc") else {}),
    )
    final += 0.006 * rng.standard_normal()
    cuts = tuple(cut + seed % 2 for cut in cuts)
    rows = []
    for epoch in range(1, epochs + 1):
        accuracy = 0.1 + (final - 0.1) * (1 - math.exp(-epoch / pace)) + 0.004 * rng.standard_normal()
        cosine = rate * (1 + math.cos(math.pi * (epoch - 1 / per_epoch) / epochs)) / 2
        lr = cosine if kind == "cosine" else rate * 0.1 ** sum(cut < epoch for cut in cuts)
        rounds = epoch * per_epoch
        rows.append(
            {
                "epoch": float(epoch),
                "round": rounds,
                "lr": lr,
                "train_loss": 2.3 * math.exp(-epoch / 9),
                "train_top1": accuracy,
                "test_loss": 2.3 * math.exp(-epoch / 11),
                "test_top1": accuracy,
                "test_top5": min(1.0, accuracy + 0.3),
                "bytes_up": rounds * 3 * BYTES[codec],
                "bytes_down": rounds * 3 * BYTES["int8" if quantised else "dense"],
            }
        )
    return _record(run, seed, spec, rows)


def _payloads(model: str, classes: int, seed: int, profile: str) -> Record:
    run = f"e2-payloads-{model}-{classes}"
    spec = _spec(
        run,
        profile,
        kind="payloads",
        method="central",
        model=model,
        classes=classes,
        workers=1,
        train_images=1563,
        test_images=1,
        image_size=32,
        width=64,
        epochs=1,
        schedule={"kind": "constant", "lr": 0.05},
        lr=0.05,
        measured_steps=list(STEPS),
        local_steps=49,
        memory_steps=5,
        **({"once": True} if model == "resnet50" else {}),
    )
    conv, other = NETWORKS[model, classes]
    rng = np.random.default_rng([seed, *run.encode()])
    rows = []
    for step in STEPS:
        zipped = 0.65 + 0.05 * rng.standard_normal()
        sizes = {
            "dense": 4 * (conv + other) + 1200,
            "int8": conv + other + 1400,
            "int8-affine": conv + other + 1500,
            "int8+zip": int(zipped * (conv + other)),
            "dgc": int(5.9 * 0.001 * conv + 4 * other + 1400),
            "dgc+zip": int(5.5 * 0.001 * conv + 3.7 * other + 1500),
            **{f"dgc{at}": int(5 * share * conv + 4 * other + 1400) for at, share in WARM_UP.items()},
            **{f"dgc{at}+zip": int(4.6 * share * conv + 3.7 * other + 1500) for at, share in WARM_UP.items()},
            "top-k": int(5.9 * 0.001 * conv + 4 * other + 1300),
            "top-k-residual": int(5.9 * 0.001 * conv + 4 * other + 1350),
            "threshold": int(7 * 0.001 * conv / step + 4 * other + 1300),
            "qsgd": int(0.35 * (conv + other)),
            "terngrad": (conv + other) // 4 + 1500,
            "1-bit": (conv + other) // 8 + 2000,
        }
        contents = {"gradient": sizes}
        quantised = {name: sizes[name] for name in ("dense", "int8", "int8-affine")}
        if step >= 49:
            contents["change"] = quantised | {"int8+zip": int((zipped + 0.05) * (conv + other))}
        contents["weights"] = quantised | {"int8+zip": int((zipped + 0.1) * (conv + other))}
        rows += [
            {"step": step, "what": what, "codec": codec, "bytes": size, "dense_bytes": sizes["dense"]}
            for what, lengths in contents.items()
            for codec, size in lengths.items()
        ]
    return _record(run, seed, spec, rows)


def e2_records(
    seeds: Collection[int] = (1, 2, 3),
    profile: str = "study",
    diverged: Collection[tuple[str, int]] = (),
    missing: Collection[tuple[str, int]] = (),
    controls: bool = False,
) -> list[Record]:
    """One record per run and seed, payload runs of ResNet50 with the first seed only; ``diverged`` ones stop early."""
    runs = [*ARMS, *(CONTROL_ARMS if controls else ())]
    records = [_trained(run, seed, profile) for run in runs for seed in seeds]
    for model, classes in NETWORKS:
        once = list(seeds)[:1] if model == "resnet50" else seeds
        records += [_payloads(model, classes, seed, profile) for seed in once]
    records = [r for r in records if (r.run, r.seed) not in missing]
    return [
        replace(r, status="diverged", reason="loss is not finite", rows=r.rows[:3])
        if (r.run, r.seed) in diverged
        else r
        for r in records
    ]
