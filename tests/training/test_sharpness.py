"""The top eigenvalue of the Hessian by the Lanczos iteration, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from repro.errors import NotFinite
from repro.models import build
from repro.training.sharpness import MAX_ITERATIONS, TOLERANCE, hessian_top_eigenvalue, top_eigenvalue


def quadratic(eigenvalues: list[float], rotation_seed: int = 3):
    """Products with a symmetric matrix of known eigenvalues, split over two tensors."""
    n = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(rotation_seed)).double())
    matrix = q @ torch.diag(torch.tensor(eigenvalues, dtype=torch.float64)) @ q.T

    def product(vector: list[Tensor]) -> list[Tensor]:
        image = matrix @ torch.cat([part.flatten() for part in vector])
        return [image[:2], image[2:].reshape(1, -1)]

    return product, [torch.zeros(2, dtype=torch.float64), torch.zeros(1, n - 2, dtype=torch.float64)]


@pytest.mark.parametrize(
    ("eigenvalues", "top"),
    [
        ([7.0, 3.0, 1.0, 0.5], 7.0),
        ([3.0, -9.0, 1.0, 0.5], 3.0),  # the largest in magnitude is negative
        ([-1.0, -4.0, -2.0, -3.0], -1.0),
        ([5.0, 0.0, 0.0, 0.0], 5.0),
    ],
)
def test_it_finds_the_largest_eigenvalue_of_a_known_quadratic(eigenvalues, top) -> None:
    found = top_eigenvalue(*quadratic(eigenvalues), seed=1)
    assert found.converged
    assert found.value == pytest.approx(top, abs=1e-12 * max(map(abs, eigenvalues)))
    assert found.iterations <= len(eigenvalues), "a basis of the whole space"


def test_a_hessian_of_zero_has_the_eigenvalue_zero() -> None:
    assert top_eigenvalue(lambda v: [0 * t for t in v], [torch.zeros(3)], seed=1)[:2] == (0.0, 1)


def diagonal(eigenvalues: list[float] | np.ndarray, dtype: torch.dtype = torch.float32):
    """Products with a diagonal matrix, whose size no dense one could have."""
    values = torch.tensor(eigenvalues, dtype=dtype)
    return lambda vector: [values * vector[0]], [torch.zeros(len(values), dtype=dtype)]


CROWD = np.linspace(-0.5, 0.5, 2000).tolist()


@pytest.mark.parametrize("below", [0.9, 0.99])
@pytest.mark.parametrize("seed", range(20))
def test_ten_eigenvalues_just_below_the_top_are_not_taken_for_it(below: float, seed: int) -> None:
    found = top_eigenvalue(*diagonal([1.0] + [below] * 10 + CROWD), seed)
    assert found.converged
    assert found.value == pytest.approx(1.0, rel=TOLERANCE)
    assert found.iterations <= 40


@pytest.mark.parametrize("seed", range(5))
def test_negative_eigenvalues_nine_times_as_large_do_not_matter(seed: int) -> None:
    found = top_eigenvalue(*diagonal([1.0, -9.0, -9.0, -8.5, *(x / 5 for x in CROWD)]), seed)
    assert found.converged
    assert found.value == pytest.approx(1.0, rel=TOLERANCE)


def test_a_top_without_a_gap_is_said_not_to_have_settled_and_is_not_above_it() -> None:
    found = top_eigenvalue(*diagonal(np.linspace(-1, 1, 5000)), seed=1)
    assert found.iterations == MAX_ITERATIONS
    assert not found.converged
    assert 0.99 < found.value <= 1 + 1e-6


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(-10, 10).map(lambda x: round(x, 6)), min_size=2, max_size=200),
    st.integers(0, 99),
    st.integers(1, 60),
)
def test_what_has_settled_is_within_the_tolerance_of_an_eigenvalue(spectrum, seed, most) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repro.training.sharpness.MAX_ITERATIONS", most)
        found = top_eigenvalue(*diagonal(spectrum, torch.float64), seed)
    rounding = 1e-12 * max(map(abs, spectrum))
    assert min(spectrum) - rounding <= found.value <= max(spectrum) + rounding
    assert found.iterations <= min(most, len(spectrum))
    if found.converged:
        assert min(abs(found.value - each) for each in spectrum) <= TOLERANCE * abs(found.value) + rounding


def test_two_products_are_too_few_to_have_settled(monkeypatch) -> None:
    monkeypatch.setattr("repro.training.sharpness.MAX_ITERATIONS", 2)
    assert top_eigenvalue(*quadratic([4.0, -3.9, 1.0, 0.0]), seed=1)[1:] == (2, False)


def test_the_start_depends_on_the_seed_and_not_on_the_generators_of_torch() -> None:
    def first(seed: int) -> Tensor:
        seen: list[Tensor] = []
        product, like = diagonal([3.0, 2.0, 1.0])
        top_eigenvalue(lambda v: seen.append(v[0].clone()) or product(v), like, seed)
        return seen[0]

    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert float(first(1).norm()) == pytest.approx(1)


def test_an_infinite_product_is_an_error() -> None:
    with pytest.raises(NotFinite):
        top_eigenvalue(lambda v: [t * torch.inf for t in v], [torch.zeros(3)], seed=1)


def test_of_a_network_it_is_the_largest_eigenvalue_of_the_explicit_hessian() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Tanh(), nn.Dropout(0.5), nn.Linear(3, 3)).double()
    x, y = torch.randn(20, 3, 2, 2, dtype=torch.float64), torch.arange(20) % 3
    names, parameters = zip(*model.named_parameters(), strict=True)
    model.eval()

    def loss(flat: Tensor) -> Tensor:
        parts = flat.split([p.numel() for p in parameters])
        own = {name: part.view_as(p) for name, part, p in zip(names, parts, parameters, strict=True)}
        return F.cross_entropy(torch.func.functional_call(model, own, (x,)), y)

    hessian = torch.autograd.functional.hessian(loss, torch.cat([p.detach().flatten() for p in parameters]))
    exact = float(torch.linalg.eigvalsh(hessian).max())
    model.train()
    found = hessian_top_eigenvalue(model, x, y, seed=1)
    assert found.converged
    assert found.value == pytest.approx(exact, rel=TOLERANCE)
    assert model.training
    assert all(p.grad is None for p in parameters)


@pytest.mark.parametrize(
    ("model", "norm", "px"), [("resnet50", "batch", 16), ("vgg11", "none", 32), ("alexnet", "none", 64)]
)
def test_networks_of_the_paper_have_one_and_stay_as_they_are(model: str, norm: str, px: int) -> None:
    net = build(model, classes=5, width=8, norm=norm, image_size=px, seed=1)
    x, y = torch.randn(6, 3, px, px, generator=torch.Generator().manual_seed(2)), torch.arange(6) % 5
    before = {name: value.clone() for name, value in net.state_dict().items()}
    a, b = (hessian_top_eigenvalue(net, x, y, seed=s).value for s in (1, 1))
    assert a == b > 0
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
