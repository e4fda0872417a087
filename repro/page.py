"""What all pages share: names of the sources, words and signs of verdicts, and colours for light and dark screens."""

from __future__ import annotations

SOURCES = {
    "e1": "Edgify post 1: large batch against federated learning",
    "e2": "Edgify post 2: communication compression",
    "e3": "Edgify post 3: BatchNorm with non-IID data",
    "lb": "On using large batches in federated learning (arXiv 2509.10537)",
}

#: Verdict class -> sign; the sign and the words carry the meaning, colour only repeats it.
SIGNS = {"holds": "✓", "fails": "✗", "inconclusive": "?", "not comparable": "≠", "not run": "○"}

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
    },
}


def verdict_class(word: str) -> str:
    """The key of ``SIGNS`` that a verdict's words belong to.

    >>> verdict_class("holds at study scale"), verdict_class("not reproduced")
    ('holds', 'fails')
    """
    word = {"reproduced": "holds", "not reproduced": "fails"}.get(word, word)
    return next((name for name in SIGNS if word.startswith(name)), "inconclusive")
