"""Records of paper lb: measurements with known laws (time max(floor, a + c B), memory linear in B), and trained runs.

The trained ones are smooth curves in which the paper's statements hold, with specs of ``pipelines/lb.yaml`` at small
sizes; nothing is measured or trained.
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
from repro.results import measurements
from repro.results.records import Record

BATCHES = [1, 32, 64, 128, 256, 512, 1024]
MACHINE = {"device": "a processor", "instructions": "AVX512", "torch": "2.0", "threads": 1, "kind": "cpu"}


def rows_and_series(
    spec: dict[str, Any], *, seconds: float = 0.001, fixed: float = 0.01, floor: float = 0.0, wobble: float = 0.01,
    loader: float = 20_000.0, activation: int = 100_000, moving: float = 0.0,
) -> tuple[list[dict[str, Any]], dict[str, list[float]]]:  # fmt: skip
    """What ``measure.measure`` returns for costs that follow these laws.

    Args:
        spec: with batch_sizes, peak_sizes, blocks and repetitions.
        seconds, fixed, floor: compute time is max(floor, fixed + seconds B).
        wobble: relative difference between repetitions.
        loader, activation: bytes an image.
        moving: seconds that moving a batch of any size takes, besides 10 microseconds an image.
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
            parts = {"compute": compute, "movement": moving + 1e-5 * batch, "update": 1e-5}
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
        "batch_sizes": BATCHES, "peak_sizes": [32, 256, 1024], "image_size": 32, "width": 16, "norm": "batch",
        "precision": "fp32", "momentum": 0.9, "augment": True, "train_images": 2048,
    } | changes  # fmt: skip


RUNS = {
    "lb-perf-resnet50": ("resnet50", "cifar10"), "lb-perf-vgg11": ("vgg11", "cifar100"),
    "lb-perf-alexnet": ("alexnet", "caltech101"), "lb-perf-vit": ("vit", "caltech256"),
    "lb-memory-resnet18": ("resnet18", "food101"),
    **{
        f"lb-capacity-{model}": (model, data)
        for model, data in (
            ("resnet50", "cifar10"), ("vgg11", "cifar100"), ("alexnet", "caltech101"), ("vit", "caltech256")
        )
    },
}  # fmt: skip


COMPARED = ("lb-bsp-resnet50-iid", "lb-shares-resnet50", "lb-bsp-vgg11-iid", "lb-shares-vgg11")
SEEDS = (1, 2, 3)


def record(run: str = "lb-perf-resnet50", profile: str = "study", **laws: Any) -> Record:
    """One record; ``laws`` as in ``rows_and_series``."""
    memory_only = {"blocks": 0, "repetitions": 0, "peak_sizes": []} if run.startswith("lb-memory") else {}
    if run.startswith("lb-capacity"):
        memory_only = {
            "blocks": 0, "repetitions": 0, "batch_sizes": [1, 48, 160, 480, 1024], "peak_sizes": [48, 160, 480]
        }  # fmt: skip
    settings = spec(run, *RUNS[run], **memory_only)
    rows, series = rows_and_series(settings, **laws)
    if run.startswith("lb-capacity"):  # where Eq. 3 errs by 5 %
        for row in rows:
            if row["peak"] is not None:
                terms = sum(row[name] for name in measurements.TERMS)
                row["peak"] = row["base"] + round(1.05 * terms)
    return Record(
        run=run, source="lb", group="artefact", kind="measure", profile=profile, seed=1, spec=settings,
        data={"name": settings["dataset"], "sha256": "0" * 64, "reduced": None, "classes": 10}, fingerprint="f" * 64,
        status="completed", rows=rows, series=series, machine=MACHINE,
    )  # fmt: skip


def all_records(profile: str = "study", **laws: Any) -> list[Record]:
    """One record for each measurement, and the trained runs beside them: equal shares, and shares by speed."""
    ends = finals()
    compared = [
        _trained(spec, seed, ends[spec.run]) for spec in planned(profile) if spec.run in COMPARED for seed in SEEDS
    ]
    return [*(record(run, profile, **laws) for run in RUNS), *compared]


def gradients(run: str, seed: int, profile: str = "study", noise_exponent: float = -1.0) -> Record:
    """Gradients of which the noise is a power of the batch, and the largest values hold more at each doubling."""
    (spec,) = (spec for spec in planned(profile, "gradients") if spec.run == run)
    rng = np.random.default_rng([seed, *run.encode()])
    rows = [
        {
            "step": step, "batch": batch, "repetitions": spec.repetitions, "squared_norm": 4.0,
            "noise": 64.0 * batch**noise_exponent * (1 + 0.01 * rng.standard_normal()), "signal": 1.0,
            "top_share": 0.1 + 0.01 * math.log2(batch) + 0.001 * rng.standard_normal(),
            "cosine": 0.08 * math.log2(batch) + 0.001 * rng.standard_normal(), "top_cosine": 0.9,
        }
        for step in spec.measured_steps or () for batch in spec.batch_sizes or ()
    ]  # fmt: skip
    return _record(spec, seed, rows=rows)


def all_gradients(seeds: Collection[int] = SEEDS, profile: str = "study") -> list[Record]:
    """One record for each run of the kinds gradients and teacher, and each seed."""
    made = [gradients(spec.run, seed, profile) for spec in planned(profile, "gradients") for seed in seeds]
    return made + [teacher(seed, profile) for seed in seeds]


TEACHERS = {
    "identity": (0.0, 0), "best scalar": (0.005, 1), "norm matching": (-0.2, 1), "scale by layer": (0.01, 40),
    "autoencoder": (-0.15, 2000), "autoencoder with skip": (0.002, 2000), "isotropic noise": (-0.8, 1),
    "diagonal noise": (-0.8, 1000), "conditional noise": (-0.8, 48_000), "mean of all large batches": (0.03, 0),
}  # fmt: skip
"""Teacher -> R2 beyond that of the identity, and numbers that it keeps."""


def teacher(seed: int, profile: str = "study", **gains: float) -> Record:
    """Predictions of all teachers; ``gains``: R2 beyond the identity of some, by name with _ for spaces."""
    (spec,) = planned(profile, "teacher")
    rng, (small, *large) = np.random.default_rng(seed), spec.batch_sizes or ()
    pairs = spec.repetitions * (len(spec.measured_steps or ()) // 2)
    rows = [
        {
            "teacher": name, "held_out": held_out, "small": small, "large": batch, "pairs": pairs,
            "r2": 0.25 + gains.get(name.replace(" ", "_"), gain) + 0.001 * rng.standard_normal(),
            "length": 1.0 if "noise" in name or "norm" in name else 0.3, "numbers": numbers,
        }
        for held_out in ("later steps", "another training") for batch in large
        for name, (gain, numbers) in TEACHERS.items()
    ]  # fmt: skip
    return _record(spec, seed, rows=rows)


# Trained runs ------------------------------------------------------------------------------------------------

EPOCHS, IMAGES = 24, 4096
SIZES = {"train_images": IMAGES, "test_images": 1000, "epochs": EPOCHS, "evaluate_every": 1}
LOCAL_STEPS = {"fa250": 25, "fa1000": 100}
PACE = 1.9  # epochs to 63 % of the final accuracy: with it batch 32 and 64 are where the paper has them
CLASSES = {"cifar10": 10, "cifar100": 100, "caltech101": 101}
FACTORS = (2, 4, 8, 16)
SPLITS = ("iid", "noniid")
#: Accuracy at the end of the runs of tables 1 and 2: IID and non-IID.
TABLES = {
    "bsp-resnet50": (0.82, 0.60), "fa-resnet50": (0.78, 0.45), "fa250-resnet50": (0.77, 0.44),
    "fa1000-resnet50": (0.74, 0.40), "bsp-vgg11": (0.45, 0.43), "fa-vgg11": (0.40, 0.20),
    "fa250-vgg11": (0.38, 0.18), "fa1000-vgg11": (0.33, 0.12), "bsp-alexnet": (0.50, 0.48),
    "fa-alexnet": (0.45, 0.25), "fa250-alexnet": (0.43, 0.22), "fa1000-alexnet": (0.40, 0.18),
}  # fmt: skip
#: The same for the batch sizes, and for factors 2, 4, 8 and 16 at batch 1024.
BATCH_FINALS = {
    "resnet50": {32: 0.80, 256: 0.75, 512: 0.68, 1024: 0.60}, "vgg11": {64: 0.70, 256: 0.62, 512: 0.56, 1024: 0.50},
    "alexnet": {32: 0.50, 256: 0.45, 512: 0.40, 1024: 0.35},
}  # fmt: skip
STEP_FINALS = {
    "step-resnet50-t05": (0.61, 0.62, 0.635, 0.649), "step-vgg11-t05": (0.55, 0.54, 0.30, 0.10),
    "step-vgg11-t08": (0.52, 0.53, 0.467, 0.30), "always-resnet50": (0.59, 0.58, 0.57, 0.56),
    "always-vgg11": (0.46, 0.45, 0.20, 0.10), "random-resnet50-t05": (0.6, 0.6, 0.6, 0.6),
    "random-vgg11-t05": (0.5, 0.5, 0.2, 0.1), "random-vgg11-t08": (0.5, 0.5, 0.4, 0.2),
    "equation-resnet50-t05": (0.60, 0.59, 0.58, 0.57), "equation-vgg11-t05": (0.48, 0.46, 0.40, 0.20),
    "equation-vgg11-t08": (0.47, 0.44, 0.35, 0.15),
}  # fmt: skip
#: The same for batch 1024 with each remedy, without one, and for batch 32; and codecs by batch, dense among them.
REMEDY_FINALS = {"plain": 0.50, "small": 0.60} | dict.fromkeys(
    ("scaling", "lars", "lamb", "local", "extrapolated", "isotropic", "fisher", "growing", "adaptive", "step-up"), 0.55
)
#: The same of training with a teacher.
TAUGHT_FINALS = {
    "plain": 0.50, "small": 0.60, "longer": 0.51, "autoencoder": 0.59, "layers": 0.55, "conditional": 0.57,
    "matching": 0.54, "isotropic": 0.53,
}  # fmt: skip
COMPRESSING = ("dense", "topk", "dgc", "int8", "powersgd")
SHARES = {"t05": 0.6, "t08": 0.2}


def finals() -> dict[str, float]:
    """Run -> accuracy at its end, of every trained run."""
    ends = {
        f"lb-{name}-{split}": final for name, both in TABLES.items() for split, final in zip(SPLITS, both, strict=True)
    }
    for run in [f"lb-{method}-alexnet-{split}" for method in ("bsp", "fa") for split in SPLITS]:
        ends |= {f"{run}-{changed}": ends[run] - 0.02 for changed in ("lr0_01", "b64")}
    ends["lb-fa-alexnet-noniid-equal"] = ends["lb-fa-alexnet-noniid"] - 0.04
    ends |= {f"lb-shares-{model}": ends[f"lb-bsp-{model}-iid"] for model in ("resnet50", "vgg11")}
    ends |= {f"lb-bsp-resnet50-noniid-{policy}": 0.3 for policy in ("local", "drop")}
    ends |= {
        f"lb-batch-{m}-{batch}": final for m, by_batch in BATCH_FINALS.items() for batch, final in by_batch.items()
    }
    ends |= {f"lb-remedy-{name}": final for name, final in REMEDY_FINALS.items()}
    ends |= {f"lb-taught-{name}": final for name, final in TAUGHT_FINALS.items()}
    ends |= {
        f"lb-compress-{codec}-{batch}": 0.5 - lost * (codec != "dense")
        for codec in COMPRESSING
        for batch, lost in ((64, 0.06), (256, 0.04), (1024, 0.02))
    }
    ends |= {f"lb-rate-{model}-0_25": 0.45 for model in ("resnet50", "vgg11")}
    ends["lb-step-resnet50-t08-x8"] = 0.61  # at the higher threshold VGG11 gains and ResNet50 does not
    for name, of_factors in STEP_FINALS.items():
        by_factor = dict(zip(FACTORS, of_factors, strict=True))
        chosen = (4, 16) if name.startswith("random") else FACTORS
        ends |= {f"lb-{name}-x{factor}": by_factor[factor] for factor in chosen}
    return ends | {f"{run}{LOW}": ends[run] for run in at_low_rate()}


LOW = "-low"
"""Ends the ids of runs at the second base rate, a decade below the first."""


def at_low_rate() -> list[str]:
    """The runs that are also trained at the second base rate: all of figures 7 and 8 that rules compare."""
    small = ["lb-batch-resnet50-32", "lb-batch-vgg11-64", "lb-batch-resnet50-1024", "lb-batch-vgg11-1024"]
    steps = [f"lb-step-{name}-x{x}" for name in ("resnet50-t05", "vgg11-t05", "vgg11-t08") for x in FACTORS]
    gates = [f"lb-always-{model}" for model in ("resnet50", "vgg11")]
    gates += [f"lb-random-{name}" for name in ("resnet50-t05", "vgg11-t05", "vgg11-t08")]
    return [*small, *steps, *(f"{gate}-x{x}" for gate in gates for x in (4, 16))]


def planned(profile: str = "study", kind: str = "train") -> list[Spec]:
    """The paper's runs of a kind, those of the controls among them; trained ones at ``SIZES``."""
    found = {
        spec.run: spec
        for group in ("artefact", "control")
        for spec, _ in specs.runs("lb", profile, group, specs_root())
    }
    return [_small(spec) if kind == "train" else spec for spec in found.values() if spec.kind == kind]


def _small(spec: Spec) -> Spec:
    small = replace(spec, **SIZES)
    if spec.local_steps is not None:
        small = replace(small, local_steps=LOCAL_STEPS[spec.run.split("-")[1]])
    if spec.evaluate_at is not None:  # where the batch of 1024 is evaluated
        small = replace(small, evaluate_at=list(range(4, 4 * EPOCHS + 1, 4)))
    return small


def _evaluations(spec: Spec) -> list[tuple[int, float]]:
    """(round, epoch) of every evaluation."""
    steps = IMAGES // spec.workers // spec.local_batch
    if spec.method == "federated":
        every = (spec.local_steps or steps) / steps
        return [(k, k * every) for k in range(1, int(EPOCHS / every) + 1)]
    rounds = {epoch * steps for epoch in range(1, EPOCHS + 1)} | set(spec.evaluate_at or ())
    return [(at, at / steps) for at in sorted(rounds)]


def _series(spec: Spec, rounds: int, rng: np.random.Generator) -> dict[str, list[float]]:
    series = {"train_loss": [2.3 / (1 + 0.01 * at) for at in range(rounds)]}
    if "gradient_norm" in (spec.track or ()) or spec.step_up:
        level = 8.0 * spec.local_batch**-0.3
        series["gradient_norm"] = (level * np.exp(0.1 * rng.standard_normal(rounds))).tolist()
    if step_up := spec.step_up:
        share = 1.0 if step_up["when"] == "always" else SHARES.get(spec.run.split("-")[3], 0.6)
        up = round((1 - share if step_up["when"] == "below" else share) * rounds)
        series["step_up_factor"] = [1.0] * (rounds - up) + [float(step_up["factor"])] * up
    return series


def _trained(spec: Spec, seed: int, final: float) -> Record:
    rng = np.random.default_rng([seed, *spec.run.encode()])
    classes = CLASSES[spec.dataset]
    chance = 1 / classes
    final += 0.002 * (seed - 2) + 0.0005 * rng.standard_normal() if final > 0.1 else 0.0
    rows: list[dict[str, Any]] = []
    for at, epoch in _evaluations(spec):
        top1 = chance + (final - chance) * (1 - math.exp(-epoch / PACE))
        sent = 0 if spec.method == "central" else at * spec.workers * 700_000
        rows.append({
            "epoch": epoch, "round": at, "lr": spec.schedule["lr"], "train_loss": 2.3 * math.exp(-epoch / 9),
            "train_top1": top1, "test_loss": 2.3 * math.exp(-epoch / 11), "test_top1": top1,
            "test_top5": min(1.0, 5 * chance + 1.5 * (top1 - chance)), "bytes_up": sent, "bytes_down": sent,
        })  # fmt: skip
        if "training_sample" in (spec.track or ()):  # the gap widens with training, and with the batch
            gap = 0.01 * math.log2(spec.local_batch) * (1 - math.exp(-epoch / PACE))
            rows[-1] |= {"train_sample_loss": rows[-1]["train_loss"], "train_sample_top1": top1 + gap}
    if "sharpness" in (spec.track or ()):
        sharp = spec.local_batch**0.5 * (1 + 0.02 * rng.standard_normal())
        rows[-1] |= {
            "hessian_top_eigenvalue": sharp, "hessian_iterations": 40, "hessian_images": 500, "hessian_converged": True,
        }  # fmt: skip
    return _record(spec, seed, rows=rows, series=_series(spec, rows[-1]["round"], rng))


def _record(spec: Spec, seed: int, **content: Any) -> Record:
    return Record(
        run=spec.run, source="lb", group=spec.group, kind=spec.kind, profile=spec.profile, seed=seed,
        spec=spec.as_dict(),
        data={"name": spec.dataset, "sha256": "0" * 64, "reduced": None, "classes": CLASSES[spec.dataset]},
        fingerprint=f"{hash_name(spec.run) + seed:016x}", status="completed", **content,
    )  # fmt: skip


def law(profile: str = "study", **numbers: float) -> Record:
    """The executed law of the label split, in which it holds; ``numbers`` replace its own."""
    (spec,) = (spec for spec in planned(profile, "law") if spec.run == "lb-law-label-split")
    found = {
        "vgg11_max_abs_difference": 1e-16, "vgg11_update_max_abs": 0.01, "resnet50_max_abs_difference": 1e-3,
        "resnet50_update_max_abs": 0.01, "tolerance": 1e-12, "workers": 4, "local_batch": 8, "dtype": "float64",
    }  # fmt: skip
    return _record(spec, 1, law=found | numbers)


def trained_records(seeds: Collection[int] = SEEDS, profile: str = "study", group: str | None = None) -> list[Record]:
    """One record per trained run and seed, of the artefacts, the controls, or both; with the artefacts the law."""
    ends = finals()
    made = [
        _trained(spec, seed, ends[spec.run])
        for spec in planned(profile) if group in (None, spec.group) for seed in seeds
    ]  # fmt: skip
    return [*made, *([law(profile)] if group != "control" else [])]


def stopped(trained: Record, rounds: int = 0) -> Record:
    """``trained`` as it is when the run diverges after some rounds."""
    rows = [row for row in trained.rows if row["round"] <= rounds]
    series = {name: values[:rounds] for name, values in trained.series.items()}
    return replace(trained, status="diverged", reason="the training loss is nan", rows=rows, series=series)
