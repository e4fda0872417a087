"""When a training is evaluated."""

import numpy as np
import pytest

from repro.running.clock import Clock


def clock(steps=10, epochs=40, every=20, **changes):
    return Clock(steps, steps * epochs, every, **changes)


def test_final_evaluations_are_whole_epochs_where_the_tenth_has_so_many_else_rounds():
    def added(**changes):
        return sorted(clock(**changes).ending)

    assert added(at_least=3) == [380, 390, 400]  # epochs 38, 39 and 40; every other epoch would give 2
    assert added(at_least=2) == []
    assert added(at_least=4) == [370, 380, 390, 400]
    assert added(at_least=5) == [368, 376, 384, 392, 400]  # of 40 rounds; there are 4 epochs
    assert added(epochs=12, at_least=3) == [112, 116, 120]
    assert added(at_least=3, also=(365, 372)) == [], "those that the run asks for count"
    assert added(steps=1, epochs=10, every=2, at_least=3) == [8, 9, 10], "a tenth of one round: back to the third last"
    assert added(steps=1, epochs=2, every=2, at_least=3) == [1, 2], "not more than there are"
    federated = Clock(10, 40, 2, local_epochs=1, at_least=3)
    assert sorted(federated.ending) == [38, 39, 40]
    assert sorted(Clock(10, 30, 2, local_steps=7, at_least=3).ending) == [28, 29, 30]


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 10, 19, 40, 100])
@pytest.mark.parametrize("steps", [1, 3, 24])
def test_the_last_tenth_has_as_many_evaluations_as_asked_for(steps, epochs):
    total = steps * epochs
    for least in range(1, 8):
        for every in (1, 2, 5):
            ours, usual = (clock(steps, epochs, every * steps, at_least=n) for n in (least, 0))
            rounds = range(1, total + 1)
            evaluated = [r for r in rounds if ours.evaluates(r)]
            length = total - 9 * total // 10
            assert set(evaluated) == {r for r in rounds if usual.evaluates(r)} | ours.ending
            assert sum(r > total - max(length, least) for r in evaluated) >= min(least, total)
            assert [r for r in rounds if ours.regular(r)] == [r for r in rounds if usual.evaluates(r)]
            if ours.ending:
                assert len(ours.ending) == min(least, total)
                gaps = np.diff(sorted(ours.ending))
                assert len(gaps) == 0 or gaps.max() - gaps.min() <= (steps if gaps.min() % steps == 0 else 1)
            assert all(ours.final(r) for r in evaluated if r > total - length or r in ours.ending)
