"""Runs of kind ``teacher``: pairs share no image, an interruption changes nothing, a row for everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_lb
import torch

from repro.checkpoint import Checkpoint
from repro.data.batches import Batches, Images
from repro.experiments.sizes import SMALL_BATCHES
from repro.models import build
from repro.results.teachers import ANOTHER, GAINS, IDENTITY, LATER, MEAN
from repro.running import teacher
from repro.running.teacher import Measurement, Plan, Student
from repro.training.looking import drawn
from repro.training.steps import Optimisation
from repro.training.teachers import TEACHERS

IMAGES = 80
PLAN = Plan(steps=[1, 2, 4, 5], small=4, large=[16, 40], pairs=3)
OPTIMISATION = Optimisation(lambda _: 0.05, momentum=0.9)


def student(seed: int) -> Student:
    random = np.random.default_rng(3)  # the same images in every training
    pixels = random.integers(0, 256, size=(IMAGES, 8, 8, 3), dtype=np.uint8)
    images = Images(pixels, random.integers(0, 10, size=IMAGES), (0.5,) * 3, (0.25,) * 3)
    model = build("resnet18", classes=10, width=2, norm="group", last_scale_zero=False, seed=seed % 2**31)
    return Student(model, OPTIMISATION.optimiser(model), Batches(images, [np.arange(IMAGES)], 20, seed, False))


def test_no_image_of_a_small_batch_is_in_the_large_ones_of_its_pair() -> None:
    for seed in range(20):
        few, many = drawn(66, [8, 8], [16, 50], np.random.default_rng(seed))
        assert [*map(len, few), *map(len, many)] == [8, 8, 16, 50]
        for large in many:
            every = [*large.tolist(), *(image for small in few for image in small.tolist())]
            assert len(set(every)) == len(every)


def test_pairs_are_gradients_of_training_images_at_the_weights_of_their_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, real = [], teacher.of_batch

    def noting(model: torch.nn.Module, images: Images, index: np.ndarray) -> torch.Tensor:
        seen.append((id(images), frozenset(index.tolist()), float(next(model.parameters()).detach().double().sum())))
        return real(model, images, index)

    monkeypatch.setattr(teacher, "of_batch", noting)
    made: list[Student] = []

    def kept(seed: int) -> Student:
        made.append(student(seed))
        return made[-1]

    Measurement(kept, OPTIMISATION, PLAN, 5).run()
    assert len(made) == 2, "the training and another one"
    groups, tested = [], len(PLAN.steps)  # later steps, and the first ones of the other training
    for beside in [1] * len(PLAN.fitted) * PLAN.pairs + [SMALL_BATCHES] * tested * PLAN.pairs:
        groups.append((seen[:beside], seen[beside : beside + len(PLAN.large)]))
        seen = seen[beside + len(PLAN.large) :]
    assert seen == []
    looks = len(PLAN.fitted) + tested
    seen = [each for group in groups for part in group for each in part]
    assert {images for images, *_ in seen} == {id(each.batches.images) for each in made}
    assert len({weights for *_, weights in seen}) == looks, "looking changes no weights, a step does"
    assert all(not few[1] & large[1] for smalls, many in groups for few in smalls for large in many)


def test_there_is_a_row_for_every_teacher_batch_and_held_out_set(whole: list[dict[str, Any]]) -> None:
    rows = whole
    places = [(row["held_out"], row["large"], row["teacher"]) for row in rows]
    assert places == [(h, b, name) for h in (LATER, ANOTHER) for b in (16, 40) for name in (*TEACHERS, MEAN)]
    assert {row["pairs"] for row in rows} == {6 * SMALL_BATCHES}
    by_place = dict(zip(places, rows, strict=True))
    for held_out in (LATER, ANOTHER):
        plain = by_place[held_out, 40, IDENTITY]
        assert plain["numbers"] == 0
        assert by_place[held_out, 40, "best scalar"]["numbers"] == 1
        assert plain["r2"] <= 1
        assert by_place[held_out, 40, MEAN]["length"] < plain["length"], "what is averaged is shorter"
        assert by_place[held_out, 40, MEAN]["r2"] > plain["r2"], "and has less noise"
    record = replace(synthetic_lb.teacher(5), rows=rows)
    for name, read in GAINS.items():
        held_out = ANOTHER if name.endswith("elsewhere") else LATER
        others = {row["r2"] for place, row in by_place.items() if place[:2] == (held_out, 40)}
        assert 100 * min(others) <= read(record) + 100 * by_place[held_out, 40, IDENTITY]["r2"] <= 100 * max(others)


class _Killed(Exception):
    pass


@pytest.fixture(scope="module")
def whole() -> list[dict[str, Any]]:
    """Rows of an undisturbed run."""
    return Measurement(student, OPTIMISATION, PLAN, 5).run()


@pytest.mark.parametrize("at", [1, 3, 10, 22, 25])
def test_an_interrupted_run_ends_like_an_undisturbed_one(at: int, tmp_path: Path, whole: list[dict[str, Any]]) -> None:
    units = len(PLAN.units())
    assert units == 5 + 2 * len(TEACHERS) + 2 == 25

    def kill(share: float) -> None:
        if round(share * units) == at:
            raise _Killed

    with pytest.raises(_Killed):
        Measurement(student, OPTIMISATION, PLAN, 5, Checkpoint(tmp_path / "c.pt", "same", 0.0)).run(kill)
    again = Measurement(student, OPTIMISATION, PLAN, 5, Checkpoint(tmp_path / "c.pt", "same", 0.0))
    assert again.progress.done == at - 1
    assert again.run() == whole


def test_a_checkpoint_that_does_not_fit_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], whole: list[dict[str, Any]]
) -> None:
    checkpoint = Checkpoint(tmp_path / "c.pt", "same", 0.0)
    checkpoint.save({"model": {}, "optimiser": {}, "progress": {"done": 1}})
    fresh = Measurement(student, OPTIMISATION, PLAN, 5, checkpoint)
    assert fresh.progress.done == 0
    assert "damaged checkpoint" in capsys.readouterr().err
    assert fresh.run() == whole


def test_the_seed_decides_everything(whole: list[dict[str, Any]]) -> None:
    again, other = (Measurement(student, OPTIMISATION, PLAN, seed).run() for seed in (5, 6))
    assert whole == again != other
