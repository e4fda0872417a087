"""The study is a miniature that keeps what its statements are about: every training is long enough to say something.

Its rule: width, pixels, epochs and images shrink, and workers with the images; local batches, batches that are the axis
of a statement, warm-ups (in optimiser steps) and methods never do. What breaks the rule is in the ledger.
"""

from collections.abc import Callable
from fnmatch import fnmatchcase

import pytest
import tree

from repro import files
from repro.experiments.sizes import local_steps
from repro.registry import specs
from repro.registry.specs import Spec
from repro.verdicts.judge import load_ledger

ROOT = tree.REPOSITORY
SHORT = ("e1-federated-384workers", "e3-gn-wide", "e3-gn-wide-unit-scale")
"""Trainings of fewer than 300 steps: four times the devices on the same images; the first forty steps at full width."""
FEW_TEST_IMAGES = ("e3-gn-wide", "e3-gn-wide-unit-scale")
CALTECH_101 = 1695  # all its test images


def trained(profile: str) -> dict[str, Spec]:
    """Every training of the artefacts and controls, those included whose learning rate is still to be chosen."""
    found = {}
    for source in specs.SOURCES:
        for group in ("artefact", "control"):
            tasks, waiting = specs.runs_and_waiting(source, profile, group, ROOT)
            made = [spec for spec, _ in tasks] + [specs.unchosen(run, source, profile, ROOT) for run, _ in waiting]
            found |= {spec.run: spec for spec in made if spec.kind == "train"}
    return found


STUDY, PAPER = trained("study"), trained("paper")


def steps_per_epoch(spec: Spec) -> int:
    """Of the worker with the most images, where shards differ by one."""
    images = spec.train_images if spec.method == "central" else -(-spec.train_images // spec.workers)
    return local_steps(images, spec.local_batch)


def rounds(spec: Spec) -> int:
    """Synchronisations of federated averaging."""
    if spec.local_steps is not None:
        return spec.epochs * steps_per_epoch(spec) // spec.local_steps
    return spec.epochs // spec.local_epochs


def breaking(rule: Callable[[Spec], bool]) -> list[str]:
    return sorted(run for run, spec in STUDY.items() if not rule(spec))


def test_both_profiles_have_the_same_trainings_and_there_are_many() -> None:
    assert set(STUDY) == set(PAPER)
    assert len(STUDY) > 150
    assert set(SHORT) <= set(STUDY)


def test_every_training_has_three_hundred_optimiser_steps_but_for_those_of_the_ledger() -> None:
    assert breaking(lambda spec: spec.epochs * steps_per_epoch(spec) >= 300) == sorted(SHORT)
    assert STUDY["e1-federated-384workers"].epochs * steps_per_epoch(STUDY["e1-federated-384workers"]) == 160


def test_federated_averaging_synchronises_at_least_ten_times() -> None:
    averaged = [spec for spec in STUDY.values() if spec.method == "federated"]
    assert averaged
    assert [spec.run for spec in averaged if rounds(spec) < 10] == []


def test_a_plateau_is_waited_for_at_least_three_epochs() -> None:
    waiting = [spec.schedule["patience"] for spec in STUDY.values() if "patience" in spec.schedule]
    assert waiting
    assert min(waiting) >= 3


def test_a_warm_up_takes_the_published_steps_where_the_source_or_the_run_does_not_keep_its_share() -> None:
    steps, shares = [], []
    sources = files.read_yaml(ROOT / "pipelines/study/params.yaml")
    for run, spec in STUDY.items():
        for published, ours in _warm_ups(spec, PAPER[run]):
            content = files.read_yaml(ROOT / f"pipelines/{spec.source}.yaml")
            schedule = (content["runs"] | content["controls"])[run].get("schedule", {})
            kept = schedule.get("warmup", sources[spec.source].get("warmup", "share"))
            (shares if kept == "share" else steps).append(run)
            if kept == "share":
                assert ours / spec.epochs == pytest.approx(published / PAPER[run].epochs), run
            else:
                assert ours * steps_per_epoch(spec) == pytest.approx(published * steps_per_epoch(PAPER[run])), run
    assert {run.partition("-")[0] for run in steps} == {"e2", "e3"}, "the sparsity of DGC, and large batches"


def _warm_ups(ours: Spec, published: Spec) -> list[tuple[float, float]]:
    """Lengths of the warm-ups of a run in epochs, as published and at our size: of the rate, and of DGC's sparsity."""
    both = (published, ours)
    lengths = [tuple(float(spec.schedule.get("warmup_epochs", 0)) for spec in both)]
    lengths += [tuple(spec.sparsity_warmup * spec.epochs for spec in both)]
    return [(a, b) for a, b in lengths if a or b]


def test_methods_and_local_batches_are_the_published_ones() -> None:
    kept = ("method", "local_batch", "local_epochs", "partition", "labels_per_client", "codec", "momentum", "norm")
    for run, spec in STUDY.items():
        assert [getattr(spec, name) for name in kept] == [getattr(PAPER[run], name) for name in kept], run


def test_batches_that_are_an_axis_are_the_published_ones() -> None:
    study, paper = (
        {
            spec.run: (spec.batch_sizes, spec.peak_sizes)
            for spec, _ in specs.runs_and_waiting("lb", profile, "artefact", ROOT)[0]
            if spec.kind == "measure"
        }
        for profile in ("study", "paper")
    )
    assert study == paper
    assert len(study) == 9


def test_what_is_judged_is_evaluated_on_all_test_images() -> None:
    for run, spec in STUDY.items():
        whole = CALTECH_101 if spec.dataset == "caltech101" else 10_000
        assert spec.final_test_images == (500 if run in FEW_TEST_IMAGES else whole), run
        assert (spec.final_evaluations or 0) >= 3, run


def test_what_breaks_the_rule_is_in_the_ledger() -> None:
    text = "".join(choice.chosen for choice in load_ledger(ROOT) if choice.id == "study-sizes")
    assert text, "pipelines/study/params.yaml names the entry study-sizes of data/ledger.yaml"
    named = {word.strip(".,;:()") for word in text.split()}
    for run in SHORT:
        assert any(fnmatchcase(run, word) for word in named if word.startswith("e")), run
