"""A part of a verdict for readers: what was asked, what came out, which part decides, and where it stands.

A part is an item of ``parts`` of a stored verdict; its rule is the item of the statement's ``judge`` block at the same
place, empty where the part was judged by another rule (the pilot's) or by none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro.book import forest
from repro.book.theme import entered
from repro.registry import labels
from repro.results import looks
from repro.verdicts import rules

Part = Mapping[str, Any]


def decisive(parts: Sequence[Part], word: str) -> tuple[int, Part] | None:
    """The part whose number stands for a verdict, with its index; None where no part counts.

    Of a verdict that fails it is the most certain of the parts that fail, of any other the least certain of those with
    the verdict's outcome. "Holds in part" rests on what holds.

    Args:
        parts: of the verdict.
        word: the verdict's class, a key of ``theme.SIGNS``.
    """
    counted = [(i, part) for i, part in enumerate(parts) if not part.get("beside")]
    outcome = "holds" if word == "holds in part" else word
    of_outcome = [each for each in counted if entered(each[1]) == outcome] or counted
    known = [each for each in of_outcome if each[1].get("estimate") is not None] or of_outcome
    if not known:
        return None
    if word == "fails":
        return min(known, key=lambda each: _p(each[1]))
    return max(known, key=lambda each: _p(each[1]))


def _p(part: Part) -> float:
    p = part.get("p")
    return -1.0 if p is None else float(p)


def short(part: Part) -> str:
    """Estimate and interval, or in a few words what was found instead.

    >>> short({"estimate": 5.46, "interval": [4.1, 6.8], "unit": "points", "ours": "A 1, B 2: +5.5 points"})
    '+5.5 points [+4.1, +6.8]'
    """
    unit, estimate = str(part.get("unit") or ""), part.get("estimate")
    if estimate is None or not unit:
        return str(part.get("ours") or "–")
    value = f"{forest.shown(estimate, unit)} {unit}"
    if not part.get("interval"):
        return value
    low, high = (forest.shown(end, unit) if end is not None else "no end" for end in part["interval"])
    return f"{value} [{low}, {high}]"


def ours(verdict: Mapping[str, Any]) -> list[str]:
    """Our numbers with their intervals, a line per part; each of several parts says how it came out."""
    parts = verdict.get("parts", [])
    if len(parts) < 2:
        return [str(verdict["ours"]) if verdict.get("ours") else "–"]
    return [f"{'beside it: ' * part.get('beside', False)}{part['ours'] or '–'} ({entered(part)})" for part in parts]


def difference(part: Part, asked: Part) -> str:
    """How far a part's estimate lies from the published value; a dash where there is none to compare with."""
    unit = str(part.get("unit") or "")
    published = forest.limits_of(asked, unit)[1] if asked and unit else None
    if published is None or part.get("estimate") is None:
        return "–"
    if unit.startswith("times"):
        return f"× {labels.number(part['estimate'] / published, 2)}"
    if unit.startswith(("points", "%")):
        return f"{labels.number(part['estimate'] - published, 1, sign=True)} points"
    return f"{labels.number(part['estimate'] - published, 3, sign=True)} {unit}"


def line(part: Part, index: int, count: int, asked: Part) -> dict[str, Any]:
    """A line of the table of parts."""
    unit = str(part.get("unit") or "")
    limits, published = forest.limits_of(asked, unit) if asked and unit else ((), None)
    bars = forest.bars_of(part)
    p, q = part.get("p"), part.get("q")
    return {
        "name": forest.name_of(part, index, count),
        "under": "; ".join(f"{key}: {value}" for key, value in (part.get("under") or {}).items()),
        "beside": bool(part.get("beside")),
        "post_hoc": bool(part.get("post_hoc")),
        "asked": _asked(asked, unit, limits, published),
        "ours": part.get("ours") or "–",
        "looks": [f"{bar.said(unit)} {unit}" for bar in bars] if len(bars) > 1 else [],
        "difference": difference(part, asked),
        "outcome": entered(part),
        "alone": part["outcome"] if entered(part) != part["outcome"] else "",
        "n": labels.counted(int(part["n"]), part.get("repetitions")),
        "p": "–" if p is None else rules.p_text(p),
        "q": "–" if q is None else rules.p_text(q),
        "reason": part["reason"],
    }


def _asked(asked: Part, unit: str, limits: Sequence[float], published: float | None) -> str:
    """What a part of a rule asks for, in a few words."""
    if not asked:
        return "–"
    said, rule = [forest.shown(limit, unit) for limit in limits], asked["rule"]
    if published is not None:
        return f"published {forest.shown(published, unit)} {unit}; {said[0]} to {said[1]} is met"
    if rule == "trend":
        return str(asked["direction"])
    if rule == "equivalence" and said:
        return f"within {said[0]} to {said[1]} {unit}"
    if rule in ("bound", "measured") and said:
        return f"at most {said[0]} {unit}"
    if rule in ("order", "ratio", "statistic"):
        least = said[0] if said else {"times": "1", "points": "0"}.get(unit.partition(" ")[0], "0")
        return f"above {least} {unit}".strip()
    return {"law": "every check is met", "definition": "every setting as published"}.get(rule, "–")


# Where a part stands ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """How far an interval lies from the limit that decides, in halves of its width; above 0 is the stated side.

    From ``low`` to ``high`` reaches the interval, -1 and +1 around ``at``: whoever includes 0 is undecided.
    """

    at: float

    @property
    def low(self) -> float:
        """Where the interval begins."""
        return self.at - 1

    @property
    def high(self) -> float:
        """Where the interval ends."""
        return self.at + 1


def standing(part: Part, asked: Part) -> Standing | None:
    """Where a part stands; None where it has no interval, its rule is not known, or has no limit on one axis."""
    unit, interval, estimate = str(part.get("unit") or ""), part.get("interval"), part.get("estimate")
    if not asked or not unit or not interval or estimate is None or asked["rule"] == "measured":
        return None
    logarithmic = unit.startswith("times")
    if logarithmic and min(value for value in (estimate, *interval) if value is not None) <= 0:
        return None
    at, *ends = (
        None if value is None else math.log(value) if logarithmic else value for value in (estimate, *interval)
    )
    limits, published = forest.limits_of(asked, unit)
    lines = [math.log(limit) if logarithmic else limit for limit in limits if limit > 0 or not logarithmic]
    assert at is not None
    widths = [abs(at - end) for end in ends if end is not None]
    half = sum(widths) / len(widths) if widths else 0.0
    ahead = _ahead(asked, at, lines, published is not None)
    if ahead is None:
        return None
    return Standing(ahead / half if half else math.copysign(math.inf, ahead) if ahead else 0.0)


def _ahead(asked: Part, at: float, limits: Sequence[float], value: bool) -> float | None:
    """By how much an estimate lies on the stated side of the limit that it is nearest to."""
    rule = asked["rule"]
    if rule == "equivalence" or value:
        return min(at - limits[0], limits[1] - at) if len(limits) == 2 else None
    if rule == "bound":
        return limits[0] - at if limits else None
    if rule == "trend":
        return at if asked["direction"] == "rising" else -at
    if rule in ("order", "ratio", "statistic"):
        return at - (limits[0] if limits else 0.0)
    return None


# What it takes to decide --------------------------------------------------------------------------------------


def projected(part: Part) -> str:
    """Half the width that an open part's interval would have at the last look, were its scatter to stay as it is."""
    n, interval, unit = int(part["n"]), part.get("interval"), str(part.get("unit") or "")
    last = looks.LOOKS[-1]
    if part["outcome"] != "open" or n not in looks.LOOKS[:-1] or not interval or None in interval or not unit:
        return ""
    narrower = looks.multiplier(last) / math.sqrt(last) / (looks.multiplier(n) / math.sqrt(n))
    if unit.startswith("times"):
        if min(interval) <= 0:
            return ""
        half = math.exp(narrower * math.log(interval[1] / interval[0]) / 2)
        return f"a factor of {labels.number(half, 2)} either way"
    return f"± {labels.number(narrower * (interval[1] - interval[0]) / 2, 1)} {unit}"
