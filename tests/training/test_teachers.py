"""Teachers: planted factors and planted noise are recovered, a leak shows, and nothing beats the ceiling."""

import math

import pytest
import torch
from torch import Tensor

from repro.results.teachers import IDENTITY
from repro.training import autoencoder
from repro.training.teachers import TEACHERS, Pairs

FEW, MANY = 32, 256


def draws(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(n: int, mean: Tensor, root: Tensor, many: int = MANY) -> Pairs:
    """Pairs of gradients of independent batches; one image's has this mean and the covariance root' root."""
    small, large = (mean + draws(n, len(root), seed) @ root / math.sqrt(b) for seed, b in ((1, FEW), (2, many)))
    return Pairs(large, small, [len(mean)], many, FEW)


def predicted(name: str, learnt_from: Pairs, large: Tensor) -> Tensor:
    teacher = TEACHERS[name]
    return teacher.predict(teacher.fit(learnt_from), large, torch.Generator().manual_seed(7))


def r2(made: Tensor, small: Tensor) -> float:
    return float(1 - (made - small).square().sum() / small.square().sum())


def test_a_planted_factor_for_every_tensor_is_recovered() -> None:
    lengths, factors, noise = [30, 1, 500], [0.2, 0.9, 1.7], 0.5
    large = draws(40, sum(lengths), 3)
    true = torch.repeat_interleave(torch.tensor(factors, dtype=torch.float64), torch.tensor(lengths))
    small = true * large + noise * draws(40, sum(lengths), 4)
    found = TEACHERS["scale by layer"].fit(Pairs(large, small, lengths, MANY, FEW))["factors"]
    for got, factor, part in zip(found.tolist(), factors, large.split(lengths, dim=1), strict=True):
        assert abs(got - factor) < 4 * noise / float(part.norm())  # four standard errors of a regression
    made = predicted("scale by layer", Pairs(large, small, lengths, MANY, FEW), large)
    assert r2(made, small) > r2(predicted("best scalar", Pairs(large, small, lengths, MANY, FEW), large), small)


def test_a_tensor_whose_gradient_is_always_zero_gets_no_factor() -> None:
    large = torch.cat([torch.zeros(5, 3), torch.ones(5, 2)], dim=1)
    found = TEACHERS["scale by layer"].fit(Pairs(large, 2 * large, [3, 2], MANY, FEW))
    assert found["factors"].tolist() == [0.0, 2.0]


def test_the_best_scalar_takes_away_the_planted_noise_and_norm_matching_finds_the_planted_length() -> None:
    d, n = 50, 4000
    mean, root = 0.02 * torch.ones(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    pairs = planted(n, mean, root)
    power, noise = float(mean.square().sum()), d
    shrunk = power / (power + noise / MANY)
    assert float(TEACHERS["best scalar"].fit(pairs)["factor"]) == pytest.approx(shrunk, rel=0.1)
    longer = math.sqrt((power + noise / FEW) / (power + noise / MANY))
    assert float(TEACHERS["norm matching"].fit(pairs)["factor"]) == pytest.approx(longer, rel=0.02)
    made = predicted("norm matching", pairs, pairs.large)
    assert float(made.square().sum() / pairs.small.square().sum()) == pytest.approx(1)


def test_planted_noise_is_recovered_by_the_teachers_that_add_it() -> None:
    d, n = 6, 20_000
    mean, root = torch.ones(d, dtype=torch.float64), torch.tril(draws(d, d, 5)) + torch.eye(d, dtype=torch.float64)
    pairs = planted(n, mean, root)
    wanted = root.T @ root * (1 / FEW - 1 / MANY)
    trace = float(wanted.trace())
    isotropic = TEACHERS["isotropic noise"].fit(pairs)["deviation"]
    assert d * float(isotropic) ** 2 == pytest.approx(trace, rel=0.05)
    diagonal = TEACHERS["diagonal noise"].fit(pairs)["deviation"].square()
    assert torch.allclose(diagonal, wanted.diagonal(), rtol=0.05)
    for name, covariance in (
        ("isotropic noise", torch.eye(d, dtype=torch.float64) * trace / d),
        ("diagonal noise", wanted.diagonal().diag()),
        ("conditional noise", wanted),
    ):
        added = predicted(name, pairs, pairs.large) - pairs.large
        assert float((torch.cov(added.T) - covariance).norm() / covariance.norm()) < 0.05, name


def test_a_small_batch_inside_the_large_one_shows_as_a_factor_of_one() -> None:
    d, n = 60, 3000
    mean, root = torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    apart = planted(n, mean, root)
    rest = mean + draws(n, d, 9) @ root / math.sqrt(MANY - FEW)
    inside = Pairs((FEW * apart.small + (MANY - FEW) * rest) / MANY, apart.small, [d], MANY, FEW)
    error = 4 * math.sqrt(MANY / FEW / (n * d))  # four standard errors of a regression without signal
    assert abs(float(TEACHERS["best scalar"].fit(apart)["factor"])) < error
    assert float(TEACHERS["best scalar"].fit(inside)["factor"]) == pytest.approx(1, abs=error)


def test_the_identity_comes_within_b_over_b_of_the_ceiling_and_noise_pays_with_its_variance() -> None:
    d, n = 80, 2000
    mean, root = 0.05 * draws(1, d, 6)[0], torch.diag(draws(1, d, 8)[0].abs() + 0.1)
    pairs = planted(n, mean, root)
    power, noise = float(mean.square().sum()), float(root.square().sum())
    short = noise / MANY / (power + noise / FEW)
    best = r2(mean.expand_as(pairs.small), pairs.small)
    found = {name: r2(predicted(name, pairs, pairs.large), pairs.small) for name in TEACHERS if "encoder" not in name}
    assert best - found[IDENTITY] == pytest.approx(short, abs=0.01)
    assert short < FEW / MANY
    assert found["conditional noise"] == pytest.approx(
        found[IDENTITY] - noise * (1 / FEW - 1 / MANY) / (power + noise / FEW), abs=0.06
    )
    assert max(found.values()) < best + 0.01


# The autoencoder ------------------------------------------------------------------------------------------------


def smooth(n: int, seed: int) -> Tensor:
    """Gradients of three pieces each, that change little from value to value, at three scales."""
    waves = torch.nn.functional.interpolate(draws(n, 3 * 32, seed)[:, None], 3 * autoencoder.PIECE, mode="linear")[:, 0]
    return (waves * torch.repeat_interleave(torch.tensor([1.0, 10.0, 0.1]), autoencoder.PIECE)).float()


def test_the_autoencoder_learns_a_planted_map_and_its_code_is_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autoencoder, "EPOCHS", 60)
    large, held_out = smooth(128, 1), smooth(32, 2)
    learnt = autoencoder.train(large, 0.5 * large, seed=3)
    assert r2(autoencoder.apply(learnt, held_out), 0.5 * held_out) > 0.8
    code = autoencoder.Autoencoder(3).encoder(torch.zeros(1, 1, autoencoder.PIECE))
    assert code.numel() * 4 == autoencoder.PIECE


def test_with_a_skip_the_untrained_network_is_the_identity_and_training_improves_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    large = draws(16, 2500, 1).float()
    fresh = {name: value.clone() for name, value in autoencoder.Autoencoder(1, skip=True).state_dict().items()}
    assert torch.allclose(autoencoder.apply(fresh, large, skip=True), large, rtol=1e-6, atol=0)
    monkeypatch.setattr(autoencoder, "EPOCHS", 30)
    held_out = smooth(32, 2)
    learnt = autoencoder.train(smooth(128, 1), 0.5 * smooth(128, 1), seed=3, skip=True)
    assert r2(autoencoder.apply(learnt, held_out, skip=True), 0.5 * held_out) > r2(held_out, 0.5 * held_out) + 0.5


def test_the_autoencoder_maps_a_multiple_to_the_multiple_and_zeros_to_something_finite() -> None:
    learnt = {name: value.clone() for name, value in autoencoder.Autoencoder(1).state_dict().items()}
    large = draws(2, 1500, 1).float()
    once, thrice = (autoencoder.apply(learnt, factor * large) for factor in (1, 3))
    assert torch.allclose(thrice, 3 * once, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(autoencoder.apply(learnt, torch.zeros(2, 1500))).all()


def test_what_a_teacher_learns_depends_on_its_seed_alone() -> None:
    large = smooth(8, 1)
    first, again, other = (autoencoder.train(large, large, seed) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
