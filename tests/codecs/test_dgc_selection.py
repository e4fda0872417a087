"""How DGC finds a threshold: the sample and its start, few values, lowering; and what clipping scales."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from repro.codecs import DGC, dgc, sparse

N, SHARE = 50_000, Fraction(1, 100)
MOST, STRIDE, TOP = 500, 97, 6  # values sent, stride of the sample, values of the sample above the threshold


class Start:
    """A random source that starts the sample where the test wants it, and notes what it was asked."""

    def __init__(self, start: int) -> None:
        self.start, self.below = start, []

    def integers(self, below: int) -> int:
        self.below.append(below)
        assert 0 <= self.start < below
        return self.start


def test_the_sizes_that_these_tests_rest_on() -> None:
    assert dgc.sampling(N, SHARE) == (STRIDE, N // STRIDE)
    assert sparse.kept(N // STRIDE, SHARE) == TOP
    assert sparse.kept(N, SHARE) == MOST


@pytest.mark.parametrize("start", [0, 1, 50, STRIDE - 1])
def test_the_sample_starts_at_a_place_drawn_from_its_stride(start: int) -> None:
    """Threshold: the sixth largest of every 97th value from the start on, by the definition."""
    values = torch.from_numpy(np.random.default_rng(start).standard_normal(N))
    random = Start(start)
    places = dgc.select(values, SHARE, random)
    assert random.below == [STRIDE]
    magnitude = np.abs(values.numpy())
    threshold = np.sort(magnitude[start::STRIDE])[-TOP]
    passed = np.flatnonzero(magnitude >= threshold)
    while len(passed) < 0.8 * MOST:
        threshold *= 0.8
        passed = np.flatnonzero(magnitude >= threshold)
    expected = np.sort(passed[np.argsort(-magnitude[passed], kind="stable")[:MOST]])
    assert places.tolist() == expected.tolist()


def test_where_the_sample_starts_decides_what_is_sent() -> None:
    values = torch.zeros(N)
    values[0::STRIDE] = 1.0  # 516 values; a sample that starts at 0 sees nothing else
    values[1 : 1 + STRIDE * 450 : STRIDE] = 4.0  # 450 values, all that a sample that starts at 1 sees
    assert len(dgc.select(values, SHARE, Start(0))) == MOST, "966 values reach 1; the 500 largest are sent"
    assert dgc.select(values, SHARE, Start(1)).tolist() == list(range(1, 1 + STRIDE * 450, STRIDE))
    assert len(dgc.select(values, SHARE, Start(2))) == MOST, "the sample holds zeros only; all that is not zero passes"


def test_a_run_draws_another_start_for_every_message() -> None:
    values = torch.from_numpy(np.random.default_rng(0).standard_normal(N)).view(1, 1, 1, N)
    sent = []
    codec = DGC(momentum=0, sparsity=[0.99])
    state = codec.new_state(seed=5)
    for _ in range(4):
        state["memory"].clear()
        sent.append(torch.nonzero(codec.decode(codec.encode(state, {"t": values}))[0].flatten()).flatten().tolist())
    assert len({tuple(places) for places in sent}) > 1


@pytest.mark.parametrize("steps", [1, 5, 9, 10, 11])
def test_a_threshold_that_is_too_high_is_lowered_by_a_fifth_up_to_ten_times(steps: int) -> None:
    """The sample sees six values of 1; a thousand others lie just above 0.8 ** steps, and are found if that is 10."""
    values = torch.zeros(N, dtype=torch.float64)
    values[0 : TOP * STRIDE : STRIDE] = 1.0
    others = [place for place in range(N) if place % STRIDE][:1000]
    values[others] = 0.8**steps * (1 + 1e-9)
    places = dgc.select(values, SHARE, Start(0)).tolist()
    assert len(places) == (MOST if steps <= 10 else TOP)
    assert set(places) >= set(range(0, TOP * STRIDE, STRIDE))


@pytest.mark.parametrize(("passing", "sent"), [(398, MOST), (399, MOST), (400, 400), (401, 401), (500, 500)])
def test_it_is_lowered_only_if_less_than_four_fifths_pass(passing: int, sent: int) -> None:
    values = torch.zeros(N)
    values[0 : TOP * STRIDE : STRIDE] = 1.0
    others = [place for place in range(N) if place % STRIDE]
    values[others[: passing - TOP]] = 1.0
    values[others[1000:1200]] = 0.9  # found once the threshold is 0.8
    assert len(dgc.select(values, SHARE, Start(0))) == sent


@pytest.mark.parametrize("count", [1, 2, 7, 19, 20, 21, 150, 179])
@pytest.mark.parametrize("seed", [0, 1])
def test_of_few_values_all_are_the_sample_and_the_selection_is_exact(count: int, seed: int) -> None:
    """Up to 2 / share values, and somewhat beyond, where the authors' rule comes out at a stride of 1, too."""
    share = Fraction(1, 10)
    assert dgc.sampling(count, share) == (1, count)
    values = torch.from_numpy(np.random.default_rng(count).permutation(count) - count / 2 + 0.25)
    k = math.ceil(count / 10)
    exact = values.abs().topk(k).indices.sort().values
    assert torch.equal(dgc.select(values, share, np.random.default_rng(seed)), exact)


def test_beyond_few_values_the_sample_has_two_above_the_threshold_at_least() -> None:
    assert dgc.sampling(180, Fraction(1, 10)) == (9, 20)
    for count in (180, 1000, 12_345):
        for share in map(sparse.density, dgc.WARM_UP):
            size = dgc.sampling(count, share)[1]
            assert size == count or size * share >= 2
            assert size >= count / 100


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("workers", [1, 4])
def test_with_clipping_a_gradient_counts_as_the_scaled_one_in_every_later_message(nesterov: bool, workers: int) -> None:
    """Step 1 comes before all others: clipping g is the same as being given g, scaled by hand."""
    options = {"momentum": 0.9, "nesterov": nesterov, "masking": False, "sparsity": [0.5]}
    clipping, plain = DGC(clip=0.5, workers=workers, **options), DGC(**options)
    states = clipping.new_state(), plain.new_state()
    clipped = 0
    for step in range(6):
        random = np.random.default_rng(step)
        size = 0.01 if step == 2 else 1.0  # one gradient is too small to be clipped
        given = {
            name: size * torch.from_numpy(random.standard_normal(shape))
            for name, shape in {"w": (2, 3, 2, 2), "b": (5,)}.items()
        }
        norm = math.sqrt(sum(float((g**2).sum()) for g in given.values())) / workers
        scale = min(1.0, 0.5 / math.sqrt(workers) / norm)
        clipped += scale < 1
        ours = clipping.decode(clipping.encode(states[0], given))
        theirs = plain.decode(plain.encode(states[1], {name: scale * g for name, g in given.items()}))
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b, rtol=1e-13, atol=1e-15)
    assert clipped == 5
