"""Remedies for the generalisation gap: equal to their equations, and to plain training where they change nothing."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad
from toy import spec, toy_batches

from repro import checkpoint, codecs, models
from repro.errors import ReproError
from repro.experiments import numerics
from repro.running import runner
from repro.training import plain, remedies
from repro.training.exchange import Exchange
from repro.training.local import LocalTraining
from repro.training.momenta import Momenta
from repro.training.remedies import Course, Step, base
from repro.training.remedies.adaptive import Adaptive, two_batch_estimate
from repro.training.remedies.lamb import LayerwiseAdam
from repro.training.remedies.lars import LayerwiseSGD
from repro.training.remedies.noise import FisherNoise, IsotropicNoise, moments
from repro.training.remedies.parts import gradients, square
from repro.training.steps import Optimisation, backward, sgd

COURSE = Course(seed=3, rounds=100)
ORACLE = Path(__file__).with_name("remedies.json")
"""Weights after some steps of LARS and LAMB by another library, which the file names."""


def network(seed: int = 1, bias: bool = True) -> torch.nn.Module:
    """A small network without any normalisation, in float64, for images of 16 pixels."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2, bias=bias), torch.nn.Tanh(), torch.nn.Flatten(), torch.nn.Linear(196, 4)
    ).double()


def step_of(model: torch.nn.Module, images: int = 24, lr: float = 0.1, **changes) -> Step:
    batches = toy_batches(clients=1, images=images, batch=images)
    x, y = batches.get(0, 0)
    return replace(Step(model, sgd(model), x, y, "fp64", lr, 0, 5), **changes)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def trained(remedy, batches, rounds: int, momentum: float = 0.9, decay: float = 1e-3, lr: float = 0.1):
    """The weights after some rounds of central training, and the rounds."""
    model = network()
    make = remedy.optimiser if remedy is not None else sgd
    optimisation = Optimisation(lambda _: lr, momentum, decay, "fp64", make)
    done = plain.centralised(
        model, optimisation.optimiser(model), batches, optimisation, range(rounds), remedy=remedy
    )  # fmt: skip
    return list(done), weights(model)


# What all remedies promise -----------------------------------------------------------------------------------------


def test_versions_are_those_of_the_classes() -> None:
    """``numerics`` reads the files; here they are executed."""
    assert set(numerics.REMEDIES) == set(remedies.NAMES)
    for name, entry in base.REGISTERED.items():
        assert numerics.VERSIONS[f"remedy_{name}"] == entry.version
        assert numerics.used_by(spec("central", remedy=name).as_dict()) == numerics.used_by(
            spec("central").as_dict()
        ) | {f"remedy_{name}": entry.version}


def test_a_remedy_is_one_class_and_its_name_can_be_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "REGISTERED", dict(base.REGISTERED))
    base.register("none", version=1)(remedies.Remedy)
    batches = toy_batches(clients=1, images=48, batch=24)
    assert torch.equal(trained(base.build("none", COURSE), batches, 4)[1], trained(None, batches, 4)[1])
    with pytest.raises(ValueError, match="taken"):
        base.register("none", version=1)(remedies.Remedy)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("larz", {}, "unknown remedy 'larz'; one of adaptive, extrapolated,"),
        ("lars", {"trusts": 1.0}, "remedy lars: .*unexpected keyword argument 'trusts'"),
        ("lars", {"trust": 0.0}, "remedy option trust: 0.0; a number above 0"),
        ("lamb", {"second": 1.0}, "remedy option second: 1.0; a number from 0 up"),
        ("lamb", {"eps": 0}, "remedy option eps: 0; a number above 0"),
        ("fisher-noise", {"small": 0}, "remedy option small: 0; a whole number"),
        ("extrapolated", {"reach": -1}, "remedy option reach: -1; a number from 0"),
        ("extrapolated", {"local": 1.5}, "remedy option local: 1.5; a whole number"),
        ("growing", {"start": 0}, "remedy option start: 0; a whole number"),
        ("growing", {"factor": 1}, "remedy option factor: 1; a whole number from 2"),
        ("growing", {"milestones": [0.7, 0.5]}, "remedy option milestones: .*ascending shares"),
        ("adaptive", {"least": 1}, "remedy option least: 1; a whole number from 2"),
        ("adaptive", {"memory": 1.0}, "remedy option memory: 1.0; a number from 0"),
        ("post-local", {"every": 0}, "remedy option every: 0; a whole number"),
        ("post-local", {"switch": 2}, "remedy option switch: 2; a number from 0 to 1"),
    ],
)
def test_a_wrong_name_or_option_is_one_line(name: str, options: dict, says: str) -> None:
    with pytest.raises(ReproError, match=says):
        base.build(name, COURSE, options)


@pytest.mark.parametrize("name", remedies.NAMES)
def test_every_remedy_trains_and_counts_all_images(name: str) -> None:
    options = {
        "fisher-noise": {"small": 6}, "isotropic-noise": {"small": 6}, "extrapolated": {"local": 6},
        "growing": {"start": 6, "factor": 2}, "adaptive": {"least": 6},
        "post-local": {"workers": 4, "every": 1, "switch": 0.05},
        "lars": {"trust": 0.1},
    }.get(name, {})  # fmt: skip
    rate = 0.01 if name == "lamb" else 0.05
    batches = toy_batches(clients=1, images=48, batch=24, augment=False)
    done, after = trained(base.build(name, COURSE, options), batches, 16, momentum=0.5, lr=rate)
    assert [each.images for each in done] == [24] * 16
    assert all(each.synchronisations >= 1 for each in done)
    assert np.mean([each.loss for each in done[-3:]]) < done[0].loss - 0.02
    assert not torch.equal(after, weights(network()))


@pytest.mark.data
@pytest.mark.usefixtures("data")
@pytest.mark.parametrize("name", remedies.NAMES)
def test_a_run_that_was_interrupted_is_the_same_run(name: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a remedy keeps is in the checkpoint: noise, estimates, and workers on their own."""
    monkeypatch.setattr(checkpoint, "_SLOW", math.inf)
    options = {
        "fisher-noise": {"small": 8}, "isotropic-noise": {"small": 8}, "extrapolated": {"local": 8},
        "growing": {"start": 8, "factor": 2, "milestones": [0.5]}, "adaptive": {"least": 8},
        "post-local": {"workers": 4, "every": 2, "switch": 0.25},
    }.get(name)  # fmt: skip
    toy = spec("central", remedy=name, remedy_options=options, norm="group", local_batch=32, momentum=0.9, width=2)
    whole, _ = runner.run(toy, 7, root, checkpoint_seconds=math.inf)
    assert whole.status == "completed"
    assert len(whole.series["synchronisations"]) == 6

    def kill(share: float) -> None:
        if share > 0.6:
            raise Killed

    with pytest.raises(Killed):
        runner.run(toy, 7, root, checkpoint_seconds=0, report=kill)
    seen: list[float] = []
    resumed, _ = runner.run(toy, 7, root, checkpoint_seconds=0, report=seen.append)
    assert len(seen) < 6, "it started from the beginning"
    assert resumed.body() == whole.body()


class Killed(Exception):
    pass


def test_parts_of_a_batch_need_a_network_without_batchnorm_and_an_image_each() -> None:
    step = step_of(network())
    with pytest.raises(ReproError, match="24 images in a round for 25 parts"):
        base.build("post-local", COURSE, {"workers": 25, "switch": 0}).take(step)
    model = models.build("resnet18", classes=4, width=2, norm="batch", image_size=16, seed=1).double()
    with pytest.raises(ReproError, match="norm batch with a remedy that trains on parts of a batch"):
        base.build("growing", COURSE).take(step_of(model))


# LARS and LAMB -------------------------------------------------------------------------------------------------------


def moved(make, gradients, start, lr: float) -> list[list[float]]:
    """Weights after a step with each of ``gradients``."""
    weight = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))
    optimiser = make([{"params": [weight]}])
    optimiser.param_groups[0]["lr"] = lr
    for each in gradients:
        weight.grad = torch.tensor(each, dtype=torch.float64)
        optimiser.step()
    return weight.detach().tolist()


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_lars_and_lamb_are_those_of_another_library(name: str) -> None:
    """Its numbers are stored beside this file, with its version and the calls that made them.

    Where it departs from the papers it is called so that both agree: its momentum of LARS counts the first gradient
    twice, its LAMB divides the rate by the bias of the mean, or leaves out both biases; a layer's length hides them.
    """
    stored = json.loads(ORACLE.read_text())
    given, expected = stored["given"], stored[name]
    make = {
        "lars": lambda groups: LayerwiseSGD(groups, 0.0, 0.0, 0.02),
        "lamb": lambda groups: LayerwiseAdam(groups, (0.9, 0.999), 0.0, 1e-14),
    }[name]
    found = moved(make, given["gradients"], given["start"], given["lr"])
    assert found == [pytest.approx(row, rel=1e-9) for row in expected]


def test_lamb_moves_as_its_equation_says() -> None:
    w, d, (b1, b2), c, g, eps = np.array([[3.0, 4.0]]), np.array([[0.6, -0.8]]), (0.9, 0.99), 0.1, 0.05, 1e-3
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t in range(1, 4):
        slope = d * t
        m, v = b1 * m + (1 - b1) * slope, b2 * v + (1 - b2) * slope**2
        r = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + c * w
        w = w - g * np.linalg.norm(w) / np.linalg.norm(r) * r
    slopes = [(d * t).tolist() for t in range(1, 4)]
    found = moved(lambda groups: LayerwiseAdam(groups, (b1, b2), c, eps), slopes, [[3.0, 4.0]], g)
    assert found == [pytest.approx(w[0].tolist(), rel=1e-12)]


def test_lars_moves_as_its_equation_says() -> None:
    w, d, m, b, g, trust = np.array([[3.0, 4.0]]), np.array([[0.6, -0.8]]), 0.5, 0.1, 2.0, 0.01
    v = np.zeros_like(w)
    for _ in range(3):
        rate = g * trust * np.linalg.norm(w) / (np.linalg.norm(d) + b * np.linalg.norm(w))
        v = m * v + rate * (d + b * w)
        w = w - v
    found = moved(lambda groups: LayerwiseSGD(groups, m, b, trust), [d.tolist()] * 3, [[3.0, 4.0]], g)
    assert found == [pytest.approx(w[0].tolist(), rel=1e-12)]


def test_lamb_moves_by_its_rate_times_the_length_of_the_weights() -> None:
    """In its first step Adam's update has the sign of the gradient; the layer's length scales it: |w| / sqrt(n)."""
    found = moved(lambda groups: LayerwiseAdam(groups, (0.9, 0.999), 0.0, 1e-12), [[[2.0, -7.0]]], [[3.0, 4.0]], 0.1)
    step = 0.1 * 5 / 2**0.5
    assert found == [pytest.approx([3 - step, 4 + step], rel=1e-9)]


@pytest.mark.parametrize("start", [[0.0, 0.0], [[0.0, 0.0]]])
def test_what_has_no_length_moves_as_in_sgd_or_adam(start: list) -> None:
    slope = [1.0, 2.0] if start == [0.0, 0.0] else [[1.0, 2.0]]
    flat = np.array(moved(lambda groups: LayerwiseSGD(groups, 0.9, 0.0, 0.001), [slope], start, 0.1)).reshape(-1)
    assert flat == pytest.approx([-0.1, -0.2])
    flat = np.array(moved(lambda groups: LayerwiseAdam(groups, (0.9, 0.999), 0.0, 1e-9), [slope], start, 0.1))
    assert flat.reshape(-1) == pytest.approx([-0.1, -0.1], rel=1e-6)


# Noise ---------------------------------------------------------------------------------------------------------------


def test_moments_are_those_of_the_gradients_of_the_parts() -> None:
    step = step_of(network())
    found = [F.cross_entropy(step.model(x), y) for x, y in zip(step.x.split(6), step.y.split(6), strict=True)]
    rows = torch.stack([
        torch.cat([each.reshape(-1) for each in torch.autograd.grad(loss, list(step.model.parameters()))])
        for loss in found
    ])  # fmt: skip
    mean, variance = moments(list(gradients(step, 6)))
    assert torch.allclose(torch.cat([each.reshape(-1) for each in mean]), rows.mean(0), atol=1e-14)
    assert torch.allclose(torch.cat([each.reshape(-1) for each in variance]), rows.var(0), atol=1e-16)
    backward(step.model, step.x, step.y, "fp64")
    whole = torch.cat([p.grad.reshape(-1) for p in step.model.parameters()])
    assert torch.allclose(rows.mean(0), whole, atol=1e-14), "the mean of the parts is the gradient of the round"


@pytest.mark.parametrize("kind", [FisherNoise, IsotropicNoise])
def test_what_is_added_has_the_variance_that_lacks(kind: type) -> None:
    """Over 400 draws: no mean, and the variance V (1 - 1 / K) in each coordinate, or on average where isotropic."""
    step, remedy, draws = step_of(network(), lr=1.0), kind(COURSE, small=6), 400
    mean, variance = ([each.reshape(-1) for each in of] for of in moments(list(gradients(step, 6))))
    mean, variance = torch.cat(mean), torch.cat(variance)
    expected = variance * 0.75 if kind is FisherNoise else torch.full_like(variance, float(variance.mean()) * 0.75)
    start, added = weights(step.model), []
    for number in range(draws):
        model = copy.deepcopy(step.model)
        remedy.take(replace(step, model=model, optimiser=sgd(model), number=number))
        added.append(start - weights(model) - mean)
    noise = torch.stack(added)
    assert float(noise.mean(0).norm()) < 1.2 * float((expected.sum() / draws) ** 0.5)
    assert float(noise.var(0).sum()) == pytest.approx(float(expected.sum()), rel=5 * (2 / draws / 20) ** 0.5)
    ratio = noise.var(0)[expected > 0] / expected[expected > 0]
    assert float(ratio.min()) > 1 - 6 * (2 / draws) ** 0.5
    assert float(ratio.max()) < 1 + 7 * (2 / draws) ** 0.5


def test_a_round_of_one_part_has_no_noise() -> None:
    batches = toy_batches(clients=1, images=48, batch=24)
    for kind in (FisherNoise, IsotropicNoise):
        assert torch.allclose(trained(kind(COURSE, small=24), batches, 4)[1], trained(None, batches, 4)[1], atol=1e-13)


# Extrapolation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reach", [0.0, 1.0, 2.5])
def test_an_extrapolated_step_is_that_of_its_equation(reach: float) -> None:
    step = step_of(network(), lr=0.3)
    named = {name: p.detach().clone() for name, p in step.model.named_parameters()}

    def loss(values, x, y):
        return F.cross_entropy(functional_call(step.model, values, (x,)), y)

    total = {name: torch.zeros_like(value) for name, value in named.items()}
    for x, y in zip(step.x.split(8), step.y.split(8), strict=True):
        here = grad(loss)(named, x, y)
        there = grad(loss)({name: value - reach * 0.3 * here[name] for name, value in named.items()}, x, y)
        total = {name: value + there[name] / 3 for name, value in total.items()}
    optimiser = sgd(step.model)
    optimiser.param_groups[0]["lr"] = 0.3
    base.build("extrapolated", COURSE, {"local": 8, "reach": reach}).take(replace(step, optimiser=optimiser))
    for name, value in step.model.named_parameters():
        assert torch.allclose(value, named[name] - 0.3 * total[name], atol=1e-14)


# Batches that grow, or follow the noise ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [6, 12, 24])
def test_steps_of_a_size_are_central_training_with_that_batch(size: int) -> None:
    remedy = base.build("growing", COURSE, {"start": size, "milestones": []})
    done, ours = trained(remedy, toy_batches(clients=1, images=48, batch=24), 4)
    _, small = trained(None, toy_batches(clients=1, images=48, batch=size), 4 * 24 // size)
    assert torch.allclose(ours, small, atol=1e-13)
    assert [each.synchronisations for each in done] == [24 // size] * 4


def test_the_batch_grows_at_its_milestones_and_never_beyond_a_round() -> None:
    remedy = base.build("growing", Course(3, 8), {"start": 6, "factor": 2, "milestones": [0.25, 0.5, 0.75]})
    done, _ = trained(remedy, toy_batches(clients=1, images=48, batch=24), 8, lr=0.01)
    assert [each.synchronisations for each in done] == [4, 4, 2, 2, 1, 1, 1, 1]


def test_the_two_batch_estimate_recovers_a_planted_noise_scale() -> None:
    """Gradients of b images are G plus noise of covariance S / b; over 4 000 pairs both are found within 3 %."""
    random, true, single = np.random.default_rng(1), np.array([3.0, -1.0, 2.0]), np.array([4.0, 1.0, 6.0])
    norms = []
    for _ in range(4000):
        halves = [true + random.standard_normal(3) * (single / 8) ** 0.5 for _ in range(2)]
        norms.append([np.mean([half @ half for half in halves]), np.sum(np.mean(halves, axis=0) ** 2)])
    norm, trace = two_batch_estimate(*np.mean(norms, axis=0), (8, 16))
    assert norm == pytest.approx(true @ true, rel=0.03)
    assert trace == pytest.approx(single.sum(), rel=0.03)
    with pytest.raises(ReproError, match="two rising sizes"):
        two_batch_estimate(1.0, 1.0, (8, 8))


def test_the_two_batch_estimate_is_that_of_the_single_images() -> None:
    """Mean over many ways to halve the images, against the covariance of the images' own gradients."""
    step = step_of(network())
    rows = [torch.cat([v.reshape(-1) for v in part.values]) for part in gradients(step, 1)]
    single = torch.stack(rows)
    mean = single.mean(0)
    random, found = np.random.default_rng(2), []
    for _ in range(2000):
        order = torch.from_numpy(random.permutation(24))
        halves = [single[order[:12]].mean(0), single[order[12:]].mean(0)]
        found.append(two_batch_estimate(float(np.mean([half @ half for half in halves])), float(mean @ mean), (12, 24)))
    _, trace = np.mean(found, axis=0)
    assert trace == pytest.approx(float(single.var(0).sum()), rel=0.05)
    assert square([mean]) == pytest.approx(float(mean @ mean))


def test_the_adaptive_batch_is_the_noise_scale_as_a_power_of_two() -> None:
    remedy = Adaptive(COURSE, least=4)
    for trace, norm, size in ((10.0, 1.0, 8), (12.0, 1.0, 16), (1.0, 1.0, 4), (1e6, 1.0, 24), (1.0, -1.0, 24)):
        remedy.scale.trace, remedy.scale.norm = trace, norm
        assert remedy._next(24) == size


def test_steps_of_an_adaptive_batch_are_central_training_with_that_batch() -> None:
    remedy = Adaptive(COURSE, least=12)
    _, ours = trained(remedy, toy_batches(clients=1, images=48, batch=24), 1)
    _, small = trained(None, toy_batches(clients=1, images=48, batch=12), 2)
    assert torch.allclose(ours, small, atol=1e-13)
    assert remedy.scale.trace != 0


# Post-local SGD ------------------------------------------------------------------------------------------------------


class United:
    """The batches of all clients as one client's."""

    def __init__(self, clients) -> None:
        self.clients, self.rounds_per_epoch, self.images = clients, clients.rounds_per_epoch, clients.images

    def get(self, client: int, step: int):
        parts = [self.clients.get(k, step) for k in range(self.clients.clients)]
        return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])

    def dropout_seed(self, client: int, step: int) -> int:
        return step


def test_post_local_sgd_is_large_batch_before_the_switch() -> None:
    batches = toy_batches(clients=3, images=48)
    remedy = base.build("post-local", COURSE, {"workers": 3, "switch": 1})
    _, ours = trained(remedy, United(batches), 4)
    model = network()
    optimisation, exchange = Optimisation(lambda _: 0.1, 0.9, 1e-3, "fp64"), Exchange(codecs.Dense())
    list(plain.large_batch(model, optimisation.optimiser(model), batches, exchange, optimisation, range(4)))
    assert torch.allclose(ours, weights(model), atol=1e-13)


def test_post_local_sgd_is_federated_averaging_after_it() -> None:
    """From a switch at once: local momentum is kept, and models are averaged every two local steps."""
    batches = toy_batches(clients=3, images=48)
    remedy = base.build("post-local", COURSE, {"workers": 3, "every": 2, "switch": 0})
    done, ours = trained(remedy, United(batches), 4)
    assert [each.synchronisations for each in done] == [0, 1, 0, 1]
    model = network()
    local = LocalTraining(steps=2, momenta=Momenta.start("keep", model, 3))
    optimisation, exchange = Optimisation(lambda _: 0.1, 0.9, 1e-3, "fp64"), Exchange(codecs.Dense())
    list(plain.federated_averaging(model, batches, exchange, optimisation, range(2), local))
    assert torch.allclose(ours, weights(model), atol=1e-13)


def test_between_two_averages_the_shared_model_is_the_last_one() -> None:
    batches = United(toy_batches(clients=3, images=48))
    three, two = (
        trained(base.build("post-local", COURSE, {"workers": 3, "every": 2, "switch": 0}), batches, rounds)[1]
        for rounds in (3, 2)
    )
    assert torch.equal(three, two)
