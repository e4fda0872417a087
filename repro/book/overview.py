"""A statement as one line of the small picture on the first page (inline SVG): where its decisive interval stands.

The upright in the middle is the limit that decides; to its right lies what the statement says. An interval that crosses
it decides nothing. Shapes repeat the verdict, so that the picture can be read in grey.
"""

from __future__ import annotations

from markupsafe import Markup

from repro.book.rows import Row

WIDTH, HEIGHT, UNIT = 132, 14, 15
"""Pixels: of a line, and of half the width of an interval."""
_MIDDLE, _Y, _EDGE = WIDTH / 2, HEIGHT / 2, 6
#: Class of the verdict -> path around the origin; those of the first group are filled.
_FILLED = {"holds": "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z", "fails": "m-4 -4h8v8h-8z"}
_HOLLOW = {
    "holds in part": "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0zM{x} {y}m0 -4v8",
    "depends on": "m-4 -3l4 3l-4 3zm8 0l-4 3l4 3z",
    "no difference": "m-4 -2h8m-8 4h8",
    "open": "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "not comparable": "m0 -4l4 4l-4 4l-4 -4z",
    "not run": "m-3 0h6",
}
_WITHOUT = {"holds": 3.0, "holds in part": 2.0, "fails": -3.0}
"""Where the sign of a verdict without an interval stands, in halves of an interval."""


def picture(row: Row) -> Markup:
    """The line of a statement; its words stand beside it."""
    found = None if row.word == "not run" else row.standing
    x = _place(found.at) if found else _place(_WITHOUT.get(row.word, 0.0))
    made = [f'<path class="limit" d="M{_MIDDLE:g} 0v{HEIGHT}"></path>']
    if found:
        low, high = _place(found.low), _place(found.high)
        made.append(f'<path d="M{low:.1f} {_Y:g}H{high:.1f}"></path>')
    shape = (_FILLED | _HOLLOW)[row.word].format(x=f"{x:.1f}", y=f"{_Y:g}")
    solid = row.word in _FILLED and not row.pilot
    made.append(f'<path class="{"full" if solid else "hollow"}" d="M{x:.1f} {_Y:g}{shape}"></path>')
    return Markup(
        f'<svg class="line" aria-hidden="true" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">'
        + "".join(made)
        + "</svg>"
    )


def _place(at: float) -> float:
    """Pixels from the left; what lies beyond the picture stands at its edge."""
    return min(max(_MIDDLE + UNIT * at, _EDGE), WIDTH - _EDGE)
