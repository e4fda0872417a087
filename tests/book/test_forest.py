"""Laws of the picture of estimates: limits in readers' units, all looks in words and in shapes, equal bytes."""

from __future__ import annotations

import math
import re
from typing import Any
from xml.etree import ElementTree

import pytest

from repro.book import forest


def part(unit: str = "points", looks: int = 3, **changes: Any) -> dict[str, Any]:
    made = [{"n": n, "estimate": 2.0, "interval": [2.0 - 8 / n, 2.0 + 8 / n]} for n in (5, 8, 12)][:looks]
    return {"name": "A beats B", "unit": unit, "n": 5, "estimate": 2.0, "interval": [1.0, 3.0], "looks": made} | changes


@pytest.mark.parametrize(
    ("rule", "unit", "expected"),
    [
        ({"rule": "equivalence", "margin": 0.02}, "points", ((-2.0, 2.0), None)),
        ({"rule": "value", "published": 0.93, "tolerance": 0.01}, "%", ((92.0, 94.0), 93.0)),
        ({"rule": "value", "published": 4.0, "tolerance": 0.5}, "times", ((3.5, 4.5), 4.0)),
        ({"rule": "factor", "published": 4.0, "tolerance": 0.25}, "times", ((3.0, 5.0), 4.0)),
        ({"rule": "bound", "at_most": 0.015}, "points", ((1.5,), None)),
        ({"rule": "ratio", "at_least": 3.0}, "times", ((3.0,), None)),
        ({"rule": "ratio"}, "times", ((), None)),
        ({"rule": "order", "by_more_than": 0.1}, "points", ((10.0,), None)),
        ({"rule": "order", "by_more_than": 3}, "times", ((8.0,), None)),
        ({"rule": "order"}, "points", ((), None)),
        ({"rule": "trend", "direction": "falls"}, "points per doubling", ((), None)),
    ],
)
def test_limits_are_in_the_unit_of_the_interval(rule: dict[str, Any], unit: str, expected: Any) -> None:
    assert forest.limits_of(rule, unit) == expected


@pytest.mark.parametrize("unit", ["points", "times", "%", "points per doubling"])
def test_every_look_is_drawn_in_its_place_and_said(unit: str) -> None:
    given = [part(unit), part(unit, looks=1, name="C & <D>")]
    svg = forest.picture(given, [])
    assert svg is not None
    assert svg == forest.picture(given, [])
    tree = ElementTree.fromstring(svg)
    assert len(list(tree.iter("path"))) == 4
    assert [t.text for t in tree.iter("text") if t.text and t.text.startswith("n = ")] == [
        "n = 5",
        "n = 8",
        "n = 12",
        "n = 5",
    ]
    assert "C & <D>" in [t.text for t in tree.iter("text")]
    said = tree.attrib["aria-label"]
    assert said.count("n = 5") == 2
    assert said.count("n = 12") == 1
    for line in tree.iter("line"):
        assert all(-1 <= float(line.attrib[x]) <= forest.WIDTH for x in ("x1", "x2"))


def test_zero_limits_and_the_published_value_are_marked() -> None:
    rule = {"rule": "value", "published": 0.03, "tolerance": 0.01}
    svg = str(forest.picture([part()], [rule]))
    assert svg.count("stroke-dasharray") == 2
    assert svg.count('fill="none"') == 1
    assert "limit +2.0, limit +4.0, published +3.0" in svg


def test_an_interval_without_a_bound_reaches_the_edge() -> None:
    open_end = part("times", looks=0, interval=[1.5, None])
    svg = str(forest.picture([open_end], []))
    assert f'x2="{forest.WIDTH - forest.RIGHT:.1f}"' in svg
    assert "unbounded" in svg


def test_parts_without_an_interval_are_left_out() -> None:
    nothing = part(looks=0, interval=None)
    assert forest.picture([nothing, part(unit=None)], []) is None
    assert forest.picture([], []) is None
    mixed = forest.lines([nothing, part()], [{"rule": "law"}, {"rule": "equivalence", "margin": 0.02}])
    assert [line.limits for line in mixed] == [(-2.0, 2.0)], "a part keeps its own rule"


def test_ticks_are_round_and_inside() -> None:
    for low, high in ((-54.7, 53.2), (0.01, 0.02), (-1e-3, 5000), (3, 3)):
        line = forest.Line("x", "points", (forest.Bar(5, (low + high) / 2, low, high),))
        scale = forest._Scale([line], False)
        ticks = scale.ticks()
        assert 2 <= len(ticks) <= 9
        assert all(scale.low <= tick <= scale.high for tick in ticks)
    for low, high in ((0.5, 2.0), (0.99, 1.02), (1e-4, 1e4)):
        line = forest.Line("x", "times", (forest.Bar(5, math.sqrt(low * high), low, high),))
        ticks = forest._Scale([line], True).ticks()
        assert ticks
        assert len(ticks) <= 10


def test_the_picture_has_no_colour_of_its_own() -> None:
    assert not re.search(r"#[0-9a-f]{3}|rgb", str(forest.picture([part()], [])))
