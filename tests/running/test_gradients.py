"""Noise, signal and sparsity of gradients: planted ones are recovered, and looking changes nothing."""

import copy

import numpy as np
import pytest
import torch

from repro.data.batches import Batches, Images
from repro.models import build
from repro.running import gradients
from repro.training.steps import Optimisation


def toy_images(n: int = 60, size: int = 8) -> Images:
    random = np.random.default_rng(3)
    pixels = random.integers(0, 256, size=(n, size, size, 3), dtype=np.uint8)
    return Images(pixels, random.integers(0, 10, size=n), (0.5,) * 3, (0.25,) * 3)


def network(norm: str = "group") -> torch.nn.Module:
    return build("resnet18", classes=10, width=4, norm=norm, last_scale_zero=False, seed=5)


def test_planted_signal_and_noise_are_recovered() -> None:
    random = torch.Generator().manual_seed(1)
    expectation = torch.randn(400, generator=random, dtype=torch.float64)
    spread = torch.rand(400, generator=random, dtype=torch.float64)
    found = []
    for _ in range(200):
        vectors = [expectation + spread * torch.randn(400, generator=random, dtype=torch.float64) for _ in range(6)]
        found.append(gradients.describe(vectors))
    for name, planted in (("noise", spread.square().sum()), ("signal", expectation.square().sum())):
        values = np.array([each[name] for each in found])
        assert abs(values.mean() - float(planted)) < 4 * values.std(ddof=1) / np.sqrt(len(values))


def test_a_planted_share_of_the_largest_values_is_recovered() -> None:
    vector = torch.full((5000,), 1.0, dtype=torch.float64)
    vector[:5] = 100.0
    found = gradients.describe([vector, vector])
    assert found["top_share"] == pytest.approx(5 * 100**2 / (5 * 100**2 + 4995))
    assert found["cosine"] == pytest.approx(1)
    assert found["top_cosine"] == pytest.approx(np.sqrt(found["top_share"]))
    assert found["noise"] == 0


def test_the_noise_of_a_batch_is_that_of_one_image_divided_by_its_size() -> None:
    images, model = toy_images(), network()
    each = torch.stack([gradients.of_batch(model, images, np.array([n])) for n in range(len(images))])
    trace = float((each - each.mean(dim=0)).square().sum() / len(images))  # of the distribution that is drawn from
    rows = gradients.at_weights(model, images, [4, 16], 60, np.random.default_rng(2))
    for row in rows:
        assert row["noise"] * row["batch"] == pytest.approx(trace, rel=0.15)
        assert row["squared_norm"] == pytest.approx(row["signal"] + row["noise"])


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_looking_changes_nothing(norm: str) -> None:
    images, model = toy_images(), network(norm)
    before = copy.deepcopy(model.state_dict())
    model.eval()
    gradients.at_weights(model, images, [8], 3, np.random.default_rng(2))
    assert not any(layer.training for layer in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_training_in_between_is_that_of_an_unobserved_run() -> None:
    images, found = toy_images(), []
    for steps in ([0, 1, 3], [3]):
        model = network("batch")
        batches = Batches(images, [np.arange(60)], 20, 7, False)
        looks = gradients.Looks(steps, [8, 16], 3)
        rows = gradients.measure(model, batches, Optimisation(lambda _: 0.1, momentum=0.9), looks, 9)
        assert [(row["step"], row["batch"]) for row in rows] == [(s, b) for s in steps for b in (8, 16)]
        found.append((rows[-2:], model.state_dict()))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(value, found[1][1][name]) for name, value in found[0][1].items())
