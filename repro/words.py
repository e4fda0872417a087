"""Runs and numbers as readers see them: one form in figures, tables, notebooks, verdicts and on the page."""

from __future__ import annotations

import re

_RUN = re.compile(r"[a-z0-9]+-(?:grid-)?(?P<method>central|large-batch|federated)(?P<changes>(?:-[a-z0-9_]+)*)")
_METHODS = {"central": "centralised", "large-batch": "large batch", "federated": "federated averaging"}
_CHANGES = {
    r"x(\d+)": r"×\1",
    r"(\d+)labels": r"\1 labels",
    r"(\d+)epochs": r"every \1 epochs",
    r"gn": "GroupNorm",
    r"gq": "GQ",
    r"dgc": "DGC",
    r"plain": "no momentum",
    r"weights": "int8 weights",
    r"lr(\d+)": r"learning rate \1",
    r"lr(\d+)_(\d+)": r"learning rate \1.\2",
}


def label(run: str) -> str:
    """A run, or an arm of a learning-rate grid, in words; an id of another form as it is.

    >>> label("e1-grid-central"), label("e1-federated-2labels-gn"), label("e1-grid-large-batch-x4-lr0_1")
    ('centralised', 'federated averaging (2 labels, GroupNorm)', 'large batch (×4, learning rate 0.1)')
    """
    found = _RUN.fullmatch(run)
    if not found:
        return run
    changes = [_change(part) for part in found["changes"].split("-")[1:]]
    return _METHODS[found["method"]] + (f" ({', '.join(changes)})" if changes else "")


def _change(part: str) -> str:
    for pattern, words in _CHANGES.items():
        if re.fullmatch(pattern, part):
            return re.sub(pattern, words, part)
    return part


def number(value: float, digits: int = 0, *, sign: bool = False) -> str:
    """Narrow no-break spaces between thousands, true minus, ``digits`` decimals; ``sign``: also a plus.

    Round-off goes first, so that equal values summed in two ways are printed alike.

    >>> number(0.145 * 100, 0), number(-1234.56, 1), number(2, 1, sign=True), number(-0.01, 1)
    ('14', '−1\\u202f234.6', '+2.0', '0.0')
    """
    rounded = round(round(value, 9), digits) + 0.0
    return f"{rounded:{'+' if sign else ''},.{digits}f}".replace(",", "\u202f").replace("-", "\u2212")
