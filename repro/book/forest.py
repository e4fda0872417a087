"""A statement's estimates and intervals as a small picture (inline SVG) and as text.

One panel for each unit: a row for each part, a line for each look. Shapes and dashes carry all meaning, so that the
picture can be read in grey, on dark pages and by those who see no colour; its text goes to screen readers. The same
verdict gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup, escape

from repro.book.theme import SIGNS, entered, verdict_class
from repro.registry import labels
from repro.results.metrics import tidy

WIDTH, LEFT, RIGHT, STEP, ROW, AXIS = 480, 8, 60, 14, 32, 50
"""Pixels: of the picture, left of its bars and right of them, between looks and parts, and of an axis."""
_NAME = 62


@dataclass(frozen=True)
class Bar:
    """An estimate with its interval after ``n`` repetitions; an end is None where nothing bounds it."""

    n: int
    estimate: float
    low: float | None
    high: float | None

    def said(self, unit: str) -> str:
        """``n = 5: +2.1 [+1.2, +3.0]``."""
        ends = [shown(end, unit) if end is not None else "unbounded" for end in (self.low, self.high)]
        return f"n = {self.n}: {shown(self.estimate, unit)} [{ends[0]}, {ends[1]}]"


@dataclass(frozen=True)
class Line:
    """One part: its name and unit, a bar for each look, and the marks that its rule asks about.

    Attributes:
        name, unit: as readers see them.
        bars: a bar for each look that was reached.
        limits: ends of the margin, least differences, bounds.
        published: the published value, where there is one in the same unit.
        outcome: how it came out, in words.
    """

    name: str
    unit: str
    bars: tuple[Bar, ...]
    limits: tuple[float, ...] = ()
    published: float | None = None
    outcome: str = ""

    @property
    def none(self) -> float | None:
        """Where nothing differs."""
        return 1.0 if self.unit.startswith("times") else 0.0 if self.unit.startswith("points") else None


def shown(value: float, unit: str) -> str:
    """A value as tables show it.

    >>> shown(0.00303, "times"), shown(0.3, "times"), shown(0.04, "points")
    ('0.0030', '0.30', '+0.0')
    """
    digits = 2 if unit.startswith("times") else 1 if unit.startswith(("points", "%")) or not unit else 3
    if 0 < abs(value) < 0.1 and not unit.startswith(("points", "%")):
        digits = max(digits, 1 - math.floor(math.log10(abs(value))))  # two that say something
    return labels.number(value, digits, sign=unit.startswith("points"))


def limits_of(part: Mapping[str, Any], unit: str) -> tuple[tuple[float, ...], float | None]:
    """Limits of a part of a rule (``judge`` block), and its published value, both in the unit of its interval."""
    if part["rule"] == "statistic":
        if "above" in part:
            return (float(part["above"]),), None
        return (part["equals"] - part["tolerance"], part["equals"] + part["tolerance"]), float(part["equals"])
    scale = 1.0 if unit.startswith("times") else 100.0
    rule, published = part["rule"], part.get("published")
    if rule in ("value", "factor") and isinstance(published, int | float):
        tolerance = part.get("tolerance", 0.0) * (published if rule == "factor" else 1)
        ends = (published - tolerance, published + tolerance)
        return tuple(tidy(scale * end) for end in ends), tidy(scale * published)
    if rule == "equivalence":
        return (tidy(-scale * part["margin"]), tidy(scale * part["margin"])), None
    if rule == "bound":
        return (tidy(scale * part["at_most"]),), None
    if rule == "measured" and "largest" in part:
        return (tidy(scale * part["largest"]),), None
    if rule == "ratio" and part.get("at_least", 1.0) != 1.0:
        return (float(part["at_least"]),), None
    if rule == "order" and part.get("by_more_than"):
        return ((2.0 ** part["by_more_than"],) if scale == 1 else (tidy(scale * part["by_more_than"]),)), None
    return (), None


def lines(parts: Sequence[Mapping[str, Any]], rule: Sequence[Mapping[str, Any]]) -> list[Line]:
    """What can be drawn of the parts of a verdict.

    Args:
        parts: as stored in ``verdicts.json``.
        rule: the parts of the statement's ``judge`` block in the same order; empty where they are not the same.
    """
    made = []
    for index, part in enumerate(parts):
        bars = tuple(bars_of(part))
        if bars and part["unit"]:
            limits, published = limits_of(rule[index], part["unit"]) if rule else ((), None)
            name, outcome = name_of(part, index, len(parts)), entered(part)
            made.append(Line(name, part["unit"], bars, limits, published, outcome))
    return made


def bars_of(part: Mapping[str, Any]) -> list[Bar]:
    """A bar for each look, or one for a part that is looked at once."""
    looks = part.get("looks") or [part]
    return [
        Bar(int(look["n"]), float(look["estimate"]), *look["interval"])
        for look in looks
        if look.get("estimate") is not None and look.get("interval")
    ]


def name_of(part: Mapping[str, Any], index: int, count: int) -> str:
    """The name of a part, or its number."""
    return str(part.get("name") or (f"part {index + 1}" if count > 1 else "the statement"))


def alt(drawn: Sequence[Line]) -> str:
    """The picture in words."""
    said = []
    for line in drawn:
        marks = [f"limit {shown(limit, line.unit)}" for limit in line.limits]
        marks += [f"published {shown(line.published, line.unit)}"] if line.published is not None else []
        bars = ", ".join(bar.said(line.unit) for bar in line.bars)
        out = f": {line.outcome}" if line.outcome else ""
        said.append(f"{line.name} ({line.unit}): {bars}" + (f"; {', '.join(marks)}" if marks else "") + out)
    return "Estimates with their intervals at each look. " + ". ".join(said) + "."


def picture(parts: Sequence[Mapping[str, Any]], rule: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The SVG of a verdict; None where no part has an interval."""
    drawn = lines(parts, rule)
    if not drawn:
        return None
    canvas, y = _Canvas(), 4.0
    for unit in dict.fromkeys(line.unit for line in drawn):
        y = _panel(canvas, [line for line in drawn if line.unit == unit], unit, y)
    return Markup(
        f'<svg class="forest" role="img" aria-label="{escape(alt(drawn))}" viewBox="0 0 {WIDTH} {y:.0f}" '
        f'width="{WIDTH}" height="{y:.0f}" fill="currentColor" stroke="currentColor" font-size="13">'
        + "".join(canvas.made)
        + "</svg>"
    )


@dataclass
class _Canvas:
    made: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, more: str = "") -> None:
        self.made.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"{more}></line>')

    def text(self, x: float, y: float, said: str, anchor: str = "start") -> None:
        self.made.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" stroke="none">{escape(said)}</text>')

    def path(self, d: str, more: str = "") -> None:
        self.made.append(f'<path d="{d}"{more}></path>')


def _panel(canvas: _Canvas, drawn: Sequence[Line], unit: str, top: float) -> float:
    """Draw all parts of one unit; returns where the next panel begins."""
    logarithmic = unit.startswith("times") and all(
        value > 0
        for line in drawn
        for bar in line.bars
        for value in (bar.estimate, bar.low, bar.high)
        if value is not None
    )
    scale = _Scale(drawn, logarithmic)
    y = top
    for line in drawn:
        first = y
        y += ROW
        name = line.name if len(line.name) <= _NAME else line.name[: _NAME - 1].rstrip() + "…"
        canvas.text(0, y - 13, f"{SIGNS[verdict_class(line.outcome)]} {name}" if line.outcome else name)
        for bar in line.bars:
            _bar(canvas, bar, scale, y)
            y += STEP
        if line.none is not None:
            canvas.line(scale(line.none), first + ROW - 8, scale(line.none), y)
        for limit in line.limits:
            canvas.line(scale(limit), first + ROW - 8, scale(limit), y, ' stroke-dasharray="4 3"')
        if line.published is not None:
            x = scale(line.published)
            canvas.path(f"M{x:.1f} {y:.1f}l-5 8h10z", ' fill="none"')
    y += 8
    canvas.line(LEFT, y, WIDTH - RIGHT, y)
    for tick in scale.ticks():
        canvas.line(scale(tick), y, scale(tick), y + 4)
        canvas.text(
            scale(tick), y + 16, shown(tick, unit) if logarithmic else labels.number(tick, scale.digits), "middle"
        )
    canvas.text(0, y + 31, unit + (", logarithmic" if logarithmic else ""))
    return y + AXIS - 8


def _bar(canvas: _Canvas, bar: Bar, scale: _Scale, y: float) -> None:
    low, high = LEFT if bar.low is None else scale(bar.low), WIDTH - RIGHT if bar.high is None else scale(bar.high)
    canvas.line(low, y, high, y, ' stroke-width="1.5"')
    for end, x in ((bar.low, low), (bar.high, high)):
        if end is not None:
            canvas.line(x, y - 3, x, y + 3)
    x, shape = scale(bar.estimate), {5: "M{0} {1}m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", 8: "M{0} {1}m-4 -4h8v8h-8z"}
    canvas.path(shape.get(bar.n, "M{0} {1}m0 -5l5 5l-5 5l-5 -5z").format(f"{x:.1f}", f"{y:.1f}"))
    canvas.text(WIDTH - RIGHT + 8, y + 4, f"n = {bar.n}")


class _Scale:
    """From values of a panel to pixels."""

    def __init__(self, drawn: Sequence[Line], logarithmic: bool):
        self.log = logarithmic
        values = [v for line in drawn for bar in line.bars for v in (bar.estimate, bar.low, bar.high) if v is not None]
        values += [v for line in drawn for v in (*line.limits, line.published, line.none) if v is not None]
        at = sorted(self._at(value) for value in values if not logarithmic or value > 0)
        pad = 0.05 * (at[-1] - at[0]) or 0.5
        self.low, self.high = at[0] - pad, at[-1] + pad

    def _at(self, value: float) -> float:
        return math.log(value) if self.log else value

    def __call__(self, value: float) -> float:
        share = (self._at(value) - self.low) / (self.high - self.low)
        return LEFT + min(max(share, 0.0), 1.0) * (WIDTH - RIGHT - LEFT)

    @property
    def step(self) -> float:
        """Between ticks of a linear axis: 1, 2 or 5 times a power of ten, two to six of them."""
        rough = (self.high - self.low) / 5
        power = 10.0 ** math.floor(math.log10(rough))
        return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)

    @property
    def digits(self) -> int:
        """Decimals that the ticks of a linear axis need."""
        return max(0, -math.floor(math.log10(self.step) + 1e-9))

    def ticks(self) -> list[float]:
        """Round values within the axis."""
        if self.log:
            least, most = math.exp(self.low), math.exp(self.high)
            powers = range(math.floor(math.log10(least)), math.ceil(math.log10(most)) + 1)
            every = [f * 10.0**p for p in powers for f in (1, 2, 5) if least <= f * 10.0**p <= most]
            return (
                every
                if 2 <= len(every) <= 7
                else [v for v in every if round(math.log10(v), 9) % 1 == 0] or [1.0] * (least <= 1 <= most)
            )
        first, last = math.ceil(self.low / self.step), math.floor(self.high / self.step)
        return [tidy(index * self.step) for index in range(first, last + 1)]
