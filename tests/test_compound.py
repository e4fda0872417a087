"""A statement from its parts: Holm, in part, readings of a setting; and the corrections over many decisions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.verdicts import compound, rules
from repro.verdicts.parts import PartVerdict
from repro.verdicts.rules import DEPENDS_ON, FAILS, HOLDS, HOLDS_IN_PART, NO_DIFFERENCE, NOT_COMPARABLE, NOT_RUN, OPEN

ORDINARY = (HOLDS, FAILS, NO_DIFFERENCE, OPEN, NOT_COMPARABLE, NOT_RUN, DEPENDS_ON)


def part(outcome: str, p: float | None = None, name: str | None = None, value: str | None = None) -> PartVerdict:
    under = {"setting": "the base rate", "is": value} if value else None
    return PartVerdict("order", outcome, f"why {outcome}", p=p, name=name, under=under)


def of(*outcomes: str) -> str:
    return compound.of_parts([part(outcome) for outcome in outcomes]).outcome


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([HOLDS, HOLDS], HOLDS),
        ([HOLDS, OPEN], HOLDS_IN_PART),
        ([HOLDS, NO_DIFFERENCE], HOLDS_IN_PART),
        ([HOLDS, NOT_RUN], HOLDS_IN_PART),
        ([HOLDS, NOT_COMPARABLE], HOLDS_IN_PART),
        ([FAILS, OPEN, HOLDS], FAILS),
        ([FAILS, NOT_RUN], FAILS),
        ([NO_DIFFERENCE, NO_DIFFERENCE], NO_DIFFERENCE),
        ([NO_DIFFERENCE, OPEN], OPEN),
        ([NO_DIFFERENCE, NOT_RUN], OPEN),
        ([OPEN, NOT_RUN], NOT_RUN),
        ([OPEN, NOT_COMPARABLE], NOT_COMPARABLE),
        ([OPEN, OPEN], OPEN),
        ([DEPENDS_ON], DEPENDS_ON),
        ([DEPENDS_ON, HOLDS], DEPENDS_ON),
        ([DEPENDS_ON, FAILS], FAILS),
        ([DEPENDS_ON, OPEN], OPEN),
    ],
)
def test_the_outcome_of_a_statement(parts, whole):
    assert of(*parts) == whole


def test_a_part_that_fails_alone_enters_the_statement_as_open_and_a_sure_one_as_it_is():
    found = compound.of_parts([part(FAILS, p=0.04), part(HOLDS, p=1e-5), part(OPEN)])
    assert (found.outcome, found.entered) == (HOLDS_IN_PART, (OPEN, HOLDS, OPEN))
    found = compound.of_parts([part(FAILS, p=0.01), part(HOLDS, p=1e-5), part(OPEN)])
    assert (found.outcome, found.entered) == (FAILS, (FAILS, HOLDS, OPEN))


def test_a_statement_without_parts_was_not_run():
    assert compound.of_parts([])[:2] == (NOT_RUN, "this package has no run for this statement")


@given(st.lists(st.sampled_from(ORDINARY), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_the_order_of_the_parts_does_not_matter(outcomes, random):
    shuffled = list(outcomes)
    random.shuffle(shuffled)
    assert of(*shuffled) == of(*outcomes)


@given(st.lists(st.sampled_from(ORDINARY), min_size=1, max_size=6))
def test_one_part_more_that_fails_surely_makes_it_fail_and_only_failing_parts_do(outcomes):
    assert of(*outcomes, FAILS) == FAILS
    assert (of(*outcomes) == FAILS) == (FAILS in outcomes)
    assert (of(*outcomes) == HOLDS) == (set(outcomes) == {HOLDS})


def test_a_part_fails_the_statement_only_after_holm():
    weak, strong = part(FAILS, 0.03, "weak"), part(FAILS, 0.02, "strong")
    assert compound.of_parts([weak]).outcome == FAILS
    found = compound.of_parts([weak, part(HOLDS, 0.01, "good")])
    assert found.outcome == HOLDS_IN_PART, "0.03 is above 0.05 / 2"
    assert found.reason == ("holds: good; open: weak (fails alone, p = 0.03, not corrected for the number of parts)")
    both = compound.of_parts([weak, strong])
    assert both.outcome == FAILS, "0.02 is below 0.05 / 2, and then 0.03 is below 0.05"
    assert both.reason == "why fails"


def test_a_reason_names_the_parts_where_they_differ():
    found = compound.of_parts([part(HOLDS, name="first"), part(FAILS), part(NOT_RUN, name="last")])
    assert found.outcome == FAILS
    assert found.reason == "fails: part 2 (why fails); holds: first; not run: last (why not run)"
    assert compound.of_parts([part(OPEN), part(OPEN)]).reason == "why open"


@pytest.mark.parametrize(
    ("high", "low", "whole"),
    [
        (HOLDS, FAILS, DEPENDS_ON),
        (HOLDS, NO_DIFFERENCE, DEPENDS_ON),
        (HOLDS, HOLDS, HOLDS),
        (FAILS, FAILS, FAILS),
        (FAILS, NO_DIFFERENCE, FAILS),
        (FAILS, OPEN, OPEN),
        (HOLDS, OPEN, HOLDS_IN_PART),
        (NO_DIFFERENCE, NO_DIFFERENCE, NO_DIFFERENCE),
    ],
)
def test_two_readings_of_a_setting(high, low, whole):
    parts = [part(high, name="a", value="0.1"), part(low, name="a", value="0.01")]
    assert compound.of_parts(parts).outcome == compound.of_parts(parts[::-1]).outcome == whole


@pytest.mark.parametrize(("low", "whole"), [(FAILS, OPEN), (NO_DIFFERENCE, HOLDS_IN_PART)])
def test_only_the_same_part_under_two_readings_depends_on_the_setting(low, whole):
    """That one part holds under one reading and another one does not under the other may be the parts' doing."""
    parts = [part(HOLDS, name="a", value="0.1"), part(low, name="b", value="0.01")]
    assert compound.of_parts(parts).outcome == compound.of_parts(parts[::-1]).outcome == whole
    pairs = [*parts, part(low, name="a", value="0.01"), part(HOLDS, name="b", value="0.1")]
    assert compound.of_parts(pairs).outcome == DEPENDS_ON


@pytest.mark.parametrize(
    ("holding", "failing", "whole"),
    [(0.02, 0.02, DEPENDS_ON), (0.03, 0.02, OPEN), (0.02, 0.03, HOLDS_IN_PART), (0.03, 0.03, OPEN)],
)
def test_a_part_depends_on_the_setting_only_after_holm(holding, failing, whole):
    """Two decisions: each is asked for at 0.05 / 2."""
    parts = [part(HOLDS, holding, "a", "0.1"), part(FAILS, failing, "a", "0.01")]
    assert compound.of_parts(parts).outcome == compound.of_parts(parts[::-1]).outcome == whole


def test_the_readings_are_named():
    found = compound.of_parts([part(HOLDS, name="a", value="0.1"), part(FAILS, name="a", value="0.01")])
    assert found.reason.startswith("depends on the base rate: 0.1 holds; 0.01 fails. fails: a (why fails); holds: a")


def test_a_part_without_a_reading_belongs_to_each():
    readings = [part(HOLDS, name="a", value="0.1"), part(FAILS, name="b", value="0.01")]
    assert compound.of_parts([*readings, part(HOLDS)]).outcome == OPEN, "under 0.1 all hold"
    assert compound.of_parts([*readings, part(FAILS)]).outcome == FAILS, "it fails under both"
    mild = [part(HOLDS, name="a", value="0.1"), part(NO_DIFFERENCE, name="b", value="0.01")]
    assert compound.of_parts([*mild, part(HOLDS)]).outcome == HOLDS_IN_PART, "each reading holds, one of them in part"


@pytest.mark.parametrize("alone", [HOLDS, FAILS])
def test_a_part_that_depends_on_the_setting_decides_whatever_has_no_reading(alone):
    readings = [part(HOLDS, name="a", value="0.1"), part(FAILS, name="a", value="0.01")]
    assert compound.of_parts([*readings, part(alone)]).outcome == DEPENDS_ON


def test_parts_hold_after_holm_unless_all_of_them_hold():
    weak = part(HOLDS, 0.03, "weak")
    assert compound.of_parts([weak, part(HOLDS, 0.04)]).outcome == HOLDS, "the more parts, the rarer that all hold"
    found = compound.of_parts([weak, part(NO_DIFFERENCE)])
    assert found.outcome == OPEN, "0.03 is above 0.05 / 2"
    assert "weak (holds alone, p = 0.03, not corrected for the number of parts)" in found.reason
    assert compound.of_parts([part(HOLDS, 0.02), part(NO_DIFFERENCE)]).outcome == HOLDS_IN_PART


# Many decisions ----------------------------------------------------------------------------------------------


def test_holm_steps_down_from_the_smallest():
    assert rules.holm([0.02, 0.01, 0.04], 3) == [True, True, True]
    assert rules.holm([0.02, 0.017, 0.04], 3) == [False] * 3
    assert rules.holm([0.001, 0.04], 3) == [True, False], "the third test counts"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_between_bonferroni_and_no_correction(p_values):
    rejected = rules.holm(p_values, len(p_values))
    for p, found in zip(p_values, rejected, strict=True):
        assert found or p > 0.05 / len(p_values)
        assert not found or p <= 0.05


def test_q_values_by_hand():
    assert rules.q_values([0.005, 0.009, 0.05, 0.5]) == pytest.approx([0.018, 0.018, 0.2 / 3, 0.5])
    assert rules.q_values([0.01], tests=10) == [0.1]
    assert rules.q_values([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_q_values_are_never_below_p_and_keep_its_order(p_values):
    q = rules.q_values(p_values)
    for i, p in enumerate(p_values):
        assert p <= q[i] + 1e-12 <= 1 + 1e-11
        assert all(q[i] <= q[j] for j, other in enumerate(p_values) if other >= p)


def test_the_expected_number_of_wrong_decisions():
    assert rules.expected_wrong([0.01, 0.04, 0.02]) == pytest.approx(0.12)
    assert rules.expected_wrong([]) == 0


# Counts ------------------------------------------------------------------------------------------------------


def test_fishers_test_by_hand_and_at_both_edges():
    assert rules.fisher(3, 3, 0, 3) == pytest.approx(1 / 20)
    assert rules.fisher(0, 8, 0, 8) == 1
    assert rules.fisher(2, 4, 1, 4) == pytest.approx(0.5)  # (6 * 4 + 4 * 1) / 56


def test_fishers_test_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for some, others in ((5, 2), (8, 0), (1, 3)):
        expected = stats.fisher_exact([[some, 8 - some], [others, 16 - others]], alternative="greater").pvalue
        assert rules.fisher(some, 8, others, 16) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("some", "others", "outcome"), [(16, 0, HOLDS), (4, 0, HOLDS), (3, 0, FAILS), (3, 3, FAILS), (8, 16, OPEN)]
)
def test_tending_to_diverge(some, others, outcome):
    assert rules.tending(some, 16, others, 32)[0] == outcome


def test_fewer_than_half_is_the_upper_bound_of_clopper_and_pearson():
    stats = pytest.importorskip("scipy.stats")
    for some in range(9):
        upper = stats.beta.ppf(0.975, some + 1, 8 - some) if some < 8 else 1.0
        assert (rules.at_most(some, 8) < 0.025) == (upper < 0.5)
