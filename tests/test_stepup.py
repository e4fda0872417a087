"""Paper lb: the change of the gradient (Eq. 8), the factor (Eq. 6), and what a constant factor is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from repro.errors import NotFinite, ReproError
from repro.experiments.stepup import StepUp, gradient_change, gradient_changes
from repro.training import plain
from repro.training.gate import Gate
from repro.training.steps import Optimisation, set_lr, sgd

ABOVE = StepUp(4.0, "above", 0.5)
BELOW = StepUp(4.0, "below", 0.5)


def test_the_change_is_that_of_the_squared_norm_relative_to_the_iteration_before() -> None:
    # Squares: 4, 9, 9, 1, 4. Changes: 5/4, 0, 8/9, 3.
    assert gradient_changes([2.0, 3.0, 3.0, 1.0, 2.0]) == [None, 1.25, 0.0, pytest.approx(8 / 9), 3.0]
    assert gradient_changes([]) == []


def test_the_first_iteration_has_no_change_and_is_not_stepped_up() -> None:
    assert gradient_change(3.0, None) is None
    assert ABOVE.factor_at(None, 0.0) == BELOW.factor_at(None, 0.0) == 1.0


def test_after_a_zero_gradient_any_other_is_an_infinite_change_and_another_zero_none() -> None:
    assert gradient_changes([0.0, 2.0, 0.0, 0.0]) == [None, math.inf, 1.0, 0.0]
    assert (ABOVE.factor_at(math.inf, 0.0), BELOW.factor_at(math.inf, 0.0)) == (4.0, 1.0)


def test_squares_that_overflow_do_not_hide_a_change() -> None:
    assert gradient_change(2e200, 1e200) == pytest.approx(3.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0])
def test_a_norm_that_is_no_norm_is_refused_in_one_line(bad: float) -> None:
    for norm, previous in ((bad, 1.0), (1.0, bad), (bad, None)):
        with pytest.raises(ReproError, match=r"gradient norm .* expected; lower the learning rate") as caught:
            gradient_change(norm, previous)
        assert "\n" not in str(caught.value)


def test_the_two_readings_step_up_in_complementary_iterations_and_the_threshold_counts_as_above() -> None:
    changes = [0.0, 0.1, 0.5, 0.51, 3.0]
    assert [ABOVE.factor_at(change, 0.0) for change in changes] == [1.0, 1.0, 4.0, 4.0, 4.0]
    assert [BELOW.factor_at(change, 0.0) for change in changes] == [4.0, 4.0, 1.0, 1.0, 1.0]


def test_a_higher_threshold_steps_up_less_in_the_texts_reading_and_more_in_the_equations() -> None:
    changes = [k / 10 for k in range(20)]

    def share(when: str, threshold: float) -> float:
        return sum(StepUp(2.0, when, threshold).factor_at(change, 0.0) > 1 for change in changes) / len(changes)

    assert share("above", 0.8) < share("above", 0.5)
    assert share("below", 0.8) > share("below", 0.5)


def test_the_controls_do_not_look_at_the_change() -> None:
    always, random = StepUp(4.0, "always"), StepUp(4.0, "random", share=0.25)
    for change in (None, 0.0, 0.6, math.inf):
        assert always.factor_at(change, 0.99) == 4.0
        assert (random.factor_at(change, 0.2), random.factor_at(change, 0.25)) == (4.0, 1.0)
    assert StepUp(4.0, "random", share=0.0).factor_at(1.0, 0.0) == 1.0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"factor": 0, "threshold": 0.5}, "key factor: a number (0); a positive number was"),
        ({"threshold": 0.5}, "key factor: missing"),
        ({"factor": "two", "threshold": 0.5}, "key factor: text ('two')"),
        ({"factor": True, "threshold": 0.5}, "key factor: true/false (True)"),
        ({"factor": 2, "when": "often"}, "key when: text ('often'); one of above, below, always, random"),
        ({"factor": 2}, "no threshold or share with when above; threshold was"),
        ({"factor": 2, "threshold": -1}, "key threshold: a number (-1); a number from 0 up"),
        ({"factor": 2, "when": "always", "threshold": 0.5}, "threshold with when always; neither of them was"),
        ({"factor": 2, "when": "random"}, "no threshold or share with when random; share was"),
        ({"factor": 2, "when": "random", "share": 1.5}, "key share: a number (1.5); a number from 0 to 1"),
        ({"factor": 2, "threshold": 0.5, "share": 0.5}, "threshold and share with when above; threshold was"),
        ({"factor": 2, "threshold": 0.5, "smoothing": 25}, "unknown key 'smoothing'"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_in_one_line(given: dict, says: str) -> None:
    with pytest.raises(ReproError, match=r"expected|missing") as caught:
        StepUp.of(given)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


# In a training ------------------------------------------------------------------------------------------------


class Line(nn.Module):
    """Logits (0, w . x): cross-entropy with label 0 falls as w . x falls."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        value = x.flatten(1)[:, :2] @ self.w
        return torch.stack([torch.zeros_like(value), value], dim=1)


class Alternating:
    """Batches whose scale changes from step to step, and with it the norm of the gradient."""

    rounds_per_epoch = 10
    scales = (1.0, 1.1, 2.5, 2.4, 0.5, 3.0, 2.9, 0.1)

    def get(self, client: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.tensor([[1.0, 0.5], [0.2, -1.0]], dtype=torch.float64) * self.scales[step % len(self.scales)]
        return x, torch.zeros(2, dtype=torch.int64)

    def dropout_seed(self, client: int, step: int) -> int:
        return 0


def train(rule: StepUp | None, lr: float = 0.1, weight_decay: float = 0.0, steps: int = 8) -> tuple[torch.Tensor, Gate]:
    model = Line()
    gate = Gate(rule or StepUp(1.0, "always"), 1, [], [])
    rounds = plain.centralised(
        model, sgd(model, 0.9, weight_decay), Alternating(), Optimisation(lambda _: lr), range(steps), gate
    )
    list(rounds)
    return model.w.detach(), gate


def test_a_constant_factor_is_a_learning_rate_times_it_with_weight_decay_over_it() -> None:
    scaled, _ = train(StepUp(4.0, "always"), lr=0.1, weight_decay=0.02)
    plain_rate, _ = train(None, lr=0.4, weight_decay=0.005)
    same_decay, _ = train(None, lr=0.4, weight_decay=0.02)
    torch.testing.assert_close(scaled, plain_rate, rtol=0, atol=1e-14)
    assert (scaled - same_decay).abs().max() > 1e-3


def test_a_constant_factor_gives_the_numbers_of_a_hand_computed_run() -> None:
    """w0 = 1, g = 0.3 w - 0.1 t, five steps of momentum 0.9 with coupled decay."""

    class Point(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, dtype=torch.float64))

    def end(lr: float, decay: float, factor: float) -> float:
        model = Point()
        optimiser, gate = sgd(model, 0.9, decay), Gate(StepUp(factor, "always"), 1, [], [])
        set_lr(optimiser, lr)
        for t in range(5):
            model.w.grad = 0.3 * model.w.detach() - 0.1 * t
            gate(model, t)
            optimiser.step()
        return float(model.w.detach())

    assert end(0.1, 0.01, 4) == pytest.approx(0.4716714053, abs=1e-10)
    assert end(0.4, 0.0025, 1) == pytest.approx(0.4716714053, abs=1e-10)
    assert end(0.4, 0.01, 1) == pytest.approx(0.4496145348, abs=1e-10)


def test_the_gate_decides_by_the_unscaled_gradient_and_notes_norm_and_factor_of_every_iteration() -> None:
    _, gate = train(ABOVE)
    assert len(gate.norms) == len(gate.factors) == 8
    assert gate.factors == [ABOVE.factor_at(change, 0.0) for change in gradient_changes(gate.norms)]
    assert {1.0, 4.0} == set(gate.factors)
    # The norms are those of the gradients, not of what was applied: the first step of both runs sees the same one,
    # and so does the second, because the first is not stepped up.
    _, never = train(None)
    assert gate.norms[:2] == never.norms[:2]
    assert gate.norms[2:] != never.norms[2:]


def test_a_factor_of_one_changes_nothing() -> None:
    never, _ = train(None)
    for when in ("above", "below"):
        torch.testing.assert_close(train(StepUp(1.0, when, 0.5))[0], never, rtol=0, atol=0)


def test_a_random_gate_draws_by_the_step_and_steps_up_its_share() -> None:
    rule = StepUp(2.0, "random", share=0.3)
    model = Line()
    first, second = (Gate(rule, 7, [], []) for _ in range(2))
    for gate, order in ((first, range(400)), (second, reversed(range(400)))):
        for step in order:
            model.w.grad = torch.ones(2, dtype=torch.float64)
            gate(model, step)
    assert first.factors == second.factors[::-1]
    share = sum(factor == 2 for factor in first.factors) / 400
    assert abs(share - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 400)


def test_a_gradient_that_is_not_finite_ends_the_training() -> None:
    model = Line()
    model.w.grad = torch.tensor([math.nan, 1.0], dtype=torch.float64)
    with pytest.raises(NotFinite):
        Gate(ABOVE, 1, [], [])(model, 0)


def test_an_interrupted_gate_goes_on_where_it_stood() -> None:
    whole, gate = train(ABOVE)
    model = Line()
    optimiser, half = sgd(model, 0.9), Gate(ABOVE, 1, [], [])
    for steps in (range(3), range(3, 8)):
        half = Gate(ABOVE, 1, list(half.norms), list(half.factors))
        list(plain.centralised(model, optimiser, Alternating(), Optimisation(lambda _: 0.1), steps, half))
    assert torch.equal(model.w.detach(), whole)
    assert (half.norms, half.factors) == (gate.norms, gate.factors)


def test_readings_differ_from_each_other_and_from_always_and_never() -> None:
    ends = [train(rule)[0] for rule in (ABOVE, BELOW, StepUp(4.0, "always"), None)]
    for a, b in itertools.combinations(ends, 2):
        assert not torch.allclose(a, b)
