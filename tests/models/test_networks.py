"""VGG11, AlexNet and the Vision Transformer are torchvision's, at any width, and dropout is repeatable."""

import math

import pytest
import torch
from torch import nn

from repro import models
from repro.errors import ReproError
from repro.experiments import numerics
from repro.models import vision
from repro.models.alexnet import AlexNet
from repro.models.cnn import SmallCNN
from repro.models.dropout import SeededDropout, dropout_seeds
from repro.models.vgg import VGG11
from repro.models.vit import VisionTransformer
from repro.randomness import generator

SMALL = {
    "vgg11": {"norm": "none", "width": 4, "image_size": 32},
    "alexnet": {"norm": "none", "width": 4, "image_size": 64},
    "vit": {"norm": "layer", "width": 2, "image_size": 32, "patch": 8, "depth": 2},
    "cnn": {"norm": "none", "width": 4, "image_size": 32},
}


def small(model: str, **options) -> nn.Module:
    return models.build(model, **({"classes": 10, "seed": 3} | SMALL[model] | options))


def images(n: int = 5, size: int = 32, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def batch(model: str, n: int = 5, **options) -> torch.Tensor:
    return images(n, SMALL[model]["image_size"], **options)


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


# Size ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "classes", "expected"),
    [
        (VGG11, 1000, 132_863_336),
        (VGG11, 100, 129_176_036),
        (VGG11, 10, 128_807_306),
        (AlexNet, 1000, 61_100_840),
        (AlexNet, 102, 57_421_734),
        (AlexNet, 101, 57_417_637),
        (AlexNet, 100, 57_413_540),
        (VisionTransformer, 1000, 304_326_632),
        (SmallCNN, 10, 1_626_442),
    ],
)
def test_full_size_networks_have_the_known_number_of_parameters(network, classes: int, expected: int) -> None:
    with torch.device("meta"):
        assert parameters(network(classes=classes)) == expected


def test_the_convolutions_of_vgg11_have_the_known_number_of_weights_and_biases() -> None:
    with torch.device("meta"):
        features = VGG11(classes=10).features
    assert sum(p.numel() for p in features.parameters() if p.dim() == 4) == 9_217_728
    assert sum(p.numel() for p in features.parameters() if p.dim() == 1) == 2_752


@pytest.mark.parametrize("w", [1, 4, 8])
def test_the_number_of_parameters_follows_the_width(w: int) -> None:
    hidden = 64 * w
    vgg = 9 * (3 * w + w * w * (2 + 8 + 16 + 32 + 64 + 64 + 64)) + 43 * w
    vgg += (8 * w * 49 + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * 10
    assert parameters(small("vgg11", width=w)) == vgg
    alex = 121 * 3 * w + 25 * 3 * w * w + 9 * w * w * (18 + 24 + 16) + 18 * w
    alex += (4 * w * 36 + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * 10
    assert parameters(small("alexnet", width=w)) == alex
    d = 16 * w
    vit = (192 + 1) * d + d + 17 * d + 2 * (12 * d * d + 13 * d) + 2 * d + (d + 1) * 10
    assert parameters(small("vit", width=w)) == vit
    cnn = (27 + 1) * w + (9 * w + 1) * 2 * w + (2 * w * 14**2 + 1) * 4 * w + (4 * w + 1) * 10
    assert parameters(small("cnn", width=w)) == cnn


@pytest.mark.parametrize(
    ("model", "size"), [("vgg11", 32), ("vgg11", 64), ("alexnet", 63), ("alexnet", 96), ("vit", 16), ("cnn", 6)]
)
def test_logits_are_one_per_image_and_class(model: str, size: int) -> None:
    net = small(model, image_size=size, classes=7).eval()
    assert net(images(3, size)).shape == (3, 7)


# torchvision --------------------------------------------------------------------------------------------------


def give_weights(net: nn.Module, theirs: nn.Module) -> None:
    """Give ``theirs`` the weights of ``net``: both list their parameters in the same order."""
    own, other = list(net.parameters()), list(theirs.parameters())
    assert [tuple(t.shape) for t in own] == [tuple(t.shape) for t in other]
    with torch.no_grad():
        for tensor, source in zip(other, own, strict=True):
            tensor.copy_(source)


@pytest.mark.parametrize(("model", "name"), [("vgg11", "vgg11"), ("alexnet", "alexnet")])
def test_full_size_plain_networks_have_torchvisions_shapes(model: str, name: str) -> None:
    theirs = vision.load().models
    with torch.device("meta"):
        ours = {"vgg11": VGG11, "alexnet": AlexNet}[model](classes=100)
        other = getattr(theirs, name)(num_classes=100)
    assert [tuple(p.shape) for p in ours.parameters()] == [tuple(p.shape) for p in other.parameters()]


@pytest.mark.parametrize("size", [32, 64, 224])
def test_vgg11_computes_what_torchvision_computes(size: int) -> None:
    theirs = vision.load().models
    net = small("vgg11", dtype=torch.float64, image_size=size).eval()
    with torch.device("meta"):  # nothing of full size is allocated
        other = theirs.vgg11(num_classes=10)
    other.features = theirs.vgg.make_layers([4, "M", 8, "M", 16, 16, "M", 32, 32, "M", 32, 32, "M"])
    other.classifier[0], other.classifier[3] = nn.Linear(32 * 49, 256), nn.Linear(256, 256)
    other.classifier[6] = nn.Linear(256, 10)
    other.double().eval()
    give_weights(net, other)
    x = images(2, size, dtype=torch.float64)
    assert torch.allclose(net(x), other(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [64, 100, 224])
def test_alexnet_computes_what_torchvision_computes(size: int) -> None:
    theirs = vision.load().models
    net = small("alexnet", dtype=torch.float64, image_size=size).eval()
    with torch.device("meta"):
        other = theirs.alexnet(num_classes=10)
    w = 4
    for place, layer in {0: (3, 1, 11), 3: (1, 3, 5), 6: (3, 6, 3), 8: (6, 4, 3), 10: (4, 4, 3)}.items():
        inputs, outputs, kernel = layer
        made = nn.Conv2d(inputs if place == 0 else inputs * w, outputs * w, kernel)
        made.stride, made.padding = other.features[place].stride, other.features[place].padding
        other.features[place] = made
    other.classifier[1], other.classifier[4] = nn.Linear(16 * 36, 256), nn.Linear(256, 256)
    other.classifier[6] = nn.Linear(256, 10)
    other.double().eval()
    give_weights(net, other)
    x = images(2, size, dtype=torch.float64)
    assert torch.allclose(net(x), other(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("width", "heads"), [(2, 1), (8, 2)])
def test_the_vision_transformer_computes_what_torchvision_computes(width: int, heads: int) -> None:
    theirs = vision.load().models
    net = small("vit", dtype=torch.float64, width=width).eval()
    net.classifier.weight.data.normal_(generator=torch.Generator().manual_seed(1))  # starts at zero
    d = 16 * width
    other = theirs.VisionTransformer(32, 8, 2, heads, d, 4 * d, num_classes=10).double().eval()
    target = other.state_dict()
    target["class_token"], target["encoder.pos_embedding"] = net.class_token, net.positions
    for ours, name in ((net.patches, "conv_proj"), (net.norm, "encoder.ln"), (net.classifier, "heads.head")):
        target[f"{name}.weight"], target[f"{name}.bias"] = ours.weight, ours.bias
    for k, block in enumerate(net.blocks):
        place = f"encoder.layers.encoder_layer_{k}"
        attention = f"{place}.self_attention"
        target[f"{attention}.in_proj_weight"], target[f"{attention}.in_proj_bias"] = block.project_in.parameters()
        for layer, name in (
            (block.project_out, f"{attention}.out_proj"), (block.norm1, f"{place}.ln_1"),
            (block.norm2, f"{place}.ln_2"), (block.expand, f"{place}.mlp.0"), (block.contract, f"{place}.mlp.3"),
        ):  # fmt: skip
            target[f"{name}.weight"], target[f"{name}.bias"] = layer.weight, layer.bias
    other.load_state_dict(target)
    x = images(3, dtype=torch.float64)
    assert torch.allclose(net(x), other(x), rtol=0, atol=1e-10)


def test_full_size_vision_transformer_has_torchvisions_parameters() -> None:
    theirs = vision.load().models
    with torch.device("meta"):
        ours, other = VisionTransformer(classes=257), theirs.vit_l_16(num_classes=257)
    assert sorted(tuple(p.shape) for p in ours.parameters()) == sorted(tuple(p.shape) for p in other.parameters())


# The shortcut of VGG11 ----------------------------------------------------------------------------------------


def test_vgg11s_sum_of_49_weights_equals_the_layer_on_49_copies_with_its_gradient() -> None:
    net, x = small("vgg11", dtype=torch.float64), images(6, dtype=torch.float64)
    y = torch.arange(6)
    found = []
    for forward in (net.forward, net.reference):
        net.zero_grad()
        with dropout_seeds(net, [5]):
            logits = forward(x)
        nn.functional.cross_entropy(logits, y).backward()
        found.append([logits.detach(), *(p.grad.clone() for p in net.parameters())])
        assert net.hidden1.weight.grad.is_contiguous()
    for fast, plain in zip(*found, strict=True):
        assert torch.allclose(fast, plain, rtol=0, atol=1e-13)


# Dropout ------------------------------------------------------------------------------------------------------


def test_dropout_keeps_the_mean_and_drops_the_share() -> None:
    layer, x = SeededDropout(0.25), torch.ones(200, 500)
    with dropout_seeds(layer, [1]):
        out = layer(x)
    share = float((out == 0).double().mean())
    assert share == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / x.numel()))
    assert out.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("model", ["vgg11", "alexnet"])
def test_a_step_is_repeatable_and_another_seed_drops_other_features(model: str) -> None:
    net, x = small(model), batch(model)

    def logits(seed: int) -> torch.Tensor:
        with dropout_seeds(net, [seed]):
            return net(x).detach()

    first = logits(1)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert torch.equal(first, logits(1))
    assert torch.equal(before, torch.get_rng_state()), "the global generator is left alone"
    assert not torch.equal(first, logits(2))


@pytest.mark.parametrize("model", ["vgg11", "alexnet"])
def test_workers_drop_the_same_features_together_and_one_by_one(model: str) -> None:
    net, x, sizes, seeds = small(model, dtype=torch.float64), batch(model, 7, dtype=torch.float64), [2, 4, 1], [8, 3, 5]
    with dropout_seeds(net, seeds, sizes):
        together = net(x)
    for part, rows, seed in zip(x.split(sizes), together.split(sizes), seeds, strict=True):
        with dropout_seeds(net, [seed]):
            assert torch.allclose(net(part), rows, rtol=0, atol=1e-13)


def test_layers_of_one_network_and_precisions_use_masks_of_their_own_seed() -> None:
    layers, x = nn.Sequential(SeededDropout(0.5), SeededDropout(0.5)), torch.ones(4, 64)
    with dropout_seeds(layers, [1]):
        first, second = layers[0](x), layers[1](x)
        assert not torch.equal(first, second)
        assert torch.equal(first.double(), layers[0](x.double()))
        assert torch.equal(first.bfloat16(), layers[0](x.bfloat16()))


def test_training_without_seeds_is_refused_and_evaluation_is_not() -> None:
    net, x = small("vgg11"), images()
    with pytest.raises(ReproError, match="trained without seeds; call it within `dropout_seeds`"):
        net(x)
    net.eval()(x)
    assert torch.equal(small("vgg11", dropout=0.0)(x), net(x)), "without dropout, training and evaluation agree"
    with dropout_seeds(net.train(), [1]):
        net(x)
    with pytest.raises(ReproError, match="without seeds"):
        net(x)


@pytest.mark.parametrize(("seeds", "sizes"), [([1, 2], None), ([1], [2, 3]), ([], [])])
def test_seeds_and_workers_must_be_as_many(seeds: list[int], sizes: list[int] | None) -> None:
    if seeds:
        with pytest.raises(ReproError, match="one for each was expected"), dropout_seeds(small("vgg11"), seeds, sizes):
            pass
    else:
        with dropout_seeds(small("vit"), seeds, sizes):
            small("vit")(images())


# Weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", SMALL)
def test_a_seed_is_a_network_and_the_global_generator_is_not_asked(model: str) -> None:
    torch.manual_seed(1)
    first, state = small(model).state_dict(), torch.get_rng_state()
    torch.manual_seed(2)
    second, other = small(model).state_dict(), small(model, seed=4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(state, torch.get_rng_state()), "seeded between the two"
    drawn = [name for name, tensor in first.items() if tensor.dim() > 1 and tensor.any()]
    assert len(drawn) >= (4 if model == "cnn" else 8)
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


@pytest.mark.parametrize("model", SMALL)
def test_every_weight_is_set_by_the_initialisation(model: str) -> None:
    net = small(model).to(memory_format=torch.contiguous_format)  # numbers are drawn in the order of the memory
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "norm" not in name:  # LayerNorm starts at one and zero by its definition
                p.fill_(float("nan"))
    net.initialise(generator(3, "initial weights"))
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


def deviation(tensor: torch.Tensor) -> float:
    return float(tensor.detach().double().std())


@pytest.mark.parametrize("width", [8, 32])
def test_vgg11_starts_as_torchvisions_and_a_narrow_one_passes_its_signal_on(width: int) -> None:
    net = VGG11(classes=10, width=width)
    net.initialise(generator(1, "initial weights"))
    for module in net.features:
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (9 * module.out_channels))
            assert deviation(module.weight) == pytest.approx(expected, rel=5 / math.sqrt(2 * module.weight.numel()))
            assert not module.bias.any()
    assert deviation(net.hidden2.weight) == pytest.approx(0.01 * math.sqrt(64 / width), rel=0.01)  # 0.01 at 64
    # The gain of a layer after ReLU is inputs x variance / 2; it does not depend on the width.
    gain = net.hidden2.in_features * deviation(net.hidden2.weight) ** 2 / 2
    assert gain == pytest.approx(4096 * 1e-4 / 2, rel=0.02)


def test_alexnet_starts_with_pytorchs_default() -> None:
    net = small("alexnet", width=16)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert 0.97 * bound < float(module.weight.detach().abs().max()) <= bound * (1 + 1e-6)
            assert 0 < float(module.bias.detach().abs().max()) <= bound * (1 + 1e-6)


def test_the_vision_transformer_starts_as_torchvisions() -> None:
    net = small("vit", width=8)
    d = 128
    assert not net.class_token.any()
    assert not net.classifier.weight.any()
    assert deviation(net.positions) == pytest.approx(0.02, rel=0.1)
    assert deviation(net.patches.weight) == pytest.approx(math.sqrt(1 / 192), rel=0.05)
    for block in net.blocks:
        for layer in (block.project_in, block.expand, block.contract):
            bound = math.sqrt(6 / (layer.in_features + layer.out_features))
            assert 0.99 * bound < float(layer.weight.detach().abs().max()) <= bound * (1 + 1e-6)
        assert deviation(block.expand.bias) == pytest.approx(1e-6, rel=0.2)
        assert float(block.project_out.weight.detach().abs().max()) <= 1 / math.sqrt(d)
        assert not block.project_in.bias.any()
        assert not block.project_out.bias.any()
    assert torch.equal(net(images()), torch.zeros(5, 10))


@pytest.mark.parametrize("model", SMALL)
def test_every_parameter_gets_a_gradient(model: str) -> None:
    net = small(model)
    if model == "vit":
        net.classifier.weight.data.normal_(generator=torch.Generator().manual_seed(1))  # at zero it passes none back
    with dropout_seeds(net, [1]):
        (net(batch(model)) ** 2).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("model", SMALL)
def test_convolutions_are_stored_channels_last(model: str) -> None:
    convolutions = [module for module in small(model).modules() if isinstance(module, nn.Conv2d)]
    assert all(module.weight.is_contiguous(memory_format=torch.channels_last) for module in convolutions)


# Registry -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "options", "says"),
    [
        ("vgg11", {"norm": "batch"}, "vgg11 with norm 'batch'; 'none' was expected"),
        ("alexnet", {"norm": "group"}, "alexnet with norm 'group'; 'none' was expected"),
        ("vit", {"norm": "batch"}, "vit with norm 'batch'; 'layer' was expected"),
        ("vgg11", {"image_size": 16}, "vgg11 on images of 16 px; at least 32 px"),
        ("alexnet", {"image_size": 62}, "alexnet on images of 62 px; at least 63 px"),
        ("cnn", {"norm": "batch"}, "cnn with norm 'batch'; 'none' was expected"),
        ("cnn", {"image_size": 5}, "cnn on images of 5 px; at least 6 px"),
        ("vit", {"patch": 5}, "vit on images of 32 px in patches of 5 px; a divisor"),
        ("vit", {"width": 6}, "vit of width 6; at most 4, or a multiple of 4"),
        ("vgg11", {"patch": 4}, "vgg11 has no patch; leave it out"),
        ("vit", {"dropout": 0.1}, "vit has no dropout; leave it out"),
    ],
)
def test_what_a_network_does_not_have_is_refused(model: str, options: dict, says: str) -> None:
    with pytest.raises(ReproError, match=says):
        small(model, **options)


def test_resnets_have_neither_dropout_nor_patches() -> None:
    for option in ({"dropout": 0.5}, {"patch": 4}, {"depth": 2}):
        with pytest.raises(ReproError, match=f"resnet18 has no {next(iter(option))}"):
            models.build("resnet18", classes=10, width=4, **option)


# Results change only with a version ---------------------------------------------------------------------------

GOLDEN = {
    "vgg11": ("vgg", 2, (17511.0799819, -0.597844160954, 0.271167103627)),
    "alexnet": ("alexnet", 2, (5653.96154645, 0.0587671892387, 0.0675784109008)),
    "vit": ("vit", 2, (3219.37141668, 0.331886999784, -2.96986356141)),
    "cnn": ("cnn", 1, (375.192733863, -0.236453072075, -0.222835597205)),
}


@pytest.mark.parametrize("model", SMALL)
def test_first_weights_and_logits_change_only_with_a_version(model: str) -> None:
    part, version, expected = GOLDEN[model]
    net = small(model, dtype=torch.float64)
    if model == "vit":
        net.classifier.weight.data.normal_(generator=torch.Generator().manual_seed(1))  # starts at zero
    with dropout_seeds(net, [1]):
        logits = net(batch(model, 2, dtype=torch.float64))
    found = [float(sum(p.detach().abs().sum() for p in net.parameters())), *logits[:, 0].tolist()]
    assert numerics.VERSIONS[part] == version, "a version changed: write the golden values anew"
    assert found == pytest.approx(expected, rel=1e-9), (
        "results changed, and no version in repro/experiments/numerics.py did"
    )


def test_only_runs_of_a_network_depend_on_its_version() -> None:
    spec = {"kind": "train", "method": "central", "norm": "none", "partition": "iid"}
    for model, (part, _, _) in GOLDEN.items():
        used = numerics.used_by(spec | {"model": model})
        assert part in used
        assert set(used) - {part} == set(numerics.used_by(spec | {"model": "resnet18"}))
