"""The outcome of a statement from the outcomes of its parts.

The parts are what is measured. A statement holds if all of its parts hold; it fails if a part fails at a level that is
corrected for the number of parts (Holm); it *holds in part* if some do, at a level that is corrected likewise, and none
fails; it *depends on* a setting that its source leaves open if a part of one name holds under one reading of it and
fails, or shows no difference, under another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from repro.verdicts import rules
from repro.verdicts.parts import PartVerdict
from repro.verdicts.rules import (
    DECIDED,
    DEPENDS_ON,
    FAILS,
    HOLDS,
    HOLDS_IN_PART,
    NO_DIFFERENCE,
    NOT_COMPARABLE,
    NOT_RUN,
    OPEN,
)

_ORDER = (FAILS, HOLDS, DEPENDS_ON, NO_DIFFERENCE, OPEN, NOT_COMPARABLE, NOT_RUN)


class Compound(NamedTuple):
    """Outcome of a statement and why; ``deciding`` is the outcome of the parts that its interval is taken from.

    ``entered`` has, part by part, the outcome with which it enters the statement: open for one that is decided alone
    and no longer after the correction for the number of parts.
    """

    outcome: str
    reason: str
    deciding: str
    entered: tuple[str, ...] = ()


def of_parts(parts: Sequence[PartVerdict]) -> Compound:
    """The outcome of a statement whose parts that decide are ``parts``, in the order in which they are named."""
    if not parts:
        return Compound(NOT_RUN, "this package has no run for this statement", NOT_RUN)
    called = {id(part): part.name or f"part {i}" for i, part in enumerate(parts, start=1)}
    outcomes = _after_holm(parts, FAILS)
    if set(outcomes.values()) != {HOLDS}:  # that all hold is the rarer event the more there are: no correction
        outcomes |= {key: outcome for key, outcome in _after_holm(parts, HOLDS).items() if outcomes[key] == HOLDS}
    entered = tuple(outcomes[id(part)] for part in parts)
    if any(part.under for part in parts) and (found := _of_readings(parts, outcomes, called)):
        return found._replace(entered=entered)
    whole = _plain(entered)
    deciding = {HOLDS_IN_PART: HOLDS}.get(whole, whole)
    return Compound(whole, _reason(parts, outcomes, called, deciding), deciding, entered)


def _after_holm(parts: Sequence[PartVerdict], outcome: str) -> dict[int, str]:
    """Outcomes of parts as they enter the statement: ``outcome`` at 0.05 but not after Holm is open there."""
    decided = [part for part in parts if part.outcome == outcome]
    kept = rules.holm([part.p or 0.0 for part in decided], len(parts))
    outcomes = {id(part): part.outcome for part in parts}
    return outcomes | {id(part): outcome if keep else OPEN for part, keep in zip(decided, kept, strict=True)}


def _plain(outcomes: Sequence[str]) -> str:
    """Outcome of parts that all belong to the same reading."""
    there = set(outcomes)
    if FAILS in there:
        return FAILS
    if len(there) == 1:
        return outcomes[0]
    if there == {HOLDS, DEPENDS_ON}:
        return DEPENDS_ON
    if HOLDS in there:
        return HOLDS_IN_PART
    if there & set(DECIDED):
        return OPEN
    return next(word for word in (NOT_RUN, NOT_COMPARABLE, OPEN) if word in there)


def _of_readings(
    parts: Sequence[PartVerdict], outcomes: Mapping[int, str], called: Mapping[int, str]
) -> Compound | None:
    """The outcome where it differs between the readings of a setting; None where they may be taken together."""
    values = dict.fromkeys(part.under["is"] for part in parts if part.under)
    found = {
        value: _plain([outcomes[id(part)] for part in parts if not part.under or part.under["is"] == value])
        for value in values
    }
    bad = [value for value, outcome in found.items() if outcome in (FAILS, NO_DIFFERENCE)]
    by_name: dict[str | None, set[str]] = {}
    for part in parts:
        if part.under:
            by_name.setdefault(part.name, set()).add(outcomes[id(part)])
    if any(HOLDS in there and there & {FAILS, NO_DIFFERENCE} for there in by_name.values()):
        setting = next(part.under["setting"] for part in parts if part.under)
        told = "; ".join(f"{value} {outcome}" if outcome in (HOLDS, FAILS, HOLDS_IN_PART) else f"{value}: {outcome}"
                         for value, outcome in found.items())  # fmt: skip
        return Compound(DEPENDS_ON, f"depends on {setting}: {told}. {_listed(parts, outcomes, called)}", HOLDS)
    if FAILS in found.values() and len(bad) < len(found):
        return Compound(OPEN, _listed(parts, outcomes, called), OPEN)
    return None


def _reason(parts: Sequence[PartVerdict], outcomes: Mapping[int, str], called: Mapping[int, str], deciding: str) -> str:
    """The reasons of the parts where all have the same outcome; else which part has which, and why."""
    if {outcomes[id(part)] for part in parts} == {deciding} and all(part.outcome == deciding for part in parts):
        return "; ".join(dict.fromkeys(part.reason for part in parts))
    return _listed(parts, outcomes, called)


def _listed(parts: Sequence[PartVerdict], outcomes: Mapping[int, str], called: Mapping[int, str]) -> str:
    """Names of the parts by outcome; with a reason where it is not plain from the outcome."""
    groups = []
    for outcome in _ORDER:
        named = [part for part in parts if outcomes[id(part)] == outcome]
        told = [called[id(part)] + _why(part, outcome) for part in named]
        groups += [f"{outcome}: {', '.join(told)}"] * bool(told)
    return "; ".join(groups)


def _why(part: PartVerdict, outcome: str) -> str:
    if part.outcome in (FAILS, HOLDS) and outcome == OPEN:
        return f" ({part.outcome} alone, p = {rules.p_text(part.p or 0.0)}, not corrected for the number of parts)"
    return "" if outcome in (HOLDS, NO_DIFFERENCE, DEPENDS_ON) else f" ({part.reason})"
