"""Convolutions of bfloat16 numbers, computed in float32 where the processor has no instructions for them."""

import pytest
import torch
from torch import Tensor, nn

from repro import machine
from repro.training import bfloat16
from repro.training.bfloat16 import by_float32


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("stride", "padding", "groups"), [(1, 1, 1), (2, 0, 1), ((2, 1), (0, 1), 4)])
def test_values_and_gradients_are_those_of_autocast_to_one_rounding(bias, stride, padding, groups) -> None:
    layer = nn.Conv2d(8, 12, 3, stride=stride, padding=padding, groups=groups, bias=bias)
    found = []
    for context in (torch.autocast("cpu", torch.bfloat16), by_float32()):
        x = drawn(1, 4, 8, 9, 9).to(memory_format=torch.channels_last).requires_grad_()
        layer.zero_grad()
        with context:
            y = layer(x)
        assert y.dtype == torch.bfloat16
        y.float().square().mean().backward()
        found.append([y.float(), x.grad, *(p.grad for p in layer.parameters())])
    for native, ours in zip(*found, strict=True):
        assert ours.dtype == native.dtype
        assert ours.shape == native.shape
        assert float((ours - native).detach().norm() / native.norm()) < 2**-8


def test_the_result_is_the_exact_convolution_of_rounded_inputs_rounded_once() -> None:
    layer = nn.Conv2d(3, 5, 3)
    x = drawn(2, 2, 3, 6, 6)
    with by_float32():
        y = layer(x)
    rounded = [t.detach().bfloat16().double() for t in (x, layer.weight, layer.bias)]
    exact = torch.nn.functional.conv2d(*rounded)
    assert float(((y.double() - exact) / exact).abs().max()) <= 2**-8  # half a unit in the last of 8 bits, and slack


def test_what_is_kept_for_the_backward_pass_is_as_much_as_natively() -> None:
    layer, kept = nn.Conv2d(8, 8, 3), []
    for context in (torch.autocast("cpu", torch.bfloat16), by_float32()):
        saved = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t) or t, lambda t: t)
        with hooks, context:
            layer(drawn(3, 4, 8, 6, 6))
        kept.append(sorted((str(t.dtype), t.numel()) for t in saved if t.dtype == torch.bfloat16))
    assert kept[0] == kept[1]


def test_precise_computes_in_bfloat16_either_way(monkeypatch) -> None:
    layer, x = nn.Conv2d(3, 4, 3), drawn(4, 2, 3, 8, 8)
    for hardware in (True, False):
        monkeypatch.setattr(machine, "has_bfloat16", lambda hardware=hardware: hardware)
        with bfloat16.precise("bf16", x.device):
            assert layer(x).dtype == torch.bfloat16
        with bfloat16.precise("fp32", x.device):
            assert layer(x).dtype == torch.float32
