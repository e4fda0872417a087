"""Synthetic records of the paper's training experiments: smooth curves, norms that fall as the batch grows, gates.

Specs are those of ``pipelines/lb.yaml`` with few images and epochs, so that a synthetic record has the form of a real
one.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace

import numpy as np
from synthetic import hash_name, specs_root

from repro.experiments.sizes import local_steps
from repro.registry import specs
from repro.registry.specs import Spec
from repro.results.records import Record

IMAGES, EPOCHS = 4096, 16
SIZES = {"train_images": IMAGES, "test_images": 2000, "epochs": EPOCHS}
LOCAL_STEPS = {"fa250": 16, "fa1000": 64}
"""Iterations between two synchronisations, of the runs whose id says so."""
CLASSES = {"cifar10": 10, "cifar100": 100, "caltech101": 101}
FINALS = {"resnet50": 0.62, "vgg11": 0.33, "alexnet": 0.40}
SHARE = 0.6
"""Of the iterations that a random gate steps up."""
#: Points that table 1 loses by method and split.
LOSSES = {("bsp", "iid"): 0.0, ("bsp", "noniid"): 0.06, ("fa", "iid"): 0.02, ("fa", "noniid"): 0.15}
GAINS = {"resnet50": {2: 0.01, 4: 0.02, 8: 0.03, 16: 0.05}, "vgg11": {2: 0.01, 4: 0.02, 8: -0.12, 16: -1.0}}


REMEDIES = {
    "small": 0.0, "plain": 0.1, "scaling": 0.05, "lars": 0.08, "lamb": 0.12, "local": 0.06, "extrapolated": 0.09,
    "isotropic": 0.11, "fisher": 0.1, "growing": 0.02, "adaptive": 0.04, "step-up": 0.07,
}  # fmt: skip
"""Points below batch 32 that a remedy ends."""
TAUGHT = {
    "small": 0.0, "plain": 0.1, "longer": 0.09, "autoencoder": 0.08, "layers": 0.095, "conditional": 0.04,
    "matching": 0.07, "isotropic": 0.06,
}  # fmt: skip
"""The same for training with a teacher, and for what stands beside it."""
COSTS = {"dense": 0.0, "topk": 0.12, "dgc": 0.03, "int8": 0.002, "powersgd": 0.05}
"""Points that a codec costs at batch 64; half of it at 256, a quarter at 1024."""
STEPS_OF_REMEDIES = {"local": 0.125, "growing": 16.0, "adaptive": 8.0}
"""Synchronisations in a round."""


def planned(profile: str = "study", group: str = "artefact") -> list[Spec]:
    """The paper's trained runs at ``SIZES``."""
    found = {spec.run: spec for spec, _ in specs.runs("lb", profile, group, specs_root()) if spec.kind == "train"}
    return [_small(spec) for spec in found.values()]


def _small(spec: Spec) -> Spec:
    small = replace(spec, **SIZES)
    if spec.local_steps is not None:
        small = replace(small, local_steps=LOCAL_STEPS[spec.run.split("-")[1]])
    if spec.evaluate_at is not None:  # where the batch of 1024 is evaluated
        every = _steps(small, 1024) * spec.evaluate_every
        small = replace(small, evaluate_at=list(range(every, _steps(small, 1024) * EPOCHS + 1, every)))
    return small


def _steps(spec: Spec, batch: int | None = None) -> int:
    return local_steps(math.ceil(spec.train_images / spec.workers), batch or spec.local_batch)


def _rounds(spec: Spec) -> list[tuple[int, float]]:
    """(round, epoch) of every evaluation."""
    steps = _steps(spec)
    if spec.method == "federated":
        every = spec.local_steps or steps
        return [(k, k * every / steps) for k in range(1, steps * EPOCHS // every + 1)]
    at = {steps * epoch for epoch in range(spec.evaluate_every, EPOCHS + 1, spec.evaluate_every)}
    return [(k, k / steps) for k in sorted(at | {steps * EPOCHS} | set(spec.evaluate_at or []))]


def _final(spec: Spec) -> float:
    if spec.run.startswith("lb-remedy-"):
        return 0.5 - REMEDIES[spec.run.removeprefix("lb-remedy-")]
    if spec.run.startswith("lb-taught-"):
        return 0.5 - TAUGHT[spec.run.removeprefix("lb-taught-")]
    if spec.run.startswith("lb-compress-"):
        codec, batch = spec.run.split("-")[2:]
        return 0.55 - COSTS[codec] / {"64": 1, "256": 2, "1024": 4}[batch]
    final = FINALS[spec.model]
    if spec.method != "central":
        method, _, *split = spec.run.split("-")[1:]
        if method == "shares":  # as BSP with equal shares
            return final
        split = split[0]
        lost = LOSSES[method.rstrip("0125"), split] + {"fa250": -0.01, "fa1000": 0.04}.get(method, 0.0)
        return final - lost - (0.4 if spec.norm == "batch" and split == "noniid" and method == "bsp" else 0.0)
    final -= {32: 0.0, 64: 0.0, 256: 0.03, 512: 0.06, 1024: 0.1}[spec.local_batch]
    return final + (GAINS[spec.model][spec.step_up["factor"]] if spec.step_up else 0.0)


def _series(spec: Spec, rounds: int, rng: np.random.Generator) -> dict[str, list[float]]:
    series = {"train_loss": [2.3 / (1 + at) for at in range(rounds)]}
    if spec.remedy is not None:
        each = STEPS_OF_REMEDIES.get(spec.run.removeprefix("lb-remedy-"), 1.0)
        series["synchronisations"] = np.diff(np.floor(each * np.arange(rounds + 1))).tolist()
    if spec.remedy == "teacher":
        series["further_images"] = [1056.0 * 32 * (at in (2, 10, 20)) for at in range(rounds)]
    if "gradient_norm" not in (spec.track or []) and spec.step_up is None:
        return series
    level = 0.5 + 20 / math.sqrt(spec.local_batch)
    norms = level * np.exp(0.35 * rng.standard_normal(rounds)) / (1 + 0.002 * np.arange(rounds))
    series["gradient_norm"] = norms.tolist()
    if step_up := spec.step_up:
        change = np.abs(np.diff(norms**2)) / norms[:-1] ** 2
        gates = {
            "above": lambda: change >= step_up["threshold"], "below": lambda: change < step_up["threshold"],
            "always": lambda: np.full(rounds - 1, True), "random": lambda: rng.random(rounds - 1) < SHARE,
        }  # fmt: skip
        up = np.concatenate([[step_up["when"] == "always"], gates[step_up["when"]]()])
        series["step_up_factor"] = np.where(up, float(step_up["factor"]), 1.0).tolist()
    return series


def record(spec: Spec, seed: int) -> Record:
    """One run that follows a smooth curve; a step-up whose gain is below -0.5 diverges after a third of its steps."""
    rng = np.random.default_rng([seed, *spec.run.encode()])
    classes = CLASSES[spec.dataset]
    chance, final = 1 / classes, _final(spec)
    lost = final < -0.3
    evaluated = _rounds(spec)
    rounds = evaluated[-1][0] // 3 + seed if lost else evaluated[-1][0]
    final = max(final, chance) + 0.004 * rng.standard_normal()
    rows = []
    for at, epoch in evaluated:
        # iterations decide how far training has come, and a little the images
        pace = (at / 60 + epoch / 4) if spec.method == "central" else epoch / 3
        accuracy = chance + (final - chance) * (1 - math.exp(-pace))
        sent = 0 if spec.method == "central" else at * 10 * (700_000 if spec.codec == "dense" else 25_000)
        rows.append({
            "epoch": epoch, "round": at, "lr": spec.schedule["lr"], "train_loss": 2.3 * math.exp(-epoch / 9),
            "train_top1": accuracy + 0.05, "test_loss": 2.3 * math.exp(-epoch / 11), "test_top1": accuracy,
            "test_top5": accuracy + 0.6 * (1 - accuracy), "bytes_up": sent, "bytes_down": sent,
        })  # fmt: skip
        if "training_sample" in (spec.track or []):  # the gap widens with training, and with the batch
            gap = 0.01 * math.log2(spec.local_batch) * (1 - math.exp(-pace))
            rows[-1] |= {"train_sample_loss": rows[-1]["train_loss"], "train_sample_top1": accuracy + gap}
    rows = [row for row in rows if row["round"] <= rounds]
    if not lost and "sharpness" in (spec.track or []):
        sharp = 12 * spec.local_batch**0.3 * math.exp(0.1 * rng.standard_normal())
        rows[-1] |= {"hessian_top_eigenvalue": sharp, "hessian_iterations": 20, "hessian_converged": True,
                     "hessian_images": 512}  # fmt: skip
    return Record(
        run=spec.run, source="lb", group=spec.group, kind="train", profile=spec.profile, seed=seed,
        spec=spec.as_dict(),
        data={"name": spec.dataset, "sha256": "0" * 64, "classes": classes,
              "reduced": "72 px" if spec.dataset == "caltech101" else None},
        fingerprint=f"{hash_name(spec.run) + seed:016x}", status="diverged" if lost else "completed",
        reason=f"after {rounds} rounds: the training loss is nan" if lost else None, rows=rows,
        series=_series(spec, rounds, rng),
    )  # fmt: skip


def training_records(profile: str = "study", seeds: Collection[int] = (1, 2, 3)) -> list[Record]:
    """One record per run of the paper's own and seed."""
    return [record(spec, seed) for spec in planned(profile) for seed in seeds]


def training_control_records(profile: str = "study", seeds: Collection[int] = (1, 2, 3)) -> list[Record]:
    """The same for the controls."""
    return [record(spec, seed) for spec in planned(profile, "control") for seed in seeds]
