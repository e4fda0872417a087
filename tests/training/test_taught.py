"""Training with a teacher: plain where it changes nothing, its equation where it does, and what it is shown."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_remedies import COURSE, network, step_of, trained, weights
from toy import spec, toy_batches

from repro import checkpoint
from repro.errors import ReproError
from repro.running import runner
from repro.running.prepare import prepare
from repro.training.remedies import Course, base, teacher
from repro.training.steps import backward, sgd
from repro.training.teachers import TEACHERS

SMALL = {"small": 6, "pairs": 4, "fitted": [0.0, 0.5]}


def taught(name: str, rounds: int = 6, **options) -> teacher.Taught:
    return base.build("teacher", Course(3, rounds), SMALL | {"teacher": name} | options)


def batches_of(images: int = 48):
    return toy_batches(clients=1, images=images, batch=24)


# What is the same as plain training --------------------------------------------------------------------------------


def test_with_the_identity_training_is_plain_bit_by_bit() -> None:
    done, ours = trained(taught("identity"), batches_of(), 6)
    plain, theirs = trained(None, batches_of(), 6)
    assert torch.equal(ours, theirs)
    assert [(each.loss, each.correct, each.images) for each in done] == [
        (each.loss, each.correct, each.images) for each in plain
    ]


@pytest.mark.data
@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_with_the_identity_is_the_run_without_a_teacher(precision: str, root: Path) -> None:
    toy = spec("central", norm="none", model="cnn", local_batch=32, momentum=0.9, precision=precision)
    same = replace(toy, remedy="teacher", remedy_options=SMALL | {"teacher": "identity"})
    ours, theirs = (runner.run(each, 7, root, checkpoint_seconds=math.inf)[0] for each in (same, toy))
    assert ours.rows == theirs.rows
    assert ours.series["train_loss"] == theirs.series["train_loss"]


def test_before_the_first_pairs_training_is_plain() -> None:
    late = taught("norm matching", fitted=[0.5])
    assert torch.equal(trained(late, batches_of(), 3)[1], trained(None, batches_of(), 3)[1])
    assert late.learnt is None
    assert not torch.equal(trained(late, batches_of(), 4)[1], trained(None, batches_of(), 4)[1])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_norm_matching_is_plain_training_with_the_scaled_rate(momentum: float) -> None:
    remedy = taught("norm matching", fitted=[0.0])
    _, ours = trained(remedy, batches_of(), 6, momentum=momentum, decay=0.0)
    assert remedy.learnt is not None
    factor = float(remedy.learnt["factor"])
    assert factor > 1.1, "a small batch's gradient is the longer one"
    _, theirs = trained(None, batches_of(), 6, momentum=momentum, decay=0.0, lr=0.1 * factor)
    assert torch.allclose(ours, theirs, atol=1e-13)


# Equation 5 --------------------------------------------------------------------------------------------------------


def test_a_step_is_along_what_the_teacher_makes_of_the_gradient() -> None:
    """w - lr A(G), with a factor for every tensor."""
    step, remedy = replace(step_of(network(), lr=0.3), images=batches_of().images), taught("scale by layer")
    before, parameters = weights(step.model), list(step.model.parameters())
    backward(step.model, step.x, step.y, "fp64")
    plain = [p.grad.detach().clone() for p in parameters if p.grad is not None]
    step.optimiser.param_groups[0]["lr"] = 0.3
    remedy.take(step)
    assert remedy.learnt is not None
    factors = remedy.learnt["factors"]
    assert len({round(each, 6) for each in factors.tolist()}) == len(parameters)
    made = torch.cat([(factor * each).reshape(-1) for factor, each in zip(factors, plain, strict=True)])
    assert torch.allclose(weights(step.model), before - 0.3 * made, atol=1e-14)


@pytest.mark.parametrize("name", TEACHERS)
def test_every_teacher_trains_and_is_the_same_for_the_same_seed(name: str) -> None:
    once, again = (trained(taught(name), batches_of(), 6, lr=0.02)[1] for _ in range(2))
    assert torch.equal(once, again)
    assert torch.isfinite(once).all()
    other = base.build("teacher", Course(4, 6), SMALL | {"teacher": name})
    assert torch.equal(trained(other, batches_of(), 6, lr=0.02)[1], once) == (name == "identity")


def test_a_draw_is_another_one_in_every_round() -> None:
    remedy, step = taught("isotropic noise", fitted=[0.0]), step_of(network())
    remedy.take(replace(step, images=batches_of().images))
    assert remedy.learnt is not None
    made = []
    for number in (1, 2, 1):
        model = network()
        remedy.take(replace(step, model=model, optimiser=sgd(model), number=number))
        made.append(weights(model))
    assert torch.equal(made[0], made[2])
    assert not torch.equal(made[0], made[1])


# What the teacher is shown ---------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("evaluated", ["test", "held_out"])
def test_a_teacher_sees_training_images_only_and_no_small_batch_inside_its_large_one(
    evaluated: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, real = [], teacher.of_batch

    def noting(model, images, index, precision):
        seen.append((index, images.whole(index)[0]))
        return real(model, images, index, precision)

    monkeypatch.setattr(teacher, "of_batch", noting)
    toy = spec(
        "central", norm="none", model="cnn", local_batch=32, evaluate_on=evaluated, precision="fp32",
        remedy="teacher", remedy_options=SMALL | {"teacher": "scale by layer"},
    )  # fmt: skip
    record, _ = runner.run(toy, 7, root, checkpoint_seconds=math.inf)
    setting = prepare(toy, 7, root)
    evaluation = {each.numpy().tobytes() for part in setting.evaluation_parts() for each in part()[0]}
    training = {each.numpy().tobytes() for each in setting.batches.images.whole(np.arange(96))[0]}
    shown = {each.numpy().tobytes() for _, x in seen for each in x}
    assert len(evaluation) == 32
    assert shown <= training
    assert not shown & evaluation
    assert [len(index) for index, _ in seen] == [6, 32] * 4 * 2, "four pairs, twice"
    for (few, _), (many, _) in zip(seen[::2], seen[1::2], strict=True):
        assert len(set(few) | set(many)) == 38, "no image twice"
    assert len({tuple(index) for index, _ in seen}) == len(seen), "other images in every pair"
    assert record.series["further_images"] == [4 * 38, 0, 0, 4 * 38, 0, 0]


def test_the_images_of_pairs_are_counted_beside_those_of_the_round() -> None:
    done, _ = trained(taught("best scalar"), batches_of(), 6)
    assert [each.images for each in done] == [24] * 6
    assert [each.further for each in done] == [4 * 30, 0, 0, 4 * 30, 0, 0]
    assert [each.synchronisations for each in done] == [9, 1, 1, 9, 1, 1]
    assert {each.further for each in trained(None, batches_of(), 2)[0]} == {0}


def test_where_images_are_few_the_large_batch_is_all_others() -> None:
    done, _ = trained(taught("best scalar", small=40), batches_of(), 1)
    assert done[0].further == 4 * 48
    with pytest.raises(ReproError, match="48 training images to draw pairs from; more than the 48 of a small batch"):
        trained(taught("best scalar", small=48), batches_of(), 1)
    with pytest.raises(ReproError, match="0 training images"):
        taught("best scalar").take(step_of(network()))


def test_pairs_change_nothing_in_the_network() -> None:
    """Weights, running statistics and mode are those of before."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(),
                                torch.nn.Linear(392, 4)).double().train()  # fmt: skip
    before = {name: value.clone() for name, value in model.state_dict().items()}
    step = replace(step_of(model), images=batches_of().images)
    pairs = taught("best scalar")._pairs(step)
    assert pairs.large.shape == pairs.small.shape == (4, sum(p.numel() for p in model.parameters()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert float(pairs.small.norm()) > float(pairs.large.norm())


# Interruptions, and options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TEACHERS)
def test_what_a_teacher_has_learnt_goes_on_after_an_interruption(name: str) -> None:
    """At round 5 of 6, after the second training of the teacher."""
    remedy, model, batches = taught(name), network(), batches_of()
    _, whole = trained(taught(name), batches, 6, momentum=0.0)
    optimiser = sgd(model, 0.0, 1e-3)
    for part in (range(5), range(5, 6)):
        for number in part:
            optimiser.param_groups[0]["lr"] = 0.1
            x, y = batches.get(0, number)
            remedy.take(base.Step(model, optimiser, x, y, "fp64", 0.1, number, 5, batches.images))
        file = io.BytesIO()
        torch.save(remedy.state(), file)
        file.seek(0)
        remedy = taught(name)
        remedy.restore(torch.load(file, weights_only=True))
    assert torch.equal(weights(model), whole)


@pytest.mark.data
@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("name", ["autoencoder with skip", "conditional noise"])
def test_a_run_that_was_interrupted_is_the_same_run(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "_SLOW", math.inf)
    toy = spec(
        "central", norm="none", model="cnn", local_batch=32, momentum=0.9, precision="fp32", remedy="teacher",
        remedy_options=SMALL | {"teacher": name},
    )  # fmt: skip
    whole, _ = runner.run(toy, 7, root, checkpoint_seconds=math.inf)

    def kill(share: float) -> None:
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(toy, 7, root, checkpoint_seconds=0, report=kill)
    seen: list[float] = []
    resumed, _ = runner.run(toy, 7, root, checkpoint_seconds=0, report=seen.append)
    assert len(seen) < 6, "it started from the beginning"
    assert resumed.body() == whole.body()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"teacher": "isotropic"}, "remedy option teacher: 'isotropic'; one of identity, best scalar,"),
        ({"small": 0}, "remedy option small: 0; a whole number from 1 up"),
        ({"pairs": 1.5}, "remedy option pairs: 1.5; a whole number from 1 up"),
        ({"fitted": [0.5, 0.25]}, "remedy option fitted: .*ascending shares"),
        ({"fitted": []}, "remedy option fitted: .*ascending shares"),
        ({"fitted": [1.0]}, "remedy option fitted: .*ascending shares"),
    ],
)
def test_a_wrong_option_is_one_line(options: dict, says: str) -> None:
    with pytest.raises(ReproError, match=says):
        base.build("teacher", COURSE, options)
