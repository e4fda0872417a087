"""Sizes of post 2's networks, against the published counts of their reference definitions and worked message sizes."""

import math

import pytest
import torch
from torch import nn

from repro.errors import ReproError
from repro.models import sizes
from repro.models.resnet import ResNet18, ResNet50
from repro.randomness import generator

PUBLISHED = {  # torchvision (imagenet stem), kuangliu/pytorch-cifar (cifar stem)
    ("resnet18", 1000, "imagenet"): 11_689_512,
    ("resnet50", 1000, "imagenet"): 25_557_032,
    ("resnet18", 10, "cifar"): 11_173_962,
    ("resnet50", 10, "cifar"): 23_520_842,
}
STATE = {"resnet18": (62, 9_600), "resnet50": (161, 53_120)}


@pytest.mark.parametrize("network", PUBLISHED)
def test_parameters_are_as_many_as_published(network: tuple[str, int, str]) -> None:
    assert sizes.count(*network).parameters == PUBLISHED[network]


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("classes", [10, 1000])
def test_parts_add_up_and_only_the_classifier_knows_the_classes(model: str, stem: str, classes: int) -> None:
    size, ten = sizes.count(model, classes, stem), sizes.count(model, 10, stem)
    features = {"resnet18": 512, "resnet50": 2048}[model]
    assert size.parameters == size.convolutional + size.other
    assert size.classifier == (features + 1) * classes
    assert (size.tensors, size.statistics) == STATE[model]
    assert size.convolutional == ten.convolutional
    assert size.other - size.classifier == ten.other - ten.classifier
    shapes = sizes.shapes(model, classes, stem)
    assert sum(math.prod(shape) for shape in shapes.values()) == size.parameters
    assert sum(math.prod(shape) for shape in shapes.values() if len(shape) == 4) == size.convolutional


def test_stems_differ_in_one_convolution() -> None:
    for model in ("resnet18", "resnet50"):
        cifar, imagenet = sizes.count(model, 10), sizes.count(model, 10, "imagenet")
        assert imagenet.parameters - cifar.parameters == 3 * 64 * (7 * 7 - 3 * 3)
        assert imagenet.other == cifar.other


def sparse_megabytes(model: str, classes: int, item: int) -> float:
    """A thousandth of all convolutions at ``item`` bytes a value, the rest dense."""
    size = sizes.count(model, classes, "imagenet")
    return (item * size.convolutional / 1000 + 4 * size.other) / 1e6


@pytest.mark.parametrize(
    ("model", "classes", "dense", "six", "eight", "int8"),
    [
        ("resnet18", 10, 44.727, 0.1259, 0.1483, 11.182),
        ("resnet18", 1000, 46.758, 2.1574, 2.1797, 11.690),
        ("resnet50", 10, 94.114, 0.4352, 0.4821, 23.529),
        ("resnet50", 1000, 102.228, 8.5492, 8.5961, 25.557),
    ],
)
def test_message_sizes_of_post_2_follow_from_the_shapes(
    model: str, classes: int, dense: float, six: float, eight: float, int8: float
) -> None:
    parameters = sizes.count(model, classes, "imagenet").parameters
    assert 4 * parameters / 1e6 == pytest.approx(dense, abs=6e-4)
    assert sparse_megabytes(model, classes, 6) == pytest.approx(six, abs=6e-5)
    assert sparse_megabytes(model, classes, 8) == pytest.approx(eight, abs=6e-5)
    assert parameters / 1e6 == pytest.approx(int8, abs=6e-4)


def test_the_ratio_that_the_dgc_paper_prints_for_resnet50_follows_from_the_shapes() -> None:
    """All weights, the classifier's too, at 6 bytes a value sent: 0.35 MiB, 277 times less."""
    counts = [(math.prod(shape), len(shape) > 1) for shape in sizes.shapes("resnet50", 1000, "imagenet").values()]
    sent = sum(6 * count / 1000 if weight else 4 * count for count, weight in counts)
    assert sent == pytest.approx(369_498, abs=1)
    assert 4 * sum(count for count, _ in counts) / sent == pytest.approx(276.67, abs=0.01)


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "none"])
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize("kind", [ResNet18, ResNet50])
def test_every_network_runs_and_trains_every_parameter(kind: type, stem: str, norm: str) -> None:
    net = kind(classes=3, width=8, norm=norm, stem=stem)
    net.initialise(generator(1, "initial weights"))
    stages = []
    for block in net.blocks:
        block.register_forward_hook(lambda _, __, out: stages.append(out.shape[-1]))
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    out = net(x)
    assert out.shape == (4, 3)
    first = 32 if stem == "cifar" else 8
    assert sorted(set(stages), reverse=True) == [first, first // 2, first // 4, first // 8]
    out.logsumexp(1).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_with_group_norm_every_block_of_resnet50_starts_as_its_shortcut() -> None:
    net = ResNet50(classes=3, width=8, norm="group")
    net.initialise(generator(1, "initial weights"))
    h = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(2)).abs()
    assert isinstance(net.blocks[1].shortcut, nn.Identity)
    assert torch.equal(net.blocks[1](h), h)


@pytest.mark.parametrize(("model", "stem"), [("vgg11", "cifar"), ("resnet18", "caffe")])
def test_an_unknown_network_or_stem_is_refused(model: str, stem: str) -> None:
    with pytest.raises(ReproError, match=r"unknown (model|stem) .* was expected"):
        sizes.count(model, 10, stem)
