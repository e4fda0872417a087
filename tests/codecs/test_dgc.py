"""Deep gradient compression: momentum, masking, selection and clipping, as the paper and its authors have them."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import GREATEST, SUBNORMAL, everything, heads, normal, send, sparse_size

from repro import models
from repro.codecs import DGC, TopK, dgc, message, sparse
from repro.models import sizes


def test_the_warm_up_is_the_papers_list_to_the_digit() -> None:
    assert dgc.WARM_UP == (0.75, 0.9375, 0.984375, 0.996, 0.999)
    codec, tensor = DGC(momentum=0), torch.arange(1.0, 64_001).view(64, 10, 10, 10)
    sent = []
    for progress in (0.0, 0.99, 1.0, 2.5, 3.0, 3.999, 4.0, 17.0):
        state = codec.new_state()
        state["progress"] = progress
        sent.append(int(torch.count_nonzero(send(codec, tensor, state))))
    exact = [16_000, 16_000, 4_000, 1_000, 256, 256, 64, 64]
    assert all(0.8 * k <= ours <= k for ours, k in zip(sent, exact, strict=True)), sent
    shares = [sparse.density(sparsity) for sparsity in dgc.WARM_UP]
    assert shares == [Fraction(1, 4), Fraction(1, 16), Fraction(1, 64), Fraction(1, 250), Fraction(1, 1000)]


@pytest.mark.parametrize(
    ("count", "stride", "size", "top", "k"),
    [(36_864, 17, 2168, 3, 37), (147_456, 73, 2019, 3, 148), (294_912, 97, 3040, 4, 295), (589_824, 97, 6080, 7, 590),
     (1_179_648, 97, 12_161, 13, 1180), (2_359_296, 97, 24_322, 25, 2360)],
)  # fmt: skip
def test_sampling_follows_the_authors_rule(count: int, stride: int, size: int, top: int, k: int) -> None:
    share = sparse.density(0.999)
    assert dgc.sampling(count, share) == (stride, size)
    assert sparse.kept(size, share) == top
    assert sparse.kept(count, share) == k


@pytest.mark.parametrize(("stem", "each", "total"), [("imagenet", 11_175, 11_167), ("cifar", 11_167, 11_160)])
def test_resnet18_sends_a_thousandth_of_every_convolution_rounded_up(stem: str, each: int, total: int) -> None:
    counts = [math.prod(shape) for shape in sizes.shapes("resnet18", 10, stem).values() if len(shape) == 4]
    share = sparse.density(0.999)
    assert sum(sparse.kept(count, share) for count in counts) == each
    assert sparse.kept(sum(counts), share) == total


def two_weights(**options):
    """A weight whose gradient is 1, beside one that takes the place in the first two messages; yields u, v, sent."""
    codec = DGC(momentum=0.9, sparsity=[0.5], **options)
    state = codec.new_state()
    for other in (100.0, 100.0, 0.0, 0.0):
        sent = send(codec, torch.tensor([1.0, other], dtype=torch.float64).view(2, 1, 1, 1), state)
        memory = {kind: float(kept["t"][0]) for kind, kept in state["memory"].items()}
        yield memory["velocity"], memory["residual"], float(sent[0])


def test_the_worked_example_of_momentum_correction_and_masking() -> None:
    steps = list(two_weights())
    assert steps[0] == pytest.approx((1, 1, 0))
    assert steps[1] == pytest.approx((1.9, 2.9, 0))
    assert steps[2] == pytest.approx((0, 0, 5.61))  # u was 2.71; both are cleared with the send
    assert steps[3] == pytest.approx((0, 0, 1)), "u restarts at the gradient: 1"
    optimiser_sum, buffer = 0.0, 0.0
    for _ in range(3):
        buffer = 0.9 * buffer + 1
        optimiser_sum += buffer
    assert steps[2][2] == pytest.approx(optimiser_sum)


def test_without_masking_momentum_goes_on_as_in_dense_training() -> None:
    codec = DGC(momentum=0.9, masking=False, sparsity=[0.0])
    state, one = codec.new_state(), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    assert [float(send(codec, one, state)) for _ in range(4)] == pytest.approx([1, 1.9, 2.71, 3.439])
    assert float(state["memory"]["velocity"]["t"]) == pytest.approx(3.439)


def test_naive_accumulation_loses_the_momentum() -> None:
    codec, total = TopK(0.5, residual=True), 0.0
    state = codec.new_state()
    for other in (100.0, 100.0, 0.0):
        total += float(send(codec, torch.tensor([1.0, other]).view(2, 1, 1, 1), state)[0])
    assert total == 3


def test_nesterovs_momentum_of_the_authors_code() -> None:
    codec = DGC(momentum=0.9, nesterov=True, sparsity=[0.0])
    codec.compress = lambda state, item, random: sparse.compress(item.values, torch.zeros(0, dtype=torch.int64))
    state = codec.new_state()
    for _ in range(3):
        send(codec, torch.ones(1, 1, 1, 1, dtype=torch.float64), state)
    assert float(state["memory"]["residual"]["t"]) == pytest.approx(8.049)


def quadratic(worker: int, weights: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Gradients of a worker's own bowl."""
    targets = [normal(*w.shape, seed=50 + worker, dtype=torch.float64) for w in weights]
    return {f"w{k}": (1 + 0.3 * worker) * (w - t) for k, (w, t) in enumerate(zip(weights, targets, strict=True))}


def trained(codec, workers: int, steps: int = 12, lr: float = 0.05) -> list[torch.Tensor]:
    """A server without momentum: it steps by the mean of what it receives."""
    weights = [normal(3, 2, 3, 3, dtype=torch.float64), normal(5, seed=1, dtype=torch.float64)]
    states = [codec.new_state(1, worker) for worker in range(workers)]
    for _ in range(steps):
        received = [codec.decode(codec.encode(s, quadratic(k, weights))) for k, s in enumerate(states)]
        for weight, *parts in zip(weights, *received, strict=True):
            weight.sub_(lr * sum(parts) / workers)
    return weights


def trained_by_torch(
    workers: int, momentum: list[float], nesterov: bool = False, steps: int = 12
) -> list[torch.Tensor]:
    weights = [normal(3, 2, 3, 3, dtype=torch.float64), normal(5, seed=1, dtype=torch.float64)]
    groups = [{"params": [w], "momentum": m, "nesterov": nesterov} for w, m in zip(weights, momentum, strict=True)]
    optimiser = torch.optim.SGD(groups, lr=0.05)
    for _ in range(steps):
        gradients = [quadratic(worker, weights) for worker in range(workers)]
        for k, weight in enumerate(weights):
            weight.grad = sum(g[f"w{k}"] for g in gradients) / workers
        optimiser.step()
    return weights


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("nesterov", [False, True])
def test_at_sparsity_zero_it_is_sgd_with_momentum(workers: int, nesterov: bool) -> None:
    ours = trained(DGC(masking=False, nesterov=nesterov, sparsity=[0.0]), workers)
    theirs = trained_by_torch(workers, [0.9, 0.9], nesterov)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-14 * 12)


@pytest.mark.parametrize("workers", [1, 4])
def test_at_sparsity_zero_masking_takes_the_momentum_of_all_that_is_sparsified(workers: int) -> None:
    """What is sent is cleared, and everything is sent; the dense tensors keep their momentum."""
    for chosen, momentum in ((everything, [0.0, 0.0]), (message.convolutions, [0.0, 0.9])):
        ours = trained(DGC(masking=True, sparsity=[0.0], chosen=chosen), workers)
        for a, b in zip(ours, trained_by_torch(workers, momentum), strict=True):
            assert torch.allclose(a, b, rtol=0, atol=1e-14 * 12)


def test_one_worker_at_sparsity_zero_is_sgd_to_the_bit() -> None:
    codec = DGC(masking=False, sparsity=[0.0], chosen=everything)
    state, weight, twin = codec.new_state(), normal(40), normal(40)
    optimiser = torch.optim.SGD([twin], lr=0.1, momentum=0.9)
    for k in range(8):
        twin.grad = normal(40, seed=k)
        optimiser.step()
        weight.add_(send(codec, normal(40, seed=k), state), alpha=-0.1)
        assert torch.equal(weight, twin)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(-8, 8), min_size=24, max_size=24), min_size=1, max_size=6), st.booleans())
def test_sent_and_residual_are_the_sum_of_all_momenta(rows: list[list[int]], masking: bool) -> None:
    """In numbers that floating point adds without rounding: element by element, exactly."""
    codec = DGC(momentum=0.5, masking=masking, sparsity=[0.75, 0.9])
    state = codec.new_state()
    sent, momenta, u = torch.zeros(24), torch.zeros(24), torch.zeros(24)
    for k, row in enumerate(rows):
        state["progress"] = float(k)
        gradient = torch.tensor(row, dtype=torch.float32)
        u = 0.5 * u + gradient
        momenta += u
        now = send(codec, gradient.view(2, 3, 2, 2), state).view(-1)
        sent += now
        if masking:
            u = torch.where(now != 0, 0.0, u)
        assert torch.equal(state["memory"]["velocity"]["t"].view(-1), u)
        assert torch.equal(sent + state["memory"]["residual"]["t"].view(-1), momenta)


@pytest.mark.parametrize("count", [100, 5_000, 50_000, 400_000])
@pytest.mark.parametrize("sparsity", dgc.WARM_UP)
def test_selection_is_nearly_the_exact_top_k_and_never_more(count: int, sparsity: float) -> None:
    values, share = normal(count, seed=count), sparse.density(sparsity)
    k = sparse.kept(count, share)
    exact = set(values.abs().topk(k).indices.tolist())
    for seed in range(3):
        places = dgc.select(values, share, np.random.default_rng(seed)).tolist()
        assert places == sorted(set(places))
        assert set(places) <= exact
        assert 0.8 * k <= len(places) <= k


def test_searching_block_by_block_is_the_textbook_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (1, 7, 100):
        monkeypatch.setattr("repro.codecs.sparse.BLOCK", block)
        for values in (normal(100), torch.zeros(0), normal(3, dtype=torch.float64)):
            assert torch.equal(sparse.above(values, 0.5), (values.abs() >= 0.5).nonzero().view(-1))
    assert len(sparse.above(torch.full((3,), GREATEST), 1e300)) == 0


def test_selection_sends_no_zeros_and_all_there_is_if_that_is_less() -> None:
    magnitude = torch.zeros(50_000)
    assert len(dgc.select(magnitude, sparse.density(0.99), np.random.default_rng(0))) == 0
    magnitude[[5, 77, 49_999]] = torch.tensor([SUBNORMAL, 1.0, 1e30])
    assert dgc.select(magnitude, sparse.density(0.99), np.random.default_rng(0)).tolist() == [5, 77, 49_999]
    assert dgc.select(magnitude, Fraction(1), np.random.default_rng(0)).tolist() == [5, 77, 49_999]
    ties = torch.ones(50_000)
    assert len(dgc.select(ties, sparse.density(0.999), np.random.default_rng(0))) == 50


def test_a_message_of_dgc_has_the_published_size() -> None:
    net = models.build("resnet18", classes=10, width=8)
    gradients = {name: normal(*p.shape, seed=k) for k, (name, p) in enumerate(net.named_parameters())}
    codec = DGC()
    for progress in range(5):
        state = codec.new_state()
        state["progress"] = float(progress)
        payload = codec.encode(state, gradients)
        received = codec.decode(payload)
        expected = heads(*gradients.values())
        for tensor, ours in zip(gradients.values(), received, strict=True):
            expected += sparse_size(ours, 4) if tensor.dim() == 4 else 4 * tensor.numel()
        assert len(payload) == expected


def test_clipping_scales_the_whole_gradient_to_the_share_of_a_worker() -> None:
    assert dgc.local_threshold(1.0, 4) == 0.5
    gradient = {"w": torch.tensor([6.0, 0, 0, 0]).view(1, 1, 2, 2), "b": torch.tensor([0.0, 8.0])}
    stats = {"running_var": torch.tensor([1e6])}
    codec = DGC(momentum=0.0, sparsity=[0.0], clip=1.0, workers=4)
    w, b, kept = codec.decode(codec.encode(codec.new_state(), gradient | stats))
    # Divided by the 4 workers its norm is 2.5; the threshold of a worker is 0.5.
    assert w.flatten().tolist() == pytest.approx([1.2, 0, 0, 0])
    assert b.tolist() == pytest.approx([0, 1.6])
    assert kept.tolist() == [1e6]
    small = {name: tensor / 100 for name, tensor in gradient.items()}
    received = codec.decode(codec.encode(codec.new_state(), small))
    assert torch.equal(received[1], small["b"])
    zeros = {"w": torch.zeros(1, 1, 2, 2)}
    assert not codec.decode(codec.encode(codec.new_state(), zeros))[0].any()
