"""Runs and numbers in words: unambiguous, and alike however a value was summed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import files
from repro.registry import specs
from repro.registry.labels import label, number


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("e1-central", "centralised"),
        ("e1-large-batch-x2", "large batch (×2)"),
        ("e1-federated-384workers", "federated averaging (devices ×4)"),
        ("e1-federated-32workers", "federated averaging (devices ÷3)"),
        ("e1-federated-momentum", "federated averaging (momentum 0.9)"),
        ("e1-federated-alpha0_1", "federated averaging (alpha 0.1)"),
        ("e1-large-batch-2labels", "large batch (2 labels)"),
        ("e1-federated-4epochs", "federated averaging (every 4 epochs)"),
        ("e1-federated-2labels-gn", "federated averaging (2 labels, GroupNorm)"),
        ("e1-grid-large-batch-x2", "large batch (×2)"),
        ("e1-grid-central-lr0_025", "centralised (learning rate 0.025)"),
        ("e2-large-batch-dgc-cosine", "large batch (DGC, cosine)"),
        ("e2-decay-large-batch-dgc", "large batch (DGC, weight decay)"),
        ("e2-payloads-resnet50-1000", "messages of ResNet50 (1000 classes)"),
        ("e2-federated-gq", "federated averaging (GQ)"),
        ("e2-large-batch-weights", "large batch (int8 weights)"),
        ("e3-noniid-bn-drop", "BatchNorm (non-IID, no running statistics)"),
        ("e3-gn-1024-slow", "GroupNorm (batch 1024, Fixup's warm-up)"),
        ("e3-fixup-2048-short", "Fixup (batch 2048, GroupNorm's warm-up)"),
        ("e3-gn-wide-unit-scale", "GroupNorm (full width, last scale one)"),
        ("e3-in-2048", "InstanceNorm (batch 2048)"),
        ("e3-gn-128-unit-scale", "GroupNorm (batch 128, last scale one)"),
        ("e3-none-128", "no normalisation (batch 128)"),
        ("e3-fedavg-noniid-40", "federated averaging (non-IID, every 40 batches)"),
        ("e3-fedavg-iid-10-averaged", "federated averaging (IID, every 10 batches, averaged momentum)"),
        ("lb-batch-vgg11-64-low", "VGG11 batch 64 (base rate 0.001)"),
        ("lb-random-resnet50-t05-x4-low", "ResNet50 X = 4 (threshold 0.5, random, base rate 0.01)"),
        ("lb-grid-vgg11-fa-lr0_05", "VGG11 FA (learning rate 0.05)"),
        ("e3-normalisation-law", "law of normalisation"),
        ("e3-something", "e3-something"),
        ("e1-union-law", "law of the union batch"),
        ("a", "a"),
    ],
)
def test_a_run_in_words(run: str, words: str) -> None:
    assert label(run) == words


@pytest.mark.parametrize("source", specs.SOURCES)
def test_every_run_of_a_source_has_words_of_its_own(source: str) -> None:
    """Of the spec file itself, because the learning rates of a profile may still have to be chosen."""
    content = files.read_yaml(Path("pipelines") / f"{source}.yaml")
    runs = [*content["runs"], *content["controls"]]
    said = {run: label(run) for run in runs}
    assert not [run for run, words in said.items() if run in words]
    assert len(set(said.values())) == len(runs)


@pytest.mark.parametrize(
    ("run", "changed", "words"),
    [
        ("e1-federated-2epochs", {"local_epochs": 4}, "federated averaging (every 4 epochs)"),
        ("e1-large-batch-2labels", {"labels_per_client": 3}, "large batch (3 labels)"),
        ("e1-federated-2labels-gn", {"norm": "layer"}, "federated averaging (2 labels, LayerNorm)"),
        ("e1-federated-alpha1", {"dirichlet_alpha": 0.5}, "federated averaging (alpha 0.5)"),
        ("e1-federated-momentum", {"momentum": 0.5}, "federated averaging (momentum 0.5)"),
        ("e2-large-batch-cosine", {"schedule": {"kind": "constant"}}, "large batch (constant)"),
        ("e2-large-batch-gq", {"codec": "int8-affine"}, "large batch (int8-affine)"),
        ("e2-large-batch-plain", {"momentum": 0.9}, "large batch (momentum 0.9)"),
        ("e3-gn-1024-slow", {"local_batch": 512}, "GroupNorm (batch 512, Fixup's warm-up)"),
        ("e3-noniid-bn", {"partition": "iid"}, "BatchNorm (IID)"),
        ("lb-step-vgg11-t05-x4", {"step_up": {"factor": 3, "threshold": 0.6}}, "VGG11 X = 3 (threshold 0.6)"),
        ("lb-batch-vgg11-64-low", {"schedule": {"lr": 0.002}}, "VGG11 batch 64 (base rate 0.002)"),
    ],
)
def test_words_follow_the_settings_and_not_the_id(run: str, changed: dict[str, object], words: str) -> None:
    content = files.read_yaml(Path("pipelines") / f"{run.partition('-')[0]}.yaml")
    written = content["defaults"] | ({**content["runs"], **content["controls"]})[run]
    assert label(run, written) == label(run)
    assert label(run, written | changed) == words


def test_words_follow_a_changed_spec_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As verdicts have them, which know the id only."""
    text = Path("pipelines/e1.yaml").read_text()
    (tmp_path / "pipelines").mkdir()
    (tmp_path / "pipelines/e1.yaml").write_text(text.replace("local_epochs: 2", "local_epochs: 8"))
    monkeypatch.chdir(tmp_path)
    assert label("e1-federated-2epochs") == "federated averaging (every 8 epochs)"
    assert label("e3-gn-128") == "GroupNorm (batch 128)", "no such file here: the numbers of the id"


def test_what_a_profile_shrinks_is_named_as_it_was_published() -> None:
    """24 of 96 workers at the study's size are still as many as the source's runs have."""
    assert label("e1-federated-384workers", {"workers": 96}) == "federated averaging (devices ×4)"
    assert label("lb-fa250-vgg11-iid", {"local_steps": 46, "partition": "iid"}) == "VGG11 FA every 250 (IID)"


@given(st.floats(-1e6, 1e6), st.integers(0, 3), st.booleans())
def test_numbers_parse_back_to_half_a_digit(value: float, digits: int, sign: bool) -> None:
    text = number(value, digits, sign=sign).replace("\u202f", "").replace("\u2212", "-")
    assert abs(float(text) - value) <= 0.5 * 10**-digits + 1e-8
    assert not text.startswith("-0") or float(text) != 0


@given(st.lists(st.integers(0, 2000), min_size=3, max_size=3))
def test_a_mean_of_accuracies_is_printed_alike_however_it_was_summed(correct: list[int]) -> None:
    fractions = [n / 2000 for n in correct]
    ways = {
        sum(fractions) / 3 * 100,
        sum(100 * f for f in fractions) / 3,
        100 * (fractions[2] + fractions[1] + fractions[0]) / 3,
    }
    assert len({number(way, 1) for way in ways}) == 1
