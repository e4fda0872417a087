"""The network is the one that is said to be trained: counts, shapes, normalisation and repeatable weights."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from repro import models
from repro.errors import ReproError
from repro.models.norms import Norms, WorkerBatchNorm2d
from repro.models.resnet import _shortcut


def small(norm: str = "batch", **options) -> nn.Module:
    return models.build("resnet18", **({"classes": 10, "width": 4, "norm": norm, "seed": 3} | options))


def images(n: int = 5, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Size ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "instance"])
@pytest.mark.parametrize(("classes", "parameters"), [(10, 11_173_962), (100, 11_220_132), (1000, 11_681_832)])
def test_resnet18_has_the_known_number_of_parameters(norm: str, classes: int, parameters: int) -> None:
    with torch.device("meta"):
        net = models.resnet.ResNet18(classes=classes, norm=norm)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert sum(p.numel() for p in net.parameters() if p.dim() == 4) == 11_159_232


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("width", [4, 8, 12])
def test_the_number_of_parameters_follows_the_width(norm: str, width: int) -> None:
    w = width
    stages = 9 * w * w * (4 + 2 + 3 * 4 + 8 + 3 * 16 + 32 + 3 * 64) + w * w * (2 + 8 + 32)  # 3x3, then 1x1 shortcuts
    norms = 2 * (w + 4 * w * (1 + 2 + 4 + 8) + w * (2 + 4 + 8))
    assert sum(p.numel() for p in small(norm, width=w).parameters()) == 27 * w + stages + norms + 8 * w * 10 + 10


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("size", [8, 16, 32])
@pytest.mark.parametrize("classes", [2, 10])
def test_logits_are_one_per_image_and_class(norm: str, size: int, classes: int) -> None:
    assert small(norm, classes=classes)(images(3, size)).shape == (3, classes)


def test_three_stages_halve_the_image() -> None:
    net, sizes = small(), []
    for block in net.blocks:
        block.register_forward_hook(lambda _, __, out: sizes.append(tuple(out.shape[1:])))
    net(images(2, 32))
    assert sizes == [
        shape for shape in ((4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)) for _ in range(2)
    ], "the stem neither strides nor pools (Table 4 of post 2)"  # fmt: skip


# Normalisation ------------------------------------------------------------------------------------------------


def test_with_batch_norm_an_image_depends_on_its_batch_in_training_and_not_in_evaluation() -> None:
    net, x = small("batch").double(), images(6, 16).double()
    other = torch.cat([x[:3], 2 * x[3:] + 1])
    assert not torch.allclose(net.train()(x)[:3], net(other)[:3], atol=1e-3)
    net.eval()
    assert torch.allclose(net(x)[:3], net(other)[:3], rtol=0, atol=1e-12)
    assert not torch.allclose(net.train()(x), net.eval()(x), atol=1e-3)


@pytest.mark.parametrize(("channels", "groups"), [(4, 4), (16, 16), (32, 32), (64, 32), (512, 32), (48, 16), (12, 4)])
def test_groups_are_32_or_the_next_power_of_two_that_divides_the_channels(channels: int, groups: int) -> None:
    assert Norms("group").layer(channels).num_groups == groups


def test_training_moves_the_running_statistics_as_torch_does() -> None:
    net, theirs, x = small("batch"), nn.BatchNorm2d(4), images(6, 16)
    net.train()(x)
    theirs(net.stem(x))
    assert torch.allclose(net.norm.running_mean, theirs.running_mean, atol=1e-6)
    assert torch.allclose(net.norm.running_var, theirs.running_var, atol=1e-6)
    assert sum(isinstance(m, WorkerBatchNorm2d) for m in net.modules()) == 20


# Weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_seed_is_a_network_and_another_seed_another_one(norm: str) -> None:
    assert equal(weights(small(norm)), weights(small(norm)))
    other = weights(small(norm, seed=4))
    drawn = [name for name, tensor in weights(small(norm)).items() if tensor.dim() in (2, 4)]
    assert drawn
    assert not any(torch.equal(weights(small(norm))[name], other[name]) for name in drawn)


def test_weights_do_not_depend_on_the_global_generator_and_leave_it_alone() -> None:
    torch.manual_seed(1)
    first, before = weights(small()), torch.get_rng_state()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    second = weights(small())
    assert equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_both_kinds_of_normalisation_start_from_the_same_convolutions_and_classifier() -> None:
    batch, group = weights(small("batch")), weights(small("group"))
    shared = [name for name, tensor in group.items() if tensor.dim() in (2, 4) or name.startswith("classifier")]
    assert len(shared) == 20 + 2
    assert all(torch.equal(batch[name], group[name]) for name in shared)


def test_the_floating_type_changes_the_rounding_of_the_weights_only() -> None:
    single, double = weights(small()), weights(small(dtype=torch.float64))
    assert all(tensor.dtype == torch.float64 for tensor in double.values())
    assert all(torch.equal(single[name], double[name].float()) for name in single)


def test_convolutions_start_he_normal_by_fan_out_and_the_classifier_uniform() -> None:
    net = models.build("resnet18", classes=10, width=32, seed=1)
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d):
            expected = math.sqrt(2 / (module.out_channels * module.kernel_size[0] ** 2))
            deviation = 5 / math.sqrt(2 * module.weight.numel())  # five standard errors of a standard deviation
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=deviation), name
    bound = 1 / math.sqrt(256)
    largest = float(net.classifier.weight.detach().abs().max())
    assert 0.98 * bound < largest <= bound
    assert float(net.classifier.bias.detach().abs().max()) <= bound


def test_norms_start_at_one_and_zero_but_a_group_normed_block_starts_as_its_shortcut() -> None:
    for norm in ("batch", "group"):
        for name, parameter in small(norm).named_parameters():
            if parameter.dim() == 1 and not name.startswith("classifier"):
                starts_at_zero = name.endswith("bias") or (norm == "group" and name.endswith("norm2.weight"))
                assert torch.equal(parameter, torch.full_like(parameter, 0.0 if starts_at_zero else 1.0)), name
    net, x = small("group"), images(2).abs()
    stem = torch.relu(net.norm(net.stem(x)))
    assert torch.equal(net.blocks[0](stem), stem)


def test_every_parameter_gets_a_gradient() -> None:
    for norm in ("batch", "group"):
        net = small(norm)
        net(images(4, 16)).logsumexp(1).sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"model": "resnet34"}, "alexnet.*resnet18.*vit or torchvision:NAME"),
        ({"norm": "weight"}, "batch, group.*fixup"),
    ],
)
def test_an_unknown_network_or_norm_is_refused_with_the_known_ones(options: dict[str, str], says: str) -> None:
    with pytest.raises(ReproError, match=f"unknown .*{says} was expected"):
        models.build(**({"model": "resnet18", "classes": 10, "width": 4} | options))


# Where kernels fail -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
@pytest.mark.parametrize("size", [1, 4, 7])
def test_images_that_leave_a_stride_a_single_pixel_are_refused(model: str, size: int) -> None:
    with pytest.raises(ReproError, match=f"{model} on images of {size} px; at least 8 px were expected"):
        models.build(model, classes=10, width=4, image_size=size)


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_at_the_smallest_image_every_strided_convolution_sees_more_than_a_pixel(model: str) -> None:
    net, seen = models.build(model, classes=10, width=4, image_size=8), []
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.register_forward_hook(lambda _, x, __: seen.append(x[0].shape[-1]))
    net(images(2, 8))
    assert sorted(set(seen)) == [2, 4, 8]


@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize("channels", [4, 32, 128])
def test_down_to_maps_of_two_pixels_the_bfloat16_gradient_of_a_strided_convolution_is_right(
    size: int, channels: int
) -> None:
    """On a map of one pixel it is whatever its memory held before."""
    conv = nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1, bias=False).to(memory_format=torch.channels_last)
    x = images(16 * channels, size)[:, 0].view(16, channels, size, size).to(memory_format=torch.channels_last)
    gradients = []
    for bf16 in (False, True):
        conv.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            (conv(x).float() ** 2).sum().backward()
        gradients.append(conv.weight.grad.clone())
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 0.02


@pytest.mark.parametrize("channels", range(1, 10))
@pytest.mark.parametrize("size", [7, 8])
def test_a_strided_shortcut_is_the_convolution_that_it_stands_for(channels: int, size: int) -> None:
    ours = _shortcut(channels, 12, 2, Norms("none"))[0].double()
    theirs = nn.Conv2d(channels, 12, 1, stride=2, bias=False).double()
    theirs.load_state_dict(ours.state_dict())
    found = []
    for conv in (ours, theirs):
        x = images(3 * channels, size).view(3, -1, size, size)[:, :channels].double().requires_grad_()
        out = conv(x)
        (out**2).sum().backward()
        found.append((out, x.grad, conv.weight.grad))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-11)


def test_narrow_networks_train_without_avx_512() -> None:
    """oneDNN's weight gradient of a 1x1 convolution with a stride writes beyond its memory there, below 8 channels."""
    program = """
import torch
from repro import models
torch.set_num_threads(1)
for model in ("resnet18", "resnet50"):
    for width in range(1, 9):
        net = models.build(model, classes=3, width=width, seed=1)
        for _ in range(3):
            x = torch.randn(5, 3, 16, 16).to(memory_format=torch.channels_last)
            net(x).logsumexp(1).sum().backward()
        assert all(torch.isfinite(p.grad).all() for p in net.parameters()), (model, width)
"""
    root = str(Path(models.__file__).resolve().parents[2])
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "MALLOC_CHECK_": "3", "PYTHONPATH": root}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
