"""Forward and backward passes in bfloat16, fast also on processors without instructions for it.

``autocast`` computes convolutions and matrix products of bfloat16 numbers, sums them in float32 and rounds the sums to
bfloat16. A processor with instructions for bfloat16 does so directly. Most laptops have none; there the library behind
torch imitates them, at about half the speed of float32. On such a processor ``precise`` rounds the inputs of a
convolution to bfloat16, computes it in float32 and rounds the result: the same numbers but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from repro import machine


def precise(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Context of a forward pass: ``bf16`` computes convolutions and matrix products in bfloat16."""
    if precision != "bf16":
        return nullcontext()
    if device.type == "cpu" and not machine.has_bfloat16():
        return by_float32()
    return torch.autocast(device.type, torch.bfloat16)


@contextmanager
def by_float32() -> Iterator[None]:
    """``autocast`` to bfloat16 on the CPU, with convolutions of bfloat16 numbers computed in float32."""
    with torch.autocast("cpu", torch.bfloat16), _ConvolutionsInFloat32():
        yield


class _ConvolutionsInFloat32(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is torch.conv2d:
            return _conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    pairs = [(value, value) if isinstance(value, int) else tuple(value) for value in (stride, padding, dilation)]
    own = None if bias is None else bias.bfloat16()
    found: Tensor = _Convolution.apply(x.bfloat16(), weight.bfloat16(), own, *pairs, groups)
    return found


class _Convolution(torch.autograd.Function):
    """A convolution of bfloat16 tensors that keeps them in bfloat16 for the backward pass, as the native one does."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.biases = None if bias is None else list(bias.shape)
        ctx.settings = (stride, padding, dilation, False, (0, 0), groups)
        with torch.autocast("cpu", enabled=False):
            wide = None if bias is None else bias.float()
            return torch.convolution(x.float(), weight.float(), wide, *ctx.settings).bfloat16()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Any, ...]:
        x, weight = ctx.saved_tensors
        found = torch.ops.aten.convolution_backward(
            gradients[0].float(), x.float(), weight.float(), ctx.biases, *ctx.settings, list(ctx.needs_input_grad[:3])
        )
        return *(None if each is None else each.bfloat16() for each in found), None, None, None, None
