"""Golden runs: results may change only together with a version in ``repro.experiments.numerics``.

A failure says one of two things. Results changed and no version did: raise the version of the part you changed, if the
change is meant. A version changed: write the golden file anew with ``python tests/test_golden.py`` and commit it.

Processors differ in round-off alone, since all that is random is drawn by numpy. Float64 results are held to 1e-7; the
cases are such that round-off stays below 1e-9 in them with any vector instructions (``.ci/run`` tries three; where
BatchNorm on maps of one pixel would make it grow a million times, they have 16 px). Hardly any change of numerics is
that small: a thousandth of a learning rate or of a weight decay is noticed, as a test says. How well messages deflate
follows the last bits of their values; their lengths are held to 1 %. bfloat16 results, whose rounding differs between
processors, are held to 1 % of a loss and two images of an accuracy, in cases without BatchNorm or of two steps; they
are there for code that float64 does not run.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from repro import files

sys.path.insert(0, str(Path(__file__).resolve().parent))
import toy

from repro.experiments import numerics
from repro.running import runner

GOLDEN = Path(__file__).with_name("golden.json")
SIX_DIGITS = 1.1e-5  # what round-off can move in a series, which is stored to six digits
CASES = {
    "central": toy.spec("central", image_size=16),
    "large batch": toy.spec("large_batch", momentum=0.9, weight_decay=5e-4),
    "large batch, bf16": toy.spec("large_batch", precision="bf16", norm="group", image_size=16),
    "central, BatchNorm, bf16": toy.spec("central", precision="bf16", image_size=16, local_batch=48, epochs=1),
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
    "ResNet50, sharpness": toy.spec(
        "central", model="resnet50", width=2, image_size=16, local_batch=32, epochs=1, track=["sharpness"],
        schedule={"kind": "constant", "lr": 0.01},
    ),
    "large batch, clients go on": toy.spec(
        "large_batch", partition="dirichlet", dirichlet_alpha=0.5, clients_wait=False
    ),
    "large batch, unequal shares": toy.spec("large_batch", image_size=16, batch_shares=[1, 0.5, 0.25]),
    "step-up": toy.spec(
        "central", image_size=16, step_up={"factor": 4, "threshold": 0.2}, evaluate_at=[1]
    ),
    "step-up, at random": toy.spec(
        "central", image_size=16, step_up={"factor": 4, "when": "random", "share": 0.5}
    ),
    "law of label split": toy.spec("large_batch", kind="law", law="label_split", train_images=24),
}  # fmt: skip
EXACT = {"epoch", "round", "lr", "bytes_up", "bytes_down", "step", "what", "codec", "dense_bytes"}


def result(name):
    return as_result(runner.run(CASES[name], seed=7, root=toy.ROOT)[0])


def as_result(record):
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


def differing(ours, golden, bf16=False):
    """What differs by more than round-off: keys of a result, and of its rows."""
    tolerance = 1e-2 if bf16 else 1e-7

    def same(key, x, y):
        if isinstance(x, str | bool | None) or isinstance(y, str | bool | None):
            return x == y
        if key in EXACT:
            return x == pytest.approx(y, rel=0, abs=1e-9)
        if key == "bytes":
            return x == pytest.approx(y, rel=1e-2)
        least = 1e-12 if key == "law" else 1e-9
        close = max(tolerance, SIX_DIGITS) if key in ("train_loss", "gradient_norm") else tolerance
        return x == pytest.approx(y, rel=close, abs=2.5 / 32 if bf16 and "top" in key else least)

    def alike(key, x, y):
        x, y = leaves(x), leaves(y)
        return len(x) == len(y) and all(same(key, a, b) for a, b in zip(x, y, strict=True))

    found = {key for key in ours.keys() | golden.keys() if key not in ours or key not in golden}
    found |= {key for key in ours.keys() & golden.keys() - {"rows"} if not alike(key, ours[key], golden[key])}
    if len(ours["rows"]) != len(golden["rows"]):
        return found | {"rows"}
    for a, b in zip(ours["rows"], golden["rows"], strict=True):
        found |= {key for key in a.keys() | b.keys() if key not in a or key not in b or not alike(key, a[key], b[key])}
    return found


@pytest.mark.data
@pytest.mark.parametrize("name", CASES)
def test_results_change_only_with_a_version(name):
    ours, golden = result(name), json.loads(GOLDEN.read_text())[name]
    assert ours["numerics"] == golden["numerics"], "a version changed: run `python tests/test_golden.py` and commit"
    found = differing(ours, golden, "bf16" in name)
    assert not found, f"{sorted(found)}: results changed, and no version in repro/experiments/numerics.py did"


@pytest.mark.data
@pytest.mark.parametrize("name", ["Fixup", "federated, local steps"])
def test_runs_whose_clients_train_together_have_the_golden_results_and_a_version_more(name):
    record = runner.run(replace(CASES[name], stacked=2), seed=7, root=toy.ROOT)[0]
    golden = json.loads(GOLDEN.read_text())[name]
    assert differing(as_result(record), golden) == {"numerics"}
    own = {"stacked_clients": numerics.VERSIONS["stacked_clients"]}
    assert numerics.used_by(record.spec) == golden["numerics"] | own


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("large batch", {"weight_decay": 5.005e-4}),
        ("large batch", {"momentum": 0.9001}),
        ("central", {"schedule": {"kind": "constant", "lr": 0.05005}}),
        ("federated", {"schedule": {"kind": "constant", "lr": 0.05005}}),
        ("large batch, bf16", {"schedule": {"kind": "constant", "lr": 0.1}}),
        ("central, BatchNorm, bf16", {"schedule": {"kind": "constant", "lr": 0.1}}),
    ],
)
def test_the_tolerances_notice_a_change_of_numerics(name, changes):
    golden, bf16 = json.loads(GOLDEN.read_text())[name], "bf16" in name
    record, _ = runner.run(replace(CASES[name], **changes), seed=7, root=toy.ROOT)
    assert differing(as_result(record), golden, bf16) & {"train_loss", "test_loss"}


if __name__ == "__main__":
    files.write_atomic(GOLDEN, files.canonical_json({name: result(name) for name in CASES}))
