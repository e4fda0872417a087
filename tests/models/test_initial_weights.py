"""Initial weights, masks of dropout and first vectors are the same on every processor, and distributed as said."""

import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from repro import models
from repro.models import draws
from repro.models.dropout import SeededDropout, dropout_seeds
from repro.randomness import generator
from repro.training import sharpness

NETWORKS = {
    **{f"{net}, {norm}": {"model": net, "norm": norm, "width": 9} for net in ("resnet18", "resnet50")
       for norm in ("batch", "group", "fixup")},
    "vgg11": {"model": "vgg11", "norm": "none", "width": 4},
    "alexnet": {"model": "alexnet", "norm": "none", "width": 4, "image_size": 64},
    "vit": {"model": "vit", "norm": "layer", "width": 4, "patch": 8, "depth": 2},
    "cnn": {"model": "cnn", "norm": "none", "width": 4},
    "torchvision's": {"model": "torchvision:mobilenet_v3_small"},
    "torchvision's, truncated": {"model": "torchvision:swin_t"},
}  # fmt: skip
PROCESSORS = [
    {"ATEN_CPU_CAPABILITY": "default"},
    {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
]


def digest(tensors) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def drawn() -> list[str]:
    """A line for everything that is random in training and is no batch."""
    lines = [f"{name}: {digest(models.build(classes=7, seed=5, **of).parameters())}" for name, of in NETWORKS.items()]
    layer = SeededDropout(0.3).train()
    with dropout_seeds(layer, [11]):
        lines.append(f"dropout: {digest([layer(torch.ones(33, 1001))])}")
    seen: list[torch.Tensor] = []

    def product(vector: list[torch.Tensor]) -> list[torch.Tensor]:
        seen.extend(vector)
        return [0 * part for part in vector]

    sharpness.top_eigenvalue(product, [torch.zeros(1)], seed=3)
    sharpness.top_eigenvalue(product, [torch.zeros(1)], seed=4)
    return [*lines, f"sharpness: {digest(seen)}"]


@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda of: of["ATEN_CPU_CAPABILITY"])
def test_every_processor_draws_the_same(processor: dict[str, str]) -> None:
    here = Path(__file__).resolve().parent
    environment = os.environ | processor | {"PYTHONPATH": os.pathsep.join([str(here.parents[1]), str(here)])}
    program = "import test_initial_weights as t; print('\\n'.join(t.drawn()))"
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert found.stdout.splitlines() == drawn()


def test_the_first_vector_of_the_sharpness_is_numpys() -> None:
    seen: list[torch.Tensor] = []

    def product(vector: list[torch.Tensor]) -> list[torch.Tensor]:
        seen.extend(vector)
        return [0 * part for part in vector]

    sharpness.top_eigenvalue(product, [torch.zeros(3, 5)], seed=3)
    expected = generator(3, "Lanczos").standard_normal(15).reshape(3, 5)
    assert seen[0].numpy() == pytest.approx(expected / np.linalg.norm(expected), rel=1e-6)


N = 40_000
DRAWS = {
    "normal": (lambda t, random: draws.normal(t, 0.3, random), stats.norm(0, 0.3)),
    "uniform": (lambda t, random: draws.uniform(t, 0.3, random), stats.uniform(-0.3, 0.6)),
    "truncated": (lambda t, random: draws.truncated_normal(t, 0.3, 0.45, random), stats.truncnorm(-1.5, 1.5, 0, 0.3)),
    "He": (draws.he_normal, stats.norm(0, math.sqrt(2 / (100 * 25)))),
}


@pytest.mark.parametrize("name", DRAWS)
def test_numbers_are_distributed_as_said(name: str) -> None:
    """Kolmogorov and Smirnov's distance at a level of 1e-4, for a seed that is fixed."""
    draw, expected = DRAWS[name]
    tensor = torch.empty(100, 16, 5, 5)
    draw(tensor, generator(1, name))
    assert stats.kstest(tensor.flatten().numpy(), expected.cdf).pvalue > 1e-4
    low, high = expected.support()
    assert low <= float(tensor.min()) < float(tensor.max()) <= high


@pytest.mark.parametrize("name", ["normal", "uniform"])
def test_neither_blocks_nor_memory_format_nor_precision_change_the_numbers(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = DRAWS[name][0]
    whole, last, double = torch.empty(6, 4, 5, 5), torch.empty(6, 4, 5, 5), torch.empty(6, 4, 5, 5).double()
    last = last.to(memory_format=torch.channels_last)
    draw(whole, generator(1))
    draw(double, generator(1))
    monkeypatch.setattr(draws, "BLOCK", 7)
    draw(last, generator(1))
    assert last.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(last, whole)
    assert torch.equal(double, whole.double())
