"""Golden runs: results may change only together with a version in ``repro.numerics``.

A failure says one of two things. Results changed and no version did: raise the version of the part you changed, if the
change is meant. A version changed: write the golden file anew with ``python tests/test_golden.py`` and commit it.
Float64 results are held to 1e-7, which every machine meets; bfloat16 ones, whose rounding differs between processors,
to 5 %.
"""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import toy

from repro import numerics, records, runner

GOLDEN = Path(__file__).with_name("golden.json")
CASES = {
    "central": toy.spec("central"),
    "large batch": toy.spec("large_batch", momentum=0.9, weight_decay=5e-4),
    "large batch, bf16": toy.spec("large_batch", precision="bf16"),
    "federated": toy.spec("federated", partition="dirichlet", dirichlet_alpha=5.0),
    "federated, two labels, warm-up": toy.spec(
        "federated", workers=5, train_images=200, partition="labels", labels_per_client=2, local_epochs=2,
        schedule={"kind": "cosine", "lr": 0.05, "epochs": 2, "warmup_epochs": 1, "warmup_from": 0.01},
    ),
    "group norm, held out": toy.spec(
        "large_batch", norm="group", evaluate_on="held_out", augment=False, image_size=16, epochs=4
    ),
    "layer norm": toy.spec("central", norm="layer", image_size=16, momentum=0.9, weight_decay=5e-4),
    "Fixup": toy.spec("federated", norm="fixup", image_size=16, momentum=0.9, weight_decay=5e-4),
    "large batch, DGC": toy.spec("large_batch", codec="dgc", momentum=0.9, sparsity_warmup=0.5),
    "large batch, int8 weights": toy.spec("large_batch", quantised_weights=True),
    "federated, int8": toy.spec("federated", codec="int8"),
    "payloads": toy.spec("central", kind="payloads", classes=20, measured_steps=[1, 3], local_steps=2),
    "law": toy.spec("large_batch", kind="law", train_images=24, image_size=16),
    "law of normalisation": toy.spec("large_batch", kind="law", law="normalisation", image_size=16),
    "VGG11 with dropout": toy.spec("large_batch", model="vgg11", norm="none", image_size=32, width=2, epochs=1),
    "federated, local steps": toy.spec("federated", local_steps=3, track=["per_class"]),
    "large batch, own statistics": toy.spec(
        "large_batch", workers=5, train_images=200, partition="labels", labels_per_client=2, buffers="local",
        track=["batch_statistics", "gradient_norm", "per_class"],
    ),
    "federated, no statistics": toy.spec("federated", buffers="drop"),
    "ResNet50, sharpness": toy.spec("central", model="resnet50", width=2, epochs=1, track=["sharpness"]),
    "large batch, clients go on": toy.spec(
        "large_batch", partition="dirichlet", dirichlet_alpha=0.5, clients_wait=False
    ),
    "large batch, unequal shares": toy.spec("large_batch", batch_shares=[1, 0.5, 0.25]),
    "step-up": toy.spec("central", step_up={"factor": 4, "threshold": 0.2}, evaluate_at=[1]),
    "step-up, at random": toy.spec("central", step_up={"factor": 4, "when": "random", "share": 0.5}),
    "law of label split": toy.spec("large_batch", kind="law", law="label_split", train_images=24),
}  # fmt: skip
EXACT = {"epoch", "round", "lr", "bytes_up", "bytes_down", "step", "what", "codec", "dense_bytes"}


def result(name):
    record, _ = runner.run(CASES[name], seed=7, root=toy.ROOT)
    return {
        "numerics": numerics.used_by(record.spec),
        "status": record.status,
        "rows": record.rows,
        "train_loss": record.series.get("train_loss", []),
        "law": record.law,
    } | {name: values for name, values in record.series.items() if name != "train_loss"}


def leaves(value):
    """The numbers and words of nested lists and mappings, in order."""
    if isinstance(value, dict):
        return [leaf for key in sorted(value) for leaf in (key, *leaves(value[key]))]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]


@pytest.mark.data
@pytest.mark.parametrize("name", CASES)
def test_results_change_only_with_a_version(name):
    ours, golden = result(name), json.loads(GOLDEN.read_text())[name]
    assert ours["numerics"] == golden["numerics"], "a version changed: run `python tests/test_golden.py` and commit"
    tolerance = 5e-2 if "bf16" in name else 1e-7
    hint = "results changed, and no version in repro/numerics.py did"
    assert ours["train_loss"] == pytest.approx(golden["train_loss"], rel=tolerance), hint
    assert ours.get("step_up_factor") == golden.get("step_up_factor"), hint
    assert ours.get("gradient_norm", []) == pytest.approx(golden.get("gradient_norm", []), rel=tolerance), hint
    assert len(ours["rows"]) == len(golden["rows"]), hint
    for a, b in zip(ours["rows"], golden["rows"], strict=True):
        assert a.keys() == b.keys()
        for key in a:
            ours_, golden_ = leaves(a[key]), leaves(b[key])
            assert len(ours_) == len(golden_), f"{key}: {hint}"
            for x, y in zip(ours_, golden_, strict=True):
                if isinstance(y, str | None):
                    assert x == y, f"{key}: {hint}"
                    continue
                near = pytest.approx(y, rel=0 if key in EXACT else tolerance, abs=0.13 if "bf16" in name else 1e-9)
                assert x == near, f"{key}: {hint}"
    if golden["law"] is not None:
        for key, value in golden["law"].items():
            near = pytest.approx(value, rel=1e-6, abs=1e-12) if isinstance(value, float) else value
            assert ours["law"][key] == near, f"{key}: {hint}"


if __name__ == "__main__":
    records.write_atomic(GOLDEN, records.canonical_json({name: result(name) for name in CASES}))
