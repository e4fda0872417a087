"""Classification networks of torchvision, as ``torchvision:<name>``: its architectures, without anyone's weights.

torchvision is imported at the first use of such a network and nowhere else, so that everything else works without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from repro.errors import ReproError, did_you_mean
from repro.experiments.spec import TORCHVISION
from repro.models import draws
from repro.models.dropout import SeededDropout
from repro.models.norms import WorkerBatchNorm2d

_INSTALL = "install the pair that requirements/torch.txt names (`make env`)"
_OPERATORS = {name: "(Tensor boxes, Tensor scores, float threshold) -> Tensor" for name in ("nms", "qnms")}


def load() -> ModuleType:
    """The package torchvision; everything here imports it through this function.

    A torchvision built for CUDA cannot load its compiled operators beside a torch for CPUs, and its import fails where
    it attaches Python code to two of them. They are then declared, and the import succeeds; no network calls them.

    Raises:
        ReproError: it is not installed, or it belongs to another torch.
    """
    try:
        return _imported()
    except ModuleNotFoundError as error:
        raise ReproError(f"networks of torchvision need torchvision, which is not installed; {_INSTALL}") from error
    except RuntimeError:
        for name, schema in _OPERATORS.items():
            if not hasattr(torch.ops.torchvision, name):
                torch.library.define(f"torchvision::{name}", schema)
    try:
        return _imported()
    except (ImportError, RuntimeError) as error:
        problem = str(error).splitlines()[0]
        raise ReproError(
            f"torchvision cannot be imported beside torch {torch.__version__}: {problem}; {_INSTALL}"
        ) from error


def _imported() -> ModuleType:
    import torchvision

    return torchvision


def names() -> list[str]:
    """The names of all classification networks of torchvision, without the prefix."""
    models = load().models
    return list(models.list_models(module=models))


def build(model: str, *, classes: int, image_size: int, random: np.random.Generator) -> nn.Module:
    """A network of torchvision's own class, initialised by its own rules with the numbers of ``random``.

    Layers that draw, or depend on who shares a batch, are those of this package: dropout and stochastic depth take
    their masks from ``dropout_seeds``, and BatchNorm keeps workers apart. Auxiliary classifiers are left out.

    Args:
        model: the name, with its prefix.
        classes: outputs.
        image_size: height and width of the images in pixels.
        random: the same generator always gives the same weights, on every processor.

    Raises:
        ReproError: no torchvision, an unknown name, or images that are too small for it.
    """
    name, known = model.removeprefix(TORCHVISION), names()
    if name not in known:
        raise ReproError(
            f"unknown model {model!r}; {did_you_mean(name, known)}a classification network of torchvision "
            f"{load().__version__} was expected, such as {TORCHVISION}resnet18"
        )
    try:
        with _Drawn(random):
            net: nn.Module = load().models.get_model(
                name, weights=None, num_classes=classes, **_arguments(name, image_size)
            )
        with _no_stride_on_a_pixel(net):
            _passed_through(net.eval(), image_size)
    except (RuntimeError, ValueError, AssertionError) as error:
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ReproError(
            f"{model} on images of {image_size} px: {problem}; others, mostly larger, were expected"
        ) from error
    return _ours(net.train())


def _arguments(name: str, image_size: int) -> Mapping[str, Any]:
    """What a network takes besides its classes: those with positions the image size, GoogLeNet and Inception more."""
    if name.startswith("vit_"):
        return {"image_size": image_size}
    if name.startswith("maxvit_"):
        return {"input_size": (image_size, image_size)}
    if name in ("googlenet", "inception_v3"):
        return {"aux_logits": False, "init_weights": True}
    return {}


class _Drawn(TorchDispatchMode):
    """Within the context, normal and uniform numbers are those of numpy (see ``draws``)."""

    def __init__(self, random: np.random.Generator) -> None:
        super().__init__()
        self.random = random

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is torch.ops.aten.normal_.default:
            return self._normal(*args)
        if func is torch.ops.aten.uniform_.default:
            return self._uniform(*args)
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise RuntimeError(f"its initialisation draws by {func}, and normal_ or uniform_ was expected")
        return func(*args, **given)

    def _normal(self, tensor: Tensor, mean: float = 0.0, deviation: float = 1.0) -> Tensor:
        draws.normal(tensor, deviation, self.random)
        return tensor.add_(mean)

    def _uniform(self, tensor: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        draws.uniform(tensor, (high - low) / 2, self.random)
        return tensor.add_((high + low) / 2)


@torch.no_grad()
def _passed_through(net: nn.Module, image_size: int) -> None:
    """Pass an image of no content through ``net``, in shapes alone."""
    state = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    shapes = {name: tensor.to("meta") for name, tensor in state.items()}
    torch.func.functional_call(net, shapes, torch.empty(1, 3, image_size, image_size, device="meta"))


@contextmanager
def _no_stride_on_a_pixel(net: nn.Module) -> Iterator[None]:
    """Within the context, a convolution whose stride meets a single pixel fails: ``models.build`` says why."""

    def check(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if isinstance(layer, nn.Conv2d) and max(layer.stride) > 1 and min(inputs[0].shape[-2:]) == 1:
            raise ValueError("a convolution with a stride would meet a single pixel")

    hooks = [layer.register_forward_pre_hook(check) for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _ours(net: nn.Module) -> nn.Module:
    """``net`` with the layers of this package in the place of those that draw, or depend on who shares a batch."""
    make: dict[type[nn.Module], Callable[[Any], nn.Module]] = {
        nn.BatchNorm2d: _batch_norm,
        nn.Dropout: lambda layer: SeededDropout(layer.p),
        load().ops.StochasticDepth: lambda layer: SeededDropout(layer.p, whole=True),
    }
    for parent in list(net.modules()):
        for name, layer in parent.named_children():
            if type(layer) in make:
                setattr(parent, name, make[type(layer)](layer))
    return net


def _batch_norm(layer: nn.BatchNorm2d) -> WorkerBatchNorm2d:
    assert layer.momentum is not None  # None would be a plain mean over all batches, which no network here has
    made = WorkerBatchNorm2d(layer.num_features, layer.eps, layer.momentum)
    made.weight, made.bias = layer.weight, layer.bias
    return made
