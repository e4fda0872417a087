"""What every registered network promises; and that a network is one file."""

import pytest
import torch
from torch import nn

from repro import models
from repro.errors import ReproError
from repro.experiments import numerics
from repro.models import base
from repro.training.steps import backward

SMALLER = {"depth": 2}  # where a network has such an option
every_network = pytest.mark.parametrize("name", models.NAMES)


def build(name, seed=3, **changes):
    entry = base.NETWORKS[name]
    options = {option: value for option, value in SMALLER.items() if option in entry.options}
    settings = {"classes": 7, "width": 4, "image_size": 64, "norm": entry.norms[0], "seed": seed} | options
    return models.build(name, **(settings | changes))


def batch(n=3):
    random = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, 64, 64, generator=random), torch.tensor([0, 3, 6])[:n]


@every_network
def test_logits_are_a_row_of_classes_for_every_image_and_depend_on_it(name):
    net = build(name).eval()
    nn.init.normal_(net.classifier.weight, generator=torch.Generator().manual_seed(1))  # some start at zero
    logits = net(batch()[0])
    assert logits.shape == (3, 7)
    assert bool(torch.isfinite(logits).all())
    assert not torch.allclose(logits[0], logits[1])


@every_network
def test_every_parameter_is_trained(name):
    net = build(name).train()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    loss, _ = backward(net, *batch(), "fp32", [5])
    assert loss > 0
    for parameter_name, parameter in net.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert bool(torch.isfinite(parameter.grad).all()), parameter_name
        assert float(parameter.grad.abs().max()) > 0, parameter_name


@every_network
def test_a_seed_is_a_network_whatever_was_drawn_before(name):
    torch.manual_seed(0)
    ours = build(name).state_dict()
    torch.rand(3)
    again, other = build(name).state_dict(), build(name, seed=4).state_dict()
    assert all(torch.equal(ours[key], again[key]) for key in ours)
    assert any(not torch.equal(ours[key], other[key]) for key in ours)
    before = torch.get_rng_state()
    build(name)
    assert torch.equal(torch.get_rng_state(), before)


@every_network
def test_what_a_network_does_not_have_is_refused_in_a_line(name):
    entry = base.NETWORKS[name]
    for changes in (
        {"norm": "weight"},
        *({option: 0.5} for option in ("dropout", "patch") if option not in entry.options),
    ):
        with pytest.raises(ReproError) as error:
            build(name, **changes)
        assert "\n" not in str(error.value)
    for size in range(1, 4):
        with pytest.raises(ReproError, match="expected"):
            build(name, image_size=size)


def test_versions_are_read_from_the_classes():
    assert set(numerics.NETWORKS) == set(models.NAMES)
    parts = {"alexnet": "alexnet", "cnn": "cnn", "vgg11": "vgg", "vit": "vit"}
    spec = {"kind": "measure", "model": "resnet18"}
    usual = set(numerics.used_by(spec))
    for name in models.NAMES:
        assert set(numerics.used_by(spec | {"model": name})) - usual == ({parts[name]} if name in parts else set())


def test_a_new_network_is_built_by_its_name(monkeypatch):
    monkeypatch.setattr(models, "NETWORKS", models.NETWORKS | {})
    monkeypatch.setattr(base, "NETWORKS", models.NETWORKS)

    @base.register("linear", version=1, options=("plain",))
    class Linear(nn.Module):
        def __init__(self, classes, width=1, image_size=32, plain=False):
            super().__init__()
            self.plain, self.classifier = plain, nn.Linear(3 * image_size**2, classes)

        def forward(self, x):
            return self.classifier(x.flatten(1))

        def initialise(self, random):
            nn.init.zeros_(self.classifier.weight)
            nn.init.zeros_(self.classifier.bias)

    net = models.build("linear", classes=3, norm="none", image_size=8, plain=True, last_scale_zero=False)
    assert net.plain
    assert torch.equal(net(torch.ones(2, 3, 8, 8)), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="taken"):
        base.register("linear", version=1)(Linear)
