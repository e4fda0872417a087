"""Runs and numbers in words: unambiguous, and alike however a value was summed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import specs
from repro.words import label, number


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ("e1-central", "centralised"),
        ("e1-large-batch-x4", "large batch (×4)"),
        ("e1-large-batch-2labels", "large batch (2 labels)"),
        ("e1-federated-4epochs", "federated averaging (every 4 epochs)"),
        ("e1-federated-2labels-gn", "federated averaging (2 labels, GroupNorm)"),
        ("e1-grid-large-batch-x4", "large batch (×4)"),
        ("e1-grid-central-lr0_025", "centralised (learning rate 0.025)"),
        ("e2-large-batch-dgc-cosine", "large batch (DGC, cosine)"),
        ("e2-federated-gq", "federated averaging (GQ)"),
        ("e2-large-batch-weights", "large batch (int8 weights)"),
        ("e3-noniid-bn-drop", "BatchNorm (non-IID, no running statistics)"),
        ("e3-gn-1024-slow", "GroupNorm (batch 1024, Fixup's warm-up)"),
        ("e3-fixup-2048-short", "Fixup (batch 2048, short warm-up)"),
        ("e3-gn-wide-unit-scale", "GroupNorm (full width, last scale one)"),
        ("e3-in-2048", "InstanceNorm (batch 2048)"),
        ("e3-gn-128-unit-scale", "GroupNorm (batch 128, last scale one)"),
        ("e3-none-128", "no normalisation (batch 128)"),
        ("e3-fedavg-noniid-40", "federated averaging (non-IID, every 40 batches)"),
        ("e3-normalisation-law", "e3-normalisation-law"),
        ("e3-something", "e3-something"),
        ("e1-union-law", "e1-union-law"),
        ("a", "a"),
    ],
)
def test_a_run_in_words(run: str, words: str) -> None:
    assert label(run) == words


@pytest.mark.parametrize("source", ["e1", "e3", "lb"])
def test_different_runs_of_a_source_have_different_words(source: str) -> None:
    runs = {spec.run for group in specs.GROUPS for spec, _ in specs.runs(source, "smoke", group)}
    assert len({label(run) for run in runs}) == len(runs)


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
