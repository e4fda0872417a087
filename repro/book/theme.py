"""What all pages share: names of the sources, words and signs of verdicts, and colours for light and dark screens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

SOURCES = {
    "e1": "Edgify post 1: large batch against federated learning",
    "e2": "Edgify post 2: communication compression",
    "e3": "Edgify post 3: BatchNorm with non-IID data",
    "lb": "On using large batches in federated learning (arXiv 2509.10537)",
}

#: Verdict class -> sign; the sign and the words carry the meaning, colour only repeats it.
SIGNS = {
    "holds": "✓",
    "holds in part": "◐",
    "fails": "✗",
    "depends on": "⇄",
    "no difference": "=",
    "open": "?",
    "not comparable": "≠",
    "not run": "○",
}

PILOT = "pilot"
"""Where verdicts are counted: those that the pilot gave, of statements whose study runs are not all in."""

DECIDED = ("holds", "holds in part", "fails", "depends on", "no difference")
"""Keys of ``SIGNS`` that say something of a statement, in the order in which readers see them."""

#: CSS variables; every text colour has at least 4.5:1 on the backgrounds it is used on (WCAG 2.2 AA).
THEMES = {
    "light": {
        "page": "#ffffff",
        "card": "#f8f9fa",
        "line": "#c9ced3",
        "text": "#1b1d1f",
        "muted": "#555b61",
        "link": "#00539c",
        "holds": "#dcebf9",
        "holds-text": "#003b70",
        "fails": "#fbe3cd",
        "fails-text": "#6b3200",
        "open": "#e8eaec",
        "open-text": "#33373b",
        "mark": "#ffe9a8",
        "c0": "#0063b1",
        "c1": "#b34700",
        "c2": "#00734f",
        "c3": "#8a2f8f",
        "c4": "#9c5c00",
        "c5": "#c0143c",
        "c6": "#3f6b00",
        "c7": "#555b61",
    },
    "dark": {
        "page": "#15171a",
        "card": "#1e2125",
        "line": "#464c52",
        "text": "#e8eaec",
        "muted": "#b2b8bf",
        "link": "#8ec5ff",
        "holds": "#10304f",
        "holds-text": "#c4e1ff",
        "fails": "#4c2608",
        "fails-text": "#ffdabd",
        "open": "#2f3439",
        "open-text": "#dfe3e7",
        "mark": "#5a4a00",
        "c0": "#6db8ff",
        "c1": "#ff9e5e",
        "c2": "#4fd1a5",
        "c3": "#dd9be0",
        "c4": "#e6c04c",
        "c5": "#ff8099",
        "c6": "#a6d45b",
        "c7": "#b2b8bf",
    },
}


def entered(part: Mapping[str, Any]) -> str:
    """The outcome with which a stored part of a verdict enters its statement: open where Holm's correction says so.

    >>> entered({"outcome": "fails", "in_statement": "open"}), entered({"outcome": "holds"})
    ('open', 'holds')
    """
    return str(part.get("in_statement", part.get("outcome", "")))


def verdict_class(word: str) -> str:
    """The key of ``SIGNS`` that a verdict's words belong to.

    >>> verdict_class("holds at study scale"), verdict_class("not reproduced"), verdict_class("reproduced in part")
    ('holds', 'fails', 'holds in part')
    """
    word = word.replace("not reproduced", "fails").replace("reproduced", "holds")
    longest_first = sorted(SIGNS, key=len, reverse=True)
    return next((name for name in longest_first if word.startswith(name)), "open")


def colour(word: str) -> str:
    """Colour class of a verdict's badge; what neither holds nor fails as a whole, or is the pilot's, is neutral.

    >>> colour("fails at study scale"), colour("holds in part"), colour("holds (pilot)")
    ('fails', 'open', 'open')
    """
    name = verdict_class(word)
    return name if name in ("holds", "fails") and not word.endswith("(pilot)") else "open"


_VERBS = {
    "holds": ("holds", "hold"),
    "holds in part": ("holds in part", "hold in part"),
    "fails": ("fails", "fail"),
    "depends on": (
        "depends on a setting that the source leaves open",
        "depend on settings that the source leaves open",
    ),
    "no difference": ("shows no difference", "show no difference"),
    "open": ("is open", "are open"),
    "not comparable": ("is not comparable", "are not comparable"),
    PILOT: ("shows the pilot", "show the pilot"),
    "not run": ("was not run", "were not run"),
}


def said(counts: Mapping[str, int]) -> str:
    """How many statements have which verdict, as the end of a sentence; ``counts`` by the keys of ``SIGNS``.

    >>> said({"open": 5, "holds": 1, "not run": 1})
    '1 holds, 5 are open and 1 was not run'
    """
    words = [f"{counts[word]} {_VERBS[word][counts[word] != 1]}" for word in _VERBS if counts.get(word)]
    return ", ".join(words[:-1]) + " and " * (len(words) > 1) + words[-1] if words else "none"


def split(verdicts: Iterable[tuple[str, bool]]) -> tuple[dict[str, int], dict[str, int]]:
    """How many verdicts are in which class: of the profile itself, and of the pilot that stands in for it.

    Args:
        verdicts: the words of each verdict, and whether it is the pilot's.

    >>> split([("holds at study scale", False), ("open (pilot)", True)])
    ({'holds': 1}, {'open': 1})
    """
    own, old = Counter[str](), Counter[str]()
    for word, pilot in verdicts:
        (old if pilot else own)[verdict_class(word)] += 1
    return dict(own), dict(old)
