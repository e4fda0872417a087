"""Synthetic records of the paper's training experiments: smooth curves, norms that fall as the batch grows, gates."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from synthetic import hash_name

from repro.partition import local_steps
from repro.records import Record

#: model -> (data set, classes, image size, normalisation, labels per client, accuracy at the end)
MODELS: dict[str, tuple[str, int, int, str, int, float]] = {
    "resnet50": ("cifar10", 10, 16, "batch", 1, 0.62),
    "vgg11": ("cifar100", 100, 32, "none", 10, 0.33),
    "alexnet": ("caltech101", 101, 64, "none", 10, 0.40),
}
SMALL = {"resnet50": 32, "vgg11": 64, "alexnet": 32}
IMAGES, EPOCHS = 4000, 16
FACTORS = (2, 4, 8, 16)
LOCAL_STEPS = {250: 16, 1000: 64}
"""What a small profile makes of the paper's iterations between two synchronisations."""
#: Points that table 1 loses by method and split.
LOSSES = {("bsp", "iid"): 0.0, ("bsp", "noniid"): 0.06, ("fa", "iid"): 0.02, ("fa", "noniid"): 0.15}
GAINS = {"resnet50": {2: 0.01, 4: 0.02, 8: 0.03, 16: 0.05}, "vgg11": {2: 0.01, 4: 0.02, 8: -0.12, 16: -1.0}}


def _spec(run: str, model: str, profile: str, **changes: Any) -> dict[str, Any]:
    dataset, _, size, norm, labels, _ = MODELS[model]
    spec = {
        "run": run, "source": "lb", "group": "artefact", "kind": "train", "profile": profile, "method": "central",
        "dataset": dataset, "train_images": IMAGES, "test_images": 2000, "image_size": size, "evaluate_on": "test",
        "evaluate_every": 1, "model": model, "width": 16, "norm": norm, "workers": 1, "partition": "iid",
        "labels_per_client": None, "dirichlet_alpha": None, "local_batch": 32, "local_epochs": 1, "epochs": EPOCHS,
        "schedule": {"kind": "constant", "lr": 0.1}, "lr": 0.1, "lr_grid": None, "momentum": 0.9,
        "weight_decay": 0.0001, "augment": True, "precision": "bf16", "buffers": "average", "codec": "dense",
        "expects_divergence": False,
    }  # fmt: skip
    if changes.get("partition") == "labels":
        spec["labels_per_client"] = labels
    spec |= changes
    return spec | {"lr": spec["schedule"]["lr"]}


def _table(model: str, method: str, split: str, profile: str, ending: str = "", **changes: Any) -> dict[str, Any]:
    kind = {"method": "large_batch" if method == "bsp" else "federated", "workers": 10}
    partition = {"partition": "iid" if split == "iid" else "labels"}
    return _spec(f"lb-{method}-{model}-{split}{ending}", model, profile, **kind, **partition, **changes)


def artefact_specs(profile: str = "laptop") -> Iterator[dict[str, Any]]:
    """Specs of tables 1 and 2 and of figures 3, 6, 7 and 8."""
    for model in MODELS:
        for split in ("iid", "noniid"):
            yield _table(model, "bsp", split, profile)
            yield _table(model, "fa", split, profile)
            for every, steps in LOCAL_STEPS.items():
                yield _table(model, f"fa{every}", split, profile, local_steps=steps)
        for batch in (SMALL[model], 256, 1024):
            yield _trained(f"lb-batch-{model}-{batch}", model, profile, batch)
    for model, threshold in (("resnet50", 0.5), ("vgg11", 0.5), ("vgg11", 0.8)):
        for factor in FACTORS:
            run = f"lb-step-{model}-t{10 * threshold:02.0f}-x{factor}"
            yield _gated(run, model, profile, factor=factor, threshold=threshold, when="above")


def control_specs(profile: str = "laptop") -> Iterator[dict[str, Any]]:
    """Specs of the controls beside them."""
    for model, threshold in (("resnet50", 0.5), ("vgg11", 0.5), ("vgg11", 0.8)):
        name = f"{model}-t{10 * threshold:02.0f}"
        for factor in FACTORS:
            run = f"lb-equation-{name}-x{factor}"
            yield _gated(run, model, profile, "control", factor=factor, threshold=threshold, when="below")
        for factor in (4, 16):
            run = f"lb-random-{name}-x{factor}"
            yield _gated(run, model, profile, "control", factor=factor, when="random", share=0.6)
    for model in ("resnet50", "vgg11"):
        for factor in FACTORS:
            yield _gated(f"lb-always-{model}-x{factor}", model, profile, "control", factor=factor, when="always")
        for times in (0.25, 4.0, 16.0):
            rate = {"group": "control", "schedule": {"kind": "constant", "lr": 0.1 * times}}
            yield _trained(f"lb-rate-{model}-{times:g}".replace(".", "_"), model, profile, 1024, **rate)
    for policy in ("local", "drop"):
        yield _table("resnet50", "bsp", "noniid", profile, f"-{policy}", buffers=policy, group="control")
    for method in ("bsp", "fa"):
        for split in ("iid", "noniid"):
            for lr in (0.03, 0.3):
                rate = {"group": "control", "schedule": {"kind": "constant", "lr": lr}}
                yield _table("resnet50", method, split, profile, f"-lr{lr:g}".replace(".", "_"), **rate)
            for batch in (16, 64):
                yield _table("resnet50", method, split, profile, f"-b{batch}", local_batch=batch, group="control")


def _trained(run: str, model: str, profile: str, batch: int, **changes: Any) -> dict[str, Any]:
    data = {"dataset": "cifar10"} if model == "vgg11" else {}
    return _spec(run, model, profile, local_batch=batch, track=["gradient_norm"], **data, **changes)


def _gated(run: str, model: str, profile: str, group: str = "artefact", **step_up: Any) -> dict[str, Any]:
    step_up["factor"] = float(step_up["factor"])
    return _trained(run, model, profile, 1024, group=group, step_up=step_up, expects_divergence=True)


def _steps(spec: dict[str, Any], batch: int | None = None) -> int:
    return local_steps(math.ceil(spec["train_images"] / spec["workers"]), batch or spec["local_batch"])


def _rounds(spec: dict[str, Any]) -> list[tuple[int, float]]:
    """(round, epoch) of every evaluation; small batches also where the batch of 1024 is evaluated."""
    steps = _steps(spec)
    if spec["method"] == "federated":
        every = spec.get("local_steps", steps)
        return [(k, k * every / steps) for k in range(1, steps * EPOCHS // every + 1)]
    at = {steps * epoch for epoch in range(1, EPOCHS + 1)}
    if spec["method"] == "central":
        at |= {_steps(spec, 1024) * epoch for epoch in range(1, EPOCHS + 1)}
    return [(k, k / steps) for k in sorted(at)]


def _final(spec: dict[str, Any]) -> float:
    final, run, model = MODELS[spec["model"]][5], spec["run"], spec["model"]
    if spec["method"] != "central":
        method, split = run.split("-")[1], run.split("-")[3]
        lost = LOSSES[method.rstrip("0125"), split] + {"fa250": -0.01, "fa1000": 0.04}.get(method, 0.0)
        return final - lost - (0.4 if spec["norm"] == "batch" and split == "noniid" and method == "bsp" else 0.0)
    final -= {32: 0.0, 64: 0.0, 256: 0.03, 1024: 0.1}[spec["local_batch"]]
    step_up = spec.get("step_up")
    return final + (GAINS[model][int(step_up["factor"])] if step_up else 0.0)


def _series(spec: dict[str, Any], rounds: int, rng: np.random.Generator) -> dict[str, list[float]]:
    series = {"train_loss": [2.3 / (1 + at) for at in range(rounds)]}
    if "gradient_norm" not in spec.get("track", []):
        return series
    level = 0.5 + 20 / math.sqrt(spec["local_batch"])
    norms = level * np.exp(0.35 * rng.standard_normal(rounds)) / (1 + 0.002 * np.arange(rounds))
    series["gradient_norm"] = norms.tolist()
    if step_up := spec.get("step_up"):
        change = np.abs(np.diff(norms**2)) / norms[:-1] ** 2
        gates = {
            "above": lambda: change >= step_up["threshold"], "below": lambda: change < step_up["threshold"],
            "always": lambda: np.full(rounds - 1, True), "random": lambda: rng.random(rounds - 1) < step_up["share"],
        }  # fmt: skip
        up = np.concatenate([[step_up["when"] == "always"], gates[step_up["when"]]()])
        series["step_up_factor"] = np.where(up, step_up["factor"], 1.0).tolist()
    return series


def record(spec: dict[str, Any], seed: int) -> Record:
    """One run that follows a smooth curve; a step-up whose gain is below -0.5 diverges after a third of its steps."""
    rng = np.random.default_rng([seed, *spec["run"].encode()])
    dataset = spec["dataset"]
    classes = {"cifar10": 10, "cifar100": 100, "caltech101": 101}[dataset]
    chance, final = 1 / classes, _final(spec)
    lost = final < -0.3
    planned = _rounds(spec)
    rounds = planned[-1][0] // 3 + seed if lost else planned[-1][0]
    final = max(final, chance) + 0.004 * rng.standard_normal()
    rows = []
    for at, epoch in planned:
        # iterations decide how far training has come, and a little the images
        pace = (at / 60 + epoch / 4) if spec["method"] == "central" else epoch / 3
        accuracy = chance + (final - chance) * (1 - math.exp(-pace))
        sent = 0 if spec["method"] == "central" else at * 10 * 700_000
        rows.append({
            "epoch": epoch, "round": at, "lr": spec["lr"], "train_loss": 2.3 * math.exp(-epoch / 9),
            "train_top1": accuracy + 0.05, "test_loss": 2.3 * math.exp(-epoch / 11), "test_top1": accuracy,
            "test_top5": accuracy + 0.6 * (1 - accuracy), "bytes_up": sent, "bytes_down": sent,
        })  # fmt: skip
    rows = [row for row in rows if row["round"] <= rounds]
    if not lost and "gradient_norm" in spec.get("track", []):
        sharp = 12 * spec["local_batch"] ** 0.3 * math.exp(0.1 * rng.standard_normal())
        rows[-1] |= {"hessian_top_eigenvalue": sharp, "hessian_iterations": 20, "hessian_converged": True,
                     "hessian_images": 512}  # fmt: skip
    return Record(
        run=spec["run"], source="lb", group=spec["group"], kind="train", profile=spec["profile"], seed=seed, spec=spec,
        data={"name": dataset, "sha256": "0" * 64, "classes": classes,
              "reduced": "72 px" if dataset == "caltech101" else None},
        fingerprint=f"{hash_name(spec['run']) + seed:016x}", status="diverged" if lost else "completed",
        reason=f"after {rounds} rounds: the training loss is nan" if lost else None, rows=rows,
        series=_series(spec, rounds, rng),
    )  # fmt: skip


def training_records(profile: str = "laptop", seeds: Collection[int] = (1, 2, 3)) -> list[Record]:
    """One record per run of the paper's own and seed."""
    return [record(spec, seed) for spec in artefact_specs(profile) for seed in seeds]


def training_control_records(profile: str = "laptop", seeds: Collection[int] = (1, 2, 3)) -> list[Record]:
    """The same for the controls."""
    return [record(spec, seed) for spec in control_specs(profile) for seed in seeds]
