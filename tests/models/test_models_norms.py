"""Group, layer and instance norm: PyTorch's values from the faster kernels, image by image, in both modes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from repro import models
from repro.errors import ReproError
from repro.models import norms
from repro.models.norms import EPSILON, KINDS, MOMENTUM, GroupNorm, Norms, WorkerBatchNorm2d, group_norm

PER_IMAGE = ("group", "layer", "instance")


def images(n: int = 5, size: int = 16, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def net(norm: str, model: str = "resnet18", width: int = 4) -> nn.Module:
    return models.build(
        model, classes=10, width=width, norm=norm, last_scale_zero=False, seed=3, dtype=torch.float64
    )  # fmt: skip


def with_gradients(norm, x: Tensor, weight: Tensor, bias: Tensor, grad: Tensor) -> list[Tensor]:
    """Output, and gradients of input, scale and shift."""
    inputs = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in (x, weight, bias)]
    out = norm(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype))]


# PyTorch's group norm is the plain form: the same numbers, whatever kernel was chosen --------------------------


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6), (torch.bfloat16, 8e-3)]
)
@pytest.mark.parametrize("in_group", [1, 2, 4, 8, 16, 32])
def test_group_norm_is_torchs_in_value_and_gradients(in_group, dtype, tolerance, memory_format):
    """Errors are relative to the largest value; bfloat16 inputs against float64 arithmetic: 2^-8 is one rounding."""
    random = torch.Generator().manual_seed(in_group)

    def draw(*shape: int, of: torch.dtype) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64).to(of)

    channels, weights = 32, torch.float64 if dtype == torch.float64 else torch.float32
    x = (2 * draw(6, channels, 5, 4, of=dtype) + 1).to(memory_format=memory_format)
    weight, bias, grad = draw(channels, of=weights), draw(channels, of=weights), draw(6, channels, 5, 4, of=dtype)
    groups = channels // in_group
    ours = with_gradients(lambda *a: group_norm(a[0], groups, *a[1:]), x, weight, bias, grad)
    exact = [t.double() for t in (x, weight, bias, grad)]
    torchs = with_gradients(lambda *a: F.group_norm(a[0], groups, *a[1:], EPSILON), *exact)
    for name, a, b in zip(("output", "input", "scale", "shift"), ours, torchs, strict=True):
        assert float((a.double() - b).abs().max() / b.abs().max()) < tolerance, name
    assert [t.dtype for t in ours] == [dtype, dtype, weights, weights]
    assert ours[0].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_statistics_are_float32_far_from_zero(precision):
    """A map with mean 64 and deviation 1: sums kept in bfloat16 would lose its deviation altogether."""
    x = (64 + images(2).repeat(1, 8, 1, 1).float()).to(precision).to(memory_format=torch.channels_last)
    for groups in (1, 2, 3, 24):
        exact = F.group_norm(x.double(), groups, eps=EPSILON)
        weight, bias = torch.ones(24), torch.zeros(24)
        assert float((group_norm(x, groups, weight, bias).double() - exact).abs().max()) < 0.03


def test_layer_and_instance_norm_are_the_two_ends_of_group_norm():
    x = images(4).repeat(1, 4, 1, 1)
    layer, instance = (Norms(kind).layer(12).double() for kind in ("layer", "instance"))
    assert torch.allclose(layer(x), F.layer_norm(x, x.shape[1:], eps=EPSILON), rtol=0, atol=1e-13)
    assert torch.allclose(instance(x), F.instance_norm(x, eps=EPSILON), rtol=0, atol=1e-13)


# Laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
@pytest.mark.parametrize("norm", [*PER_IMAGE, "none", "fixup"])
def test_an_image_is_judged_alone_and_alike_in_both_modes(norm, model):
    network, x = net(norm, model), images(6)
    if norm == "fixup":  # starts with zero logits; a constant network would pass
        nn.init.normal_(network.classifier.weight, generator=torch.Generator().manual_seed(1))
    together = network.train()(x)
    assert float(together.detach().std(dim=0).min()) > 1e-3, "the network does not see its input"
    assert torch.equal(together, network.eval()(x))
    scale = float(together.detach().abs().max())
    others = torch.cat([x[:3], 2 * x[3:] + 1])
    for mode in (True, False):
        network.train(mode)
        assert torch.allclose(network(others)[:3], together[:3], rtol=0, atol=1e-12 * scale)
        for k in range(len(x)):
            assert torch.allclose(network(x[k : k + 1])[0], together[k], rtol=0, atol=1e-12 * scale)
    assert not list(network.buffers())


def test_with_batch_norm_it_is_not():
    network, x = net("batch"), images(6)
    others = torch.cat([x[:3], 2 * x[3:] + 1])
    together = network.train()(x)
    assert not torch.allclose(network(others)[:3], together[:3], atol=1e-3)
    assert not torch.allclose(network.eval()(x), together, atol=1e-3)


@pytest.mark.parametrize("norm", KINDS)
@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_every_parameter_can_learn(norm, model):
    network = net(norm, model)
    if norm == "fixup":  # its zeros hold gradients back for the first steps
        for tensor in network.parameters():
            if not tensor.detach().any():
                nn.init.normal_(tensor, std=0.1, generator=torch.Generator().manual_seed(1))
    network(images(4)).logsumexp(1).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() and p.grad.any() for p in network.parameters())


def test_without_normalisation_nothing_takes_its_place():
    network = net("none")
    names = {name for name, _ in network.named_parameters()}
    assert names == {name for name, p in net("batch").named_parameters() if p.dim() == 4} | {
        "classifier.weight", "classifier.bias",
    }  # fmt: skip
    assert all(module.bias is None for module in network.modules() if isinstance(module, nn.Conv2d))


# Initialisation -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
@pytest.mark.parametrize("norm", PER_IMAGE)
def test_the_last_scales_start_at_zero_unless_told_otherwise(norm, model):
    zero = models.build(model, classes=10, width=4, norm=norm)
    one = models.build(model, classes=10, width=4, norm=norm, last_scale_zero=False)
    last = {f"blocks.{k}.norm{len(block.branch)}.weight" for k, block in enumerate(zero.blocks)}
    for (name, a), b in zip(zero.named_parameters(), one.parameters(), strict=True):
        assert torch.equal(a, torch.zeros_like(b) if name in last else b), name
    for block in zero.blocks:
        channels = block.branch[0].in_channels
        x = torch.randn(2, channels, 8, 8, generator=torch.Generator().manual_seed(1))
        assert torch.equal(block(x), F.relu(block.shortcut(x)))


def test_batch_norm_has_no_such_choice():
    a, b = (models.build("resnet18", classes=10, width=4, last_scale_zero=zero).state_dict() for zero in (True, False))
    assert all(torch.equal(a[name], b[name]) for name in a)


# Refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("n", [1, 3])
def test_instance_norm_refuses_a_map_of_one_pixel(n, mode):
    network = net("instance").train(mode)
    with pytest.raises(ReproError, match=r"1 x 1 pixels; .*; use larger images or fewer groups"):
        network(images(n, size=8))
    assert net("layer").train(mode)(images(n, size=8)).shape == (n, 10)


def test_an_unknown_norm_is_refused_with_the_known_ones():
    with pytest.raises(ReproError, match="unknown norm 'weight'; one of batch, group, layer, instance, none, fixup"):
        Norms("weight")


def test_kinds_of_layer():
    kinds = {kind: type(Norms(kind).layer(8)) for kind in KINDS}
    assert kinds["batch"] is WorkerBatchNorm2d
    assert all(kinds[kind] is GroupNorm for kind in PER_IMAGE)
    assert kinds["none"] is nn.Identity


# BatchNorm of many workers -------------------------------------------------------------------------------------


def worker_by_worker(x: Tensor, grad: Tensor, weight: Tensor, bias: Tensor, sizes: list[int]) -> list[Tensor]:
    """The reference: PyTorch's kernel once a worker, and sums in the order of the workers.

    Returns the output, gradients of input, scale and shift, and running mean and variance after one batch.
    """
    out, grad_x = torch.empty_like(x), torch.empty_like(x)
    mean, variance, grad_weight, grad_bias = (torch.zeros_like(weight) for _ in range(4))
    parts = (each.split(sizes) for each in (x, grad, out, grad_x))
    for part, own_grad, target, grad_target in zip(*parts, strict=True):
        value, own_mean, own_rstd = torch.native_batch_norm(part, weight, bias, None, None, True, MOMENTUM, EPSILON)
        target.copy_(value)
        n, share = part[:, 0].numel(), len(part) / len(x)
        mean += share * own_mean
        variance += share * (own_rstd**-2 - EPSILON) * (n / max(n - 1, 1))
        own_x, own_weight, own_bias = torch.ops.aten.native_batch_norm_backward(
            own_grad, part, weight, None, None, own_mean, own_rstd, True, EPSILON, [True, True, True]
        )
        grad_target.copy_(own_x)
        grad_weight += own_weight
        grad_bias += own_bias
    running = torch.zeros_like(mean).lerp_(mean, MOMENTUM), torch.ones_like(variance).lerp_(variance, MOMENTUM)
    return [out, grad_x, grad_weight, grad_bias, *running]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("sizes", [[8] * 12, [8] * 96, [1] * 6, [5, 3, 9, 2], [40, 40]], ids=str)
@pytest.mark.parametrize(("channels", "size"), [(8, 16), (16, 8), (32, 4), (48, 2), (64, 2), (16, 1), (5, 3)])
def test_many_workers_are_normalised_as_one_by_one_to_the_last_bit(dtype, sizes, channels, size):
    if sizes[0] * size == 1:
        pytest.skip("a single value a channel cannot be normalised")
    random = torch.Generator().manual_seed(channels + len(sizes))
    shape, kind = (sum(sizes), channels, size, size), torch.float64 if dtype == torch.float64 else torch.float32
    x, grad = (torch.randn(shape, generator=random).to(dtype) * 2 + 1 for _ in range(2))
    x, grad = (each.contiguous(memory_format=torch.channels_last) for each in (x, grad))
    layer = WorkerBatchNorm2d(channels).to(kind)
    torch.nn.init.normal_(layer.weight, generator=random)
    torch.nn.init.normal_(layer.bias, generator=random)
    expected = worker_by_worker(x, grad, layer.weight.detach(), layer.bias.detach(), sizes)
    x.requires_grad_()
    with norms.worker_batches(layer_in(layer), sizes):
        out = layer(x)
    out.backward(grad)
    found = [out.detach(), x.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))
    assert [t.stride() for t in found] == [t.stride() for t in expected]


def layer_in(layer: nn.Module) -> nn.Module:
    return nn.Sequential(layer)


def test_small_parts_of_equal_workers_are_normalised_side_by_side_and_no_others(monkeypatch):
    def side_by_side(channels: int, size: int, sizes: list[int], threads: int = 1) -> bool:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        x = torch.zeros(sum(sizes), channels, size, size, dtype=torch.bfloat16)
        return norms._small(x.contiguous(memory_format=torch.channels_last), sizes)

    assert side_by_side(16, 8, [8] * 12)
    assert not side_by_side(8, 8, [8] * 12)
    assert not side_by_side(16, 8, [8] * 11 + [9])
    assert not side_by_side(16, 8, [9] * 12)
    assert not side_by_side(16, 1, [8] * 12)
    assert not side_by_side(16, 8, [8] * 12, threads=2)
    assert not norms._small(torch.zeros(96, 16, 8, 8, dtype=torch.bfloat16), [8] * 12)


@pytest.mark.parametrize("workers", [1, 3, 12])
def test_beside_and_after_are_inverse(workers):
    x = images(12, 4).contiguous(memory_format=torch.channels_last)
    moved = norms._beside(x, workers)
    assert moved.shape == (12 // workers, 3 * workers, 4, 4)
    each = 12 // workers
    assert torch.equal(moved[0, 3 * (workers - 1) : 3 * workers], x[each * (workers - 1)])
    assert torch.equal(norms._after(moved, workers), x)
    assert norms._after(moved, workers).stride() == x.stride()
